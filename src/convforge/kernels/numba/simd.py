"""The vocabulary that kernels are written in: vectors, and what is done with them.

``vectors(dtype, lanes)`` is the namespace ``v`` of a kernel: its functions become one or a few instructions each.
Vectors of the same lanes, of whatever element, work together: ``a < b`` is a mask, a vector of booleans; a pointer's
dtype decides what ``load`` gives, so that a pointer to int64 loads (and stores) a vector of int64.

Memory is reached by pointers: ``v.pointer(address)`` makes one, ``v.address(p)`` takes it back, ``v.advance(p, i)``
moves it by ``i`` elements, ``p[i]`` reads or writes an element. Nothing outside the lanes that an operation names is
ever touched.

=================================  ===================================================================================
``load(p, i)  store(p, i, x)``     all lanes, at ``p + i``, of any alignment
``prefetch(p, i)``                 a hint that ``p + i``, which may be anything, will be read
``load_partial(p, n)``             lanes ``l < n``; the others are 0
``store_partial(p, x, n)``         lanes ``l < n``; the others are not written
``load_window(p, lo, hi)``         lanes ``lo <= l < hi`` read ``p[l]``, the others are 0; ``p`` itself may lie outside
``load_strided(p, step, lo, hi)``  the same, reading ``p[l * step]``; a step of 2 may read what lies between too
``zero()  broadcast(x)``           of the kernel's dtype, whatever the type of ``x``
``zero_int()  broadcast_int(x)``   of the integer of the same size; ``lane()`` is 0, 1, 2...
``broadcast_int64(x)``             of int64, what ``widen`` gives
``a + b  a - b  a * b  a / b``     also ``add sub mul``; ``fma(a, b, c)``: ``a * b + c``, rounded once if the CPU can
``maximum(a, b)  minimum(a, b)``   of numbers; NaN wins
``a < b  a > b  a == b  is_nan``   masks; ``both either any all select(mask, a, b)`` take them
``sum(a)``                         of all lanes: halves are added until one is left
``even(a, b)  odd(a, b)``          elements 0, 2, 4... and 1, 3, 5... of ``a`` followed by ``b``
``low(a, b)  high(a, b)``          lower and upper half of a0 b0 a1 b1...
``shuffle(indices)``               outside of kernels: makes the function of ``a, b`` that permutes by constants
``extract(a, l)``                  one lane
``to_real  to_int  widen``         conversions: of integers to the dtype, back (towards 0), of integers to int64
=================================  ===================================================================================
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

from numba.core import types

from convforge.kernels.numba.simd_memory import memory
from convforge.kernels.numba.simd_operators import OPERATORS
from convforge.kernels.numba.simd_values import values
from convforge.kernels.numba.simd_vector import Vector


@cache
def vectors(dtype: str, lanes: int) -> ModuleType:
    """Make the vocabulary for ``lanes`` elements of "float32" or "float64".

    It is a module because Numba looks attributes of modules up when it types a function. Beside the functions it has
    the constants ``lanes`` and ``itemsize``.
    """
    real, integer = {"float32": (types.float32, types.int32), "float64": (types.float64, types.int64)}[dtype]
    vector = Vector(real, lanes)
    v = ModuleType(f"{dtype}x{lanes}")
    v.__dict__.update(
        memory(real, lanes), **OPERATORS, **values(vector, vector.of(integer)), lanes=lanes, itemsize=vector.bytes
    )
    return v


def mask_instructions(v: Any) -> bool:
    """Whether there are masked loads at all, as from AVX2 on: elsewhere the lanes go one by one."""
    return bool(v.lanes * v.itemsize >= 32)


def masked_loads(v: Any) -> bool:
    """Whether masked loads cost no more than whole ones: those of AVX-512, by the size of its vectors."""
    return bool(v.lanes * v.itemsize == 64)
