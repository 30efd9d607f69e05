"""The machine, threads, the cache of compiled kernels, and the executor of programs."""
