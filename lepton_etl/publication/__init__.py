"""What was published when, what changed since, and why."""
