"""A depthwise kernel that is an outer product takes two passes: over the columns of the input, then over the rows.

It does a few rows at a time, that never leave the L1 cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels.numba.depthwise_tiles import NARROW_ROWS, Tiles
from convforge.kernels.numba.integers import ceiling

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


def separable(target: Target, roll_rows: Inner) -> Inner:
    """Make ``separable_rows(d, panel, rows, factors, out, out_h, bias)``: all outputs of a panel.

    The kernel has a stride and a dilation of 1. ``NARROW_ROWS`` rows of the copy's width, and a vector, lie before it.
    """
    v = target.v
    lanes = v.lanes
    up = ceiling(target)

    @target.call
    def separable_rows(d, panel, rows, factors, out, out_h, bias):
        halves = v.advance(d.copy, -NARROW_ROWS * d.width - lanes)
        width = up(panel.columns + d.kw - 1, lanes) * lanes
        nothing = v.extract(v.zero(), 0)
        across = v.advance(factors, d.kh)
        for top in range(0, rows, NARROW_ROWS):
            count = min(rows - top, NARROW_ROWS)
            x = v.advance(panel.x, top * panel.row)
            # the offset of the first tap is 0
            columns = Tiles(
                x, panel.row, 0, 1, count, d.offsets, 1, d.kh, 1, factors, 0, factors, halves, d.width, 1, width,
                nothing, False, False,
            )  # fmt: skip
            roll_rows(columns, width)
            to = v.advance(out, top * out_h)
            along = Tiles(
                halves, d.width, 0, 1, count, d.offsets, 1, 1, d.kw, across, 0, across, to, out_h, 1, panel.columns,
                bias, False, False,
            )  # fmt: skip
            roll_rows(along, panel.columns)

    return separable_rows
