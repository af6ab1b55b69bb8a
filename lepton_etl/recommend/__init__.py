"""What to change, what it should bring, and whether it did."""
