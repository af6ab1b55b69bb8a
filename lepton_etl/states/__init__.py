"""What state a device is in, how sure that is, and what may be done about it."""
