"""Planes with channels in the lanes, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels.numba.gemm import transposed
from convforge.kernels.numba.generate import define

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


def _transpose_in(target: Target, whole: bool) -> Inner:
    """Make ``transpose(x, x_c, last, count, to)``: to[column][LANES] from ``count`` columns of planes."""
    v, lanes = target.v, target.lanes
    lines = ["def transpose_block(x, x_c, last, count, to):"]
    for i in range(lanes):
        plane = f"v.advance(x, min({i}, last) * x_c)"
        lines += [f"    r{i} = " + (f"v.load({plane}, 0)" if whole else f"v.load_partial({plane}, count)")]
    mixing, names, functions = transposed(target, [f"r{i}" for i in range(lanes)])
    lines += [f"    {line}" for line in mixing]
    for i, name in enumerate(names):
        lines += [] if whole else [f"    if {i} < count:"]
        lines += [f"    {'' if whole else '    '}v.store(to, {i * lanes}, {name})"]
    return target.call(define("transpose_block", lines, v=v, **functions))


def _transpose_out(target: Target, whole: bool) -> Inner:
    """Make ``transpose(source, count, channels, out, out_k)``: planes of ``count`` pixels from source[pixel][LANES]."""
    v, lanes = target.v, target.lanes
    lines = ["def transpose_block(source, count, channels, out, out_k):"]
    lines += [f"    r{i} = v.load(source, {i * lanes})" for i in range(lanes)]
    mixing, names, functions = transposed(target, [f"r{i}" for i in range(lanes)])
    lines += [f"    {line}" for line in mixing]
    for i, name in enumerate(names):
        plane = f"v.advance(out, {i} * out_k)"
        lines += [f"    if {i} < channels:"]
        lines += [
            f"        v.store({plane}, 0, {name})" if whole else f"        v.store_partial({plane}, {name}, count)"
        ]
    return target.call(define("transpose_block", lines, v=v, **functions))


def transposing_in(target: Target) -> Inner:
    """Make ``transpose_in(x, x_c, last, columns, to)``: to[column][LANES] from ``columns`` of a row of each plane.

    Planes lie ``x_c`` apart; those after number ``last`` are that one again.
    """
    v, lanes = target.v, target.lanes
    in_whole, in_part = _transpose_in(target, True), _transpose_in(target, False)

    @target.call
    def transpose_in(x, x_c, last, columns, to):
        if 0 < columns < lanes:
            in_part(x, x_c, last, columns, to)
        else:
            for q in range(0, columns, lanes):
                at = min(q, columns - lanes)
                in_whole(v.advance(x, at), x_c, last, lanes, v.advance(to, at * lanes))

    return transpose_in


def transposing_out(target: Target) -> Inner:
    """Make ``transpose_out(source, pixels, channels, out, out_k)``: lines of ``pixels`` from source[pixel][LANES].

    Of ``channels``, ``out_k`` apart; whole vectors of pixels are read.
    """
    v, lanes = target.v, target.lanes
    out_whole, out_part = _transpose_out(target, True), _transpose_out(target, False)

    @target.call
    def transpose_out(source, pixels, channels, out, out_k):
        if pixels < lanes:
            out_part(source, pixels, channels, out, out_k)
        else:
            for q in range(0, pixels, lanes):
                at = min(q, pixels - lanes)
                out_whole(v.advance(source, at * lanes), lanes, channels, v.advance(out, at), out_k)

    return transpose_out
