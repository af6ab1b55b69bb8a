"""Ledger: the accounts of a site-hour, built bottom-up, and what is left against the meter."""
