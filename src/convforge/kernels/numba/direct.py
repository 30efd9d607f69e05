"""Direct convolution: sums taken in place from the input, output pixels of a row in the lanes.

A segment is LANES neighbouring pixels of one output row. A tile is VECTORS segments, of any rows, times ROWS output
channels; it steps through the input by a table of taps: where each one reads, and which lanes lie inside the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.generate import define

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target

# Fields of a table's entry: a tap's offset in the input or a segment's lanes, and whether every vector may be loaded
# whole; after them lo and hi of each vector: lanes lo <= lane < hi are inside.
_OFFSET, _PLAIN, _LANES = range(3)
_STEPS = (1, 2, 0)


def ceiling(target: Target) -> Inner:
    """Make ``ceiling(a, b)``: a / b rounded up, for any a and b > 0."""
    return target.jit(lambda a, b: -(-a // b))


def clamp(target: Target) -> Inner:
    """Make ``clamp(value, low, high)``."""
    return target.jit(lambda value, low, high: min(max(value, low), high))


def store_strided(target: Target) -> Inner:
    """Make ``store_strided(to, values, add, n, step)``: the first n of LANES values, plus ``add``, ``step`` apart."""
    v = target.v
    lanes = v.lanes

    @target.jit
    def store_strided(to, values, add, n, step):
        if step != 1:
            for i in range(min(n, lanes)):
                to[i * step] = values[i] + add
        elif n >= lanes:
            v.store(to, 0, v.load(values, 0) + v.broadcast(add))
        else:
            v.store_partial(to, v.load(values, 0) + v.broadcast(add), n)

    return store_strided


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


def _tile(target: Target, halves: bool, step: int) -> Inner:
    """Make ``tile(channels, taps, x_c, table, x, sources, weight, values, step)``.

    values[rows][vectors][LANES] = weight x input over all channels and taps; ``halves``: of half the tile's rows.
    """
    v = target.v
    rows, vectors = range(target.rows // 2), range(2 * target.vectors)
    if not halves:
        rows, vectors = range(target.rows), range(target.vectors)
    entry = _LANES + 2 * len(vectors)
    lines = ["def tile(channels, taps, x_c, table, x, sources, weight, values, step):"]
    lines += [f"    p{s} = v.advance(x, sources[{s}])" for s in vectors]
    lines += [f"    s{i}_{s} = v.zero()" for i in rows for s in vectors]
    lines += ["    for _ in range(channels):"]
    lines += [f"        for at in range(0, taps * {entry}, {entry}):"]
    lines += [f"            offset = table[at + {_OFFSET}]"]
    lines += [f"            if table[at + {_PLAIN}] != 0:"]
    lines += [f"                r{s} = {_load(v.lanes, f'v.advance(p{s}, offset)', step)}" for s in vectors]
    lines += ["            else:"]
    for s in vectors:
        lo, hi = f"table[at + {_LANES + 2 * s}]", f"table[at + {_LANES + 2 * s + 1}]"
        lines += [f"                r{s} = v.load_strided(v.advance(p{s}, offset), {step or 'step'}, {lo}, {hi})"]
    for i in rows:
        lines += [f"            scale = v.broadcast(weight[{i}])"]
        lines += [f"            s{i}_{s} = v.fma(scale, r{s}, s{i}_{s})" for s in vectors]
    lines += [f"            weight = v.advance(weight, {target.rows})"]
    lines += [f"        p{s} = v.advance(p{s}, x_c)" for s in vectors]
    lines += [f"    v.store(values, {(i * len(vectors) + s) * v.lanes}, s{i}_{s})" for i in rows for s in vectors]
    return target.call(define("tile", lines, v=v))


def direct_forward(target: Target) -> Callable[..., None]:
    """Tiles of the output; with few output channels a group, of half the rows and twice the segments."""
    f = abi.fields("direct_forward")
    most = target.rows // 2
    half, whole = target.call(_forward(target, True)), target.call(_forward(target, False))

    def kernel(args, scratch, begin, end):
        if args[f.k] <= most:
            half(args, scratch, begin, end)
        else:
            whole(args, scratch, begin, end)

    return kernel


def _forward(target: Target, halves: bool) -> Callable[..., None]:
    """Items of one kind of tile; the table of taps serves all output channels of a tile."""
    v, block_rows = target.v, target.rows
    rows, vectors = (target.rows // 2, 2 * target.vectors) if halves else (target.rows, target.vectors)
    lanes = v.lanes
    f = abi.fields("direct_forward")
    entry = _LANES + 2 * vectors
    up, between, reach, store = ceiling(target), clamp(target), _reach(target), store_strided(target)
    tile_1, tile_2, tile_any = (_tile(target, halves, step) for step in _STEPS)

    @target.jit
    def plan_taps(args, tile, segments, table, sources, inner):
        # All tiles that read only whole vectors have the same table: returns whether this is one; `inner` says that
        # the last one was.
        ih, iw, kh, kw, sh, sw = args[f.ih], args[f.iw], args[f.kh], args[f.kw], args[f.sh], args[f.sw]
        ph, pw, dh, dw = args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        per_row = up(args[f.ow], lanes)
        every = True
        for s in range(vectors):
            segment = min(tile * vectors + s, segments - 1)
            top = segment // per_row * sh - ph
            left = segment % per_row * lanes * sw - pw
            sources[s] = top * args[f.x_h] + left
            every = every and top >= 0 and top + (kh - 1) * dh < ih and left >= 0
            every = every and left + (kw - 1) * dw + reach(sw) <= iw
        if every and inner:
            return True
        for s in range(vectors):
            segment = min(tile * vectors + s, segments - 1)
            top = segment // per_row * sh - ph
            left = segment % per_row * lanes * sw - pw
            for i in range(kh):
                inside = top + i * dh >= 0 and top + i * dh < ih
                for j in range(kw):
                    at = (i * kw + j) * entry
                    column = left + j * dw
                    lo = between(up(-column, sw), 0, lanes) if inside else 0
                    hi = between(up(iw - column, sw), lo, lanes) if inside else 0
                    plain = lo == 0 and hi == lanes and column + reach(sw) <= iw
                    table[at + _OFFSET] = i * dh * args[f.x_h] + j * dw
                    table[at + _PLAIN] = 1 if plain and (s == 0 or table[at + _PLAIN] != 0) else 0
                    table[at + _LANES + 2 * s] = lo
                    table[at + _LANES + 2 * s + 1] = hi
        return every

    def kernel(args, scratch, begin, end):
        g, c, k, oh, ow, sw = args[f.g], args[f.c], args[f.k], args[f.oh], args[f.ow], args[f.sw]
        taps, splits = args[f.kh] * args[f.kw], args[f.splits]
        per_row = up(ow, lanes)
        segments = oh * per_row
        tiles, blocks = up(segments, vectors), up(k, block_rows)
        # scratch: values of a tile, its segments' first pixels, table of taps
        values = v.pointer(scratch)
        sources = v.pointer_int64(scratch + rows * vectors * lanes * v.itemsize)
        table = v.advance(sources, vectors)
        planned, inner = -1, False
        for item in range(begin, end):
            group = item % g
            tile = item // g % tiles
            part = item // g // tiles % splits
            image = item // g // tiles // splits
            if tile != planned:
                inner = plan_taps(args, tile, segments, table, sources, inner)
                planned = tile
            x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + group * c * args[f.x_c])
            for block in range(part * blocks // splits, (part + 1) * blocks // splits):
                weight = v.advance(v.pointer(args[f.packed]), (group * blocks + block) * c * taps * block_rows)
                if sw == 1:
                    tile_1(c, taps, args[f.x_c], table, x, sources, weight, values, sw)
                elif sw == 2:
                    tile_2(c, taps, args[f.x_c], table, x, sources, weight, values, sw)
                else:
                    tile_any(c, taps, args[f.x_c], table, x, sources, weight, values, sw)
                first = group * k + block * block_rows
                bias = v.advance(v.pointer(args[f.bias]), first)
                for s in range(min(vectors, segments - tile * vectors)):
                    row = (tile * vectors + s) // per_row
                    column = (tile * vectors + s - row * per_row) * lanes
                    out = v.advance(
                        v.pointer(args[f.out]),
                        image * args[f.out_n] + first * args[f.out_k] + row * args[f.out_h] + column * args[f.out_w],
                    )
                    for i in range(min(rows, k - block * block_rows)):
                        add = bias[i] if args[f.bias] != 0 else v.extract(v.zero(), 0)
                        store(
                            v.advance(out, i * args[f.out_k]), v.advance(values, (i * vectors + s) * lanes), add,
                            ow - column, args[f.out_w],
                        )  # fmt: skip

    return kernel


def _dots(target: Target, step: int) -> Inner:
    """Make ``dots(...)``, of the arguments named below.

    values[ROWS][VECTORS][LANES] = products of channels of grad_output with windows of x, summed over the output rows
    ``begin`` to ``end``, counted through all images. windows[VECTORS] holds each window's offset in x and the output
    rows between which it lies inside x.
    """
    v = target.v
    lanes = v.lanes
    rows, vectors = range(target.rows), range(target.vectors)
    entry = _LANES + 2 * target.vectors
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
        lo, hi = f"table[at + {_LANES + 2 * s}]", f"table[at + {_LANES + 2 * s + 1}] if inside{s} else 0"
        lines += [f"                w{s} = v.load_strided(p{s}, {step or 'step'}, {lo}, {hi})"]
    for i in rows:
        lines += [f"                y = v.load_partial(v.advance(q{i}, segment * {lanes}), table[at + {_OFFSET}])"]
        lines += [f"                s{i}_{s} = v.fma(y, w{s}, s{i}_{s})" for s in vectors]
    lines += [f"            p{s} = v.advance(p{s}, {lanes} * {step or 'step'})" for s in vectors]
    lines += [f"    v.store(values, {(i * target.vectors + s) * lanes}, s{i}_{s})" for i in rows for s in vectors]
    return target.call(define("dots", lines, v=v))


def direct_grad_weight(target: Target) -> Callable[..., None]:
    """Dot products along the output rows, of ROWS channels of grad_output with VECTORS shifted windows of x."""
    v, tile_rows, vectors = target.v, target.rows, target.vectors
    lanes = v.lanes
    f = abi.fields("direct_grad_weight")
    entry = _LANES + 2 * vectors
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
                table[at + _OFFSET] = n
                table[at + _PLAIN] = 1 if plain and (s == 0 or table[at + _PLAIN] != 0) else 0
                table[at + _LANES + 2 * s] = lo
                table[at + _LANES + 2 * s + 1] = hi

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
