"""The doors to storage: tables, store, staged appends, leases, the run record."""
