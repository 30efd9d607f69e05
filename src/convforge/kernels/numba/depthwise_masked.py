"""3x3 depthwise kernels that read everything in place, through masks, where masked loads cost no more than whole ones.

The sums of a strip roll down its rows: an input row is loaded once and added to all the output rows in flight that see
it, of which the oldest is then complete. Weights and masks stay in registers.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING

from convforge.kernels.numba.generate import define, indented

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target

# `count` rows of outputs: what the first tap reads for the first of them, and that tap's line and column; lines outside
# of the input are `zeros`
Strip = namedtuple("Strip", "x x_h count line column ih iw weight out out_row lanes bias zeros")


def _taps(target: Target, vectors: int, step: int, u: int, sums: dict[int, list[str]]) -> list[str]:
    """Source that adds the u-th input row of a step to ``sums[t][vector]`` for each kernel row t that it meets."""
    lanes = target.lanes

    def window(at: int, end: str = "s.iw - s.column") -> str:
        return f"v.load_window(v.advance(p, {at}), -s.column - {at}, {end} - {at})"

    lines = [f"p = v.advance(x, {u} * s.x_h)", f"if line + {u} < 0 or line + {u} >= s.ih:", "    p = s.zeros"]
    for i in range(vectors):
        if step == 1:
            lines += [f"a{j}_{i} = {window(j + i * lanes)}" for j in range(3)]
        else:
            lines += [f"lower, upper = {window(2 * i * lanes)}, {window((2 * i + 1) * lanes)}"]
            lines += [f"a0_{i}, a1_{i} = v.even(lower, upper), v.odd(lower, upper)"]
    if step == 2:
        # after the even columns come the next even ones: of what follows the last vector, one is read
        after = 2 * vectors * lanes
        lines += [f"a0_{vectors} = {window(after, f'min(s.iw - s.column, {after + 1})')}"]
        lines += [f"a2_{i} = v.following(a0_{i}, a0_{i + 1})" for i in range(vectors)]
    for i in range(vectors):
        for j in range(3):
            lines += [f"{names[i]} = v.fma(w{j}_{t}, a{j}_{i}, {names[i]})" for t, names in sums.items()]
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
