"""Dated CSV registers that people keep: nodes, meters, factors, certificates."""
