"""Raw log formats to readings: bytes in, Arrow out, no Spark, no I/O; a module a format."""
