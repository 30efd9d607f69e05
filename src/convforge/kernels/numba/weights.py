"""Weights packed for the register tile, partial weight gradients added up, and outputs that no tap reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.gemm import transposed
from convforge.kernels.numba.generate import define

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target

_SUM_BLOCK = 1024


def packing(target: Target, tile_rows: int) -> Inner:
    """Make ``pack_block(w, w_k, w_c, w_h, w_w, c, kh, kw, rows, packed, pitch)``.

    packed[c * kh * kw][pitch], of which tile_rows channels are written: those from ``rows`` on are zero.
    """
    v, lanes = target.v, target.lanes
    names = [f"row{i}" for i in range(tile_rows)]
    lines = ["def pack_taps(w, w_k, n, rows, packed, pitch):"]
    lines += [
        f"    {name} = v.load_partial(v.advance(w, {i} * w_k), n if {i} < rows else 0)" for i, name in enumerate(names)
    ]
    steps, names, functions = transposed(target, names)
    lines += [f"    {step}" for step in steps]
    if tile_rows < lanes:
        # several taps to a vector
        lines += [f"    if n >= {lanes} and pitch == {tile_rows}:"]
        lines += [f"        v.store(packed, {i * lanes}, {name})" for i, name in enumerate(names)]
        lines += ["        return"]
        for i, name in enumerate(names):
            for part in range(lanes // tile_rows):
                at = i * (lanes // tile_rows) + part
                lines += [f"    if {at} < n:"]
                turned = f"turn{part}({name}, {name})" if part else name
                lines += [f"        v.store_partial(v.advance(packed, {at} * pitch), {turned}, {tile_rows})"]
    else:
        per_tap = tile_rows // lanes
        for i, name in enumerate(names):
            lines += [f"    if {i // per_tap} < n:"]
            lines += [f"        v.store(packed, {i // per_tap} * pitch + {i % per_tap * lanes}, {name})"]
    turns = {
        f"turn{part}": v.shuffle(tuple((lane + part * tile_rows) % lanes for lane in range(lanes)))
        for part in range(1, max(1, lanes // tile_rows))
    }
    pack_taps = target.jit(define("pack_taps", lines, v=v, **turns, **functions))

    @target.call
    def pack_block(w, w_k, w_c, w_h, w_w, c, kh, kw, rows, packed, pitch):
        if (kw == 1 or w_w == 1) and (kh == 1 or w_h == kw) and (c == 1 or w_c == kh * kw):
            # each channel's taps lie in one piece
            taps = c * kh * kw
            for p in range(0, taps, lanes):
                pack_taps(v.advance(w, p), w_k, taps - p, rows, v.advance(packed, p * pitch), pitch)
            return
        for channel in range(c):
            for i in range(kh):
                for j in range(kw):
                    tap = v.advance(w, channel * w_c + i * w_h + j * w_w)
                    for row in range(rows):
                        packed[row] = tap[row * w_k]
                    for row in range(rows, tile_rows):
                        packed[row] = 0
                    packed = v.advance(packed, pitch)

    return pack_block


def pack_weight(target: Target) -> Callable[..., None]:
    """Weights as columns of ROWS output channels, tap after tap."""
    v, tile_rows = target.v, target.rows
    f = abi.fields("pack_weight")
    pack_block = packing(target, tile_rows)

    def kernel(args, scratch, begin, end):
        k, c, kh, kw = args[f.k], args[f.c], args[f.kh], args[f.kw]
        w_k, w_c, w_h, w_w = args[f.w_k], args[f.w_c], args[f.w_h], args[f.w_w]
        blocks = (k + tile_rows - 1) // tile_rows
        for item in range(begin, end):
            group = item // blocks
            first = (item - group * blocks) * tile_rows
            pack_block(
                v.advance(v.pointer(args[f.w]), group * args[f.w_g] + first * w_k), w_k, w_c, w_h, w_w, c, kh, kw,
                min(k - first, tile_rows), v.advance(v.pointer(args[f.packed]), item * c * kh * kw * tile_rows),
                tile_rows,
            )  # fmt: skip

    return kernel


def pack_columns(target: Target) -> Callable[..., None]:
    """Weights as rows of output channels, tap after tap, for panels of some vectors of them."""
    v, lanes = target.v, target.lanes
    f = abi.fields("pack_columns")
    pack_block = packing(target, lanes)

    def kernel(args, scratch, begin, end):
        k, c, kh, kw = args[f.k], args[f.c], args[f.kh], args[f.kw]
        w_k, w_c, w_h, w_w = args[f.w_k], args[f.w_c], args[f.w_h], args[f.w_w]
        vectors, taps = (k + lanes - 1) // lanes, c * kh * kw
        panels = args[f.panels]
        # channels at a time: several vectors share a line of packed weights, which stays in the first cache for all
        step = lanes * max(16 // (kh * kw), 1)
        for item in range(begin, end):
            group = item // panels
            panel = item - group * panels
            first, last = vectors * panel // panels, vectors * (panel + 1) // panels
            for channel in range(0, c, step):
                w = v.advance(v.pointer(args[f.w]), group * args[f.w_g] + channel * w_c)
                packed = v.advance(
                    v.pointer(args[f.packed]),
                    ((group * vectors + first) * taps + channel * kh * kw * (last - first)) * lanes,
                )
                for vector in range(first, last):
                    pack_block(
                        v.advance(w, vector * lanes * w_k), w_k, w_c, w_h, w_w, min(c - channel, step), kh, kw,
                        min(k - vector * lanes, lanes), v.advance(packed, (vector - first) * lanes),
                        (last - first) * lanes,
                    )  # fmt: skip
            if args[f.totals] != 0:
                packed = v.advance(v.pointer(args[f.packed]), (group * vectors + first) * taps * lanes)
                total = v.zero()
                for i in range(taps * (last - first)):
                    total = v.fma(v.zero(), v.load(packed, i * lanes), total)
                v.pointer(args[f.totals])[item] = v.sum(total)

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
