"""Energy, carbon and models from a fleet's raw power and thermal logs."""

__version__ = "0.1.0"
