"""Storage: the landing folder, tables, staged appends, leases, published nights and the run record."""
