"""Depthwise weights, columns of taps one after the other; of those that are an outer product the factors too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convforge.kernels import abi

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target


def packed_size(target: Target) -> Inner:
    """Make ``packed_size(c, kh, kw, factors)``: elements of one output channel.

    They are [c][kw][kh]; with factors also a flag that is not 0 if they exist, u and v.
    """

    @target.jit
    def packed_size(c, kh, kw, factors):
        return c * kh * kw + (1 + kh + kw if factors != 0 else 0)

    return packed_size


def _common_measure(target: Target) -> Inner:
    """Make ``common_measure(a, b)``: the largest number of which two that are not negative are multiples.

    Euclid's algorithm, in exact steps.
    """

    @target.jit
    def common_measure(a, b):
        while b > 0:
            # a modulo b
            times = b
            while times <= a / 2:
                times *= 2.0
            while times >= b:
                if a >= times:
                    a -= times
                times /= 2
            a, b = b, a
        return a

    return common_measure


def _factors(target: Target) -> Inner:
    """Make ``factors(taps, kh, kw, u, v)``.

    It tells whether taps[kw][kh] is the outer product of v[kw] and u[kh] but for roundings, and sets them. u is the
    column of the largest tap over that column's measure, so that products of integers stay integers, and v that tap's
    row over its u: a tap may be off by its own rounding, by those of three others and by v's. They are scaled by a
    power of 2 to sum(abs(u)) <= 1, so that no sum over a column exceeds the inputs; where v is then large, sums of the
    tiniest inputs would lose digits: refused.
    """
    common_measure = _common_measure(target)
    real = np.float32 if target.dtype == "float32" else np.float64
    tolerance = 2.5 * float(np.finfo(target.dtype).eps)

    @target.call
    def factors(taps, kh, kw, u, v):
        # most weights are no outer product: a few taps tell
        for j in range(1, kw):
            for i in range(1, kh):
                product = np.float64(taps[i]) * np.float64(taps[j * kh])
                other = np.float64(taps[0]) * np.float64(taps[j * kh + i])
                if not abs(other - product) <= 4 * tolerance * abs(product):
                    return False
        largest, pivot, middle = 0.0, 0, 0
        for i in range(kh * kw):
            if abs(np.float64(taps[i])) > largest:
                largest = abs(np.float64(taps[i]))
                pivot, middle = i // kh, i % kh
        first = pivot * kh
        measure = 0.0
        for i in range(kh):
            measure = common_measure(abs(np.float64(taps[first + i])), measure)
        total = 0.0
        for i in range(kh):
            total += abs(np.float64(taps[first + i])) / measure
        scale = 1.0
        while total * scale > 1:
            scale /= 2
        for i in range(kh):
            u[i] = real(np.float64(taps[first + i]) / measure * scale)
        reach = 0.0
        for j in range(kw):
            v[j] = real(np.float64(taps[j * kh + middle]) / (np.float64(taps[first + middle]) / measure) / scale)
            reach += abs(np.float64(v[j]))
        for j in range(kw):
            for i in range(kh):
                tap = np.float64(taps[j * kh + i])
                if not abs(np.float64(u[i]) * np.float64(v[j]) - tap) <= tolerance * abs(tap):
                    return False
        return reach <= 4096

    return factors


def pack_depthwise(target: Target) -> Callable[..., None]:
    """Weights of a group at a time."""
    v = target.v
    f = abi.fields("pack_depthwise")
    packed_elements, factorise = packed_size(target), _factors(target)
    real = np.float32 if target.dtype == "float32" else np.float64

    def kernel(args, scratch, begin, end):
        k, c, kh, kw, factors = args[f.k], args[f.c], args[f.kh], args[f.kw], args[f.factors]
        packed = v.advance(v.pointer(args[f.packed]), begin * k * packed_elements(c, kh, kw, factors))
        for item in range(begin, end):
            for m in range(k):
                for channel in range(c):
                    at = item * args[f.w_g] + m * args[f.w_k] + channel * args[f.w_c]
                    w = v.advance(v.pointer(args[f.w]), at)
                    for j in range(kw):
                        for i in range(kh):
                            packed[j * kh + i] = w[i * args[f.w_h] + j * args[f.w_w]]
                    packed = v.advance(packed, kh * kw)
                if factors != 0:
                    u = v.advance(packed, 1)
                    found = factorise(v.advance(packed, -kh * kw), kh, kw, u, v.advance(u, kh))
                    packed[0] = real(1 if found else 0)
                    packed = v.advance(packed, 1 + kh + kw)

    return kernel
