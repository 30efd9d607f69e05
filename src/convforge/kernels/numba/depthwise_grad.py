"""The depthwise weight gradient: a vector of sums for each tap."""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.depthwise_panels import next_panels, preparing
from convforge.kernels.numba.generate import define, indented
from convforge.kernels.numba.integers import ceiling
from convforge.kernels.numba.simd import masked_loads

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target

# `count` rows of LANES outputs of which `lanes` count, and the totals of the first of some taps
_Dots = namedtuple("_Dots", "x row apart count lanes offsets y y_row totals kw")


def _chunk(target: Target) -> Inner:
    """Make ``chunk(rest, step)``: kernel rows of the next pass, of those that rest."""

    @target.jit
    def chunk(rest, step):
        # with a step beyond 2 outputs share no input rows
        if step <= 2 and rest >= 5:
            return 7 if rest >= 7 else 5
        return min(rest, 3)

    return chunk


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
        body += [f"if q + 2 < s.count + {flight}:", *indented(1, row(1))]
    lines = ["def roll(s):", "    x = s.x"]
    lines += [f"    offset{j} = s.offsets[{j}]" for j in range(tw)]
    lines += [f"    s{t}_{j} = v.load(s.totals, ({t} * s.kw + {j}) * {v.lanes})" for t, j in totals]
    lines += [f"    y{age} = v.zero()" for age in range(flight)]
    lines += [f"    for q in range(s.count + {flight - 1}):", *indented(2, body), "        x = v.advance(x, s.apart)"]
    lines += [f"    v.store(s.totals, ({t} * s.kw + {j}) * {v.lanes}, s{t}_{j})" for t, j in totals]
    return target.call(define("roll", lines, v=v))


def _dot_passes(target: Target, shapes: list[tuple[int, int]]) -> Inner:
    """Make ``run(th, tw, step, s)``: the pass for these numbers. ``shapes`` lists steps and rows."""
    names: dict[str, Inner] = {}
    lines = ["def run(th, tw, step, s):"]
    for partial in (True,) if masked_loads(target.v) else (False, True):
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
    up, chunk, run = ceiling(target), _chunk(target), _dot_passes(target, shapes)
    prepare, next_panel = preparing(target, f, False), next_panels(target)

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
                    th = chunk(d.kh - i, d.step)
                    x = v.advance(panel.x, (phase * d.sh + i * d.dh) * panel.row + column)
                    j = 0
                    while j < d.kw:
                        tw = tap_columns(th, d.kw - j)
                        strip = _Dots(
                            x, d.dh * panel.row, d.apart * d.sh * panel.row, up(rows - phase, d.apart),
                            panel.columns - column, v.advance(d.offsets, j), v.advance(grad, phase * y_h + column),
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
        d = prepare(args, scratch, k * taps * lanes, 0)
        totals = v.advance(d.copy, -k * taps * lanes)
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
