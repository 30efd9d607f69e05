"""What lies between the taps and the input of a depthwise convolution: borders, strides and dilations.

The input of a panel of outputs is copied into stripes, where every tap reads whole vectors of neighbouring columns, or
read in place where that is the same. (Not where rows would fall on the same few lines of the L1 cache, as those of
images whose width is a power of 2 do.)
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

from convforge.kernels.numba.depthwise_tiles import NARROW_ROWS, ROWS
from convforge.kernels.numba.integers import ceiling
from convforge.kernels.numba.stripes import stripes

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target

# the planes of one group, and what follows from the geometry; the table and the copy are in scratch memory
_Input = namedtuple(
    "_Input",
    "x_c x_h c ih iw ow kh kw sh sw ph pw dh dw kw2 columns apart step reach width phases in_place factors offsets "
    "copy",
)
# outputs, and their input: where it begins, how far a row and a channel reach
_Panel = namedtuple("_Panel", "column columns x row plane")


def _divisor(target: Target) -> Inner:
    @target.jit
    def divisor(a, b):
        while b != 0:
            a, b = b, a % b
        return a

    return divisor


def rows_apart(target: Target) -> Inner:
    """Make ``apart(rows, x_h)``: whether that many rows do not fall on the same few lines of the L1 cache."""
    itemsize = target.v.itemsize
    divisor = _divisor(target)

    @target.jit
    def apart(rows, x_h):
        return rows <= 4 * (4096 // divisor(4096, x_h * itemsize))

    return apart


def preparing(target: Target, f: Any, pair: bool) -> Inner:
    """Make ``prepare(args, scratch, elements, rows)``: what is the same for every item, and the table laid out.

    In scratch memory ``elements``, ``rows`` as wide as a copied one's phases and a vector lie before the copy.
    """
    v = target.v
    lanes = v.lanes
    up = ceiling(target)
    second = target.jit((lambda args: (args[f.kw2], args[f.pw2])) if pair else (lambda args: (0, 0)))
    least = 4 * lanes

    divisor, apart = _divisor(target), rows_apart(target)

    @target.jit
    def may_be_in_place(args):
        rows = args[f.kh] - 1 + (NARROW_ROWS if args[f.factors] != 0 else ROWS)
        return args[f.sw] == 1 and args[f.ow] >= least and apart(rows, args[f.x_h])

    @target.jit
    def choices(args):
        if pair:
            return may_be_in_place(args) and args[f.ow2] == 0, args[f.factors] != 0
        return False, False

    @target.jit
    def prepare(args, scratch, elements, rows):
        kw, sh, sw, dh, dw, ow = args[f.kw], args[f.sh], args[f.sw], args[f.dh], args[f.dw], args[f.ow]
        kw2, pw2 = second(args)
        before = args[f.pw] if kw2 == 0 else pw2 if kw == 0 else max(args[f.pw], pw2)
        common = divisor(sh, dh)
        in_place, factors = choices(args)
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
            dh, dw, kw2, args[f.columns], dh // common, sh // common, reach, width, min(sw, reach), in_place, factors,
            offsets, copy,
        )  # fmt: skip

    return prepare


def next_panels(target: Target) -> Inner:
    """Make ``next_panel(d, x, top, rows, column)``: the panel from ``column`` on, for output rows from ``top`` on.

    It is in place where that is far from any border. ``x`` is the first plane of the group.
    """
    v, lanes = target.v, target.lanes
    fill_stripe, up = stripes(target), ceiling(target)

    @target.jit
    def next_panel(d, x, top, rows, column):
        line, columns = top * d.sh - d.ph, min(d.ow - column, d.columns)
        most = up(rows, NARROW_ROWS * d.apart) * NARROW_ROWS * d.apart
        if d.in_place and line >= 0 and line + (most - 1) * d.sh + (d.kh - 1) * d.dh < d.ih:
            inside = d.iw - column + d.pw
            if d.factors:
                # the first of two passes takes whole vectors of columns
                inside = inside // lanes * lanes
            inside -= d.reach - 1
            if column >= d.pw and inside >= 2 * lanes:
                return _Panel(column, min(columns, inside), v.advance(x, line * d.x_h + column - d.pw), d.x_h, d.x_c)
            if column < d.pw:
                columns = min(columns, up(d.pw - column, lanes) * lanes)
        lines = (rows - 1) * d.sh + (d.kh - 1) * d.dh + 1
        pitch = d.width if d.sw > 1 else up(columns + d.reach - 1, lanes) * lanes
        row = pitch * d.phases
        for c in range(d.c):
            fill_stripe(
                d.sw, v.advance(x, c * d.x_c), d.x_h, d.ih, d.iw, line, column * d.sw - d.pw, lines, 1, d.phases, pitch,
                v.advance(d.copy, c * lines * row),
            )  # fmt: skip
        return _Panel(column, columns, d.copy, row, lines * row)

    return next_panel
