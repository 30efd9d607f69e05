"""Depthwise convolution, and filters of one-channel images: output pixels in the lanes, several output rows at a time.

Borders, strides and dilations of the columns are settled before the sums: the input of a panel of outputs is copied
into scratch memory, padded with zeros and with its columns split by their phase (column modulo stride), so that
every tap reads whole vectors of neighbouring columns. Inner columns of wide maps of stride 1 are read in place.
Dilations of the rows are settled by taking outputs that are ``apart`` rows apart, whose taps then meet at rows that
are ``dh`` apart: from one such output to the next are ``step`` of those.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

from convforge.kernels import abi
from convforge.kernels.numba.direct import ceiling, store_strided
from convforge.kernels.numba.generate import define

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target

_ROWS = 4  # output rows at a time
_VECTORS = 2  # vectors of output columns at a time
_TAPS = 3  # kernel rows, in the weight gradient columns too, at a time
_STEPS = (1, 2, 0)  # 0: output rows that share no input rows

# What both kernels know of their input: `width` of one of the `phases` of a copied row, and where the offsets of the
# taps' columns and the copy are in scratch memory
_Input = namedtuple(
    "_Input",
    "x_c x_h c ih iw oh ow kh kw sh sw ph pw dh dw columns apart step width phases offsets offsets_in_place copy",
)
# What the first tap reads for the first of `columns` outputs, and its neighbours
_Panel = namedtuple("_Panel", "first offsets row plane column columns")


def _aligned(target: Target) -> Inner:
    return target.jit(lambda nbytes: (nbytes + 63) // 64 * 64)


def _prepare(target: Target, f: Any) -> Inner:
    """Make ``prepare(args, scratch, tables)``: the tables laid out, the same for every item.

    ``tables`` bytes follow the offsets in scratch memory, and then the copy.
    """
    v = target.v
    up, aligned = ceiling(target), _aligned(target)

    @target.jit
    def prepare(args, scratch, tables):  # type: ignore[no-untyped-def]
        kw, sh, sw, dh, dw, columns = args[f.kw], args[f.sh], args[f.sw], args[f.dh], args[f.dw], args[f.columns]
        common, rest = sh, dh
        while rest != 0:
            common, rest = rest, common % rest
        width = up(columns + (kw - 1) * dw // sw, v.lanes) * v.lanes
        offsets = v.pointer_int64(scratch)
        offsets_in_place = v.advance(offsets, kw)
        for j in range(kw):
            offsets[j] = j * dw % sw * width + j * dw // sw
            offsets_in_place[j] = j * dw
        return _Input(
            args[f.x_c], args[f.x_h], args[f.c], args[f.ih], args[f.iw], args[f.oh], args[f.ow], args[f.kh], kw, sh, sw,
            args[f.ph], args[f.pw], dh, dw, columns, dh // common, sh // common, width, min(sw, (kw - 1) * dw + 1),
            offsets, offsets_in_place, v.pointer(scratch + aligned(2 * kw * 8) + tables),
        )  # fmt: skip

    return prepare


def _next_panel(target: Target) -> Inner:
    """Make ``next_panel(d, x, top, rows, column)``: the panel from ``column`` on, for the output rows from ``top`` on.

    ``x`` is the first plane of the group.
    """
    v = target.v
    lanes = v.lanes
    up = ceiling(target)

    @target.call
    def copy_row(x, inside, first, iw, sw, width, phases, to):  # type: ignore[no-untyped-def]
        # One row of a panel from column `first` on; x is that of column 0.
        if not inside:
            for i in range(0, width * phases, lanes):
                v.store(to, i, v.zero())
        elif sw == 1:
            for i in range(0, width, lanes):
                column = first + i
                if column >= 0 and column + lanes <= iw:
                    v.store(to, i, v.load(x, column))
                else:
                    v.store(to, i, v.load_window(v.advance(x, column), -column, iw - column))
        elif sw == 2 and phases == 2:
            for i in range(0, width, lanes):
                column = first + 2 * i
                if column >= 0 and column + 2 * lanes <= iw:
                    a, b = v.load(x, column), v.load(x, column + lanes)
                else:
                    a = v.load_window(v.advance(x, column), -column, iw - column)
                    b = v.load_window(v.advance(x, column + lanes), -column - lanes, iw - column - lanes)
                v.store(to, i, v.even(a, b))
                v.store(to, width + i, v.odd(a, b))
        else:
            for phase in range(phases):
                for i in range(0, width, lanes):
                    column = first + phase + i * sw
                    values = v.load_strided(v.advance(x, column), sw, up(-column, sw), up(iw - column, sw))
                    v.store(to, phase * width + i, values)

    @target.jit
    def next_panel(d, x, top, rows, column):  # type: ignore[no-untyped-def]
        first, line = column * d.sw - d.pw, top * d.sh - d.ph
        lines = (rows - 1) * d.sh + (d.kh - 1) * d.dh + 1
        columns = min(d.ow - column, d.columns)
        if d.sw == 1 and d.ow > d.columns and line >= 0 and line + lines <= d.ih:
            # as many whole vectors as all taps find inside the row
            columns = min(d.ow - column, (d.iw - (d.kw - 1) * d.dw - first) // lanes * lanes)
            if first >= 0 and columns > 0:
                return _Panel(v.advance(x, line * d.x_h + first), d.offsets_in_place, d.x_h, d.x_c, column, columns)
            columns = min(d.ow - column, min(d.columns, _VECTORS * lanes))
        row = d.width * d.phases
        for c in range(d.c):
            for i in range(lines):
                copy_row(
                    v.advance(x, c * d.x_c + (line + i) * d.x_h), 0 <= line + i and line + i < d.ih, first, d.iw, d.sw,
                    d.width, d.phases, v.advance(d.copy, (c * lines + i) * row),
                )  # fmt: skip
        return _Panel(d.copy, d.offsets, row, lines * row, column, columns)

    return next_panel


def _block(target: Target, rows: int, vectors: int, step: int) -> Inner:
    """Make ``block(channels, kh, kw, x, plane, row, apart, offsets, weight, add, out, out_h, out_w, columns, values)``.

    ``rows`` x ``vectors`` vectors of outputs: x is what the first tap reads, ``row`` apart are its kernel rows,
    ``apart`` what output rows read. At most ``columns`` outputs of a row are written; ``add`` is their bias.
    """
    v = target.v
    lanes = v.lanes
    store = store_strided(target)
    sums = [(r, j) for r in range(rows) for j in range(vectors)]

    def tap_rows(taps: int) -> list[str]:
        lines = ["for j in range(kw):", "    p = v.advance(line, offsets[j])"]
        lines += [f"    w{t} = v.broadcast(weight[{t} * kw + j])" for t in range(taps)]
        # each input row goes to every output row that sees it
        reads: dict[str, list[tuple[int, int]]] = {}
        for r in range(rows):
            for t in range(taps):
                where = f"{r * step + t} * row" if step else f"{r} * apart + {t} * row"
                reads.setdefault(where, []).append((r, t))
        for where, uses in reads.items():
            for j in range(vectors):
                lines += [f"    a = v.load(v.advance(p, {where}), {j * lanes})"]
                lines += [f"    s{r}_{j} = v.fma(w{t}, a, s{r}_{j})" for r, t in uses]
        lines += [f"line = v.advance(line, {taps} * row)", f"weight = v.advance(weight, {taps} * kw)"]
        return lines

    def indented(levels: int, lines: list[str]) -> list[str]:
        return ["    " * levels + line for line in lines]

    lines = ["def block(channels, kh, kw, x, plane, row, apart, offsets, weight, add, out, out_h, out_w, columns, values):"]
    lines += [f"    s{r}_{j} = v.zero()" for r, j in sums]
    lines += ["    for c in range(channels):"]
    lines += ["        line = v.advance(x, c * plane)"]
    lines += [f"        for _ in range(kh // {_TAPS}):", *indented(3, tap_rows(_TAPS))]
    for rest in range(1, _TAPS):
        lines += [f"        if kh % {_TAPS} == {rest}:", *indented(3, tap_rows(rest))]
    lines += [f"    if out_w == 1 and columns >= {vectors * lanes}:"]
    lines += ["        bias = v.broadcast(add)"]
    lines += [f"        v.store(v.advance(out, {r} * out_h), {j * lanes}, s{r}_{j} + bias)" for r, j in sums]
    lines += ["        return"]
    lines += [f"    v.store(values, {(r * vectors + j) * lanes}, s{r}_{j})" for r, j in sums]
    lines += [f"    for r in range({rows}):", f"        for j in range({vectors}):"]
    lines += [f"            to = v.advance(out, r * out_h + j * {lanes} * out_w)"]
    lines += [f"            source = v.advance(values, (r * {vectors} + j) * {lanes})"]
    lines += [f"            store(to, source, add, columns - j * {lanes}, out_w)"]
    return target.call(define("block", lines, v=v, store=store))


def depthwise_forward(target: Target) -> Callable[..., None]:
    """Blocks of output rows of one group, a panel of columns at a time."""
    v = target.v
    lanes = v.lanes
    f = abi.fields("depthwise_forward")
    up, aligned = ceiling(target), _aligned(target)
    prepare, next_panel = _prepare(target, f), _next_panel(target)

    def rows_of(rows: int, step: int) -> Inner:
        wide, narrow = _block(target, rows, _VECTORS, step), _block(target, rows, 1, step)

        @target.call
        def block_rows(d, panel, x, weight, add, out, out_h, out_w, values):  # type: ignore[no-untyped-def]
            row, apart = d.dh * panel.row, d.apart * d.sh * panel.row
            column = 0
            while column + _VECTORS * lanes < panel.columns + lanes:
                wide(
                    d.c, d.kh, d.kw, v.advance(x, column), panel.plane, row, apart, panel.offsets, weight, add,
                    v.advance(out, (panel.column + column) * out_w), out_h, out_w, panel.columns - column, values,
                )  # fmt: skip
                column += _VECTORS * lanes
            while column < panel.columns:
                narrow(
                    d.c, d.kh, d.kw, v.advance(x, column), panel.plane, row, apart, panel.offsets, weight, add,
                    v.advance(out, (panel.column + column) * out_w), out_h, out_w, panel.columns - column, values,
                )  # fmt: skip
                column += lanes

        return block_rows

    one = rows_of(1, 1)
    four_1, four_2, four_any = (rows_of(_ROWS, step) for step in _STEPS)

    @target.jit
    def plane(d, panel, rows, weight, add, out, out_h, out_w, values):  # type: ignore[no-untyped-def]
        # All outputs of a panel in one channel.
        for phase in range(min(d.apart, rows)):
            count = up(rows - phase, d.apart)
            row = 0
            while row < count:
                if count >= _ROWS:
                    # the last rows are done again where they do not fill a block
                    row = min(row, count - _ROWS)
                at = phase + row * d.apart
                x = v.advance(panel.first, at * d.sh * panel.row)
                to, to_h = v.advance(out, at * out_h), d.apart * out_h
                if count < _ROWS:
                    one(d, panel, x, weight, add, to, to_h, out_w, values)
                    row += 1
                    continue
                if d.step == 1:
                    four_1(d, panel, x, weight, add, to, to_h, out_w, values)
                elif d.step == 2:
                    four_2(d, panel, x, weight, add, to, to_h, out_w, values)
                else:
                    four_any(d, panel, x, weight, add, to, to_h, out_w, values)
                row += _ROWS

    def kernel(args, scratch, begin, end):  # type: ignore[no-untyped-def]
        g, c, k, kh, kw = args[f.g], args[f.c], args[f.k], args[f.kh], args[f.kw]
        taps = c * kh * kw
        blocks = up(args[f.oh], args[f.rows])
        # scratch: offsets of columns, values of a block, weights of a group, copy
        values_bytes = _ROWS * _VECTORS * lanes * v.itemsize
        d = prepare(args, scratch, values_bytes + aligned(k * taps * v.itemsize))
        values = v.pointer(scratch + aligned(2 * kw * 8))
        weights = v.advance(values, _ROWS * _VECTORS * lanes)
        for item in range(begin, end):
            top = item % blocks * args[f.rows]
            group = item // blocks % g
            image = item // blocks // g
            rows = min(args[f.rows], args[f.oh] - top)
            for at in range(k * taps):
                tap = at % taps
                w = group * args[f.w_g] + at // taps * args[f.w_k] + tap // (kh * kw) * args[f.w_c]
                weights[at] = v.pointer(args[f.w])[w + tap // kw % kh * args[f.w_h] + tap % kw * args[f.w_w]]
            x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + group * c * args[f.x_c])
            column = 0
            while column < d.ow:
                panel = next_panel(d, x, top, rows, column)
                for i in range(k):
                    channel = group * k + i
                    out = v.advance(
                        v.pointer(args[f.out]), image * args[f.out_n] + channel * args[f.out_k] + top * args[f.out_h]
                    )
                    add = v.pointer(args[f.bias])[channel] if args[f.bias] != 0 else 0 * weights[0]
                    plane(
                        d, panel, rows, v.advance(weights, i * taps), add, out, args[f.out_h], args[f.out_w], values
                    )
                column += panel.columns

    return kernel


def _dots(target: Target, th: int, tw: int, step: int) -> Inner:
    """Make ``dots(d, panel, rows, i, j, grad, y_h, totals)``.

    Add a panel's products to the totals of ``th`` x ``tw`` taps from (i, j) on, one vector each.
    """
    v = target.v
    lanes = v.lanes
    taps = [(s, t) for s in range(th) for t in range(tw)]

    def products(rows: int, step: int, load: str) -> list[str]:
        """The products of ``rows`` rows of LANES outputs."""
        lines = [f"y{r} = {load.format(f'v.advance(y, column + {r} * y_row)')}" for r in range(rows)]
        for line in range((rows - 1) * step + th):
            seen = [(r, line - r * step) for r in range(rows) if 0 <= line - r * step < th]
            if seen:
                for t in range(tw):
                    lines += [f"a = {load.format(f'v.advance(x, column + {line} * row + offset{t})')}"]
                    lines += [f"s{s}_{t} = v.fma(y{r}, a, s{s}_{t})" for r, s in seen]
        return lines

    def columns(rows: int, step: int) -> list[str]:
        """All columns of ``rows`` rows, then on to the next rows."""
        lines = [f"for column in range(0, whole, {lanes}):"]
        lines += ["    " + line for line in products(rows, step, "v.load({}, 0)")]
        lines += ["column = whole", "if column < panel.columns:"]
        lines += ["    " + line for line in products(rows, step, "v.load_partial({}, panel.columns - whole)")]
        lines += [f"r += {rows}", f"x = v.advance(x, {rows} * apart)", f"y = v.advance(y, {rows} * y_row)"]
        return lines

    lines = ["def dots(d, panel, rows, i, j, grad, y_h, totals):"]
    lines += ["    row, apart, y_row = d.dh * panel.row, d.apart * d.sh * panel.row, d.apart * y_h"]
    lines += [f"    whole = panel.columns // {lanes} * {lanes}"]
    lines += [f"    offset{t} = panel.offsets[j + {t}]" for t in range(tw)]
    lines += [f"    s{s}_{t} = v.load(totals, ({s} * d.kw + {t}) * {lanes})" for s, t in taps]
    lines += ["    for phase in range(min(d.apart, rows)):"]
    lines += ["        count = -((phase - rows) // d.apart)"]
    lines += ["        x = v.advance(panel.first, phase * d.sh * panel.row + i * row)"]
    lines += ["        y = v.advance(grad, phase * y_h)"]
    lines += ["        r = 0"]
    if step:
        lines += [f"        while r + {_ROWS} <= count:"]
        lines += ["            " + line for line in columns(_ROWS, step)]
    lines += ["        while r < count:"]
    lines += ["            " + line for line in columns(1, 1)]
    lines += [f"    v.store(totals, ({s} * d.kw + {t}) * {lanes}, s{s}_{t})" for s, t in taps]
    return target.call(define("dots", lines, v=v))


def depthwise_grad_weight(target: Target) -> Callable[..., None]:
    """One vector of sums for each tap, taps by blocks of kernel rows and columns."""
    v = target.v
    lanes = v.lanes
    f = abi.fields("depthwise_grad_weight")
    up, aligned = ceiling(target), _aligned(target)
    prepare, next_panel = _prepare(target, f), _next_panel(target)

    def dot_plane(step: int) -> Inner:
        names = {f"dots_{th}{tw}": _dots(target, th, tw, step) for th in (_TAPS, 1) for tw in (_TAPS, 1)}
        lines = ["def dot_plane(d, panel, rows, grad, y_h, totals):"]
        lines += ["    i = 0", "    while i < d.kh:", "        j = 0", "        while j < d.kw:"]
        lines += [f"            to = v.advance(totals, (i * d.kw + j) * {lanes})"]
        lines += [f"            tall, broad = i + {_TAPS} <= d.kh, j + {_TAPS} <= d.kw"]
        for name, test in (
            ("dots_33", "if tall and broad"), ("dots_31", "elif tall"), ("dots_13", "elif broad"), ("dots_11", "else"),
        ):  # fmt: skip
            lines += [f"            {test}:", f"                {name}(d, panel, rows, i, j, grad, y_h, to)"]
        lines += [f"            j += {_TAPS} if broad else 1", f"        i += {_TAPS} if i + {_TAPS} <= d.kh else 1"]
        return target.jit(define("dot_plane", lines, v=v, **names))

    plane_1, plane_2, plane_any = (dot_plane(step) for step in _STEPS)

    def kernel(args, scratch, begin, end):  # type: ignore[no-untyped-def]
        g, k, taps, parts = args[f.g], args[f.k], args[f.kh] * args[f.kw], args[f.parts]
        blocks = up(args[f.oh], args[f.rows])
        units = args[f.n] * blocks
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
                y = v.advance(v.pointer(args[f.y]), image * args[f.y_n] + group * k * args[f.y_k] + top * args[f.y_h])
                column = 0
                while column < d.ow:
                    panel = next_panel(d, x, top, rows, column)
                    for i in range(k):
                        grad = v.advance(y, i * args[f.y_k] + column)
                        to = v.advance(totals, i * taps * lanes)
                        if d.step == 1:
                            plane_1(d, panel, rows, grad, args[f.y_h], to)
                        elif d.step == 2:
                            plane_2(d, panel, rows, grad, args[f.y_h], to)
                        else:
                            plane_any(d, panel, rows, grad, args[f.y_h], to)
                    column += panel.columns
            partial = v.advance(v.pointer(args[f.partial]), item * k * taps)
            for i in range(k * taps):
                partial[i] = v.sum(v.load(totals, i * lanes))

    return kernel
