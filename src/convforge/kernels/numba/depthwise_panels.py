"""What lies between the taps and the input of a depthwise convolution: borders, strides and dilations.

The input of a panel of outputs is copied into stripes, where every tap reads whole vectors of neighbouring columns.
(Read in place, the rows of wide images whose width is a power of 2 fall on the same few lines of the L1 cache.)
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

from convforge.kernels.numba.integers import ceiling
from convforge.kernels.numba.stripes import stripes

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target

# the planes of one group, and what follows from the geometry; the table and the copy are in scratch memory
_Input = namedtuple(
    "_Input",
    "x_c x_h c ih iw ow kh kw sh sw ph pw dh dw kw2 columns apart step reach width phases offsets copy",
)
# outputs, and how far a row and a channel of their copied input reach
_Panel = namedtuple("_Panel", "column columns row plane")


def preparing(target: Target, f: Any, pair: bool) -> Inner:
    """Make ``prepare(args, scratch, elements, rows)``: what is the same for every item, and the table laid out.

    In scratch memory ``elements``, ``rows`` as wide as a copied one's phases and a vector lie before the copy.
    """
    v = target.v
    lanes = v.lanes
    up = ceiling(target)
    second = target.jit((lambda args: (args[f.kw2], args[f.pw2])) if pair else (lambda args: (0, 0)))

    @target.jit
    def prepare(args, scratch, elements, rows):
        kw, sh, sw, dh, dw, ow = args[f.kw], args[f.sh], args[f.sw], args[f.dh], args[f.dw], args[f.ow]
        kw2, pw2 = second(args)
        before = args[f.pw] if kw2 == 0 else pw2 if kw == 0 else max(args[f.pw], pw2)
        common, rest = sh, dh
        while rest != 0:
            common, rest = rest, common % rest
        offsets = v.pointer_int64(scratch)
        reach = 1
        for j in range(kw + kw2):
            offsets[j] = before - args[f.pw] + j * dw if j < kw else before - pw2 + (j - kw) * dw
            reach = max(reach, offsets[j] + 1)
        width = up(min(args[f.columns], ow) + (reach - 1) // sw, lanes) * lanes
        for j in range(kw + kw2):
            offsets[j] = offsets[j] % sw * width + offsets[j] // sw
        copy = v.advance(v.pointer(scratch + up((kw + kw2) * 8, 64) * 64), elements + rows * width)
        if rows > 0:
            copy = v.advance(copy, lanes)
        return _Input(
            args[f.x_c], args[f.x_h], args[f.c], args[f.ih], args[f.iw], ow, args[f.kh], kw, sh, sw, args[f.ph], before,
            dh, dw, kw2, args[f.columns], dh // common, sh // common, reach, width, min(sw, reach), offsets, copy,
        )  # fmt: skip

    return prepare


def next_panels(target: Target) -> Inner:
    """Make ``next_panel(d, x, top, rows, column)``: copy the panel from ``column`` on, for output rows from ``top`` on.

    ``x`` is the first plane of the group.
    """
    v, fill_stripe = target.v, stripes(target)

    @target.jit
    def next_panel(d, x, top, rows, column):
        lines = (rows - 1) * d.sh + (d.kh - 1) * d.dh + 1
        columns = min(d.ow - column, d.columns)
        row = d.width * d.phases
        for c in range(d.c):
            fill_stripe(
                d.sw, v.advance(x, c * d.x_c), d.x_h, d.ih, d.iw, top * d.sh - d.ph, column * d.sw - d.pw, lines,
                1, d.phases, d.width, v.advance(d.copy, c * lines * row),
            )  # fmt: skip
        return _Panel(column, columns, row, lines * row)

    return next_panel
