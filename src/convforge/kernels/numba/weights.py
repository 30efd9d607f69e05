"""Weights packed for the register tile, partial weight gradients added up, and outputs that no tap reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Target

_SUM_BLOCK = 1024


def pack_weight(target: Target) -> Callable[..., None]:
    """Weights as columns of ROWS output channels, tap after tap."""
    v, tile_rows = target.v, target.rows
    f = abi.fields("pack_weight")

    def kernel(args, scratch, begin, end):
        k, c, kh, kw = args[f.k], args[f.c], args[f.kh], args[f.kw]
        w_k, w_c, w_h, w_w = args[f.w_k], args[f.w_c], args[f.w_h], args[f.w_w]
        blocks = (k + tile_rows - 1) // tile_rows
        packed = v.advance(v.pointer(args[f.packed]), begin * c * kh * kw * tile_rows)
        for item in range(begin, end):
            group = item // blocks
            first = (item - group * blocks) * tile_rows
            rows = min(k - first, tile_rows)
            source = v.advance(v.pointer(args[f.w]), group * args[f.w_g] + first * w_k)
            for channel in range(c):
                for i in range(kh):
                    for j in range(kw):
                        tap = v.advance(source, channel * w_c + i * w_h + j * w_w)
                        for row in range(rows):
                            packed[row] = tap[row * w_k]
                        for row in range(rows, tile_rows):
                            packed[row] = 0
                        packed = v.advance(packed, tile_rows)

    return kernel


def sum_parts(target: Target) -> Callable[..., None]:
    """Partial sums added pairwise, so that rounding grows with the logarithm of their count; they are used up."""
    v = target.v
    f = abi.fields("sum_parts")

    def kernel(args, scratch, begin, end):
        parts, count = args[f.parts], args[f.count]
        partial, out = v.pointer(args[f.partial]), v.pointer(args[f.out])
        start, stop = begin * _SUM_BLOCK, min(end * _SUM_BLOCK, count)
        step = 1
        while step < parts:
            for part in range(0, parts - step, 2 * step):
                left = v.advance(partial, part * count)
                right = v.advance(left, step * count)
                for i in range(start, stop, v.lanes):
                    n = stop - i
                    to = v.advance(left, i)
                    v.store_partial(to, v.load_partial(to, n) + v.load_partial(v.advance(right, i), n), n)
            step *= 2
        for i in range(start, stop, v.lanes):
            n = stop - i
            v.store_partial(v.advance(out, i), v.load_partial(v.advance(partial, i), n), n)

    return kernel


def fill_zero(target: Target) -> Callable[..., None]:
    """Zeros, in the phases of an input gradient that no tap reaches."""
    v = target.v
    f = abi.fields("fill_zero")

    def kernel(args, scratch, begin, end):
        channels, oh, ow, out_h, out_w = args[f.channels], args[f.oh], args[f.ow], args[f.out_h], args[f.out_w]
        for item in range(begin, end):
            image = item // channels
            plane = v.advance(v.pointer(args[f.out]), image * args[f.out_n] + (item - image * channels) * args[f.out_k])
            for i in range(oh):
                row = v.advance(plane, i * out_h)
                for j in range(ow):
                    row[j * out_w] = 0

    return kernel
