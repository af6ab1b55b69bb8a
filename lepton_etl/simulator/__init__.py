"""A seeded fleet that obeys physics and writes raw log formats, with its truth kept apart."""
