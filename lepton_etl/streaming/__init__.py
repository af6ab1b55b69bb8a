"""Log files followed between the nights: performance states of devices, seconds old."""
