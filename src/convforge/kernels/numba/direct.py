"""Direct convolution: every output is summed in registers, from the input under a band of output pixels.

The band's input is read in place, or from a copy of all of a group's channels that is padded with zeros and has its
columns split by their phase within a stride: either way, neighbouring pixels read one piece of memory for each tap. A
segment is LANES neighbouring pixels of one output row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.fetch import fetching
from convforge.kernels.numba.generate import define
from convforge.kernels.numba.integers import ceiling
from convforge.kernels.numba.taps_source import taps_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target


def _store_apart(target: Target, vectors: int) -> Inner:
    """Make ``store_apart(sums, places, counts, out, out_k, out_w, rows)``, for ``vectors`` of sums a row.

    It is for tiles whose lanes are not all outputs, or whose outputs are not side by side.
    """
    v = target.v
    lanes = v.lanes

    @target.call
    def store_apart(sums, places, counts, out, out_k, out_w, rows):
        for i in range(rows):
            for j in range(vectors):
                to = v.advance(out, i * out_k + places[j])
                values = v.advance(sums, (i * vectors + j) * lanes)
                if out_w == 1:
                    v.store_partial(to, v.load(values, 0), counts[j])
                else:
                    for lane in range(min(counts[j], lanes)):
                        to[lane * out_w] = values[lane]

    return store_apart


def _tile(target: Target, rows: int, vectors: int) -> Inner:
    """Make ``tile``, whose parameters are named below.

    out[row][place of a segment] = bias[row] + sum over p < depth of a[p][row] * b[source of the segment + offsets[p]].
    ``sums`` has room for those of the tile. What is fetched: see :mod:`.fetch`.
    """
    v = target.v
    each, segments = range(rows), range(vectors)
    fetch, out = "ahead, ahead_step", "out, out_k, out_w, bias"
    lines = [f"def tile(depth, a, b, offsets, sources, places, counts, {fetch}, {out}, rows, sums):"]
    lines += [f"    from{j} = v.advance(b, sources[{j}])" for j in segments]
    lines += [f"    s{i}_{j} = v.zero()" for i in each for j in segments]
    lines += ["    for p in range(depth):"]
    lines += ["        at = offsets[p]", f"        {fetching(target).step()}"]
    # the registers hold the shorter side of the tile and one vector of the other
    if rows < vectors:
        lines += [f"        a{i} = v.broadcast(a[{i}])" for i in each]
        for j in segments:
            lines += [f"        row = v.load(from{j}, at)"]
            lines += [f"        s{i}_{j} = v.fma(a{i}, row, s{i}_{j})" for i in each]
    else:
        lines += [f"        row{j} = v.load(from{j}, at)" for j in segments]
        for i in each:
            lines += [f"        scale = v.broadcast(a[{i}])"]
            lines += [f"        s{i}_{j} = v.fma(scale, row{j}, s{i}_{j})" for j in segments]
    lines += [f"        a = v.advance(a, {target.rows})"]
    lines += ["    biases = v.pointer(bias)"]
    lines += [f"    whole = out_w == 1 and {' and '.join(f'counts[{j}] >= {v.lanes}' for j in segments)}"]
    for i in each:
        lines += [f"    if {i} < rows:"]
        lines += [f"        init = v.broadcast(biases[{i}]) if bias != 0 else v.zero()"]
        lines += ["        if whole:"]
        lines += [f"            v.store(out, {i} * out_k + places[{j}], s{i}_{j} + init)" for j in segments]
        lines += ["        else:"]
        lines += [f"            v.store(sums, {(i * vectors + j) * v.lanes}, s{i}_{j} + init)" for j in segments]
    lines += ["    if not whole:"]
    lines += [f"        store_apart(sums, places, counts, out, out_k, out_w, min(rows, {rows}))"]
    return target.call(define("tile", lines, v=v, store_apart=_store_apart(target, vectors)))


def _window_rows(target: Target) -> Inner:
    """Make ``window_rows``, whose arguments are those of a tile, the ``count`` of segments and what to fetch.

    One block of output channels, the ``number``-th of an item, in tiles of equal shares of the segments. Few channels
    are as many rows of a tile, down to half of the whole one; that has twice the vectors. The item's first ``wanted``
    tiles fetch what comes next: channels from ``coming`` on, ``x_c`` apart, ``each`` tiles one.
    """
    half, fetch = target.rows // 2, fetching(target)
    tail = "out, out_k, out_w, bias, rows, sums"
    names = {}
    coming = "number, coming, wanted, each, x_c"
    lines = [f"def window_rows(depth, a, b, offsets, sources, places, counts, count, {coming}, {tail}):"]
    lines += [f"    most = {2 * target.vectors} if rows <= {half} else {target.vectors}"]
    lines += ["    tiles = (count + most - 1) // most"]
    lines += ["    for t in range(tiles):"]
    lines += ["        first = count * t // tiles"]
    lines += ["        vectors = count * (t + 1) // tiles - first"]
    lines += ["        s, q, n = v.advance(sources, first), v.advance(places, first), v.advance(counts, first)"]
    lines += ["        ahead, step = a, 0", "        turn = number * tiles + t", "        if turn < wanted:"]
    lines += [f"            ahead, step = nth_piece(coming, x_c, each, depth, turn), {fetch.line}"]
    for i in range(target.rows, half - 1, -1):
        for j in range(1, (1 if i > half else 2) * target.vectors + 1):
            names[f"tile{i}_{j}"] = _tile(target, i, j)
            within = f"rows >= {i}" if i == target.rows else f"rows <= {i}" if i == half else f"rows == {i}"
            lines += [f"        if {within} and vectors == {j}:"]
            lines += [f"            tile{i}_{j}(depth, a, b, offsets, s, q, n, ahead, step, {tail})"]
    return target.call(define("window_rows", lines, v=target.v, nth_piece=fetch.nth_piece, **names))


def direct_forward(target: Target) -> Callable[..., None]:
    """Bands of output pixels; all blocks of output channels read the same copy of their input."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    f = abi.fields("direct_forward")
    source, up, window_rows = taps_source(target), ceiling(target), _window_rows(target)
    aim_at, channel_step, read_channels = source.aim_at, source.channel_step, source.read_channels
    list_taps, repeat_taps = source.list_taps, source.repeat_taps
    tile_elements = tile_rows * target.vectors * lanes
    fetch = fetching(target)
    fetched_lines, pace = fetch.lines, fetch.pace

    @target.call
    def nth_band(number, g, splits, stacks, cuts, oh, ow, most_columns):
        # what an item computes: rows and columns of output pixels, for some blocks of output channels
        at = number // cuts
        left = (number - at * cuts) * most_columns
        rest = at // stacks
        stack = at - rest * stacks
        top = oh * stack // stacks
        image_group = rest // splits
        image = image_group // g
        return (
            image, image_group - image * g, rest - image_group * splits, top, oh * (stack + 1) // stacks - top, left,
            min(most_columns, ow - left),
        )  # fmt: skip

    @target.call
    def list_segments(rows, columns, row_step, out_h, out_w, sources, places, counts):
        # where rows of outputs follow one another in memory, idle lanes are overwritten by the next row
        joined = out_w == 1 and out_h == columns
        count = 0
        for row in range(rows):
            for column in range(0, columns, lanes):
                place = row * out_h + column * out_w
                sources[count] = row * row_step + column
                places[count] = place
                counts[count] = min(lanes, rows * columns - place if joined else columns - column)
                count += 1
        return count

    def kernel(args, scratch, begin, end):
        g, c, k, oh, ow = args[f.g], args[f.c], args[f.k], args[f.oh], args[f.ow]
        ih, iw, kh, kw, sh, sw = args[f.ih], args[f.iw], args[f.kh], args[f.kw], args[f.sh], args[f.sw]
        ph, pw, dh, dw = args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        x_c, x_h, out_k, out_h, out_w = args[f.x_c], args[f.x_h], args[f.out_k], args[f.out_h], args[f.out_w]
        splits, most_columns = args[f.splits], args[f.columns]
        area = kh * kw
        depth, blocks = c * area, up(k, tile_rows)
        stacks, cuts = up(oh, args[f.rows]), up(ow, most_columns)
        phases = sw if kw > 1 else 1
        row_step = 1 if kh > 1 else sh
        # scratch: sources, places and counts of segments[rows * ceil(columns / LANES)], offsets[depth], sums of a tile,
        # the input
        most = args[f.rows] * up(most_columns, lanes)
        sources = v.pointer_int64(scratch)
        places, counts, offsets = (
            v.advance(sources, most), v.advance(sources, 2 * most), v.advance(sources, 3 * most),
        )  # fmt: skip
        sums = v.pointer(scratch + 8 * (3 * most + depth))
        padded = v.pointer(scratch + (8 * (3 * most + depth) + tile_elements * v.itemsize + 63) // 64 * 64)
        planned_row = planned_left = -1
        top = start = copied = pitch = channel = count = 0
        inside = False
        for item in range(begin, end):
            image, group, split, first_row, rows, left, columns = nth_band(
                item, g, splits, stacks, cuts, oh, ow, most_columns
            )
            x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + group * c * x_c)
            if first_row != planned_row or left != planned_left:
                planned_row, planned_left = first_row, left
                # idle lanes would read past the end of x
                in_place = columns % lanes == 0
                top, start, copied, pitch, inside = aim_at(
                    kh, kw, sh, sw, ph, pw, dh, dw, ih, iw, row_step, 1, first_row, rows, left, columns, in_place
                )
                row_pitch = x_h if inside else phases * pitch
                pixel_step = sh * x_h if inside else sh // row_step * row_pitch
                channel = channel_step(inside, x_c, copied * row_pitch)
                list_taps(kh, kw, dh, dw, row_pitch, pitch, sw if phases > 1 else 1, offsets)
                repeat_taps(offsets, area, c, channel)
                count = list_segments(rows, columns, pixel_step, out_h, out_w, sources, places, counts)
            b = read_channels(
                inside, sw, x, x_c, x_h, ih, iw, top, start, copied, row_step, phases, pitch, c, channel, padded
            )
            place = image * args[f.out_n] + first_row * out_h + left * out_w
            coming, wanted, each = x, 0, 1
            if item + 1 < args[f.n] * g * splits * stacks * cuts:
                # the likely next one of this worker
                image_, group_, _, row_, rows_, left_, _ = nth_band(
                    item + 1, g, splits, stacks, cuts, oh, ow, most_columns
                )
                from_row, from_column = max(row_ * sh - ph, 0), max(left_ * sw - pw, 0)
                end_row = min((row_ + rows_ - 1) * sh - ph + (kh - 1) * dh + 1, ih)
                coming = v.advance(
                    v.pointer(args[f.x]), image_ * args[f.x_n] + group_ * c * x_c + from_row * x_h + from_column
                )
                # each channel's piece, with what is between its rows
                each = up(fetched_lines(max(end_row - from_row, 0) * x_h), up(depth, pace))
                wanted = c * each
            first_block = blocks * split // splits
            for block in range(first_block, blocks * (split + 1) // splits):
                row = group * k + block * tile_rows
                window_rows(
                    depth, v.advance(v.pointer(args[f.packed]), (group * blocks + block) * depth * tile_rows), b,
                    offsets, sources, places, counts, count, block - first_block, coming, wanted, each,
                    x_c, v.advance(v.pointer(args[f.out]), place + row * out_k), out_k, out_w,
                    0 if args[f.bias] == 0 else args[f.bias] + row * v.itemsize, k - block * tile_rows, sums,
                )  # fmt: skip

    return kernel
