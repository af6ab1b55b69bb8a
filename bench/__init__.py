"""Benchmarks: ours against peers and a floor in one run, with the outputs checked equal. `make bench` lists them."""
