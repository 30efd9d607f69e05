"""Measuring: timing, errors, tables and plots, shared by ``compare``, the command line and the benchmarks."""
