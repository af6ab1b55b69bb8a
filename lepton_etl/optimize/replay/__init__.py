"""What would have happened under another policy: a cluster's queue run again, and jobs of history started elsewhen."""
