"""Raw log formats to canonical readings: bytes in, Arrow out, no Spark, no I/O."""
