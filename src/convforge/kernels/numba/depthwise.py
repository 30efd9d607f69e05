"""Depthwise convolution, and filters of one-channel images: output pixels in the lanes, weights broadcast.

A strip is a few vectors of output columns. The sums of a strip roll down its rows: an input row is loaded once and
added to all the output rows in flight that see it, of which the oldest is then complete. Loads are the bound, not
arithmetic; this way there are as few as there can be.

Kernels of many rows take several passes of at most seven, whose sums wait in a buffer. Dilations of the rows are
settled by taking outputs that are ``apart`` rows apart, whose taps then meet at rows that are ``dh`` apart: from one
such output to the next are ``step`` of those.

Borders, strides and dilations of the columns are settled before the sums: the input of a panel of outputs is copied
into scratch memory, padded with zeros and with its columns split by their phase (column modulo stride), so that
every tap reads whole vectors of neighbouring columns. Inner columns of wide maps of stride 1 are read in place; 3x3
kernels read everything in place where masked loads are cheap.

The input gradient of stride 2 is a pair of convolutions of the same input, whose outputs alternate along the rows:
what ends in 2 below belongs to the second.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

from convforge.kernels import abi
from convforge.kernels.numba.direct import ceiling, clamp
from convforge.kernels.numba.generate import define

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target

_STRIP = 4  # vectors of a strip at most
# how the taps of a row are loaded; pairs: stride 2, even and odd columns of the same vectors, then those after
_WHOLE, _MASKED, _MASKED_PAIRS = range(3)

# the planes of one group, and what follows from the geometry; the tables and the copy are in scratch memory
_Input = namedtuple(
    "_Input",
    "x_c x_h c ih iw ow kh kw sh sw ph pw dh dw kw2 ow2 columns apart step reach width phases offsets offsets_in_place "
    "copy",
)
# what the first tap reads for the first of `columns` outputs, and its neighbours
_Panel = namedtuple("_Panel", "first offsets row plane column columns")
# `count` rows of outputs; `start` holds sums of earlier passes if `begun`. To mask: column of the first output's first
# tap, and the same for the line; lines further on are `zeros`
_Strip = namedtuple(
    "_Strip",
    "x row apart count offsets kw kw2 weight weight2 start begun out out_row lanes bias alternate line line_step "
    "line_apart column ih iw zeros",
)
# `count` rows of LANES outputs of which `lanes` count, and the totals of the first of some taps
_Dots = namedtuple("_Dots", "x row apart count lanes offsets y y_row totals kw")


def _masked_loads(target: Target) -> bool:
    """Whether masked loads cost no more than whole ones."""
    return bool(target.lanes * target.v.itemsize == 64)


def _aligned(target: Target) -> Inner:
    return target.jit(lambda nbytes: (nbytes + 63) // 64 * 64)


def _prepare(target: Target, f: Any, pair: bool) -> Inner:
    """Make ``prepare(args, scratch, between)``: what is the same for every item, and the tables laid out.

    In scratch memory ``between`` bytes lie between the tables and the copy.
    """
    v = target.v
    up, aligned = ceiling(target), _aligned(target)

    if pair:
        second = target.jit(lambda args: (args[f.kw2], args[f.pw2], args[f.ow2]))
    else:
        second = target.jit(lambda args: (0, 0, 0))

    @target.jit
    def prepare(args, scratch, between):
        kw, sh, sw, dh, dw, ow = args[f.kw], args[f.sh], args[f.sw], args[f.dh], args[f.dw], args[f.ow]
        kw2, pw2, ow2 = second(args)
        before = args[f.pw] if kw2 == 0 else pw2 if kw == 0 else max(args[f.pw], pw2)
        common, rest = sh, dh
        while rest != 0:
            common, rest = rest, common % rest
        offsets = v.pointer_int64(scratch)
        offsets_in_place = v.advance(offsets, kw + kw2)
        reach = 1
        for j in range(kw + kw2):
            # the second convolution's columns start `pw - pw2` further on
            column = before - args[f.pw] + j * dw if j < kw else before - pw2 + (j - kw) * dw
            offsets_in_place[j] = column
            reach = max(reach, column + 1)
        width = up(min(args[f.columns], ow) + (reach - 1) // sw, v.lanes) * v.lanes
        for j in range(kw + kw2):
            offsets[j] = offsets_in_place[j] % sw * width + offsets_in_place[j] // sw
        return _Input(
            args[f.x_c], args[f.x_h], args[f.c], args[f.ih], args[f.iw], ow, args[f.kh], kw, sh, sw, args[f.ph], before,
            dh, dw, kw2, ow2, args[f.columns], dh // common, sh // common, reach, width, min(sw, reach), offsets,
            offsets_in_place, v.pointer(scratch + aligned(2 * (kw + kw2) * 8) + between),
        )  # fmt: skip

    return prepare


def _next_panel(target: Target) -> Inner:
    """Make ``next_panel(d, x, top, rows, column)``: the panel from ``column`` on, for the output rows from ``top`` on.

    ``x`` is the first plane of the group.
    """
    v = target.v
    lanes = v.lanes
    up, between = ceiling(target), clamp(target)

    @target.call
    def copy(d, x, line, lines, first):
        # Input rows of every channel from column `first` on. Rows innermost, for they share their masks.
        row, top = d.width * d.phases, between(-line, 0, lines)
        bottom = between(d.ih - line, top, lines)
        for c in range(d.c):
            plane = v.advance(d.copy, c * lines * row)
            for i in range(0, top * row, lanes):
                v.store(plane, i, v.zero())
            for i in range(bottom * row, lines * row, lanes):
                v.store(plane, i, v.zero())
            for at in range(0, d.width, lanes):
                column = first + at * d.sw
                source = v.advance(x, c * d.x_c + (line + top) * d.x_h + column)
                to = v.advance(plane, top * row + at)
                if d.sw == 1:
                    for _ in range(bottom - top):
                        v.store(to, 0, v.load_window(source, -column, d.iw - column))
                        source, to = v.advance(source, d.x_h), v.advance(to, row)
                elif d.sw == 2 and d.phases == 2:
                    for _ in range(bottom - top):
                        a = v.load_window(source, -column, d.iw - column)
                        b = v.load_window(v.advance(source, lanes), -column - lanes, d.iw - column - lanes)
                        v.store(to, 0, v.even(a, b))
                        v.store(to, d.width, v.odd(a, b))
                        source, to = v.advance(source, d.x_h), v.advance(to, row)
                else:
                    for _ in range(bottom - top):
                        for phase in range(d.phases):
                            lo, hi = up(-column - phase, d.sw), up(d.iw - column - phase, d.sw)
                            values = v.load_strided(v.advance(source, phase), d.sw, lo, hi)
                            v.store(to, phase * d.width, values)
                        source, to = v.advance(source, d.x_h), v.advance(to, row)

    @target.jit
    def next_panel(d, x, top, rows, column):
        first, line = column * d.sw - d.pw, top * d.sh - d.ph
        lines = (rows - 1) * d.sh + (d.kh - 1) * d.dh + 1
        columns = min(d.ow - column, d.columns)
        if d.sw == 1 and d.ow > d.columns and line >= 0 and line + lines <= d.ih:
            # as many whole vectors as all taps find inside the row
            columns = min(d.ow - column, (d.iw - d.reach + 1 - first) // lanes * lanes)
            if first >= 0 and columns > 0:
                return _Panel(v.advance(x, line * d.x_h + first), d.offsets_in_place, d.x_h, d.x_c, column, columns)
            columns = min(d.ow - column, min(d.columns, 2 * lanes))
        copy(d, x, line, lines, first)
        row = d.width * d.phases
        return _Panel(d.copy, d.offsets, row, lines * row, column, columns)

    return next_panel


def _chunk(target: Target) -> Inner:
    """Make ``chunk(rest, step, pair)``: kernel rows of the next pass, of those that rest."""

    @target.jit
    def chunk(rest, step, pair):
        # with a step beyond 2 outputs share no input rows
        if step <= 2 and rest >= 5 and not pair:
            return 7 if rest >= 7 else 5
        return min(rest, 3)

    return chunk


def _indented(levels: int, lines: list[str]) -> list[str]:
    return ["    " * levels + line for line in lines]


def _finish(target: Target, vectors: int, sums: list[str], sums2: list[str]) -> list[str]:
    """Source that stores a row of outputs that is complete: ``sums``, or alternating with ``sums2``."""
    lanes = target.lanes
    if not sums2:
        values = [f"{name} + bias" for name in sums]
    else:
        values = [f"v.{half}({a}, {b})" for a, b in zip(sums, sums2, strict=True) for half in ("low", "high")]
    whole = [f"v.store(out, {i * lanes}, {value})" for i, value in enumerate(values)]
    partial = [
        f"v.store_partial(v.advance(out, {i * lanes}), {value}, s.lanes - {i * lanes})"
        for i, value in enumerate(values)
    ]
    lines = partial
    if not _masked_loads(target):
        lines = ["if whole:", *_indented(1, whole), "else:", *_indented(1, partial)]
    if sums2:
        apart = [f"v.store(out, {i * lanes}, {name})" for i, name in enumerate(sums + sums2)]
        lines = ["if s.alternate:", *_indented(1, lines), "else:", *_indented(1, apart)]
    return lines


def _roll(
    target: Target, kh: int, vectors: int, step: int, taps: Callable[..., list[str]], pair: bool = False
) -> Inner:
    """Make ``roll(s)``: one pass of ``kh`` kernel rows over a strip.

    A step of 0 is any that is at least kh: one output in flight. ``taps(u, sums, second)`` is the source that adds the
    u-th input row of a step to the outputs in flight: to ``sums[t][vector]`` for each kernel row t that it meets.
    """
    v = target.v
    flight = -(-kh // step) if step else 1
    families = ("s", "z") if pair else ("s",)
    stores = vectors * len(families)

    def names(family: str, age: int) -> list[str]:
        return [f"{family}{age}_{j}" for j in range(vectors)]

    def add(u: int, second: bool) -> list[str]:
        meets = {age * step + u: names("z" if second else "s", age) for age in range(flight) if age * step + u < kh}
        return taps(u, meets, second)

    body = []
    for at, family in enumerate(families):
        for age in range(flight - 1, 0, -1):
            body += [f"{new} = {old}" for new, old in zip(names(family, age), names(family, age - 1), strict=True)]
        body += ["if s.begun and q < s.count:"]
        body += [
            f"    {name} = v.load(start, {(at * vectors + j) * v.lanes})" for j, name in enumerate(names(family, 0))
        ]
        body += ["else:", *[f"    {name} = v.zero()" for name in names(family, 0)]]
        body += add(0, family == "z")
    if step == 0:
        for u in range(1, kh):
            body += add(u, False)
    elif step == 2 and kh % 2 == 0:
        body += add(1, False)
    elif step == 2:
        # the last row that an odd number of taps needs is an even one
        body += [f"if q + 2 < s.count + {flight}:", *_indented(1, add(1, False))]
    old = flight - 1
    done = _finish(target, vectors, names("s", old), names("z", old) if pair else [])
    body += [f"if q >= {old}:", *_indented(1, done)]
    lines = ["def roll(s):", f"    x, out, line = s.x, v.advance(s.out, -s.out_row * {old}), s.line"]
    lines += ["    start, bias = s.start, v.broadcast(s.bias)", f"    whole = s.lanes >= {stores * v.lanes}"]
    lines += _indented(1, taps(-1, {}, False))
    for family in families:
        lines += [f"    {name} = v.zero()" for age in range(flight) for name in names(family, age)]
    lines += [f"    for q in range(s.count + {old}):", *_indented(2, body)]
    lines += ["        x, out, line = v.advance(x, s.apart), v.advance(out, s.out_row), line + s.line_apart"]
    lines += [f"        start = v.advance(start, {_STRIP * v.lanes})"]
    return target.call(define("roll", lines, v=v))


def _any_taps(target: Target, kh: int, vectors: int) -> Callable[..., list[str]]:
    """Taps of any number of columns, whole vectors."""
    v = target.v

    def taps(u: int, sums: dict[int, list[str]], second: bool) -> list[str]:
        if u < 0:
            return []
        kw, weight, offset = ("s.kw2", "s.weight2", "s.kw + j") if second else ("s.kw", "s.weight", "j")
        lines = [f"w = {weight}", f"for j in range({kw}):", f"    p = v.advance(x, {u} * s.row + s.offsets[{offset}])"]
        lines += [f"    a{j} = v.load(p, {j * v.lanes})" for j in range(vectors)]
        for t, names in sums.items():
            lines += [f"    b = v.broadcast(w[{t}])"]
            lines += [f"    {name} = v.fma(b, a{j}, {name})" for j, name in enumerate(names)]
        return [*lines, f"    w = v.advance(w, {kh})"]

    return taps


def _three_taps(target: Target, vectors: int, load: int) -> Callable[..., list[str]]:
    """Three taps a row for 3x3 kernels, whose weights stay in registers, and so do the masks."""
    v = target.v
    lanes = v.lanes

    def window(at: int) -> str:
        return f"v.load_window(v.advance(p, {at}), -s.column - {at}, s.iw - s.column - {at})"

    def taps(u: int, sums: dict[int, list[str]], second: bool) -> list[str]:
        if u < 0:
            return [f"w{j}_{t} = v.broadcast(s.weight[{3 * j + t}])" for j in range(3) for t in range(3)]
        lines = [f"p = v.advance(x, {u} * s.row)"]
        if load != _WHOLE:
            lines += [f"if line + {u} * s.line_step < 0 or line + {u} * s.line_step >= s.ih:", "    p = s.zeros"]
        for i in range(vectors):
            if load == _WHOLE:
                lines += [f"a{j} = v.load(p, s.offsets[{j}] + {i * lanes})" for j in range(3)]
            elif load == _MASKED:
                lines += [f"a{j} = {window(j + i * lanes)}" for j in range(3)]
            else:
                for at in (0, 2):
                    for k, name in enumerate(("lower", "upper")):
                        lines += [f"{name} = {window((2 * i + k) * lanes + at)}"]
                    lines += [f"a{at} = v.even(lower, upper)"]
                    if at == 0:
                        lines += ["a1 = v.odd(lower, upper)"]
            for j in range(3):
                lines += [f"{names[i]} = v.fma(w{j}_{t}, a{j}, {names[i]})" for t, names in sums.items()]
        return lines

    return taps


def _passes(target: Target, shapes: list[tuple[int, int]], *, pair: bool = False) -> Inner:
    """Make ``run(kh, vectors, step, load, s)``: the pass for these numbers. ``shapes`` lists steps and rows."""
    names = {}
    lines = ["def run(kh, vectors, step, load, s):"]
    for vectors in (2, 1):
        for step, kh in shapes:
            name = f"roll_{step}_{kh}_{vectors}"
            names[name] = _roll(target, kh, vectors, step, _any_taps(target, kh, vectors), pair)
            test = f"vectors == {vectors} and kh == {kh}" + (f" and step == {step}" if step else "")
            lines += [f"    if {test}:", f"        return {name}(s)"]
    return target.call(define("run", lines, **names))


def _passes_3(target: Target) -> Inner:
    """Make ``run(kh, vectors, step, load, s)`` for 3x3 kernels."""
    names = {}
    lines = ["def run(kh, vectors, step, load, s):"]
    loads: list[tuple[int, int, tuple[int, ...]]] = [(1, _WHOLE, (2, 1)), (2, _WHOLE, (2, 1))]
    if _masked_loads(target):
        loads = [(1, _MASKED, (4, 2, 1)), (2, _MASKED_PAIRS, (2, 1))]
    for step, load, widths in loads:
        for vectors in widths:
            name = f"roll_{step}_{vectors}"
            names[name] = _roll(target, 3, vectors, step, _three_taps(target, vectors, load))
            lines += [f"    if step == {step} and vectors == {vectors}:", f"        return {name}(s)"]
    return target.call(define("run", lines, **names))


_NARROW_FIELDS = "g ih iw oh ow ph pw x_n x_c x_h out_n out_k out_h w_g w_h w_w"


def _narrow(target: Target, f: Any, planes: int, step: int) -> Inner:
    """Make ``narrow(args, begin, end)``: 3x3 kernels on maps of one vector, or of half: then two planes fill one.

    Whole planes, nothing is copied: what a plane costs beside its rows is a good part of small maps.
    """
    v = target.v
    lanes = v.lanes
    part = lanes // planes
    flight = 3 if step == 1 else 2
    halves = v.shuffle((*range(part), *range(lanes + part, 2 * lanes)))
    swap = v.shuffle(tuple((lane + part) % lanes for lane in range(lanes)))

    @target.jit
    def window(p, first, column, iw):
        # columns `column` on, in the lanes from `first` on of a plane's part
        return v.load_window(p, first + max(-column, 0), first + min(iw - column, part))

    @target.jit
    def row(p, column, iw):
        return v.load_window(p, -column, iw - column)

    def both(first: str, second: str) -> str:
        return f"halves({first}, {second})" if planes == 2 else first

    every = range(planes)
    lines = ["def narrow(args, begin, end):"]
    for name in _NARROW_FIELDS.split():
        lines += [f"    {name} = args[{getattr(f, name)}]"]
    lines += [f"    for item in range(begin, end, {planes}):"]
    for i in every:
        lines += [f"        plane = min(item + {i}, end - 1)"]
        lines += ["        image = plane // g", "        group = plane - image * g"]
        # a plane of the upper half is read from half a vector before it
        ahead = i * part if step == 1 else 0
        at = f"image * x_n + group * x_c - ph * x_h - pw - {ahead}"
        lines += [f"        x{i} = v.advance(v.pointer(args[{f.x}]), {at})"]
        at = f"image * out_n + group * out_k - {flight - 1} * out_h"
        lines += [f"        out{i} = v.advance(v.pointer(args[{f.out}]), {at})"]
        lines += [f"        w = v.advance(v.pointer(args[{f.w}]), group * w_g)"]
        lines += [f"        k{i}_{t}{j} = v.broadcast(w[{t} * w_h + {j} * w_w])" for t in range(3) for j in range(3)]
        lines += [f"        bias{i} = v.zero()", f"        if args[{f.bias}] != 0:"]
        lines += [f"            bias{i} = v.broadcast(v.pointer(args[{f.bias}])[group])"]
    lines += [f"        bias = {both('bias0', 'bias1')}"]
    lines += [f"        k{t}{j} = {both(f'k0_{t}{j}', f'k1_{t}{j}')}" for t in range(3) for j in range(3)]
    lines += [f"        s{age} = v.zero()" for age in range(flight)]
    lines += ["        line = -ph", f"        for q in range(oh + {flight - 1}):"]
    lines += [f"            s{age} = s{age - 1}" for age in range(flight - 1, 0, -1)]
    lines += ["            s0 = v.zero()"]
    for u in range(step):
        lines += ["            if line >= 0 and line < ih:"]
        if step == 1:
            for j in range(3):
                loads = [f"window(v.advance(x{i}, {j}), {i * part}, {j} - pw, iw)" for i in every]
                lines += [f"                a{j} = {' + '.join(loads)}"]
        else:
            # two planes: the even columns of both are those of the two vectors one after the other
            second, ahead = ("x1", 0) if planes == 2 else ("x0", lanes)
            for j in (0, 2):
                lines += [f"                lower = row(v.advance(x0, {j}), {j} - pw, iw)"]
                lines += [f"                upper = row(v.advance({second}, {j + ahead}), {j + ahead} - pw, iw)"]
                lines += [f"                a{j} = v.even(lower, upper)"]
                if j == 0:
                    lines += ["                a1 = v.odd(lower, upper)"]
        lines += ["            else:", "                a0, a1, a2 = v.zero(), v.zero(), v.zero()"]
        for age in range(flight):
            if age * step + u < 3:
                for j in range(3):
                    lines += [f"            s{age} = v.fma(k{age * step + u}{j}, a{j}, s{age})"]
        lines += [f"            x{i} = v.advance(x{i}, x_h)" for i in every]
        lines += ["            line += 1"]
        if u == 0:
            # an odd number of rows meets the oldest outputs: they are complete
            lines += [f"            if q >= {flight - 1}:", f"                done = s{flight - 1} + bias"]
            lines += ["                v.store_partial(out0, done, ow)"]
            if planes == 2:
                lines += ["                if item + 1 < end:"]
                lines += ["                    v.store_partial(out1, swap(done, done), ow)"]
            lines += [f"            out{i} = v.advance(out{i}, out_h)" for i in every]
    return target.call(define("narrow", lines, v=v, window=window, row=row, halves=halves, swap=swap))


def depthwise_3x3(target: Target) -> Callable[..., None]:
    """3x3 kernels, of strides 1 and 2."""
    f = abi.fields("depthwise_3x3")
    if not _masked_loads(target):
        return _forward(target, _passes_3(target), (_WHOLE, _WHOLE))
    lanes = target.lanes
    halves_1, whole_1, halves_2, whole_2 = (_narrow(target, f, planes, step) for step in (1, 2) for planes in (2, 1))
    wide = target.call(_forward(target, _passes_3(target), (_MASKED, _MASKED_PAIRS)))

    def kernel(args, scratch, begin, end):
        ow = args[f.ow]
        if args[f.c] * args[f.k] * args[f.dh] * args[f.out_w] != 1 or args[f.rows] < args[f.oh] or ow > lanes:
            wide(args, scratch, begin, end)
        elif args[f.sw] == 1 and 2 * ow <= lanes:
            halves_1(args, begin, end)
        elif args[f.sw] == 1:
            whole_1(args, begin, end)
        elif 2 * ow <= lanes:
            halves_2(args, begin, end)
        else:
            whole_2(args, begin, end)

    return kernel


def depthwise_forward(target: Target) -> Callable[..., None]:
    """Kernels of any size whose rows have a step of 1."""
    return _forward(target, _passes(target, [(1, kh) for kh in (7, 5, 3, 2, 1)]))


def depthwise_strided(target: Target) -> Callable[..., None]:
    """Kernels of any size and step."""
    return _forward(target, _passes(target, [(2, kh) for kh in (7, 5, 3)] + [(0, kh) for kh in (3, 2, 1)]))


def depthwise_pair(target: Target) -> Callable[..., None]:
    """Pairs of convolutions, whose rows have a step of 1."""
    return _forward(target, _passes(target, [(1, kh) for kh in (3, 2, 1)], pair=True))


def _forward(target: Target, run: Inner, loads: tuple[int, int] = (_WHOLE, _WHOLE)) -> Callable[..., None]:
    """Blocks of output rows of one group: panels of columns, strips of a panel, passes over a strip.

    ``loads`` says how the taps of a row are loaded where the columns' stride is 1 and where it is 2.
    """
    v = target.v
    lanes = v.lanes
    f = abi.fields("depthwise_forward")
    up, aligned, chunk = ceiling(target), _aligned(target), _chunk(target)
    prepare, next_panel = _prepare(target, f, True), _next_panel(target)
    strip_lanes = _STRIP * lanes
    load_1, load_2 = loads

    @target.call
    def strip_rows(d, panel, load, column, vectors, weight, weight2, out, out_h, out_w, top, rows, bias, buffer):
        # All rows of a strip of one channel, `column` counted in the panel.
        pair = d.ow2 > 0
        times = 2 if pair else 1
        first = times * (panel.column + column)
        lanes_left = min(times * vectors * lanes, d.ow + d.ow2 - first)
        for phase in range(min(d.apart, rows)):
            count = up(rows - phase, d.apart)
            to = v.advance(out, phase * out_h + first * out_w)
            w, w2 = weight, weight2
            begun = False
            for c in range(d.c):
                i = 0
                while i < d.kh:
                    kh = chunk(d.kh - i, d.step, pair)
                    last = out_w == 1 and c + 1 == d.c and i + kh == d.kh
                    at = c * panel.plane + (phase * d.sh + i * d.dh) * panel.row
                    at += column if load == _WHOLE else column * d.sw
                    run(
                        kh, vectors, d.step, load,
                        _Strip(
                            v.advance(panel.first, at), d.dh * panel.row, d.apart * d.sh * panel.row, count,
                            panel.offsets, d.kw, d.kw2, w, w2, buffer, begun, to if last else buffer,
                            d.apart * out_h if last else strip_lanes, lanes_left if last else strip_lanes,
                            bias if last else v.extract(v.zero(), 0), last, (top + phase) * d.sh - d.ph + i * d.dh,
                            d.dh, d.apart * d.sh, (panel.column + column) * d.sw - d.pw, d.ih, d.iw, d.copy,
                        ),
                    )  # fmt: skip
                    begun = True
                    w, w2 = v.advance(w, kh * d.kw), v.advance(w2, kh * d.kw2)
                    i += kh
            if out_w != 1:
                for i in range(count):
                    for j in range(lanes_left):
                        to[i * d.apart * out_h + j * out_w] = buffer[i * strip_lanes + j] + bias

    @target.call
    def gather(d, w, w_k, w_c, w_h, w_w, k, kw, weights):
        # The weights of a group, [k][c][passes][kw][rows of the pass].
        at = 0
        for m in range(k):
            for c in range(d.c):
                i = 0
                while i < d.kh:
                    kh = chunk(d.kh - i, d.step, d.ow2 > 0)
                    for j in range(kw):
                        for t in range(kh):
                            weights[at] = w[m * w_k + c * w_c + (i + t) * w_h + j * w_w]
                            at += 1
                    i += kh

    def kernel(args, scratch, begin, end):
        g, c, k, kh, kw, kw2 = args[f.g], args[f.c], args[f.k], args[f.kh], args[f.kw], args[f.kw2]
        w_g, w_k, w_c, w_h, w_w = args[f.w_g], args[f.w_k], args[f.w_c], args[f.w_h], args[f.w_w]
        out_h, out_w = args[f.out_h], args[f.out_w]
        blocks = up(args[f.oh], args[f.rows])
        # scratch: tables, buffer of sums, weights of a group, copy
        buffer_count = args[f.rows] * strip_lanes
        d = prepare(args, scratch, buffer_count * v.itemsize + aligned(k * c * kh * (kw + kw2) * v.itemsize))
        buffer = v.pointer(scratch + aligned(2 * (kw + kw2) * 8))
        weights = v.advance(buffer, buffer_count)
        weights2 = v.advance(weights, k * c * kh * kw)
        load = load_1 if d.sw == 1 else load_2
        if load != _WHOLE:
            # lines outside of the input
            for i in range(up(d.reach, lanes) + _STRIP):
                v.store(d.copy, i * lanes, v.zero())
        for item in range(begin, end):
            top = item % blocks * args[f.rows]
            group = item // blocks % g
            image = item // blocks // g
            rows = min(args[f.rows], args[f.oh] - top)
            gather(d, v.advance(v.pointer(args[f.w]), group * w_g), w_k, w_c, w_h, w_w, k, kw, weights)
            if kw2 > 0:
                gather(d, v.advance(v.pointer(args[f.w2]), group * w_g), w_k, w_c, w_h, w_w, k, kw2, weights2)
            x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + group * c * args[f.x_c])
            column = 0
            while column < d.ow:
                if load == _WHOLE:
                    panel = next_panel(d, x, top, rows, column)
                else:
                    first = v.advance(x, (top * d.sh - d.ph) * d.x_h - d.pw)
                    panel = _Panel(first, d.offsets_in_place, d.x_h, d.x_c, column, d.ow)
                for i in range(k):
                    channel = group * k + i
                    offset = image * args[f.out_n] + channel * args[f.out_k] + top * out_h
                    out = v.advance(v.pointer(args[f.out]), offset)
                    bias = v.pointer(args[f.bias])[channel] if args[f.bias] != 0 else v.extract(v.zero(), 0)
                    at = 0
                    while at < panel.columns:
                        vectors = 4 if load == _MASKED else 2
                        while vectors > 1 and at + (vectors - 1) * lanes >= panel.columns:
                            vectors //= 2
                        strip_rows(
                            d, panel, load, at, vectors, v.advance(weights, i * c * kh * kw),
                            v.advance(weights2, i * c * kh * kw2), out, out_h, out_w, top, rows, bias, buffer,
                        )  # fmt: skip
                        at += vectors * lanes
                column += panel.columns

    return kernel


def _dot_roll(target: Target, th: int, tw: int, step: int, partial: bool) -> Inner:
    """Make ``roll(s)``: add the products of a strip to the totals of ``th`` x ``tw`` taps.

    A step of 0 is any that is at least th. An input row is multiplied by all the rows of grad_output in flight whose
    taps meet it.
    """
    v = target.v
    flight = -(-th // step) if step else 1
    totals = [(t, j) for t in range(th) for j in range(tw)]

    def load(pointer: str) -> str:
        return f"v.load_partial({pointer}, s.lanes)" if partial else f"v.load({pointer}, 0)"

    def row(u: int) -> list[str]:
        lines = [f"a{j} = {load(f'v.advance(x, {u} * s.row + offset{j})')}" for j in range(tw)]
        for age in range(flight):
            t = age * step + u
            if t < th:
                # x is not multiplied by the zeros beyond grad_output: it may be infinite
                lines += [f"if {age} <= q and q - {age} < s.count:"]
                lines += [f"    s{t}_{j} = v.fma(y{age}, a{j}, s{t}_{j})" for j in range(tw)]
        return lines

    body = [f"y{age} = y{age - 1}" for age in range(flight - 1, 0, -1)]
    body += ["if q < s.count:", f"    y0 = {load('v.advance(s.y, q * s.y_row)')}"]
    body += row(0)
    if step == 0:
        for u in range(1, th):
            body += row(u)
    elif step == 2 and th % 2 == 0:
        body += row(1)
    elif step == 2:
        # the last row that an odd number of taps needs is an even one
        body += [f"if q + 2 < s.count + {flight}:", *_indented(1, row(1))]
    lines = ["def roll(s):", "    x = s.x"]
    lines += [f"    offset{j} = s.offsets[{j}]" for j in range(tw)]
    lines += [f"    s{t}_{j} = v.load(s.totals, ({t} * s.kw + {j}) * {v.lanes})" for t, j in totals]
    lines += [f"    y{age} = v.zero()" for age in range(flight)]
    lines += [f"    for q in range(s.count + {flight - 1}):", *_indented(2, body), "        x = v.advance(x, s.apart)"]
    lines += [f"    v.store(s.totals, ({t} * s.kw + {j}) * {v.lanes}, s{t}_{j})" for t, j in totals]
    return target.call(define("roll", lines, v=v))


def _dot_passes(target: Target, shapes: list[tuple[int, int]]) -> Inner:
    """Make ``run(th, tw, step, s)``: the pass for these numbers. ``shapes`` lists steps and rows."""
    names: dict[str, Inner] = {}
    lines = ["def run(th, tw, step, s):"]
    for partial in (True,) if _masked_loads(target) else (False, True):
        for step, th in shapes:
            for tw in {7: (1,), 5: (2, 1)}.get(th, (3, 1)):
                name = f"roll{len(names)}"
                names[name] = _dot_roll(target, th, tw, step, partial)
                test = f"th == {th} and tw == {tw}" + (f" and step == {step}" if step else "")
                test += "" if partial else f" and s.lanes >= {target.lanes}"
                lines += [f"    if {test}:", f"        return {name}(s)"]
    return target.call(define("run", lines, **names))


def depthwise_grad_weight(target: Target) -> Callable[..., None]:
    """Weight gradients of kernels whose rows have a step of 1."""
    return _grad_weight(target, [(1, th) for th in (7, 5, 3, 2, 1)])


def depthwise_strided_grad_weight(target: Target) -> Callable[..., None]:
    """Weight gradients of kernels of any step."""
    return _grad_weight(target, [(2, th) for th in (7, 5, 3)] + [(0, th) for th in (3, 2, 1)])


def _grad_weight(target: Target, shapes: list[tuple[int, int]]) -> Callable[..., None]:
    """A vector of sums for each tap of a group, over a part's blocks of output rows."""
    v = target.v
    lanes = v.lanes
    f = abi.fields("depthwise_grad_weight")
    up, aligned, chunk, run = ceiling(target), _aligned(target), _chunk(target), _dot_passes(target, shapes)
    prepare, next_panel = _prepare(target, f, False), _next_panel(target)

    @target.jit
    def tap_columns(th, rest):
        # Kernel columns of the next pass of th kernel rows, of those that rest: as many as the registers hold.
        if th <= 3:
            return 3 if rest >= 3 else 1
        return 2 if th == 5 and rest >= 2 else 1

    @target.call
    def dot_panel(d, panel, rows, grad, y_h, totals):
        for phase in range(min(d.apart, rows)):
            for column in range(0, panel.columns, lanes):
                i = 0
                while i < d.kh:
                    th = chunk(d.kh - i, d.step, False)
                    x = v.advance(panel.first, (phase * d.sh + i * d.dh) * panel.row + column)
                    j = 0
                    while j < d.kw:
                        tw = tap_columns(th, d.kw - j)
                        strip = _Dots(
                            x, d.dh * panel.row, d.apart * d.sh * panel.row, up(rows - phase, d.apart),
                            panel.columns - column, v.advance(panel.offsets, j), v.advance(grad, phase * y_h + column),
                            d.apart * y_h, v.advance(totals, (i * d.kw + j) * lanes), d.kw,
                        )  # fmt: skip
                        run(th, tw, d.step, strip)
                        j += tw
                    i += th

    def kernel(args, scratch, begin, end):
        g, k, taps, parts, y_h = args[f.g], args[f.k], args[f.kh] * args[f.kw], args[f.parts], args[f.y_h]
        blocks = up(args[f.oh], args[f.rows])
        units = args[f.n] * blocks
        # scratch: tables, totals, copy
        d = prepare(args, scratch, k * taps * lanes * v.itemsize)
        totals = v.pointer(scratch + aligned(2 * args[f.kw] * 8))
        for item in range(begin, end):
            group = item % g
            part = item // g
            for i in range(k * taps):
                v.store(totals, i * lanes, v.zero())
            for unit in range(part * units // parts, (part + 1) * units // parts):
                image = unit // blocks
                top = (unit - image * blocks) * args[f.rows]
                rows = min(args[f.rows], args[f.oh] - top)
                x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + group * args[f.x_c])
                grad = v.advance(v.pointer(args[f.y]), image * args[f.y_n] + group * k * args[f.y_k] + top * y_h)
                column = 0
                while column < d.ow:
                    panel = next_panel(d, x, top, rows, column)
                    for i in range(k):
                        y = v.advance(grad, i * args[f.y_k] + column)
                        dot_panel(d, panel, rows, y, y_h, v.advance(totals, i * taps * lanes))
                    column += panel.columns
            partial = v.advance(v.pointer(args[f.partial]), item * k * taps)
            for i in range(k * taps):
                partial[i] = v.sum(v.load(totals, i * lanes))

    return kernel
