"""3x3 depthwise kernels of stride 1 or 2 that read planes in place.

Narrow ones in strips through masks, where masked loads cost no more than whole ones, others in tiles, of which those at
the borders go through masks, or lines of zeros.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.depthwise_masked import Strip, strips_3
from convforge.kernels.numba.depthwise_tiles import ROWS, WEIGHTS_3X3, tile_3x3
from convforge.kernels.numba.generate import define, indented
from convforge.kernels.numba.integers import ceiling

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target

# `row` from one line to the next, of which `first` to `end` are there, and of these the columns from `first_column` to
# `end_column`. All count from the first tap's of the first output, where x points; other lines are `zeros`. The tiles
# that begin in [top, bottom) x [left, right) of the `count` x `columns` outputs lack nothing
_Plane = namedtuple(
    "_Plane",
    "x row first end first_column end_column zeros weight bias out out_row columns count top bottom left right",
)

#: From one row to the next from where on rows are long: what tiles of four rows read and write may fall on the same few
#: lines of the first cache then, if that is a power of 2, and the CPU's own prefetching stops at each page. Tiles of
#: two rows fit always, and fetch what the next ones read (a Sobel filter of 1024x1024 takes a fifth less). With a
#: stride of 2 a tile reads nine rows, more than the CPU follows on a narrow map, so that these are fetched, too.
LONG_BYTES = 640


def in_strips(target: Target, stride: int) -> Callable[..., None]:
    """Blocks of output rows of one group, in strips through masks."""
    v = target.v
    f = abi.fields("depthwise_3x3")
    up, strips = ceiling(target), strips_3(target, stride)

    def kernel(args, scratch, begin, end):
        g, k, x_h, out_h = args[f.g], args[f.k], args[f.x_h], args[f.out_h]
        blocks = up(args[f.oh], args[f.rows])
        zeros = v.pointer(scratch)
        for i in range(8):
            v.store(zeros, i * v.lanes, v.zero())
        for item in range(begin, end):
            top = item % blocks * args[f.rows]
            group = item // blocks % g
            image = item // blocks // g
            line = top * stride - args[f.ph]
            at = image * args[f.x_n] + group * args[f.x_c] + line * x_h - args[f.pw]
            x = v.advance(v.pointer(args[f.x]), at)
            for i in range(k):
                channel = group * k + i
                at = image * args[f.out_n] + channel * args[f.out_k] + top * out_h
                bias = v.pointer(args[f.bias])[channel] if args[f.bias] != 0 else v.extract(v.zero(), 0)
                strip = Strip(
                    x, x_h, min(args[f.rows], args[f.oh] - top), line, -args[f.pw], args[f.ih], args[f.iw],
                    v.advance(v.pointer(args[f.packed]), 9 * channel), v.advance(v.pointer(args[f.out]), at), out_h,
                    args[f.ow], bias, zeros,
                )  # fmt: skip
                strips(args[f.ow], strip)

    return kernel


def _tile(
    lanes: int, stride: int, row: Callable[[int], str], *, rows: int = ROWS, masked: bool = False, fetch: bool = False
) -> list[str]:
    """Source of the tile of outputs from column ``at`` on, at ``out``; row r of its input is at ``row(r)``.

    With a stride of 2 the even and odd columns of two vectors are parted, and then those after the even ones. With
    ``fetch`` the rows that the tile below reads are fetched.
    """

    def load(column: int) -> str:
        if not masked:
            return f"v.load(p, {column})"
        first = f"s.first_column - {stride} * at - {column}"
        return f"v.load_window(v.advance(p, {column}), {first}, s.end_column - {stride} * at - {column})"

    def taps(r: int) -> list[str]:
        lines = [f"p = {row(r)}"]
        if fetch and r >= 3 - stride:
            lines += [f"v.prefetch(v.advance(p, {rows * stride} * s.row), 0)"]
        if stride == 1:
            return lines + [f"a{j} = {load(j)}" for j in range(3)]
        lines += [f"lower, upper = {load(0)}, {load(lanes)}", "a0, a1 = v.even(lower, upper), v.odd(lower, upper)"]
        return [*lines, f"a2 = v.even({load(2)}, {load(lanes + 2)})"]

    return tile_3x3(stride, taps, rows)


def _beginning(name: str) -> list[str]:
    return [
        f"def {name}:",
        "    bias, weight, out_row = v.broadcast(s.bias), s.weight, s.out_row",
        *indented(1, WEIGHTS_3X3),
    ]


def _inside(target: Target, stride: int) -> Inner:
    """Make ``inside(s)``: the tiles that lack nothing, and beside them those that lack columns."""
    v, lanes = target.v, target.lanes

    def tiles(*, rows: int = ROWS, masked: bool = False, fetch: bool = False) -> list[str]:
        return [
            f"x = v.advance(s.x, {stride} * (band * s.row + at))",
            "out, rest = v.advance(s.out, band * out_row + at), s.count - band",
            *_tile(lanes, stride, lambda r: f"v.advance(x, {r} * s.row)", rows=rows, masked=masked, fetch=fetch),
        ]

    def whole(rows: int, *, fetch: bool) -> list[str]:
        return [
            f"for band in range(s.top, s.bottom, {rows}):",
            f"    for at in range(s.left, s.right, {lanes}):",
            *indented(2, tiles(rows=rows, fetch=fetch)),
        ]

    lines = [
        *_beginning("inside(s)"),
        f"    if s.row >= {LONG_BYTES // v.itemsize}:",
        *indented(2, whole(2, fetch=True)),
        "    else:",
        *indented(2, whole(ROWS, fetch=stride == 2)),
        "    column = 0 if s.left > 0 else s.right",
        "    while column < s.columns:",
        f"        at = min(column, s.columns - {lanes})",
        f"        for band in range(s.top, s.bottom, {ROWS}):",
        *indented(3, tiles(masked=True)),
        f"        column += {lanes}",
        "        if column == s.left:",
        "            column = s.right",
    ]
    return target.call(define("inside", lines, v=v))


def _outside(target: Target, stride: int) -> Inner:
    """Make ``outside(s, band)``: the rows from ``band`` on of a tile, some of whose lines are not there."""
    v, lanes = target.v, target.lanes
    lines = _beginning("outside(s, band)")
    for r in range((ROWS - 1) * stride + 3):
        lines += [f"    line = band * {stride} + {r}", f"    line{r} = s.zeros"]
        lines += ["    if line >= s.first and line < s.end:", f"        line{r} = v.advance(s.x, line * s.row)"]
    lines += [
        f"    for column in range(0, s.columns, {lanes}):",
        f"        at = min(column, s.columns - {lanes})",
        "        out, rest = v.advance(s.out, band * out_row + at), s.count - band",
    ]
    for test, masked in (("if column >= s.left and column < s.right:", False), ("else:", True)):
        lines += [f"        {test}"]
        lines += indented(3, _tile(lanes, stride, lambda r: f"v.advance(line{r}, {stride} * at)", masked=masked))
    return target.call(define("outside", lines, v=v))


def _planes(target: Target, stride: int) -> Inner:
    """Make ``plane(x, row, first, end, first_column, end_column, zeros, weight, bias, out, out_row, columns, count)``.

    All outputs of a plane, at least LANES columns.
    """
    lanes = target.lanes
    inside, outside = _inside(target, stride), _outside(target, stride)
    tall, wide = (ROWS - 1) * stride + 3, stride * lanes + 2  # what a tile reads

    @target.call
    def plane(x, row, first, end, first_column, end_column, zeros, weight, bias, out, out_row, columns, count):
        top = left = 0
        while top < count and top * stride < first:
            top += ROWS
        bottom = top
        while bottom < count and bottom * stride + tall <= end:
            bottom += ROWS
        while left * stride < first_column:
            left += lanes
        right = left
        while right + lanes <= columns and right * stride + wide <= end_column:
            right += lanes
        s = _Plane(
            x, row, first, end, first_column, end_column, zeros, weight, bias, out, out_row, columns, count, top,
            bottom, left, right,
        )  # fmt: skip
        if bottom > top:
            inside(s)
        for band in range(0, top, ROWS):
            outside(s, band)
        for band in range(bottom, count, ROWS):
            outside(s, band)

    return plane


def in_planes(target: Target, stride: int) -> Callable[..., None]:
    """Blocks of output rows of one group, in tiles."""
    v = target.v
    f = abi.fields("depthwise_3x3")
    up, plane = ceiling(target), _planes(target, stride)

    def kernel(args, scratch, begin, end):
        g, k, x_h, out_h, pw, iw = args[f.g], args[f.k], args[f.x_h], args[f.out_h], args[f.pw], args[f.iw]
        blocks = up(args[f.oh], args[f.rows])
        for i in range(up(iw, v.lanes)):
            v.store(v.pointer(scratch), i * v.lanes, v.zero())
        zeros = v.advance(v.pointer(scratch), -pw)
        for item in range(begin, end):
            top = item % blocks * args[f.rows]
            group = item // blocks % g
            image = item // blocks // g
            line = top * stride - args[f.ph]
            at = image * args[f.x_n] + group * args[f.x_c] + line * x_h - pw
            x = v.advance(v.pointer(args[f.x]), at)
            rows = min(args[f.rows], args[f.oh] - top)
            for i in range(k):
                channel = group * k + i
                at = image * args[f.out_n] + channel * args[f.out_k] + top * out_h
                out = v.advance(v.pointer(args[f.out]), at)
                weight = v.advance(v.pointer(args[f.packed]), 9 * channel)
                bias = v.pointer(args[f.bias])[channel] if args[f.bias] != 0 else v.extract(v.zero(), 0)
                plane(x, x_h, -line, args[f.ih] - line, pw, pw + iw, zeros, weight, bias, out, out_h, args[f.ow], rows)

    return kernel
