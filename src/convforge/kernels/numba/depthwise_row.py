"""Kernels of one row: sums along the rows of outputs.

Each tap reads what the one before read, a column further on, and a load that crosses a cache line takes as long as four
multiply-adds. Where a line holds two vectors, the first is loaded for each tap, which seldom crosses, and the second,
whose loads would, is shifted in registers. Loads of longer vectors cross in each of them, those of shorter ones in few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels.numba.generate import define, indented

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target

#: Vectors of a tile, and fewest of a row.
VECTORS = 4
_LINE_BYTES = 64


def _stores(vectors: int, lanes: int) -> list[str]:
    return [f"    v.store(out, {i * lanes}, s{i} + bias)" for i in range(vectors)]


def _tile(target: Target, vectors: int) -> Inner:
    """Make ``tile(x, weight, taps, bias, out)``: out[u] = bias + sum over j < taps of weight[j] * x[u + j]."""
    v, lanes = target.v, target.lanes
    lines = [
        "def tile(x, weight, taps, bias, out):",
        *(f"    s{i} = v.zero()" for i in range(vectors)),
        "    for j in range(taps):",
        "        scale = v.broadcast(weight[j])",
        *(f"        s{i} = v.fma(scale, v.load(x, j + {i * lanes}), s{i})" for i in range(vectors)),
        *_stores(vectors, lanes),
    ]
    return target.jit(define("tile", lines, v=v))


def _aligned_tile(target: Target) -> Inner:
    """Make the same for x at the start of a cache line; up to a vector more than the taps need is read."""
    v, lanes = target.v, target.lanes
    if lanes * v.itemsize * 2 != _LINE_BYTES:
        return _tile(target, VECTORS)
    shifts = {f"shift_{s}": v.shuffle(tuple(range(s, s + lanes))) for s in range(1, lanes)}
    apart = range(1, VECTORS, 2)
    taps = [f"near_{i} = far_{i} = v.load(x, {i * lanes})" for i in apart]
    taps += ["if taps > 1:", *(f"    far_{i} = v.load(x, {(i + 1) * lanes})" for i in apart)]
    for s in range(lanes):
        taps += [f"if taps > {s}:", f"    scale = v.broadcast(weight[{s}])"]
        for i in range(VECTORS):
            shifted = f"shift_{s}(near_{i}, far_{i})" if s else f"near_{i}"
            read = shifted if i in apart else f"v.load(x, {i * lanes + s})"
            taps += [f"    s{i} = v.fma(scale, {read}, s{i})"]
    lines = [
        "def tile(x, weight, taps, bias, out):",
        *(f"    s{i} = v.zero()" for i in range(VECTORS)),
        "    while taps > 0:",
        *indented(2, taps),
        f"        x, weight, taps = v.advance(x, {lanes}), v.advance(weight, {lanes}), taps - {lanes}",
        *_stores(VECTORS, lanes),
    ]
    return target.jit(define("tile", lines, v=v, **shifts))


def rolling_row(target: Target) -> Inner:
    """Make ``roll_row(s, columns)``: all rows of at least VECTORS vectors of outputs, of one channel."""
    v, lanes = target.v, target.lanes
    tile, aligned_tile = _tile(target, 2), _aligned_tile(target)

    @target.call
    def roll_row(s, columns):
        bias = v.broadcast(s.bias)
        for row in range(s.count):
            x, out = v.advance(s.x, row * s.row), v.advance(s.out, row * s.out_row)
            column = (-v.address(x)) % _LINE_BYTES // v.itemsize
            for at in range(0, column, 2 * lanes):
                tile(v.advance(x, at), s.weight, s.kw, bias, v.advance(out, at))
            while column + (VECTORS + 1) * lanes <= columns:
                aligned_tile(v.advance(x, column), s.weight, s.kw, bias, v.advance(out, column))
                column += VECTORS * lanes
            while column < columns:
                at = min(column, columns - 2 * lanes)
                tile(v.advance(x, at), s.weight, s.kw, bias, v.advance(out, at))
                column += 2 * lanes

    return roll_row
