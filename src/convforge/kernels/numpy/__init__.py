"""Kernels in plain NumPy: the reference."""
