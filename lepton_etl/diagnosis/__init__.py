"""Performance states of devices, and anomalies of their energy."""
