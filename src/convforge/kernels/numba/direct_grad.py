"""The weight gradient of direct convolution: dot products along the output rows, input read in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.generate import define
from convforge.kernels.numba.integers import ceiling, clamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target

# Fields of a table's entry: a segment's lanes, and whether every vector may be loaded whole; after them lo and hi of
# each vector: lanes lo <= lane < hi are inside.
_LANES, _PLAIN, _BOUNDS = range(3)
_STEPS = (1, 2, 0)


def _reach(target: Target) -> Inner:
    """Make ``reach(step)``: pixels from the first to the last that a whole vector reads."""
    lanes = target.lanes
    return target.jit(lambda step: step * lanes if step <= 2 else step * (lanes - 1) + 1)


def _load(lanes: int, pointer: str, step: int) -> str:
    """Source of a whole vector, ``step`` apart (0: the variable ``step``)."""
    if step == 1:
        return f"v.load({pointer}, 0)"
    if step == 2:
        return f"v.even(v.load({pointer}, 0), v.load({pointer}, {lanes}))"
    return f"v.load_strided({pointer}, step, 0, {lanes})"


def _dots(target: Target, step: int) -> Inner:
    """Make ``dots(...)``, of the arguments named below.

    values[ROWS][VECTORS][LANES] = products of channels of grad_output with windows of x, summed over the output rows
    ``begin`` to ``end``, counted through all images. windows[VECTORS] holds each window's offset in x and the output
    rows between which it lies inside x.
    """
    v = target.v
    lanes = v.lanes
    rows, vectors = range(target.rows), range(target.vectors)
    entry = _BOUNDS + 2 * target.vectors
    names = "table, windows, x, x_n, x_h, sh, grad, y_n, y_k, y_h, rows, oh, segments, begin, end, values, step"
    lines = [f"def dots({names}):"]
    lines += [f"    s{i}_{s} = v.zero()" for i in rows for s in vectors]
    for s in vectors:
        lines += [f"    first{s}, top{s}, bottom{s} = windows[{3 * s}], windows[{3 * s + 1}], windows[{3 * s + 2}]"]
    lines += ["    for row in range(begin, end):"]
    lines += ["        image = row // oh"]
    lines += ["        line = row - image * oh"]
    lines += ["        grads = v.advance(grad, image * y_n + line * y_h)"]
    # rows past the edge repeat the last one, and their sums are dropped
    lines += [f"        q{i} = v.advance(grads, min({i}, rows - 1) * y_k)" for i in rows]
    for s in vectors:
        lines += [f"        p{s} = v.advance(x, image * x_n + line * sh * x_h + first{s})"]
        lines += [f"        inside{s} = top{s} <= line and line < bottom{s}"]
    lines += [f"        inside = {' and '.join(f'inside{s}' for s in vectors)}"]
    lines += ["        for segment in range(segments):"]
    lines += [f"            at = segment * {entry}"]
    lines += [f"            if inside and table[at + {_PLAIN}] != 0:"]
    lines += [f"                w{s} = {_load(lanes, f'p{s}', step)}" for s in vectors]
    for i in rows:
        lines += [f"                y = v.load(q{i}, segment * {lanes})"]
        lines += [f"                s{i}_{s} = v.fma(y, w{s}, s{i}_{s})" for s in vectors]
    lines += ["            else:"]
    for s in vectors:
        lo, hi = f"table[at + {_BOUNDS + 2 * s}]", f"table[at + {_BOUNDS + 2 * s + 1}] if inside{s} else 0"
        lines += [f"                w{s} = v.load_strided(p{s}, {step or 'step'}, {lo}, {hi})"]
    for i in rows:
        lines += [f"                y = v.load_partial(v.advance(q{i}, segment * {lanes}), table[at + {_LANES}])"]
        lines += [f"                s{i}_{s} = v.fma(y, w{s}, s{i}_{s})" for s in vectors]
    lines += [f"            p{s} = v.advance(p{s}, {lanes} * {step or 'step'})" for s in vectors]
    lines += [f"    v.store(values, {(i * target.vectors + s) * lanes}, s{i}_{s})" for i in rows for s in vectors]
    return target.call(define("dots", lines, v=v))


def direct_grad_weight(target: Target) -> Callable[..., None]:
    """Dot products along the output rows, of ROWS channels of grad_output with VECTORS shifted windows of x."""
    v, tile_rows, vectors = target.v, target.rows, target.vectors
    lanes = v.lanes
    f = abi.fields("direct_grad_weight")
    entry = _BOUNDS + 2 * vectors
    up, between, reach = ceiling(target), clamp(target), _reach(target)
    dots_1, dots_2, dots_any = (_dots(target, step) for step in _STEPS)

    @target.jit
    def plan_windows(args, group, first, table, windows):
        # Describe the windows of the elements from `first` on; fill the table of segments, the same for all rows.
        ih, iw, ow, kw, sh, sw = args[f.ih], args[f.iw], args[f.ow], args[f.kw], args[f.sh], args[f.sw]
        taps = args[f.kh] * kw
        for s in range(vectors):
            element = min(first + s, args[f.c] * taps - 1)
            row = element % taps // kw * args[f.dh] - args[f.ph]
            left = element % kw * args[f.dw] - args[f.pw]
            windows[3 * s] = (group * args[f.c] + element // taps) * args[f.x_c] + row * args[f.x_h] + left
            windows[3 * s + 1] = up(-row, sh)
            windows[3 * s + 2] = up(ih - row, sh)
            for t in range(up(ow, lanes)):
                at, column = t * entry, left + t * lanes * sw
                n = ow - t * lanes
                lo = between(up(-column, sw), 0, lanes)
                hi = between(min(up(iw - column, sw), n), lo, lanes)
                plain = n >= lanes and lo == 0 and hi == lanes and column + reach(sw) <= iw
                table[at + _LANES] = n
                table[at + _PLAIN] = 1 if plain and (s == 0 or table[at + _PLAIN] != 0) else 0
                table[at + _BOUNDS + 2 * s] = lo
                table[at + _BOUNDS + 2 * s + 1] = hi

    def kernel(args, scratch, begin, end):
        g, c, k, sw = args[f.g], args[f.c], args[f.k], args[f.sw]
        depth = c * args[f.kh] * args[f.kw]
        columns, blocks, segments = up(depth, vectors), up(k, tile_rows), up(args[f.ow], lanes)
        rows, parts = args[f.n] * args[f.oh], args[f.parts]
        x_n, x_h, sh, y_n, y_k, y_h = args[f.x_n], args[f.x_h], args[f.sh], args[f.y_n], args[f.y_k], args[f.y_h]
        # scratch: values of a tile, its windows, table of segments
        values, x = v.pointer(scratch), v.pointer(args[f.x])
        windows = v.pointer_int64(scratch + tile_rows * vectors * lanes * v.itemsize)
        table = v.advance(windows, 3 * vectors)
        for item in range(begin, end):
            first = item % columns * vectors
            block = item // columns % blocks
            group = item // columns // blocks % g
            part = item // columns // blocks // g
            channel, count = group * k + block * tile_rows, k - block * tile_rows
            start, stop = part * rows // parts, (part + 1) * rows // parts
            grad = v.advance(v.pointer(args[f.y]), channel * y_k)
            plan_windows(args, group, first, table, windows)
            if sw == 1:
                dots_1(
                    table, windows, x, x_n, x_h, sh, grad, y_n, y_k, y_h, count, args[f.oh], segments, start, stop,
                    values, sw,
                )  # fmt: skip
            elif sw == 2:
                dots_2(
                    table, windows, x, x_n, x_h, sh, grad, y_n, y_k, y_h, count, args[f.oh], segments, start, stop,
                    values, sw,
                )  # fmt: skip
            else:
                dots_any(
                    table, windows, x, x_n, x_h, sh, grad, y_n, y_k, y_h, count, args[f.oh], segments, start, stop,
                    values, sw,
                )  # fmt: skip
            partial = v.advance(v.pointer(args[f.partial]), (part * g * k + channel) * depth + first)
            for i in range(min(tile_rows, count)):
                for s in range(min(vectors, depth - first)):
                    partial[i * depth + s] = v.sum(v.load(values, (i * vectors + s) * lanes))

    return kernel
