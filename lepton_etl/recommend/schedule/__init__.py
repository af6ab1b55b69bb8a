"""When pending jobs should start in the hours ahead."""
