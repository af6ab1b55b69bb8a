"""The stages of the night, in the order the data flows."""
