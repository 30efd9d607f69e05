"""Winograd F(m, r), forward: the products, everything for a block of tiles at a time, and the same in two stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels.numba.generate import define
from convforge.kernels.numba.winograd_blocks import DEPTH, Blocks, factories
from convforge.kernels.numba.winograd_input import input_transform
from convforge.kernels.numba.winograd_output import output_transform
from convforge.kernels.numba.winograd_weight import weight_transform

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.abi import Filtering
    from convforge.kernels.numba.translate import Inner, Target


def _sweep(target: Target) -> Inner:
    """Make ``sweep(width, depth, rows, u, x, p, step, accumulate)``.

    p[row][tiles] = sum over c of u[row / ROWS][c][row % ROWS] * x[c][tiles], plus p itself to accumulate. Everything is
    whole: ``width`` is 1, 2 or 3 times the lanes, ``rows`` counts blocks of ROWS; rows of p lie ``step`` apart.
    """
    sweeps = {f"sweep{vectors}": _sweep_vectors(target, vectors, 1) for vectors in range(1, target.vectors + 1)}
    lines = ["def sweep(width, depth, rows, u, x, p, step, accumulate):"]
    for vectors in range(target.vectors, 1, -1):
        lines += [f"    if width == {vectors * target.lanes}:"]
        lines += [f"        sweep{vectors}(depth, rows, u, x, p, step, accumulate)"]
    lines += [f"    if width == {target.lanes}:"]
    lines += ["        pairs(depth, rows // 2, u, x, p, step, accumulate)"]
    lines += ["        done = rows // 2 * 2"]
    last = f"v.advance(u, done * depth * {target.rows}), x, v.advance(p, done * {target.rows} * step)"
    lines += [f"        sweep1(depth, rows - done, {last}, step, accumulate)"]
    # of one vector a row two blocks at a time: the sums of one would wait for each other
    pairs = _sweep_vectors(target, 1, 2)
    return target.jit(define("sweep", lines, v=target.v, pairs=pairs, **sweeps))


def _sweep_vectors(target: Target, vectors: int, at_once: int) -> Inner:
    """Make ``sweep_vectors(depth, times, u, x, p, step, accumulate)``: so many times ``at_once`` blocks of ROWS."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    rows, columns = range(at_once * tile_rows), range(vectors)
    lines = ["def sweep_vectors(depth, times, u, x, p, step, accumulate):"]
    lines += ["    for _ in range(times):"]
    lines += [f"        s{i}_{j} = v.zero()" for i in rows for j in columns]
    lines += ["        column = x"]
    lines += [f"        u{block} = v.advance(u, {block * tile_rows} * depth)" for block in range(at_once)]
    lines += ["        for c in range(depth):"]
    # weights come from far, and the CPU's own prefetching stops at each page
    lines += [f"            v.prefetch(u{block}, {256 * tile_rows})" for block in range(at_once)]
    lines += [f"            x{j} = v.load(column, {j * lanes})" for j in columns]
    for i in rows:
        lines += [f"            scale = v.broadcast(u{i // tile_rows}[{i % tile_rows}])"]
        lines += [f"            s{i}_{j} = v.fma(scale, x{j}, s{i}_{j})" for j in columns]
    lines += [f"            u{block} = v.advance(u{block}, {tile_rows})" for block in range(at_once)]
    lines += [f"            column = v.advance(column, {vectors * lanes})"]
    lines += ["        if accumulate:"]
    lines += [f"            s{i}_{j} = s{i}_{j} + v.load(p, {i} * step + {j * lanes})" for i in rows for j in columns]
    lines += [f"        v.store(p, {i} * step + {j * lanes}, s{i}_{j})" for i in rows for j in columns]
    lines += [f"        p = v.advance(p, {at_once * tile_rows} * step)"]
    lines += [f"        u = v.advance(u, {at_once * tile_rows} * depth)"]
    return target.call(define("sweep_vectors", lines, v=v))


def _multiply(target: Target, filtering: Filtering, shape: Blocks) -> Inner:
    """Make ``multiply(args, vectors, panels, first_k, u, x, products)``: for a block of output channels."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    f, panel_start = shape.f, shape.panel_start
    area = filtering.alpha**2
    sweep = _sweep(target)

    def multiply(args, vectors, panels, first_k, u, x, products):
        c = args[f.c]
        rows = (min(args[f.k_block], args[f.k] - first_k) + tile_rows - 1) // tile_rows
        parts = (c + DEPTH - 1) // DEPTH
        for xi in range(area):
            for panel in range(panels):
                start = panel_start(vectors, panels, panel)
                width = (panel_start(vectors, panels, panel + 1) - start) * lanes
                columns = v.advance(x, area * (c * start + panel) * lanes + xi * (width * c + lanes))
                to = v.advance(products, area * rows * tile_rows * start * lanes + xi * width)
                for part in range(parts):
                    channel = c * part // parts
                    depth = c * (part + 1) // parts - channel
                    sweep(
                        width, depth, rows, v.advance(u, rows * channel * tile_rows),
                        v.advance(columns, channel * width), to, area * width, part > 0,
                    )  # fmt: skip
            u = v.advance(u, rows * c * tile_rows + lanes)

    return target.jit(multiply)


def _forward(filtering: Filtering, target: Target) -> Callable[..., None]:
    """Everything for one block of tiles after another."""
    v, lanes = target.v, target.lanes
    area = filtering.alpha**2
    shape = Blocks(target, filtering, "forward")
    f, block, weight_offset = shape.f, shape.block, shape.weight_offset
    transform_input = input_transform(target, filtering, shape)
    multiply = _multiply(target, filtering, shape)
    transform_output = output_transform(target, filtering, shape)

    def kernel(args, scratch, begin, end):
        for item in range(begin, end):
            g, number = item // args[f.blocks], item % args[f.blocks]
            first, tiles, vectors, panels = block(args, number)
            products = scratch + area * (args[f.c] * vectors + panels) * lanes * v.itemsize
            rest = products + area * args[f.k_block] * vectors * lanes * v.itemsize
            transform_input(args, first, tiles, vectors, panels, g, 0, args[f.c], scratch, rest)
            for k in range(0, args[f.k], args[f.k_block]):
                u = v.pointer(args[f.u] + weight_offset(args, g, k))
                multiply(args, vectors, panels, k, u, v.pointer(scratch), v.pointer(products))
                transform_output(
                    args, first, tiles, vectors, panels, g, k, v.pointer(products), v.pointer(rest)
                )  # fmt: skip

    return kernel


def _input(filtering: Filtering, target: Target) -> Callable[..., None]:
    """The first of two stages: some channels of a block."""
    v = target.v
    shape = Blocks(target, filtering, "input")
    f, block = shape.f, shape.block
    transform_input = input_transform(target, filtering, shape)

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


def _output(filtering: Filtering, target: Target) -> Callable[..., None]:
    """The second of two stages: some output channels of a block, of weights that are transformed here or before."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    area = filtering.alpha**2
    shape = Blocks(target, filtering, "output")
    f, block, weight_offset = shape.f, shape.block, shape.weight_offset
    weight_rows = weight_transform(target, filtering)
    multiply = _multiply(target, filtering, shape)
    transform_output = output_transform(target, filtering, shape)

    @target.call
    def transform_weight(args, g, first_k, u, taps):
        rows = (min(args[f.k_block], args[f.k] - first_k) + tile_rows - 1) // tile_rows
        for row in range(rows):
            k = first_k + row * tile_rows
            w = v.advance(v.pointer(args[f.w]), g * args[f.w_g] + k * args[f.w_k])
            weight_rows(
                w, args[f.w_k], args[f.w_c], args[f.w_h], args[f.w_w], args[f.c], args[f.k] - k, row, rows, u, taps
            )

    def kernel(args, scratch, begin, end):
        parts = (args[f.k] + args[f.k_block] - 1) // args[f.k_block]
        products = scratch
        if args[f.u] == 0:
            products += area * (args[f.k_block] * args[f.c] + lanes) * v.itemsize
        for item in range(begin, end):
            g, number = item // (args[f.blocks] * parts), item % args[f.blocks]
            k = item // args[f.blocks] % parts * args[f.k_block]
            if args[f.u] != 0:
                u = args[f.u] + weight_offset(args, g, k)
            else:
                u = scratch
                if item == begin or number == 0:
                    transform_weight(args, g, k, v.pointer(u), v.pointer(products))
            first, tiles, vectors, panels = block(args, number)
            x = v.pointer(args[f.v] + (g * args[f.blocks] + number) * args[f.v_step] * v.itemsize)
            rows = products + area * args[f.k_block] * vectors * lanes * v.itemsize
            multiply(args, vectors, panels, k, v.pointer(u), x, v.pointer(products))
            transform_output(args, first, tiles, vectors, panels, g, k, v.pointer(products), v.pointer(rows))

    return kernel


globals().update(factories(_forward, "forward"))
globals().update(factories(_input, "input"))
globals().update(factories(_output, "output"))
