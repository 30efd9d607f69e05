"""Convolution as a matrix product whose right-hand side, the lowered input, only ever exists as small panels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.gemm import gemm_ahead, gemm_copying, gemm_rows, transposed
from convforge.kernels.numba.generate import define
from convforge.kernels.numba.taps_source import taps_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target


def _scatter(target: Target) -> Inner:
    """Make ``scatter(sums, rows, out, out_k, out_h, out_w, ow, pixel, count, accumulate)``.

    For pixels not in one piece: out[row, pixel + i] = sums[row][i], plus itself to accumulate.
    """
    v = target.v
    width = target.lanes * target.vectors

    @target.call
    def scatter(sums, rows, out, out_k, out_h, out_w, ow, pixel, count, accumulate):
        first_h = pixel // ow
        first_w = pixel - first_h * ow
        for row in range(rows):
            to = v.advance(out, row * out_k)
            h, w = first_h, first_w
            for i in range(count):
                at = h * out_h + w * out_w
                to[at] = sums[row * width + i] + to[at] if accumulate else sums[row * width + i]
                w += 1
                if w == ow:
                    w = 0
                    h += 1

    return scatter


def im2col_forward(target: Target) -> Callable[..., None]:
    """Panels of pixels at a time, in the lanes, that all blocks of output channels are multiplied with."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    tile_columns = lanes * target.vectors
    most = target.vectors
    f = abi.fields("im2col_forward")
    source, scatter = taps_source(target), _scatter(target)
    aim, read_channel, list_taps = source.aim, source.read_channel, source.list_taps
    gemm, copying_gemm = gemm_rows(target), gemm_copying(target)

    @target.call
    def cut_runs(start, column, row_pixels, count, step, place, places, starts, counts):
        # the runs of pixels of one row: where each stands in the panels, and is read; start is where column 0 is read
        lane = runs = 0
        while lane < count:
            run = min(row_pixels - column, count - lane)
            places[runs] = place + lane
            starts[runs] = start + column
            counts[runs] = run
            lane += run
            runs += 1
            column = 0
            start += step
        return runs

    @target.call
    def lower_channel(inside, source, offsets, taps, places, starts, counts, runs, panels):
        # lanes past a run are overwritten by the next one, those of the last run of a row by the next row
        for p in range(taps):
            tap = v.advance(source, offsets[p])
            for q in range(runs):
                read, to = v.advance(tap, starts[q]), v.advance(panels, places[q])
                count = counts[q]
                while count >= lanes:
                    v.store(to, 0, v.load(read, 0))
                    read, to = v.advance(read, lanes), v.advance(to, lanes)
                    count -= lanes
                if count > 0:
                    # a stripe goes on past its last run, x may not
                    v.store(to, 0, v.load_partial(read, count) if inside else v.load(read, 0))
            panels = v.advance(panels, tile_columns)

    def kernel(args, scratch, begin, end):
        g, c, k, oh, ow = args[f.g], args[f.c], args[f.k], args[f.oh], args[f.ow]
        ih, iw, kh, kw, sh, sw = args[f.ih], args[f.iw], args[f.kh], args[f.kw], args[f.sh], args[f.sw]
        ph, pw, dh, dw = args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        x_c, x_h, out_k = args[f.x_c], args[f.x_h], args[f.out_k]
        depth, splits, item_width = args[f.depth], args[f.splits], args[f.width]
        area, pixels = kh * kw, oh * ow
        taps = c * area
        blocks = (k + tile_rows - 1) // tile_rows
        flat = args[f.out_w] == 1 and (args[f.out_h] == ow or oh == 1)
        row_pixels = ow
        if area * sh * sw == 1 and ph == 0 and pw == 0 and ih == oh and iw == ow and x_h == iw:
            # output pixels are input pixels: the plane is one row
            ih, iw, row_pixels = 1, ih * iw, pixels
        # a line is what panels divide: a row of pixels, or all of them; an item takes a part of a line, or some lines
        line = row_pixels if args[f.by_rows] else pixels
        lines = pixels // line
        vectors = (line + lanes - 1) // lanes
        line_panels = (vectors + most - 1) // most
        cuts = (line_panels + item_width - 1) // item_width
        stacked = max(item_width // line_panels, 1)
        stacks = (lines + stacked - 1) // stacked
        # scratch: pixels and counts of panels [width] each, places, starts and counts of runs [width * columns of a
        # tile] each, offsets[area], panels[width][depth * columns + LANES], sums[tile_rows][columns], stripe
        panel_pixels = v.pointer_int64(scratch)
        panel_counts = v.advance(panel_pixels, item_width)
        most_runs = item_width * tile_columns
        places = v.advance(panel_counts, item_width)
        starts = v.advance(places, most_runs)
        counts = v.advance(starts, most_runs)
        offsets = v.advance(counts, most_runs)
        panel_step = depth * tile_columns + lanes
        packed = v.pointer(scratch + 8 * (2 * item_width + 3 * most_runs + area))
        sums = v.advance(packed, item_width * panel_step)
        taken = 8 * (2 * item_width + 3 * most_runs + area)
        taken += (item_width * panel_step + tile_rows * tile_columns) * v.itemsize
        stripe = v.pointer(scratch + (taken + 63) // 64 * 64)
        phases = sw if kw > 1 else 1
        row_step = 1 if kh > 1 else sh
        for item in range(begin, end):
            at_stack = item // cuts
            cut = item - at_stack * cuts
            rest = at_stack // stacks
            stack = at_stack - rest * stacks
            image_group = rest // splits
            split = rest - image_group * splits
            image = image_group // g
            group = image_group - image * g
            first_line, last_line = lines * stack // stacks, lines * (stack + 1) // stacks
            first_part, last_part = line_panels * cut // cuts, line_panels * (cut + 1) // cuts
            first_block, last_block = blocks * split // splits, blocks * (split + 1) // splits
            x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + group * c * x_c)
            pixel = first_line * line + vectors * first_part // line_panels * lanes
            count = (last_line - 1) * line + min(vectors * last_part // line_panels * lanes, line) - pixel
            first_row = pixel // row_pixels
            # a source that spans rows starts with their first column
            first_column = pixel - first_row * row_pixels
            if first_column + count > row_pixels:
                first_column = 0
            top, left, rows, pitch, inside = aim(
                row_pixels, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, row_step, pixel, count
            )
            row_pitch = x_h if inside else phases * pitch
            pixel_step = sh * x_h if inside else sh // row_step * row_pitch
            list_taps(kh, kw, dh, dw, row_pitch, pitch, sw if phases > 1 else 1, offsets)
            # whole vectors of x that are panels already are copied by the first block
            copied = inside and area == 1 and ih == 1 and flat
            runs = panels = 0
            for at in range(first_line, last_line):
                for part in range(first_part, last_part):
                    # shares of whole vectors: 49 pixels are better done as 32 + 17 than as 48 + 1
                    start = vectors * part // line_panels * lanes
                    count = min(vectors * (part + 1) // line_panels * lanes, line) - start
                    panel_pixels[panels] = at * line + start
                    panel_counts[panels] = count
                    if not (copied and count % lanes == 0):
                        row = (at * line + start) // row_pixels
                        column = at * line + start - row * row_pixels
                        runs += cut_runs(
                            (row - first_row) * pixel_step - first_column, column, row_pixels, count, pixel_step,
                            panels * panel_step,
                            v.advance(places, runs), v.advance(starts, runs), v.advance(counts, runs),
                        )  # fmt: skip
                    panels += 1
            for first in range(0, taps, depth):
                last = min(first + depth, taps)
                channel = first // area
                tap = first - channel * area
                p = first
                while p < last:
                    count = min(area - tap, last - p)
                    source = read_channel(
                        inside, sw, v.advance(x, channel * x_c), x_h, ih, iw, top, left, rows, row_step, phases, pitch,
                        stripe,
                    )  # fmt: skip
                    lower_channel(
                        inside, source, v.advance(offsets, tap), count, places, starts, counts, runs,
                        v.advance(packed, (p - first) * tile_columns),
                    )  # fmt: skip
                    p += count
                    channel += 1
                    tap = 0
                for block in range(first_block, last_block):
                    row = block * tile_rows
                    weight = v.advance(v.pointer(args[f.packed]), ((group * blocks + block) * taps + first) * tile_rows)
                    bias = 0 if args[f.bias] == 0 else args[f.bias] + (group * k + row) * v.itemsize
                    out = v.advance(v.pointer(args[f.out]), image * args[f.out_n] + (group * k + row) * out_k)
                    for panel in range(panels):
                        pixel, count = panel_pixels[panel], panel_counts[panel]
                        source = v.advance(packed, panel * panel_step)
                        if copied and block == first_block and count % lanes == 0:
                            copying_gemm(
                                last - first, weight, v.advance(x, first * x_c + pixel), x_c, source,
                                v.advance(out, pixel), out_k, bias, k - row, count, first > 0,
                            )  # fmt: skip
                        elif flat:
                            gemm(
                                last - first, weight, source, tile_columns, v.advance(out, pixel), out_k, bias, k - row,
                                count, first > 0,
                            )  # fmt: skip
                        else:
                            gemm(
                                last - first, weight, source, tile_columns, sums, tile_columns,
                                bias if first == 0 else 0, k - row, count, False,
                            )  # fmt: skip
                            scatter(
                                sums, min(k - row, tile_rows), out, out_k, args[f.out_h], args[f.out_w], ow, pixel,
                                count, first > 0,
                            )  # fmt: skip

    return kernel


def im2col_pixels(target: Target) -> Callable[..., None]:
    """Output channels in the lanes, pixels in the rows of the tile: no lane idles on a small map."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    width = lanes * target.vectors
    most_vectors = target.vectors
    f = abi.fields("im2col_pixels")
    source, gemm, scatter = taps_source(target), gemm_ahead(target), _scatter(target)
    aim, read_channel, list_taps = source.aim, source.read_channel, source.list_taps

    names = [f"row{i}" for i in range(lanes)]
    lines = ["def store_block(sums, bias, to, step, rows, n):"]
    lines += [f"    {name} = v.load(sums, {i * width})" for i, name in enumerate(names)]
    steps, names = transposed(names)
    lines += [f"    {step}" for step in steps]
    lines += ["    biases = v.pointer(bias)"]
    for i, name in enumerate(names):
        lines += [f"    if {i} < rows:"]
        lines += [f"        init = v.broadcast(biases[{i}]) if bias != 0 else v.zero()"]
        lines += [f"        v.store_partial(v.advance(to, {i} * step), {name} + init, n)"]
    store_block = target.call(define("store_block", lines, v=v))

    # what up to tile_rows pixels read of each tap, the last one repeated where they are fewer
    each = range(tile_rows)
    lines = ["def lower_pixels(source, offsets, taps, starts, rows, packed):"]
    lines += [f"    start{i} = starts[min({i}, rows - 1)]" for i in each]
    lines += ["    for p in range(taps):"]
    lines += ["        tap = v.advance(source, offsets[p])"]
    lines += [f"        packed[{i}] = tap[start{i}]" for i in each]
    lines += [f"        packed = v.advance(packed, {tile_rows})"]
    lower_pixels = target.call(define("lower_pixels", lines, v=v))

    def kernel(args, scratch, begin, end):
        n, c, k, oh, ow = args[f.n], args[f.c], args[f.k], args[f.oh], args[f.ow]
        ih, iw, kh, kw, sh, sw = args[f.ih], args[f.iw], args[f.kh], args[f.kw], args[f.sh], args[f.sw]
        ph, pw, dh, dw = args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        x_c, x_h, out_k = args[f.x_c], args[f.x_h], args[f.out_k]
        depth, splits, shares = args[f.depth], args[f.splits], args[f.shares]
        area, pixels = kh * kw, oh * ow
        taps = c * area
        row_pixels = ow
        if area * sh * sw == 1 and ph == 0 and pw == 0 and ih == oh and iw == ow and x_h == iw:
            # output pixels are input pixels: the plane is one row
            ih, iw, row_pixels = 1, ih * iw, pixels
        vectors = (k + lanes - 1) // lanes
        panels = (vectors + most_vectors - 1) // most_vectors
        most = ((pixels + shares - 1) // shares + lanes - 1) // lanes * lanes
        most_tiles = (most + tile_rows - 1) // tile_rows
        flat = args[f.out_w] == 1 and (args[f.out_h] == ow or oh == 1)
        # scratch: starts[most], tops[tiles + 1], offsets[area], lowered[tiles][depth * tile_rows + 2 * LANES],
        # sums[panels of a split][most][columns of a tile], block[LANES][columns], stripe
        starts = v.pointer_int64(scratch)
        tops = v.advance(starts, most)
        offsets = v.advance(tops, most_tiles + 1)
        lowered = v.pointer(scratch + 8 * (most + most_tiles + 1 + area))
        # neighbouring tiles would else compete for the same sets of the cache
        tile_step = depth * tile_rows + 2 * lanes
        sums = v.advance(lowered, most_tiles * tile_step)
        block_sums = v.advance(sums, (panels + splits - 1) // splits * most * width)
        taken = 8 * (most + most_tiles + 1 + area)
        taken += (most_tiles * tile_step + ((panels + splits - 1) // splits * most + lanes) * width) * v.itemsize
        stripe = v.pointer(scratch + (taken + 63) // 64 * 64)
        phases = sw if kw > 1 else 1
        row_step = 1 if kh > 1 else sh
        for item in range(begin, end):
            # images and shares innermost: they use the same weights
            rest = item // shares
            share = item - rest * shares
            pixel = pixels * share // shares
            count = pixels * (share + 1) // shares - pixel
            group_split = rest // n
            image = rest - group_split * n
            group = group_split // splits
            split = group_split - group * splits
            first_panel, last_panel = panels * split // splits, panels * (split + 1) // splits
            x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + group * c * x_c)
            packed = v.advance(v.pointer(args[f.packed]), group * vectors * lanes * taps)
            top, left, rows, pitch, inside = aim(
                row_pixels, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, row_step, pixel, count
            )
            row_pitch = x_h if inside else phases * pitch
            list_taps(kh, kw, dh, dw, row_pitch, pitch, sw if phases > 1 else 1, offsets)
            first_row = pixel // row_pixels
            column = pixel - first_row * row_pixels
            if column + count <= row_pixels:
                column = 0
            pixel_step = sh * x_h if inside else sh // row_step * row_pitch
            row = 0
            for p in range(count):
                starts[p] = row * pixel_step + column
                column += 1
                if column == row_pixels:
                    column = 0
                    row += 1
            tiles = (count + tile_rows - 1) // tile_rows
            for tile in range(tiles + 1):
                tops[tile] = count * tile // tiles
            for first in range(0, taps, depth):
                last = min(first + depth, taps)
                channel = first // area
                tap = first - channel * area
                p = first
                while p < last:
                    times = min(area - tap, last - p)
                    source = read_channel(
                        inside, sw, v.advance(x, channel * x_c), x_h, ih, iw, top, left, rows, row_step, phases, pitch,
                        stripe,
                    )  # fmt: skip
                    for tile in range(tiles):
                        lower_pixels(
                            source, v.advance(offsets, tap), times, v.advance(starts, tops[tile]),
                            tops[tile + 1] - tops[tile], v.advance(lowered, tile * tile_step + (p - first) * tile_rows),
                        )  # fmt: skip
                    p += times
                    channel += 1
                    tap = 0
                for panel in range(first_panel, last_panel):
                    vector = vectors * panel // panels
                    columns = (vectors * (panel + 1) // panels - vector) * lanes
                    weight = v.advance(packed, vector * taps * lanes + first * columns)
                    # each tile fetches its share of the next panel's weights
                    step = (columns + tiles - 1) // tiles
                    for tile in range(tiles):
                        gemm(
                            last - first, v.advance(lowered, tile * tile_step), weight, columns,
                            v.advance(weight, taps * columns + tile * (last - first) * step), step,
                            v.advance(sums, ((panel - first_panel) * most + tops[tile]) * width), width, 0,
                            tops[tile + 1] - tops[tile], columns, first > 0,
                        )  # fmt: skip
            out = v.advance(v.pointer(args[f.out]), image * args[f.out_n] + group * k * out_k)
            for panel in range(first_panel, last_panel):
                first_vector = vectors * panel // panels
                for vector in range(first_vector, vectors * (panel + 1) // panels):
                    channels = min(k - vector * lanes, lanes)
                    bias = 0 if args[f.bias] == 0 else args[f.bias] + (group * k + vector * lanes) * v.itemsize
                    to = v.advance(out, vector * lanes * out_k)
                    for row in range(0, count, lanes):
                        block = v.advance(
                            sums, ((panel - first_panel) * most + row) * width + (vector - first_vector) * lanes
                        )
                        if flat:
                            store_block(block, bias, v.advance(to, pixel + row), out_k, channels, count - row)
                            continue
                        store_block(block, bias, block_sums, width, channels, lanes)
                        scatter(
                            block_sums, channels, to, out_k, args[f.out_h], args[f.out_w], ow, pixel + row,
                            min(count - row, lanes), False,
                        )  # fmt: skip

    return kernel
