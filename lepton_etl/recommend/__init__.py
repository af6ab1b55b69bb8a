"""What to change, what it should bring, and whether it did: schedule, idle nodes, power caps, measured savings."""
