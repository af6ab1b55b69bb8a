"""Power to energy: Arrow, polars and NumPy kernels that need no JVM."""
