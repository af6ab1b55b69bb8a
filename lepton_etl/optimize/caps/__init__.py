"""Power caps: energy per unit of work against the cap, learned from logged runs, with slowdown bounded."""
