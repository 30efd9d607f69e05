"""What the kernels say beyond plain Numba: 128-bit accesses, and registers as tuples.

A thread holds its registers in a tuple of numbers, never in an array: an array of a thread lies in memory wherever one
of its indices is not a constant. The functions here make such tuples, store them and multiply with them. Each exists
twice: as an intrinsic that writes LLVM's instructions (:mod:`.intrinsics`), and in plain Python for CUDA's simulator,
which knows no intrinsics (:mod:`.simulated`).

Indices are elements from an array's first; none is negative, and none wraps around. What is loaded from float16 is
float32 from there on. An access of four elements needs an index divisible by four in an array that starts on 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from numba import cuda, float32, float64
from numba.core.config import ENABLE_CUDASIM

_here: Any = import_module(f"convforge.kernels.cuda.{'simulated' if ENABLE_CUDASIM else 'intrinsics'}")

add = _here.add
broadcast = _here.broadcast
fma = _here.fma
load = _here.load
load_column = _here.load_column
load_if = _here.load_if
load_rows = _here.load_rows
mul = _here.mul
multiply = _here.multiply
quotient = _here.quotient
starts_aligned = _here.starts_aligned
store = _here.store
store4 = _here.store4
store_column = _here.store_column
store_rows = _here.store_rows
store_transposed = _here.store_transposed
sub = _here.sub
within = _here.within
zeros = _here.zeros

#: Alignment of shared arrays: of four floats. The simulator takes none.
ALIGNMENT = None if ENABLE_CUDASIM else 16
#: What kernels compute in, by name; float16 is summed in float32.
TYPES = {"float32": float32, "float64": float64}


def device(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as a kernel's subroutine, always inlined."""
    return function if ENABLE_CUDASIM else cuda.jit(device=True, inline="always")(function)
