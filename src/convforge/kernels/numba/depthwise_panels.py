"""What lies between the taps and the input of a depthwise convolution: borders, strides and dilations.

The input of a panel of outputs is copied into scratch memory, padded with zeros and with its columns split by their
phase (column modulo stride), so that every tap reads whole vectors of neighbouring columns. (Read in place, the rows of
wide images whose width is a power of 2 fall on the same few lines of the L1 cache.)
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

from convforge.kernels.numba.integers import ceiling, clamp

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
    v = target.v
    lanes = v.lanes
    up, between = ceiling(target), clamp(target)

    @target.jit
    def copy_row(x, lo, hi, width, to):
        # to[lo:hi] = x[lo:hi], zeros beside it. A short row may be followed by a vector of zeros.
        for i in range(0, lo, lanes):
            v.store(to, i, v.zero())
        for i in range(hi // lanes * lanes, width, lanes):
            v.store(to, i, v.zero())
        if hi - lo >= lanes:
            for i in range(lo, hi - lanes, lanes):
                v.store(to, i, v.load(x, i))
            v.store(to, hi - lanes, v.load(x, hi - lanes))
        elif hi > lo:
            v.store(to, lo, v.load_partial(v.advance(x, lo), hi - lo))

    @target.call
    def copy(d, x, line, lines, first, columns):
        # Input rows of every channel from column `first` on, for rows of `columns` outputs.
        row, top = d.width * d.phases, between(-line, 0, lines)
        bottom = between(d.ih - line, top, lines)
        width = up(columns + (d.reach - 1) // d.sw, lanes) * lanes
        lo = between(-first, 0, width)
        hi = between(d.iw - first, lo, width)
        for c in range(d.c):
            plane = v.advance(d.copy, c * lines * row)
            for i in range(0, top * row, lanes):
                v.store(plane, i, v.zero())
            for i in range(bottom * row, lines * row, lanes):
                v.store(plane, i, v.zero())
            channel = v.advance(x, c * d.x_c + (line + top) * d.x_h + first)
            plane = v.advance(plane, top * row)
            if d.sw == 1:
                for _ in range(bottom - top):
                    copy_row(channel, lo, hi, width, plane)
                    channel, plane = v.advance(channel, d.x_h), v.advance(plane, row)
                continue
            inner = outer = 0
            if d.sw == 2 and d.phases == 2:
                # whole vectors inside of the input
                inner = between(up(-first, 2 * lanes), 0, width // lanes) * lanes
                outer = between((d.iw - first) // (2 * lanes), inner // lanes, width // lanes) * lanes
                source, to = channel, plane
                for _ in range(bottom - top):
                    for at in range(inner, outer, lanes):
                        a, b = v.load(source, 2 * at), v.load(source, 2 * at + lanes)
                        v.store(to, at, v.even(a, b))
                        v.store(to, d.width + at, v.odd(a, b))
                    source, to = v.advance(source, d.x_h), v.advance(to, row)
            for at in range(0, width, lanes):
                if inner <= at and at < outer:
                    continue
                column = first + at * d.sw
                source, to = v.advance(channel, at * d.sw), v.advance(plane, at)
                # rows innermost, for they share their masks
                if d.sw == 2 and d.phases == 2:
                    for _ in range(bottom - top):
                        a = v.load_window(source, -column, d.iw - column)
                        b = v.load_window(v.advance(source, lanes), -column - lanes, d.iw - column - lanes)
                        v.store(to, 0, v.even(a, b))
                        v.store(to, d.width, v.odd(a, b))
                        source, to = v.advance(source, d.x_h), v.advance(to, row)
                else:
                    for _ in range(bottom - top):
                        for phase in range(d.phases):
                            low, high = up(-column - phase, d.sw), up(d.iw - column - phase, d.sw)
                            values = v.load_strided(v.advance(source, phase), d.sw, low, high)
                            v.store(to, phase * d.width, values)
                        source, to = v.advance(source, d.x_h), v.advance(to, row)

    @target.jit
    def next_panel(d, x, top, rows, column):
        lines = (rows - 1) * d.sh + (d.kh - 1) * d.dh + 1
        columns = min(d.ow - column, d.columns)
        copy(d, x, top * d.sh - d.ph, lines, column * d.sw - d.pw, columns)
        row = d.width * d.phases
        return _Panel(column, columns, row, lines * row)

    return next_panel
