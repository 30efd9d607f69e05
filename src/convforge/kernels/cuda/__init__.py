"""The kernels for NVIDIA GPUs, in Numba: a module for each algorithm, whose factories make functions to be compiled.

A factory takes what is fixed at compile time (dtype, tile sizes, filter) and returns a plain Python function;
:mod:`.compile` compiles it for a device, or to PTX where there is none. Importing this package imports no CUDA.
"""

from __future__ import annotations

from importlib.util import find_spec

from convforge.runtime import gpu


def available() -> str | None:
    """None, or the reason why this backend is missing."""
    if find_spec("numba_cuda") is None:
        return (
            "numba-cuda is not installed: pip install 'convforge[cuda13]', or 'convforge[cuda12]' for an older driver"
        )
    return gpu.missing()
