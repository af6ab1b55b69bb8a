"""Benchmarks: ours against peers and a floor in one run, with the outputs checked equal.

`make bench` runs all of them, `make bench-ingest` the one of bronze; the figures are left in var/bench.
"""
