"""The products of Winograd's transforms, for a block of tiles and one of output channels.

They are a kernel of their own, which those of every F(m, r) call: it is compiled once. :mod:`.winograd_blocks` says how
its arrays lie.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from convforge.kernels import abi
from convforge.kernels.numba.fetch import fetching
from convforge.kernels.numba.generate import define
from convforge.kernels.numba.winograd_blocks import DEPTH, panel_start, pitches

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target


def _sweep(target: Target) -> Inner:
    """Make ``sweep(width, depth, rows, u, x, p, step, accumulate)``.

    p[row][tiles] = sum over c of u[row / GROUP][c][row % GROUP] * x[c][tiles], plus p itself to accumulate. Everything
    is whole: ``width`` is 1, 2 or 3 times the lanes, ``rows`` counts blocks of ROWS; rows of p lie ``step`` apart.
    """
    sweeps = {f"sweep{vectors}": _sweep_vectors(target, vectors, 1) for vectors in range(1, target.vectors + 1)}
    lines = ["def sweep(width, depth, rows, u, x, p, step, accumulate):"]
    for vectors in range(target.vectors, 1, -1):
        lines += [f"    if width == {vectors * target.lanes}:"]
        lines += [f"        sweep{vectors}(depth, 0, rows, u, x, p, step, accumulate)"]
    lines += [f"    if width == {target.lanes}:"]
    lines += ["        done = rows // 2 * 2"]
    lines += ["        pairs(depth, 0, done, u, x, p, step, accumulate)"]
    lines += ["        sweep1(depth, done, rows, u, x, p, step, accumulate)"]
    # of one vector a row two blocks at a time: the sums of one would wait for each other
    pairs = _sweep_vectors(target, 1, 2)
    return target.jit(define("sweep", lines, v=target.v, pairs=pairs, **sweeps))


def _sweep_vectors(target: Target, vectors: int, at_once: int) -> Inner:
    """Make ``sweep_vectors(depth, first, end, u, x, p, step, accumulate)``: blocks of ROWS, ``at_once`` at a time."""
    v, lanes, tile_rows, group = target.v, target.lanes, target.rows, target.group
    rows, columns = range(at_once * tile_rows), range(vectors)
    lines = ["def sweep_vectors(depth, first, end, u, x, p, step, accumulate):"]
    lines += [f"    for block in range(first, end, {at_once}):"]
    lines += [f"        s{i}_{j} = v.zero()" for i in rows for j in columns]
    lines += ["        column = x"]
    for i in range(at_once):
        lines += [f"        row{i} = (block + {i}) * {tile_rows}"]
        lines += [f"        u{i} = v.advance(u, row{i} // {group} * {group} * depth + row{i} % {group})"]
    # each of the blocks that share lines fetches its part of those that follow
    lines += [f"        ahead = v.advance(u, (block * depth + {256 * at_once}) * {tile_rows})"]
    lines += ["        for c in range(depth):"]
    # weights come from far, and the CPU's own prefetching stops at each page
    lines += [f"            v.prefetch(ahead, c * {at_once * tile_rows})"]
    lines += [f"            x{j} = v.load(column, {j * lanes})" for j in columns]
    for i in rows:
        lines += [f"            scale = v.broadcast(u{i // tile_rows}[{i % tile_rows}])"]
        lines += [f"            s{i}_{j} = v.fma(scale, x{j}, s{i}_{j})" for j in columns]
    lines += [f"            u{i} = v.advance(u{i}, {group})" for i in range(at_once)]
    lines += [f"            column = v.advance(column, {vectors * lanes})"]
    lines += [f"        to = v.advance(p, block * {tile_rows} * step)"]
    lines += ["        if accumulate:"]
    lines += [f"            s{i}_{j} = s{i}_{j} + v.load(to, {i} * step + {j * lanes})" for i in rows for j in columns]
    lines += [f"        v.store(to, {i} * step + {j * lanes}, s{i}_{j})" for i in rows for j in columns]
    return target.call(define("sweep_vectors", lines, v=v))


def _apart(target: Target) -> Inner:
    """Make ``apart(depth, x, pitch, u, ahead, ahead_step, p, step, rows, vectors, accumulate)``.

    p[row][column] = sum over c of x[row][c] * u[column / LANES][c][column % LANES], plus p itself to accumulate, of at
    most ROWS rows and some vectors of columns; rows lie ``pitch`` and ``step`` apart.
    """
    # every second of the larger tiles' heights: each size takes a quarter of a second to compile
    heights, widths = range(target.rows // 2, target.rows + 1, target.rows // 4), range(1, target.vectors + 1)
    tiles = {f"tile{i}_{j}": _apart_tile(target, i, j) for i in heights for j in widths}
    lines = ["def apart(depth, x, pitch, u, ahead, ahead_step, p, step, rows, vectors, accumulate):"]
    for i, j in product(heights, widths):
        lines += [f"    if rows <= {i} and vectors == {j}:"]
        lines += [f"        return tile{i}_{j}(depth, x, pitch, u, ahead, ahead_step, p, step, rows, accumulate)"]
    return target.jit(define("apart", lines, **tiles))


def _apart_tile(target: Target, tile_rows: int, vectors: int) -> Inner:
    """Make it for one size of the tile."""
    v, lanes = target.v, target.lanes
    rows, columns = range(tile_rows), range(vectors)
    lines = ["def apart_tile(depth, x, pitch, u, ahead, ahead_step, to, step, rows, accumulate):"]
    lines += [f"    s{i}_{j} = v.zero()" for i in rows for j in columns]
    # rows past the last one repeat it
    lines += [f"    x{i} = v.advance(x, min({i}, rows - 1) * pitch)" for i in rows]
    lines += [f"    u{j} = v.advance(u, {j * lanes} * depth)" for j in columns]
    lines += ["    for p in range(depth):"]
    lines += [f"        {fetching(target).step()}"]
    if tile_rows <= target.rows // 2:  # few tiles share the weights: of those that follow, each has many to fetch
        more = range(1, vectors)
        lines += [f"        {fetching(target).step(number)}" for number in more]
    lines += [f"        w{j} = v.load(u{j}, p * {lanes})" for j in columns]
    for i in rows:
        lines += [f"        scale = v.broadcast(x{i}[p])"]
        lines += [f"        s{i}_{j} = v.fma(scale, w{j}, s{i}_{j})" for j in columns]
    for i in rows:
        lines += [f"    if {i} < rows:"]
        lines += [f"        row = v.advance(to, {i} * step)"]
        lines += ["        if accumulate:"]
        lines += [f"            s{i}_{j} = s{i}_{j} + v.load(row, {j * lanes})" for j in columns]
        lines += [f"        v.store(row, {j * lanes}, s{i}_{j})" for j in columns]
    return target.call(define("apart_tile", lines, v=v))


def winograd_products(target: Target) -> Callable[..., None]:
    """Products with tiles in the lanes, or output channels."""
    v, lanes, tile_rows, group, most = target.v, target.lanes, target.rows, target.group, target.vectors
    f: Any = abi.fields("winograd_products")
    start_of = panel_start(target)
    sweep, apart, pace = _sweep(target), _apart(target), fetching(target).pace
    input_pitch, product_pitch = pitches(target)

    @target.jit
    def panel_of(args, panel):
        """Its first vector, and its tiles, in whole vectors."""
        panels = (args[f.vectors] + most - 1) // most
        first = start_of(args[f.vectors], panels, panel)
        return first, (start_of(args[f.vectors], panels, panel + 1) - first) * lanes

    @target.jit
    def panel_input(args, xi, panel, first, width):
        c = args[f.c]
        return v.advance(v.pointer(args[f.v]), args[f.area] * (c * first + panel) * lanes + xi * (width * c + lanes))

    @target.jit
    def panel_products(args, xi, first, width):
        rows = (args[f.k] + tile_rows - 1) // tile_rows * tile_rows
        return v.advance(v.pointer(args[f.p]), args[f.area] * rows * first * lanes + xi * width)

    @target.jit
    def by_tiles(args, xi, u):
        c, rows = args[f.c], (args[f.k] + tile_rows - 1) // tile_rows
        padded = (args[f.k] + group - 1) // group * group
        parts = (c + DEPTH - 1) // DEPTH
        for panel in range((args[f.vectors] + most - 1) // most):
            first, width = panel_of(args, panel)
            x, to = panel_input(args, xi, panel, first, width), panel_products(args, xi, first, width)
            for part in range(parts):
                channel = c * part // parts
                depth = c * (part + 1) // parts - channel
                sweep(
                    width, depth, rows, v.advance(u, padded * channel), v.advance(x, channel * width), to,
                    args[f.area] * width, part > 0,
                )  # fmt: skip

    @target.jit
    def of_xi(args, xi):
        # the first tile that has products of an xi, which the shorter ones do not all have, and how many there are
        kept, side, tiles = args[f.kept], args[f.kept], args[f.tiles]
        while side * side < args[f.area]:
            side += 1
        row, column = xi // side, xi % side
        first = 0
        if kept - 1 <= row < side - 1:  # whole in height
            first, tiles = args[f.before], args[f.middle] + args[f.after]
            if kept - 1 <= column < side - 1:
                tiles = args[f.middle]
        elif kept - 1 <= column < side - 1:  # whole in width
            tiles = args[f.before] + args[f.middle]
        return first, tiles

    @target.jit
    def by_channels(args, xi, u):
        c, k = args[f.c], args[f.k]
        pitch, step = input_pitch(c), product_pitch(k)
        first, tiles = of_xi(args, xi)
        x = v.advance(v.pointer(args[f.v]), xi * (args[f.tiles] * pitch + lanes) + first * pitch)
        to = v.advance(v.pointer(args[f.p]), xi * (args[f.tiles] * step + lanes) + first * step)
        vectors = (k + lanes - 1) // lanes
        sweeps, parts = (vectors + most - 1) // most, (c + DEPTH - 1) // DEPTH
        heights = (tiles + tile_rows - 1) // tile_rows
        for number in range(sweeps):
            vector = vectors * number // sweeps
            more = vectors * (number + 1) // sweeps - vector
            share = (more * lanes + heights - 1) // max(heights, 1)
            for part in range(parts):
                channel = c * part // parts
                depth = c * (part + 1) // parts - channel
                weight = v.advance(u, (vectors * channel + vector * depth) * lanes)
                # each tile of the product fetches its share of the next weights: of the next part, sweep or xi
                after = c * (part + 2) // parts - channel - depth
                ahead = v.advance(weight, ((vectors - vector) * depth + vector * after) * lanes)
                if part + 1 == parts:
                    ahead = v.advance(u, (vector + more) * (c // parts) * lanes)
                    if number + 1 == sweeps:
                        ahead = v.advance(u, (vectors * c + 1) * lanes)
                for height in range(heights):
                    top = tiles * height // heights
                    apart(
                        depth, v.advance(x, top * pitch + channel), pitch, weight, ahead, share * pace,
                        v.advance(to, top * step + vector * lanes), step, tiles * (height + 1) // heights - top, more,
                        part > 0,
                    )  # fmt: skip
                    ahead = v.advance(ahead, share * depth)

    def kernel(args, scratch, begin, end):
        u_step = (args[f.k] + group - 1) // group * group * args[f.c] + lanes
        for xi in range(begin, end):
            u = v.advance(v.pointer(args[f.u]), xi * u_step)
            if args[f.by_channels] != 0:
                by_channels(args, xi, u)
            else:
                by_tiles(args, xi, u)

    return kernel
