"""Readings of nodes to 300 s intervals: units, plausibility, power source, sensor checks, usual values."""
