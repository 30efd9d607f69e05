"""Loops only: for each backend, the kernels of every algorithm."""
