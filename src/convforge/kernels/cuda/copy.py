"""Copies between strided arrays, and zeros into one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from numba import cuda


@cache
def strided_copy() -> Callable[..., None]:
    """One thread an element, of arrays with five axes: sizes n, strides s of the source and t of the target."""

    def kernel(
        source, s_start, s0, s1, s2, s3, s4, target, t_start, t0, t1, t2, t3, t4, n0, n1, n2, n3, n4
    ):  # fmt: skip
        index = cuda.grid(1)
        if index < n0 * n1 * n2 * n3 * n4:
            i4 = index % n4
            index //= n4
            i3 = index % n3
            index //= n3
            i2 = index % n2
            index //= n2
            i1 = index % n1
            i0 = index // n1
            at = t_start + i0 * t0 + i1 * t1 + i2 * t2 + i3 * t3 + i4 * t4
            target[at] = source[s_start + i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3 + i4 * s4]

    return kernel


@cache
def fill_zero() -> Callable[..., None]:
    """One thread an element of a contiguous array."""

    def kernel(out, count):
        index = cuda.grid(1)
        if index < count:
            out[index] = 0

    return kernel
