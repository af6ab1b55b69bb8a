"""A seeded fleet that obeys physics and speaks a fleet's raw log formats, with its truth kept beside them."""
