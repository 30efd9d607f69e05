"""The package's version, which also keys the cache of compiled kernels."""

__version__ = "0.1.0"
