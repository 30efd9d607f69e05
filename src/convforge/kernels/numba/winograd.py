"""Winograd F(m, 3) in two dimensions, stride 1, with tiles in the lanes.

Tiles are numbered through image, tile row and tile column; a block is a run of tiles, of some vectors of lanes. The
columns of a block's tile rows abut in *virtual rows*: tile t of the block has its first m columns at t * m, and its
last two where the next tile of the same tile row begins. A block is split into panels of at most ``vectors`` vectors,
the register tile's width. With alpha = m + 2 and xi = 0 .. alpha^2 - 1:

    v[panel][xi][c][tiles]  transformed input
    u[k block][xi][part of c][k / rows][c][rows]
                            transformed weight, in the order of its use; parts of at most _DEPTH channels
    p[panel][k][xi][tiles]  products, of one block of output channels

``lanes`` idle elements after each xi of v and u spread them over the sets of the caches.
The functions that are unrolled over m are generated source; their arithmetic comes from
:mod:`convforge.algorithms.winograd.codegen`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convforge.algorithms.winograd import codegen
from convforge.algorithms.winograd.transforms import transforms
from convforge.kernels import abi
from convforge.kernels.numba.gemm import gemm_rows
from convforge.kernels.numba.generate import define

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Factory, Inner, Target

#: Products summed in one chain: half the error of one long chain of 512, and a panel that stays in the L1 cache.
_DEPTH = 128
#: Channels whose weights are transformed at a time.
_CHANNELS = 32


def _product(target: Target, m: int, which: str) -> Inner:
    """A product by one of the matrices of F(m, 3): vectors in, a tuple of vectors out."""
    source = codegen.python_source(which, codegen.straight(codegen.products(transforms(m, 3))[which]))
    return target.jit(define(which, [source], v=target.v))


def _shuffles(target: Target, program: codegen.Shuffles, name: str) -> Inner:
    indices = {f"i{number}": target.v.shuffle(step.indices) for number, step in enumerate(program.steps)}
    return target.jit(define(name, [codegen.python_source(name, program)], **indices))


def _names(letter: str, count: int) -> str:
    return ", ".join(f"{letter}{i}" for i in range(count))


class _Blocks:
    """What the kernels know of blocks, for one m; ``f`` are the fields of the kernel's argument list."""

    def __init__(self, target: Target, m: int, kernel: str) -> None:
        f: Any = abi.fields(f"winograd_f{m}_{kernel}")
        lanes, per_panel = target.lanes, target.vectors

        @target.jit
        def block(args, number):
            """(first tile, tiles, vectors, panels) of a block."""
            tiles = args[f.n] * ((args[f.oh] + m - 1) // m) * ((args[f.ow] + m - 1) // m)
            vectors = (tiles + lanes - 1) // lanes
            begin, end = vectors * number // args[f.blocks], vectors * (number + 1) // args[f.blocks]
            return (
                begin * lanes,
                min(tiles, end * lanes) - begin * lanes,
                end - begin,
                (end - begin + per_panel - 1) // per_panel,
            )

        @target.jit
        def panel_start(vectors, panels, panel):
            """First vector of a panel."""
            return vectors * panel // panels

        @target.jit
        def pitch(vectors):
            """Length of a virtual row: the last store may reach beyond the last tile."""
            return (vectors * m + 2) * lanes

        self.f, self.block, self.panel_start, self.pitch = f, block, panel_start, pitch


def _transform_input(target: Target, m: int, shape: _Blocks) -> Inner:
    """Make ``transform_input(args, first, tiles, vectors, panels, g, begin, end, to, scratch)``: a group's channels."""
    v, lanes = target.v, target.lanes
    f, panel_start, pitch_of = shape.f, shape.panel_start, shape.pitch
    alpha, area = m + 2, (m + 2) ** 2
    last = v.shuffle(tuple(range(1, lanes + 1)))

    @target.jit
    def input_row(x, x_h, ih, row, zeros):
        return v.advance(x, row * x_h) if 0 <= row < ih else zeros

    lines = ["def run_rows(x, next_channel, x_h, ih, iw, top, left, run, zeros, body, pitch):"]
    lines += [f"    r{i} = v.advance(input_row(x, x_h, ih, top + {i}, zeros), left)" for i in range(alpha)]
    lines += [f"    for q in range(0, run * {m} + 2, {lanes}):"]
    lines += [f"        if left + q >= 0 and left + q + {lanes} <= iw:"]
    lines += [f"            d{i} = v.load(r{i}, q)" for i in range(alpha)]
    lines += [f"            v.prefetch(r{i}, q + next_channel)" for i in range(m)]
    lines += ["        else:"]
    lines += [f"            d{i} = v.load_window(v.advance(r{i}, q), -left - q, iw - left - q)" for i in range(alpha)]
    lines += [f"        {_names('o', alpha)} = product({_names('d', alpha)})"]
    lines += [f"        v.store(body, {i} * pitch + q, o{i})" for i in range(alpha)]
    product = _product(target, m, "input")
    run_rows = target.jit(define("run_rows", lines, v=v, input_row=input_row, product=product))

    @target.call
    def rows(args, first, tiles, vectors, x, body, halo, zeros):
        """B^T down the columns of a channel: virtual rows to body, what follows the last tile of a run to halo."""
        th, tw = (args[f.oh] + m - 1) // m, (args[f.ow] + m - 1) // m
        image, row, column = first // (th * tw), first // tw % th, first % tw
        pitch = pitch_of(vectors)
        done = 0
        while done < tiles:
            run = min(tw - column, tiles - done)
            run_rows(
                v.advance(x, image * args[f.x_n]), args[f.x_c], args[f.x_h], args[f.ih], args[f.iw],
                row * m - args[f.ph], column * m - args[f.pw], run, zeros, v.advance(body, done * m), pitch,
            )  # fmt: skip
            done += run
            for i in range(alpha):
                for j in range(2):
                    halo[(2 * i + j) * vectors * lanes + done - 1] = body[i * pitch + done * m + j]
            column = 0
            row += 1
            if row == th:
                row = 0
                image += 1

    body_vectors = [f"v.load(body, ((group + 1) * {m} + {j}) * {lanes})" for j in range(m)]
    lines = ["def row_columns(vectors, body, halo, keep, targets):"]
    lines += [f"    {_names('n', m)} = deinterleave({', '.join(f'v.load(body, {j * lanes})' for j in range(m))})"]
    lines += ["    for group in range(vectors):"]
    lines += [f"        {_names('d', m)} = {_names('n', m)}"]
    lines += ["        if group + 1 < vectors:"]
    lines += [f"            {_names('n', m)} = deinterleave({', '.join(body_vectors)})"]
    lines += [f"        inside = v.load(keep, group * {lanes}) > v.zero()"]
    for j in range(2):
        others = f"v.load(halo, ({j} * vectors + group) * {lanes})"
        lines += [f"        d{m + j} = v.select(inside, last(d{j}, n{j}), {others})"]
    lines += [f"        {_names('o', alpha)} = product({_names('d', alpha)})"]
    lines += ["        to, step = v.pointer(targets[2 * group]), targets[2 * group + 1]"]
    lines += [f"        v.store(to, {j} * step, o{j})" for j in range(alpha)]
    lines += [f"        targets[2 * group] += {alpha} * step * {v.itemsize}"]
    deinterleave = _shuffles(target, codegen.deinterleave(m, lanes), "deinterleave")
    row_columns = target.jit(define("row_columns", lines, v=v, last=last, product=product, deinterleave=deinterleave))

    @target.call
    def columns(args, vectors, panels, channel, body, halo, keep, to, targets):
        """B^T along the virtual rows of a channel, tiles into lanes."""
        for panel in range(panels):
            start = panel_start(vectors, panels, panel)
            width = panel_start(vectors, panels, panel + 1) - start
            for group in range(start, start + width):
                offset = area * (args[f.c] * start + panel) + width * channel + group - start
                targets[2 * group] = to + offset * lanes * v.itemsize
                targets[2 * group + 1] = (width * args[f.c] + 1) * lanes
        pitch = pitch_of(vectors)
        for _ in range(alpha):
            row_columns(vectors, body, halo, keep, targets)
            body = v.advance(body, pitch)
            halo = v.advance(halo, 2 * vectors * lanes)

    def transform_input(args, first, tiles, vectors, panels, g, begin, end, to, scratch):
        tw = (args[f.ow] + m - 1) // m
        targets = v.pointer_int64(scratch)
        body = v.pointer(scratch + 16 * vectors)
        halo = v.advance(body, alpha * pitch_of(vectors))
        zeros = v.advance(halo, 2 * alpha * vectors * lanes)
        keep = v.advance(zeros, args[f.iw])
        # lanes past the last tile stay zero, not whatever was there: that could be slow to compute with
        for i in range(alpha * pitch_of(vectors) + 2 * alpha * vectors * lanes + args[f.iw]):
            body[i] = 0
        for i in range(vectors * lanes):
            keep[i] = 0 if (first + i) % tw == tw - 1 or i == tiles - 1 else 1
        for channel in range(begin, end):
            x = v.advance(v.pointer(args[f.x]), (g * args[f.c] + channel) * args[f.x_c])
            rows(args, first, tiles, vectors, x, body, halo, zeros)
            columns(args, vectors, panels, channel, body, halo, keep, to, targets)

    return target.jit(transform_input)


def _multiply(target: Target, m: int, shape: _Blocks) -> Inner:
    """Make ``multiply(args, vectors, panels, g, first_k, x, products)``: for a block of output channels."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    f, panel_start = shape.f, shape.panel_start
    area = (m + 2) ** 2
    gemm = gemm_rows(target)

    def multiply(args, vectors, panels, g, first_k, x, products):
        c, k = args[f.c], args[f.k]
        block = g * ((k + args[f.k_block] - 1) // args[f.k_block]) + first_k // args[f.k_block]
        rows = (min(args[f.k_block], k - first_k) + tile_rows - 1) // tile_rows
        parts = (c + _DEPTH - 1) // _DEPTH
        u = v.advance(v.pointer(args[f.u]), block * area * (args[f.k_block] * c + lanes))
        for xi in range(area):
            for panel in range(panels):
                start = panel_start(vectors, panels, panel)
                width = (panel_start(vectors, panels, panel + 1) - start) * lanes
                columns = v.advance(x, area * (c * start + panel) * lanes + xi * (width * c + lanes))
                to = v.advance(products, area * rows * tile_rows * start * lanes + xi * width)
                for part in range(parts):
                    channel = c * part // parts
                    depth = c * (part + 1) // parts - channel
                    for row in range(rows):
                        gemm(
                            depth, v.advance(u, (rows * channel + row * depth) * tile_rows),
                            v.advance(columns, channel * width), width,
                            v.advance(to, row * tile_rows * area * width), area * width, 0, tile_rows, width, part > 0,
                        )  # fmt: skip
            u = v.advance(u, rows * c * tile_rows + lanes)

    return target.jit(multiply)


def _transform_output(target: Target, m: int, shape: _Blocks) -> Inner:
    """Make ``transform_output(args, first, tiles, vectors, panels, g, first_k, products, rows)``: rows is scratch."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    f, panel_start = shape.f, shape.panel_start
    alpha, area = m + 2, (m + 2) ** 2

    lines = ["def tiles_output(p, step, rows, pitch):"]
    for j in range(alpha):
        loads = [f"v.load(p, {i * alpha + j} * step)" for i in range(alpha)]
        lines += [f"    {', '.join(f'h{i}_{j}' for i in range(m))} = product({', '.join(loads)})"]
    lines += ["    total = v.zero()"]
    for i in range(m):
        lines += [f"    {_names('o', m)} = product({', '.join(f'h{i}_{j}' for j in range(alpha))})"]
        lines += [f"    total = total + o{j}" for j in range(m)]
        lines += [f"    {_names('o', m)} = interleave({_names('o', m)})"]
        lines += [f"    v.store(rows, {i} * pitch + {j * lanes}, o{j})" for j in range(m)]
    lines += ["    return total"]
    product = _product(target, m, "output")
    interleave = _shuffles(target, codegen.interleave(m, lanes), "interleave")
    # A^T both ways on a vector of tiles: m virtual rows; the sum of all is NaN or infinite if any output is
    tiles_output = target.call(define("tiles_output", lines, v=v, product=product, interleave=interleave))

    @target.call
    def exact(args, image, g, k, top, left):
        """One output by the definition."""
        blocks = (args[f.k] + tile_rows - 1) // tile_rows
        w = v.advance(v.pointer(args[f.w]), (g * blocks + k // tile_rows) * 9 * args[f.c] * tile_rows + k % tile_rows)
        x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + g * args[f.c] * args[f.x_c])
        total = v.zero()
        for c in range(args[f.c]):
            for i in range(3):
                for j in range(3):
                    value = v.zero()  # padding times an infinite weight is NaN
                    if 0 <= top + i < args[f.ih] and 0 <= left + j < args[f.iw]:
                        value = v.broadcast(x[(top + i) * args[f.x_h] + left + j])
                    factor = v.broadcast(w[((i * 3 + j) * args[f.c] + c) * tile_rows])
                    total = v.fma(value, factor, total)
            x = v.advance(x, args[f.x_c])
        return v.extract(total, 0)

    @target.call
    def repair(args, image, g, k, top, left, height, width, rows, pitch):
        """Outputs that are not finite, again by the definition: only those stay that the definition makes so."""
        for i in range(height):
            for j in range(width):
                if rows[i * pitch + j] - rows[i * pitch + j] != 0:
                    rows[i * pitch + j] = exact(args, image, g, k, top + i - args[f.ph], left + j - args[f.pw])

    def transform_output(args, first, tiles, vectors, panels, g, first_k, products, rows):
        th, tw = (args[f.oh] + m - 1) // m, (args[f.ow] + m - 1) // m
        count = min(args[f.k_block], args[f.k] - first_k)
        padded = (count + tile_rows - 1) // tile_rows * tile_rows
        pitch = vectors * m * lanes
        biases = v.pointer(args[f.bias])
        for k in range(first_k, first_k + count):
            total = v.zero()
            for panel in range(panels):
                start = panel_start(vectors, panels, panel)
                width = panel_start(vectors, panels, panel + 1) - start
                p = v.advance(products, area * (padded * start + (k - first_k) * width) * lanes)
                for group in range(width):
                    total = total + tiles_output(
                        v.advance(p, group * lanes), width * lanes, v.advance(rows, (start + group) * m * lanes), pitch
                    )
            sum_ = v.sum(total)
            shift = v.broadcast(biases[g * args[f.k] + k]) if args[f.bias] != 0 else v.zero()
            image, row, column = first // (th * tw), first // tw % th, first % tw
            done = 0
            while done < tiles:
                run = min(tw - column, tiles - done)
                height = min(m, args[f.oh] - row * m)
                columns = min(run * m, args[f.ow] - column * m)
                if sum_ - sum_ != 0:
                    repair(
                        args, image, g, k, row * m, column * m, height, columns, v.advance(rows, done * m), pitch
                    )  # fmt: skip
                for i in range(height):
                    source = v.advance(rows, i * pitch + done * m)
                    out = v.advance(
                        v.pointer(args[f.out]),
                        image * args[f.out_n] + (g * args[f.k] + k) * args[f.out_k]
                        + (row * m + i) * args[f.out_h] + column * m,
                    )  # fmt: skip
                    q = 0
                    while q + lanes <= columns:
                        v.store(out, q, v.load(source, q) + shift)
                        v.prefetch(out, q + args[f.out_k])
                        q += lanes
                    if q < columns:
                        rest = v.load_partial(v.advance(source, q), columns - q) + shift
                        v.store_partial(v.advance(out, q), rest, columns - q)
                done += run
                column = 0
                row += 1
                if row == th:
                    row = 0
                    image += 1

    return target.jit(transform_output)


def _forward(m: int, target: Target) -> Callable[..., None]:
    """Everything for one block of tiles after another."""
    v, lanes = target.v, target.lanes
    area = (m + 2) ** 2
    shape = _Blocks(target, m, "forward")
    f, block = shape.f, shape.block
    transform_input = _transform_input(target, m, shape)
    multiply = _multiply(target, m, shape)
    transform_output = _transform_output(target, m, shape)

    def kernel(args, scratch, begin, end):
        for item in range(begin, end):
            g, number = item // args[f.blocks], item % args[f.blocks]
            first, tiles, vectors, panels = block(args, number)
            products = scratch + area * (args[f.c] * vectors + panels) * lanes * v.itemsize
            rest = products + area * args[f.k_block] * vectors * lanes * v.itemsize
            transform_input(args, first, tiles, vectors, panels, g, 0, args[f.c], scratch, rest)
            for k in range(0, args[f.k], args[f.k_block]):
                multiply(args, vectors, panels, g, k, v.pointer(scratch), v.pointer(products))
                transform_output(
                    args, first, tiles, vectors, panels, g, k, v.pointer(products), v.pointer(rest)
                )  # fmt: skip

    return kernel


def _input(m: int, target: Target) -> Callable[..., None]:
    """The first of two stages: some channels of a block."""
    v = target.v
    shape = _Blocks(target, m, "input")
    f, block = shape.f, shape.block
    transform_input = _transform_input(target, m, shape)

    def kernel(args, scratch, begin, end):
        parts = (args[f.c] + args[f.c_block] - 1) // args[f.c_block]
        for item in range(begin, end):
            g, number, c = (
                item // (args[f.blocks] * parts),
                item // parts % args[f.blocks],
                item % parts * args[f.c_block],
            )
            first, tiles, vectors, panels = block(args, number)
            to = args[f.v] + (g * args[f.blocks] + number) * args[f.v_step] * v.itemsize
            last = min(c + args[f.c_block], args[f.c])
            transform_input(args, first, tiles, vectors, panels, g, c, last, to, scratch)

    return kernel


def _output(m: int, target: Target) -> Callable[..., None]:
    """The second of two stages: some output channels of a block."""
    v, lanes = target.v, target.lanes
    area = (m + 2) ** 2
    shape = _Blocks(target, m, "output")
    f, block = shape.f, shape.block
    multiply = _multiply(target, m, shape)
    transform_output = _transform_output(target, m, shape)

    def kernel(args, scratch, begin, end):
        parts = (args[f.k] + args[f.k_block] - 1) // args[f.k_block]
        for item in range(begin, end):
            g, number = item // (args[f.blocks] * parts), item % args[f.blocks]
            k = item // args[f.blocks] % parts * args[f.k_block]
            first, tiles, vectors, panels = block(args, number)
            x = v.pointer(args[f.v] + (g * args[f.blocks] + number) * args[f.v_step] * v.itemsize)
            rows = scratch + area * args[f.k_block] * vectors * lanes * v.itemsize
            multiply(args, vectors, panels, g, k, x, v.pointer(scratch))
            transform_output(args, first, tiles, vectors, panels, g, k, v.pointer(scratch), v.pointer(rows))

    return kernel


def _weight(m: int, target: Target) -> Callable[..., None]:
    """G over the elements [c][rows] as they lie in u, whatever the lanes."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    f = abi.fields(f"winograd_f{m}_weight")
    alpha, area = m + 2, (m + 2) ** 2

    lines = ["def tile(raw, raw_step, size, e, u, step):"]
    for j in range(3):
        loads = [f"v.load_partial(v.advance(raw, {i * 3 + j} * raw_step + e), size - e)" for i in range(3)]
        lines += [f"    {', '.join(f'h{i}_{j}' for i in range(alpha))} = product({', '.join(loads)})"]
    scales = codegen.scales(transforms(m, 3))
    for i in range(alpha):
        lines += [f"    {_names('o', alpha)} = product({', '.join(f'h{i}_{j}' for j in range(3))})"]
        for j in range(alpha):
            scaled = f"o{j} * v.broadcast({scales[i * alpha + j]!r})"
            lines += [f"    v.store_partial(v.advance(u, {i * alpha + j} * step + e), {scaled}, size - e)"]
    tile = target.call(define("tile", lines, v=v, product=_product(target, m, "weight")))

    gather = _gather(target, m)

    def kernel(args, scratch, begin, end):
        c_total, k_block = args[f.c], args[f.k_block]
        parts = (c_total + _DEPTH - 1) // _DEPTH
        blocks = (args[f.k] + tile_rows - 1) // tile_rows
        for item in range(begin, end):
            g, first = item // blocks, item % blocks * tile_rows
            block_start = first // k_block * k_block
            in_block = (min(k_block, args[f.k] - block_start) + tile_rows - 1) // tile_rows
            raw = v.advance(v.pointer(args[f.raw]), item * 9 * c_total * tile_rows)
            for part in range(parts):
                start = c_total * part // parts
                stop = c_total * (part + 1) // parts
                for c in range(start, stop, _CHANNELS):
                    channels = min(stop - c, _CHANNELS)
                    gather(args, g, first, c, channels, raw, v.pointer(scratch))
                    block = g * ((args[f.k] + k_block - 1) // k_block) + first // k_block
                    u = v.advance(v.pointer(args[f.u]), block * area * (k_block * c_total + lanes))
                    in_part = (first - block_start) // tile_rows * (stop - start) + c - start
                    u = v.advance(u, (in_block * start + in_part) * tile_rows)
                    for e in range(0, channels * tile_rows, lanes):
                        tile(
                            v.advance(raw, c * tile_rows), c_total * tile_rows, channels * tile_rows, e, u,
                            in_block * c_total * tile_rows + lanes,
                        )  # fmt: skip

    return kernel


def _gather(target: Target, m: int) -> Inner:
    """Make ``gather(args, g, first, first_c, channels, raw, scratch)``: raw[tap][c][rows] for some channels.

    Where taps lie side by side, in either order, by vectors of channels.
    """
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    f = abi.fields(f"winograd_f{m}_weight")
    split = _shuffles(target, codegen.deinterleave(9, lanes), "split")
    join = _shuffles(target, codegen.interleave(tile_rows, lanes), "join")

    lines = ["def taps_of(w, count):"]
    loads = [f"v.load_partial(v.advance(w, {i * lanes}), count - {i * lanes})" for i in range(9)]
    lines += [f"    return split({', '.join(loads)})"]
    taps_of = target.jit(define("taps_of", lines, v=v, split=split))

    lines = ["def by_input(w, w_k, rows, count, backward, raw, step, scratch):"]
    lines += [f"    for row in range({tile_rows}):"]
    lines += [f"        {_names('o', 9)} = taps_of(v.advance(w, row * w_k), count * 9 if row < rows else 0)"]
    lines += [f"        v.store(scratch, ({i * tile_rows} + row) * {lanes}, o{i})" for i in range(9)]
    lines += ["    for tap in range(9):"]
    loads = [f"v.load(scratch, (tap * {tile_rows} + {i}) * {lanes})" for i in range(tile_rows)]
    lines += [f"        {_names('o', tile_rows)} = join({', '.join(loads)})"]
    lines += ["        to = v.advance(raw, (8 - tap if backward else tap) * step)"]
    for i in range(tile_rows):
        lines += [f"        v.store_partial(v.advance(to, {i * lanes}), o{i}, count * {tile_rows} - {i * lanes})"]
    by_input = target.call(define("by_input", lines, v=v, taps_of=taps_of, join=join))

    lines = ["def by_output(w, rows, backward, raw, step):"]
    lines += [f"    for row in range(0, {tile_rows}, {lanes}):"]
    lines += [f"        {_names('o', 9)} = taps_of(v.advance(w, row * 9), (rows - row) * 9)"]
    for i in range(9):
        lines += [f"        to = v.advance(raw, ({8 - i} if backward else {i}) * step + row)"]
        lines += [f"        v.store_partial(to, o{i}, {tile_rows} - row)"]
    by_output = target.call(define("by_output", lines, v=v, taps_of=taps_of))

    @target.jit
    def gather(args, g, first, first_c, channels, raw, scratch):
        rows = min(args[f.k] - first, tile_rows)
        w_k, w_c, w_h, w_w = args[f.w_k], args[f.w_c], args[f.w_h], args[f.w_w]
        w = v.advance(v.pointer(args[f.w]), g * args[f.w_g] + first * w_k + first_c * w_c)
        backward = w_w == -1 and w_h == -3
        dense = backward or (w_w == 1 and w_h == 3)
        nearest = v.advance(w, -8 if backward else 0)
        step = args[f.c] * tile_rows
        if dense and w_c == 9:
            for c in range(0, channels, lanes):
                to = v.advance(raw, (first_c + c) * tile_rows)
                count = min(channels - c, lanes)
                by_input(v.advance(nearest, c * 9), w_k, rows, count, backward, to, step, scratch)
        elif dense and w_k == 9:
            for c in range(channels):
                by_output(
                    v.advance(nearest, c * w_c), rows, backward, v.advance(raw, (first_c + c) * tile_rows), step
                )  # fmt: skip
        else:
            for tap in range(9):
                for c in range(channels):
                    to = v.advance(raw, tap * step + (first_c + c) * tile_rows)
                    for row in range(tile_rows):
                        if row < rows:
                            to[row] = w[row * w_k + c * w_c + tap // 3 * w_h + tap % 3 * w_w]
                        else:
                            to[row] = 0

    return gather


# The gradient by the weight is F(3, m): a tile of x times a tile of grad_output, transformed by A, is summed over all
# tiles before one inverse transform. v[g][xi][c][tiles] and w[g][xi][k][tiles] hold one block: its panel is the block.


def _grad_transform(m: int, target: Target) -> Callable[..., None]:
    """Some channels of a block, of x or of grad_output."""
    v, lanes = target.v, target.lanes
    alpha, area = m + 2, (m + 2) ** 2
    shape = _Blocks(target, m, "grad_transform")
    f, block, pitch_of = shape.f, shape.block, shape.pitch
    transform_input = _transform_input(target, m, shape)
    product = _product(target, m, "grad_output")
    deinterleave = _shuffles(target, codegen.deinterleave(m, lanes), "deinterleave")

    @target.jit
    def row_of(y, y_h, oh, row, zeros):
        return v.advance(y, row * y_h) if row < oh else zeros

    lines = ["def run_rows(y, next_channel, y_h, oh, ow, top, left, run, zeros, body, pitch):"]
    lines += [f"    r{i} = v.advance(row_of(y, y_h, oh, top + {i}, zeros), left)" for i in range(m)]
    lines += [f"    for q in range(0, run * {m}, {lanes}):"]
    windows = [f"v.load_partial(v.advance(r{i}, q), ow - left - q)" for i in range(m)]
    lines += [f"        {_names('o', alpha)} = product({', '.join(windows)})"]
    lines += [f"        v.prefetch(r{i}, q + next_channel)" for i in range(m)]
    lines += [f"        v.store(body, {i} * pitch + q, o{i})" for i in range(alpha)]
    run_rows = target.jit(define("run_rows", lines, v=v, row_of=row_of, product=product))

    lines = ["def row_columns(vectors, body, to, step):"]
    lines += ["    for group in range(vectors):"]
    loads = [f"v.load(body, (group * {m} + {j}) * {lanes})" for j in range(m)]
    lines += [f"        {_names('d', m)} = deinterleave({', '.join(loads)})"]
    lines += [f"        {_names('o', alpha)} = product({_names('d', m)})"]
    lines += [f"        v.store(to, {j} * step + group * {lanes}, o{j})" for j in range(alpha)]
    row_columns = target.jit(define("row_columns", lines, v=v, deinterleave=deinterleave, product=product))

    @target.call
    def transform_grad_output(args, first, tiles, vectors, y, to, step, body):
        th, tw = (args[f.oh] + m - 1) // m, (args[f.ow] + m - 1) // m
        image, row, column = first // (th * tw), first // tw % th, first % tw
        pitch = pitch_of(vectors)
        zeros = v.advance(body, alpha * pitch)
        done = 0
        while done < tiles:
            run = min(tw - column, tiles - done)
            run_rows(
                v.advance(y, image * args[f.y_n]), args[f.y_k], args[f.y_h], args[f.oh], args[f.ow], row * m,
                column * m, run, zeros, v.advance(body, done * m), pitch,
            )  # fmt: skip
            done += run
            column = 0
            row += 1
            if row == th:
                row = 0
                image += 1
        for i in range(alpha):
            row_columns(vectors, v.advance(body, i * pitch), v.advance(to, i * alpha * step), step)

    def kernel(args, scratch, begin, end):
        first, tiles, vectors, _ = block(args, args[f.block])
        c, k = args[f.c], args[f.k]
        parts = (c + k + args[f.channels] - 1) // args[f.channels]
        step, step_y = (vectors * c + 1) * lanes, (vectors * k + 1) * lanes
        for item in range(begin, end):
            g, start = item // parts, item % parts * args[f.channels]
            last = min(start + args[f.channels], c + k)
            if start < c:
                to = args[f.v] + g * area * step * v.itemsize
                transform_input(args, first, tiles, vectors, 1, g, start, min(last, c), to, scratch)
            if last > c:
                body = v.pointer(scratch)
                for i in range(alpha * pitch_of(vectors) + args[f.ow]):
                    body[i] = 0
                for channel in range(max(start - c, 0), last - c):
                    y = v.advance(v.pointer(args[f.y]), (g * k + channel) * args[f.y_k])
                    to_y = v.advance(v.pointer(args[f.w]), g * area * step_y + channel * vectors * lanes)
                    transform_grad_output(args, first, tiles, vectors, y, to_y, step_y, body)

    return kernel


def _pack(target: Target, size: int) -> Inner:
    """Make ``pack(source, pitch, vectors, rows, to, width)``: to[tile][row] = source[row][tile].

    For ``size`` rows, zero past ``rows``; ``width`` is the pitch of ``to``, ``size`` itself unless that is the lanes.
    """
    v, lanes = target.v, target.lanes
    interleave = _shuffles(target, codegen.interleave(size, lanes), "interleave")

    @target.jit
    def row(source, pitch, group, i, rows):
        return v.load(source, i * pitch + group * lanes) if i < rows else v.zero()

    lines = ["def pack(source, pitch, vectors, rows, to, width):"]
    lines += ["    for group in range(vectors):"]
    loads = [f"row(source, pitch, group, {i}, rows)" for i in range(size)]
    lines += [f"        {_names('o', size)} = interleave({', '.join(loads)})"]
    for i in range(size):
        tile, rest = divmod(i * lanes, size)
        lines += [f"        v.store(to, (group * {lanes} + {tile}) * width + {rest}, o{i})"]
    return target.call(define("pack", lines, v=v, row=row, interleave=interleave))


def _grad_multiply(m: int, target: Target) -> Callable[..., None]:
    """The sums of products over the tiles of a block, for one xi after another."""
    v, lanes, tile_rows, per_panel = target.v, target.lanes, target.rows, target.vectors
    shape = _Blocks(target, m, "grad_multiply")
    f, block = shape.f, shape.block
    gemm, pack_rows, pack_lanes = gemm_rows(target), _pack(target, tile_rows), _pack(target, lanes)

    def kernel(args, scratch, begin, end):
        _, tiles, vectors, _ = block(args, args[f.block])
        parts = (tiles + _DEPTH - 1) // _DEPTH
        c, k, pitch = args[f.c], args[f.k], vectors * lanes
        groups = (c + lanes - 1) // lanes
        panels = (groups + per_panel - 1) // per_panel
        packed_y = v.pointer(scratch)
        packed_x = v.advance(packed_y, (k + tile_rows - 1) // tile_rows * tile_rows * pitch)
        for item in range(begin, end):
            s = v.advance(v.pointer(args[f.s]), item * (k * c + lanes))
            x = v.advance(v.pointer(args[f.v]), item * (pitch * c + lanes))
            y = v.advance(v.pointer(args[f.w]), item * (pitch * k + lanes))
            for row in range(0, k, tile_rows):
                pack_rows(
                    v.advance(y, row * pitch), pitch, vectors, k - row, v.advance(packed_y, row * pitch), tile_rows
                )
            for panel in range(panels):
                first = groups * panel // panels * lanes
                width = groups * (panel + 1) // panels * lanes - first
                for group in range(first, first + width, lanes):
                    to = v.advance(packed_x, group - first)
                    pack_lanes(v.advance(x, group * pitch), pitch, vectors, c - group, to, width)
                for part in range(parts):
                    tile = tiles * part // parts
                    depth = tiles * (part + 1) // parts - tile
                    for row in range(0, k, tile_rows):
                        gemm(
                            depth, v.advance(packed_y, row * pitch + tile * tile_rows),
                            v.advance(packed_x, tile * width), width, v.advance(s, row * c + first), c, 0,
                            min(k - row, tile_rows), min(width, c - first), args[f.block] + part > 0,
                        )  # fmt: skip

    return kernel


def _grad_weight(m: int, target: Target) -> Callable[..., None]:
    """The inverse transform of the sums."""
    v, lanes = target.v, target.lanes
    f: Any = abi.fields(f"winograd_f{m}_grad_weight")
    alpha, area = m + 2, (m + 2) ** 2
    scales = codegen.scales(transforms(m, 3))

    lines = ["def inverse(s, step, n, taps):"]
    for j in range(alpha):
        for i in range(alpha):
            xi = i * alpha + j
            lines += [f"    d{i} = v.load_partial(v.advance(s, {xi} * step), n) * v.broadcast({scales[xi]!r})"]
        lines += [f"    {', '.join(f'h{i}_{j}' for i in range(3))} = product({_names('d', alpha)})"]
    lines += ["    total = v.zero()"]
    for i in range(3):
        named = ", ".join(f"o{i * 3 + j}" for j in range(3))
        lines += [f"    {named} = product({', '.join(f'h{i}_{j}' for j in range(alpha))})"]
        lines += [f"    total = total + o{i * 3 + j}" for j in range(3)]
    lines += [f"    {_names('o', 9)} = interleave({_names('o', 9)})"]
    lines += [f"    v.store(taps, {i * lanes}, o{i})" for i in range(9)]
    lines += ["    return v.sum(total)"]
    product = _product(target, m, "grad_weight")
    interleave = _shuffles(target, codegen.interleave(9, lanes), "interleave")
    inverse = target.call(define("inverse", lines, v=v, product=product, interleave=interleave))

    @target.call
    def exact(args, g, k, c, i, j):
        """One element of the gradient by the definition."""
        total = v.zero()
        for image in range(args[f.n]):
            x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + (g * args[f.c] + c) * args[f.x_c])
            y = v.advance(v.pointer(args[f.y]), image * args[f.y_n] + (g * args[f.k] + k) * args[f.y_k])
            for row in range(args[f.oh]):
                for column in range(args[f.ow]):
                    top, left = row + i - args[f.ph], column + j - args[f.pw]
                    value = v.zero()
                    if 0 <= top < args[f.ih] and 0 <= left < args[f.iw]:
                        value = v.broadcast(x[top * args[f.x_h] + left])
                    total = v.fma(value, v.broadcast(y[row * args[f.y_h] + column]), total)
        return v.extract(total, 0)

    def kernel(args, scratch, begin, end):
        taps = v.pointer(scratch)
        contiguous = args[f.out_w] == 1 and args[f.out_h] == 3 and args[f.out_c] == 9
        step = args[f.k] * args[f.c] + lanes
        for item in range(begin, end):
            g, k = item // args[f.k], item % args[f.k]
            for c in range(0, args[f.c], lanes):
                count = min(lanes, args[f.c] - c)
                s = v.advance(v.pointer(args[f.s]), g * area * step + k * args[f.c] + c)
                out = v.advance(v.pointer(args[f.out]), item * args[f.out_k] + c * args[f.out_c])
                whole = contiguous and count == lanes
                total = inverse(s, step, count, out if whole else taps)
                if whole and total - total == 0:
                    continue
                source = out if whole else taps
                for lane in range(count):
                    for tap in range(9):
                        value = source[lane * 9 + tap]
                        if value - value != 0:
                            value = exact(args, g, k, c + lane, tap // 3, tap % 3)
                        out[lane * args[f.out_c] + tap // 3 * args[f.out_h] + tap % 3 * args[f.out_w]] = value

    return kernel


def _factories(make: Callable[[int, Target], Callable[..., None]], stage: str) -> tuple[Factory, ...]:
    """The factory functions of one kind of kernel for F(2, 3), F(4, 3) and F(6, 3)."""

    def factory(m: int) -> Factory:
        def kernel(target: Target) -> Callable[..., None]:
            return make(m, target)

        kernel.__name__ = f"winograd_f{m}_{stage}"
        return kernel

    return factory(2), factory(4), factory(6)


winograd_f2_weight, winograd_f4_weight, winograd_f6_weight = _factories(_weight, "weight")
winograd_f2_forward, winograd_f4_forward, winograd_f6_forward = _factories(_forward, "forward")
winograd_f2_input, winograd_f4_input, winograd_f6_input = _factories(_input, "input")
winograd_f2_output, winograd_f4_output, winograd_f6_output = _factories(_output, "output")
winograd_f2_grad_transform, winograd_f4_grad_transform, winograd_f6_grad_transform = _factories(
    _grad_transform, "grad_transform"
)
winograd_f2_grad_multiply, winograd_f4_grad_multiply, winograd_f6_grad_multiply = _factories(
    _grad_multiply, "grad_multiply"
)
winograd_f2_grad_weight, winograd_f4_grad_weight, winograd_f6_grad_weight = _factories(_grad_weight, "grad_weight")
