"""3x3 depthwise kernels that read everything in place, through masks.

They do narrow maps, and wider ones where masked loads cost no more than whole ones.

The sums of a strip roll down its rows: an input row is loaded once and added to all the output rows in flight that see
it, of which the oldest is then complete. Weights and masks stay in registers.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

from convforge.kernels.numba.generate import define, indented

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target

# `count` rows of outputs: what the first tap reads for the first of them, and that tap's line and column; lines outside
# of the input are `zeros`
Strip = namedtuple("Strip", "x x_h count line column ih iw weight out out_row lanes bias zeros")


def _taps(target: Target, vectors: int, step: int, u: int, sums: dict[int, list[str]]) -> list[str]:
    """Source that adds the u-th input row of a step to ``sums[t][vector]`` for each kernel row t that it meets."""
    lanes = target.lanes

    def window(at: int) -> str:
        return f"v.load_window(v.advance(p, {at}), -s.column - {at}, s.iw - s.column - {at})"

    lines = [f"p = v.advance(x, {u} * s.x_h)", f"if line + {u} < 0 or line + {u} >= s.ih:", "    p = s.zeros"]
    for i in range(vectors):
        if step == 1:
            lines += [f"a{j} = {window(j + i * lanes)}" for j in range(3)]
        else:
            # even and odd columns of the same vectors, then those after the even ones
            for at in (0, 2):
                for k, name in enumerate(("lower", "upper")):
                    lines += [f"{name} = {window((2 * i + k) * lanes + at)}"]
                lines += [f"a{at} = v.even(lower, upper)"]
                if at == 0:
                    lines += ["a1 = v.odd(lower, upper)"]
        for j in range(3):
            lines += [f"{names[i]} = v.fma(w{j}_{t}, a{j}, {names[i]})" for t, names in sums.items()]
    return lines


def _roll(target: Target, vectors: int, step: int) -> Inner:
    """Make ``roll(s)``: the rows of a strip of ``vectors``."""
    v = target.v
    flight = 3 if step == 1 else 2
    old = flight - 1

    def names(age: int) -> list[str]:
        return [f"s{age}_{i}" for i in range(vectors)]

    def add(u: int) -> list[str]:
        meets = {age * step + u: names(age) for age in range(flight) if age * step + u < 3}
        return _taps(target, vectors, step, u, meets)

    body = []
    for age in range(old, 0, -1):
        body += [f"{new} = {young}" for new, young in zip(names(age), names(age - 1), strict=True)]
    body += [f"{name} = v.zero()" for name in names(0)]
    body += add(0)
    if step == 2:
        # the last row that three taps need is an even one
        body += [f"if q + 2 < s.count + {flight}:", *indented(1, add(1))]
    body += [f"if q >= {old}:"]
    for i, name in enumerate(names(old)):
        at = i * v.lanes
        body += [f"    v.store_partial(v.advance(out, {at}), {name} + bias, s.lanes - {at})"]
    lines = ["def roll(s):", f"    x, out, line = s.x, v.advance(s.out, -s.out_row * {old}), s.line"]
    lines += ["    bias = v.broadcast(s.bias)"]
    lines += [f"    w{j}_{t} = v.broadcast(s.weight[{3 * j + t}])" for j in range(3) for t in range(3)]
    lines += [f"    {name} = v.zero()" for age in range(flight) for name in names(age)]
    lines += [f"    for q in range(s.count + {old}):", *indented(2, body)]
    lines += [f"        x, out, line = v.advance(x, {step} * s.x_h), v.advance(out, s.out_row), line + {step}"]
    return target.call(define("roll", lines, v=v))


def strips_3(target: Target, step: int) -> Inner:
    """Make ``strips(columns, s)``: rows of ``columns`` outputs."""
    lanes = target.lanes
    v = target.v
    two, one = (_roll(target, vectors, step) for vectors in (2, 1))
    four = _roll(target, 4, step) if step == 1 else two
    most = 4 if step == 1 else 2

    @target.call
    def strips(columns, s):
        at = 0
        while at < columns:
            rest = columns - at
            here = Strip(
                v.advance(s.x, at * step), s.x_h, s.count, s.line, s.column + at * step, s.ih, s.iw, s.weight,
                v.advance(s.out, at), s.out_row, rest, s.bias, s.zeros,
            )  # fmt: skip
            vectors = 2 if rest > lanes else 1
            if most == 4 and rest > 3 * lanes:
                vectors = 4
                four(here)
            elif rest > lanes:
                two(here)
            else:
                one(here)
            at += vectors * lanes

    return strips


_NARROW_FIELDS = "g ih iw oh ow ph pw x_n x_c x_h out_n out_k out_h"


def narrow_maps(target: Target, f: Any, planes: int, step: int) -> Inner:
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
        lines += [f"        w = v.advance(v.pointer(args[{f.packed}]), 9 * group)"]
        lines += [f"        k{i}_{t}{j} = v.broadcast(w[{3 * j + t}])" for t in range(3) for j in range(3)]
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
            store = "v.store_partial(out0, done, ow)"
            if planes == 1:
                # whole vectors are faster, where what they reach into is stored later
                lines += [f"                if out_h == ow and (oh + {flight - 1} - q) * ow >= {lanes}:"]
                lines += ["                    v.store(out0, 0, done)", "                else:"]
                store = f"    {store}"
            lines += [f"                {store}"]
            if planes == 2:
                lines += ["                if item + 1 < end:"]
                lines += ["                    v.store_partial(out1, swap(done, done), ow)"]
            lines += [f"            out{i} = v.advance(out{i}, out_h)" for i in every]
    return target.call(define("narrow", lines, v=v, window=window, row=row, halves=halves, swap=swap))
