"""Carbon: grid intensity by the hour, operational emissions."""
