"""Tiles of depthwise outputs: a few rows times a few vectors of columns, whose sums stay in registers over all taps.

A row of input is loaded once for all the rows of the tile that see it.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING

from convforge.kernels.numba.depthwise_row import VECTORS, rolling_row
from convforge.kernels.numba.generate import define, indented

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target

#: Rows of a tile.
ROWS = 4
#: Rows of a tile of one vector: as many sums as hide the latency of a multiply-add.
NARROW_ROWS = 8
# how the rows of taps are gone through: unrolled for 1, 2, 3, 5 and 7 of them, one by one (each output's input loaded
# by itself: any step), or with a step of 1 and at least as many as a tile has rows
_SINGLY, _MANY = 0, 4

# `count` rows of outputs from the first tap's first input on; `row` from one row of taps to the next. The second
# convolution's outputs alternate with those of the first along the rows. `lanes` of outputs in a row: more than a
# vector's but for one narrow vector. spill: rows follow each other, a vector may reach into the next ones, which are
# stored later
Tiles = namedtuple(
    "Tiles",
    "x row plane step count offsets c kh kw weight kw2 weight2 out out_row out_w lanes bias pair spill",
)


def _at(lanes: int, vectors: int) -> list[str]:
    """Columns of a tile's vectors; the last may overlap the one before."""
    return [str(i * lanes) for i in range(vectors - 1)] + ["last" if vectors > 1 else "0"]


def _meet(columns: list[str], rows: int, step: int, kh: int, r: int, weight: str) -> list[str]:
    """Source that adds the input row ``r`` of a tile, at ``p``, to those of its outputs that see it."""
    lines = [f"a{i} = v.load(p, {at})" for i, at in enumerate(columns)]
    for t in range(rows):
        if 0 <= r - t * step < kh:
            lines += [f"b = v.broadcast({weight.format(r - t * step)})"]
            lines += [f"s{t}_{i} = v.fma(b, a{i}, s{t}_{i})" for i in range(len(columns))]
    return [*lines, "p = v.advance(p, s.row)"]


def _singly(columns: list[str], rows: int, prefix: str = "s") -> list[str]:
    lines = ["for i in range(s.kh):", "    b = v.broadcast(w[i])"]
    for t in range(rows):
        lines += [f"    q = v.advance(p, {t} * apart)"]
        lines += [f"    {prefix}{t}_{i} = v.fma(b, v.load(q, {at}), {prefix}{t}_{i})" for i, at in enumerate(columns)]
    return [*lines, "    p = v.advance(p, s.row)"]


def _column(columns: list[str], way: int, step: int, rows: int) -> list[str]:
    """Source that adds one column of taps, whose input begins at ``p`` and whose weights are ``w``."""
    if way == _SINGLY:
        return _singly(columns, rows)
    if way != _MANY:
        return [line for r in range((rows - 1) * step + way) for line in _meet(columns, rows, step, way, r, "w[{}]")]
    lines = [line for r in range(rows - 1) for line in _meet(columns, rows, 1, rows, r, "w[{}]")]
    lines += [f"for i in range(s.kh - {rows - 1}):"]
    lines += indented(1, _meet(columns, rows, 1, rows, rows - 1, "w[i + {}]"))
    lines += [f"u = v.advance(w, s.kh - {rows})"]
    return lines + [line for r in range(rows, 2 * rows - 1) for line in _meet(columns, rows, 1, rows, r, "u[{}]")]


def _store(lanes: int, columns: list[str], rows: int) -> list[str]:
    """Source that stores those rows of a tile that exist."""
    lines = ["out = v.advance(s.out, top * s.out_row + column)", "rest = s.count - top"]
    for t in range(rows):
        stores = [f"v.store(out, {at}, s{t}_{i} + bias)" for i, at in enumerate(columns)]
        if len(columns) == 1:
            whole = f"if s.lanes >= {lanes} or (s.spill and (rest - {t}) * s.lanes >= {lanes}):"
            stores = [whole, *indented(1, stores), "else:", f"    v.store_partial(out, s{t}_0 + bias, s.lanes)"]
        lines += [f"if {t} < rest:", *indented(1, stores), "    out = v.advance(out, s.out_row)"]
    return lines


def _roll(target: Target, way: int, step: int, rows: int, vectors: int) -> Inner:
    """Make ``roll(s, first, strips, last)``: all rows, ``strips`` tiles at a time from column ``first`` on.

    The last vector of each begins ``last`` columns after it. A step of 0 is any.
    """
    v = target.v
    columns = _at(v.lanes, vectors)
    sums = [f"s{t}_{i} = v.zero()" for t in range(rows) for i in range(vectors)]
    lines = [
        "def roll(s, first, strips, last):",
        "    bias = v.broadcast(s.bias)",
        f"    apart = s.row * {step or 's.step'}",
        f"    for top in range(0, s.count, {rows}):",
        "        for strip in range(strips):",
        f"            column = first + strip * {vectors * v.lanes}",
        *indented(3, sums),
        "            w = s.weight",
        "            for c in range(s.c):",
        "                x = v.advance(s.x, c * s.plane + top * apart + column)",
        "                for j in range(s.kw):",
        "                    p = v.advance(x, s.offsets[j])",
        *indented(5, _column(columns, way, step, rows)),
        "                    w = v.advance(w, s.kh)",
        *indented(3, _store(v.lanes, columns, rows)),
    ]
    return target.call(define("roll", lines, v=v))


def tile_3x3(step: int, load: Callable[[int], list[str]], rows: int = ROWS) -> list[str]:
    """Source of a tile of one channel's 3x3 kernel: one vector of some rows, at ``out``, of which ``rest`` are wanted.

    ``load(r)`` sets a0, a1 and a2 to what the taps read in row r of the input, which is read once for all the rows of
    outputs that see it; a sum takes a register only for as many rows.
    """
    lines = []
    for r in range((rows - 1) * step + 3):
        lines += load(r)
        for i in (2, 1, 0):
            t = (r - i) // step
            if r < i or (r - i) % step != 0 or t >= rows:
                continue
            total = f"w{i} * a0" if i == 0 else f"v.fma(w{i}, a0, s{t})"
            for j in (1, 2):
                total = f"v.fma(w{3 * j + i}, a{j}, {total})"
            lines += [f"s{t} = {total}"]
            if i == 2:
                lines += [f"if {t} < rest:", f"    v.store(out, {t} * out_row, s{t} + bias)"]
    return lines


#: Source that keeps the weights of a 3x3 kernel in registers.
WEIGHTS_3X3 = [f"w{i} = v.broadcast(weight[{i}])" for i in range(9)]


def _roll_3x3(target: Target, step: int) -> Inner:
    """Make ``roll_3x3(s, columns)``: all rows of at least LANES columns of one channel's 3x3 kernel."""
    v = target.v

    def load(r: int) -> list[str]:
        return [*(f"a{j} = v.load(p, o{j})" for j in range(3)), "p = v.advance(p, s.row)"]

    lines = [
        "def roll_3x3(s, columns):",
        "    bias, weight, out_row = v.broadcast(s.bias), s.weight, s.out_row",
        *indented(1, WEIGHTS_3X3),
        *(f"    o{j} = s.offsets[{j}]" for j in range(3)),
        f"    for top in range(0, s.count, {ROWS}):",
        "        rest = s.count - top",
        f"        for column in range(0, columns, {v.lanes}):",
        # the last vector may overlap the one before
        f"            at = min(column, columns - {v.lanes})",
        f"            p = v.advance(s.x, top * {step} * s.row + at)",
        "            out = v.advance(s.out, top * s.out_row + at)",
        *indented(3, tile_3x3(step, load)),
    ]
    return target.call(define("roll_3x3", lines, v=v))


def _roll_way(target: Target, way: int, step: int) -> Inner:
    """Make ``roll_way(s, columns)``: whole strips, then one of as many vectors as are left.

    They are whole vectors, of which the last two may overlap. It returns how many columns are done: a last vector is
    left.
    """
    lanes = target.lanes
    most = 3 if target.rows == 8 else 2  # a third vector takes more than 16 registers
    two = _roll(target, way, step, ROWS, 2)
    whole = _roll(target, way, step, ROWS, most) if most > 2 else two

    @target.call
    def roll_way(s, columns):
        strips = columns // (most * lanes)
        first = strips * most * lanes
        rest = columns - first
        if strips > 0:
            whole(s, 0, strips, (most - 1) * lanes)
        if rest > 2 * lanes:
            whole(s, first, 1, rest - lanes)
        elif rest > lanes:
            two(s, first, 1, rest - lanes)
        else:
            return first
        return columns

    return roll_way


def rolling(target: Target, ways: tuple[tuple[int, int], ...], *, any_way: bool = True) -> Inner:
    """Make ``roll_rows(s, columns)``: all rows of ``columns`` outputs.

    It reads whole vectors, and the rows of whole tiles. ``ways`` are steps and rows of the kernels that are specialised
    for, with a step of 1 and 4 rows meaning any from there on; without ``any_way`` there are no others.
    """
    lanes = target.lanes
    one = _roll(target, _SINGLY, 0, NARROW_ROWS, 1)
    names: dict[str, Inner] = {}
    lines = ["def most(s, columns):"]
    if (1, 1) in ways:
        names["roll_row"] = rolling_row(target)
        lines += [f"    if s.kh == 1 and s.c == 1 and s.offsets[s.kw - 1] < s.kw and columns >= {VECTORS * lanes}:"]
        lines += ["        roll_row(s, columns)", "        return columns"]
    for step in sorted({step for step, kh in ways if kh == 3}):
        names[f"roll_3x3_{step}"] = _roll_3x3(target, step)
        lines += [f"    if s.step == {step} and s.kh == 3 and s.kw == 3 and s.c == 1 and columns >= {lanes}:"]
        lines += [f"        roll_3x3_{step}(s, columns)", "        return columns"]
    for step, kh in ways:
        names[f"roll_{kh}_{step}"] = _roll_way(target, kh, step)
        test = ">=" if kh == _MANY else "=="
        lines += [f"    if s.step == {step} and s.kh {test} {kh}:", f"        return roll_{kh}_{step}(s, columns)"]
    if any_way:
        names["roll_any"] = _roll_way(target, _SINGLY, 0)
    lines += ["    return roll_any(s, columns)" if any_way else "    return 0"]
    most = target.call(define("most", lines, **names))

    @target.call
    def roll_rows(s, columns):
        if most(s, columns) < columns:
            one(s, max(columns - lanes, 0), 1, 0)

    return roll_rows


def rolling_pairs(target: Target) -> Inner:
    """Make ``roll_pair(s, columns)``: two convolutions, or outputs that do not lie side by side."""
    v = target.v
    lanes = v.lanes

    @target.jit
    def store_apart(s, out, n, sums):
        for lane in range(min(n, lanes)):
            out[lane * s.out_w] = v.extract(sums, lane) + s.bias

    @target.jit
    def store_pair(out, n, low, high):
        if n >= 2 * lanes:
            v.store(out, 0, low)
            v.store(out, lanes, high)
        else:
            v.store_partial(out, low, n)
            v.store_partial(v.advance(out, lanes), high, n - lanes)

    lines = [
        "def roll_pair(s, columns):",
        "    apart = s.row * s.step",
        f"    for top in range(0, s.count, {ROWS}):",
        f"        for column in range(0, columns, {lanes}):",
        *(f"            {name}{t}_0 = v.zero()" for name in "sz" for t in range(ROWS)),
        "            w, w2 = s.weight, s.weight2",
        "            for c in range(s.c):",
        "                x = v.advance(s.x, c * s.plane + top * apart + column)",
        "                for j in range(s.kw):",
        "                    p = v.advance(x, s.offsets[j])",
        *indented(5, _singly(["0"], ROWS)),
        "                    w = v.advance(w, s.kh)",
        "                first, w = w, w2",
        "                for j in range(s.kw2):",
        "                    p = v.advance(x, s.offsets[s.kw + j])",
        *indented(5, _singly(["0"], ROWS, "z")),
        "                    w = v.advance(w, s.kh)",
        "                w, w2 = first, w",
    ]
    for t in range(ROWS):
        lines += [
            f"            if top + {t} < s.count:",
            f"                out = v.advance(s.out, (top + {t}) * s.out_row)",
            "                if s.pair:",
            f"                    low, high = v.low(s{t}_0, z{t}_0), v.high(s{t}_0, z{t}_0)",
            "                    store_pair(v.advance(out, 2 * column), s.lanes - 2 * column, low, high)",
            "                else:",
            f"                    store_apart(s, v.advance(out, column * s.out_w), s.lanes - column, s{t}_0)",
        ]
    return target.call(define("roll_pair", lines, v=v, store_pair=store_pair, store_apart=store_apart))
