"""What is odd: energy against what it should have been, as episodes with a kind, a size and a reason."""
