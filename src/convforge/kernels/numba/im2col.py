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
    line_elements = 64 // target.v.itemsize
    f = abi.fields("im2col_forward")
    source, scatter = taps_source(target), _scatter(target)
    aim, read_channels, list_taps = source.aim, source.read_channels, source.list_taps
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

    @target.jit
    def fetch_rows(x, step, first, last, count):
        # x[row * step] and what follows, count elements
        for row in range(first, last):
            for i in range(0, count, line_elements):
                v.prefetch(v.advance(x, row * step), i)

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
            # whole vectors of x that are panels already are copied by the first of several blocks
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
            end_pixel = panel_pixels[panels - 1] + panel_counts[panels - 1]
            # one block of output channels has no use for a copy
            single = last_block - first_block == 1
            for first in range(0, taps, depth):
                last = min(first + depth, taps)
                channel = first // area
                tap = first - channel * area
                p = first
                while p < last:
                    count = min(area - tap, last - p)
                    source = read_channels(
                        inside, sw, v.advance(x, channel * x_c), x_c, x_h, ih, iw, top, left, rows, row_step, phases,
                        pitch, 1, 0, stripe,
                    )  # fmt: skip
                    lower_channel(
                        inside, source, v.advance(offsets, tap), count, places, starts, counts, runs,
                        v.advance(packed, (p - first) * tile_columns),
                    )  # fmt: skip
                    p += count
                    channel += 1
                    tap = 0
                # rows of x that are read next, in this item or the next one, are fetched in long runs on the way:
                # the CPU does not follow as many streams as a panel has rows
                coming = fetched = calls = 0
                coming_x = v.advance(x, panel_pixels[0] + last * x_c)
                if copied and not single:
                    if last < taps:
                        coming = min(depth, taps - last)
                    elif cut + 1 < cuts and item + 1 < end:
                        coming = min(depth, taps)
                        coming_x = v.advance(x, end_pixel)
                for block in range(first_block, last_block):
                    row = block * tile_rows
                    weight = v.advance(v.pointer(args[f.packed]), ((group * blocks + block) * taps + first) * tile_rows)
                    bias = 0 if args[f.bias] == 0 else args[f.bias] + (group * k + row) * v.itemsize
                    out = v.advance(v.pointer(args[f.out]), image * args[f.out_n] + (group * k + row) * out_k)
                    for panel in range(panels):
                        pixel, count = panel_pixels[panel], panel_counts[panel]
                        source = v.advance(packed, panel * panel_step)
                        calls += 1
                        due = coming * calls // (panels * (last_block - first_block))
                        fetch_rows(coming_x, x_c, fetched, due, end_pixel - panel_pixels[0])
                        fetched = due
                        if copied and single and count % lanes == 0:
                            gemm(
                                last - first, weight, v.advance(x, first * x_c + pixel), x_c, v.advance(out, pixel),
                                out_k, bias, k - row, count, first > 0,
                            )  # fmt: skip
                        elif copied and block == first_block and count % lanes == 0:
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
    aim, channel_step, read_channels = source.aim, source.channel_step, source.read_channels
    list_taps, repeat_taps = source.list_taps, source.repeat_taps

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

    each = range(tile_rows)
    lines = ["def gather(source, offsets, taps, starts, rows, packed):"]
    lines += [f"    start{i} = starts[min({i}, rows - 1)]" for i in each]
    lines += ["    for p in range(taps):"]
    lines += ["        tap = v.advance(source, offsets[p])"]
    lines += [f"        packed[{i}] = tap[start{i}]" for i in each]
    lines += [f"        packed = v.advance(packed, {tile_rows})"]
    gather = target.jit(define("gather", lines, v=v))

    @target.call
    def lower_pixels(source, offsets, taps, starts, rows, more, packed):
        # what up to tile_rows pixels read of each tap, the last one repeated where they are fewer; `more` pixels are
        # listed from the first on: others may be read in the place of those that are missing
        if more >= tile_rows and starts[tile_rows - 1] == starts[0] + tile_rows - 1:
            first = v.advance(source, starts[0])
            for p in range(taps):
                tap = v.advance(first, offsets[p])
                for i in range(tile_rows):
                    packed[p * tile_rows + i] = tap[i]
            return
        gather(source, offsets, taps, starts, rows, packed)

    @target.call
    def store_pixels(sums, pixel, count, channels, transposed_sums, bias, out, out_k, out_h, out_w, ow, flat):
        # out[channel, pixel + i] = sums[i][channel] + bias[channel]
        for channel in range(0, channels, lanes):
            rows = min(channels - channel, lanes)
            biases = 0 if bias == 0 else bias + channel * v.itemsize
            to = v.advance(out, channel * out_k)
            for row in range(0, count, lanes):
                block = v.advance(sums, row * width + channel)
                if flat:
                    store_block(block, biases, v.advance(to, pixel + row), out_k, rows, count - row)
                    continue
                store_block(block, biases, transposed_sums, width, rows, lanes)
                scatter(transposed_sums, rows, to, out_k, out_h, out_w, ow, pixel + row, min(count - row, lanes), False)

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
        # a unit is what shares and tiles divide: a row of pixels by rows, or else one, and tiles then divide a share
        by_rows, channels = args[f.by_rows], args[f.channels]
        unit = row_pixels if by_rows else 1
        units = pixels // unit
        row_tiles = (unit + tile_rows - 1) // tile_rows
        most_units = (units + shares - 1) // shares
        most = (most_units * unit + lanes - 1) // lanes * lanes
        most_tiles = most_units * row_tiles if by_rows else (most + tile_rows - 1) // tile_rows
        listed = channels * area
        # where all taps are summed at once, no other panel's sums wait for more
        waiting = (panels + splits - 1) // splits if depth < taps else 1
        flat = args[f.out_w] == 1 and (args[f.out_h] == ow or oh == 1)
        # scratch: starts[most], tops[tiles + 1], offsets[channels * area],
        # lowered[tiles][depth * tile_rows + 2 * LANES], sums[panels of a split, or 1][most][columns of a tile],
        # block[LANES][columns], stripes of some channels
        starts = v.pointer_int64(scratch)
        tops = v.advance(starts, most)
        offsets = v.advance(tops, most_tiles + 1)
        lowered = v.pointer(scratch + 8 * (most + most_tiles + 1 + listed))
        # neighbouring tiles would else compete for the same sets of the cache
        tile_step = depth * tile_rows + 2 * lanes
        sums = v.advance(lowered, most_tiles * tile_step)
        block_sums = v.advance(sums, waiting * most * width)
        taken = 8 * (most + most_tiles + 1 + listed)
        taken += (most_tiles * tile_step + (waiting * most + lanes) * width) * v.itemsize
        stripe = v.pointer(scratch + (taken + 63) // 64 * 64)
        phases = sw if kw > 1 else 1
        row_step = 1 if kh > 1 else sh
        for item in range(begin, end):
            # images and shares innermost: they use the same weights
            rest = item // shares
            share = item - rest * shares
            pixel = units * share // shares * unit
            count = units * (share + 1) // shares * unit - pixel
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
            apart = channel_step(inside, x_c, rows * phases * pitch)
            repeat_taps(offsets, area, channels, apart)
            if by_rows:
                tiles = count // unit * row_tiles
                for tile in range(tiles + 1):
                    row = tile // row_tiles
                    tops[tile] = row * unit + unit * (tile - row * row_tiles) // row_tiles
            else:
                tiles = (count + tile_rows - 1) // tile_rows
                for tile in range(tiles + 1):
                    tops[tile] = count * tile // tiles
            for first in range(0, taps, depth):
                last = min(first + depth, taps)
                channel = first // area
                tap = first - channel * area
                p = first
                while p < last:
                    times = min(listed - tap, last - p)
                    read = read_channels(
                        inside, sw, v.advance(x, channel * x_c), x_c, x_h, ih, iw, top, left, rows, row_step, phases,
                        pitch, (tap + times + area - 1) // area, apart, stripe,
                    )  # fmt: skip
                    for tile in range(tiles):
                        lower_pixels(
                            read, v.advance(offsets, tap), times, v.advance(starts, tops[tile]),
                            tops[tile + 1] - tops[tile], count - tops[tile],
                            v.advance(lowered, tile * tile_step + (p - first) * tile_rows),
                        )  # fmt: skip
                    p += times
                    channel += channels
                    tap = 0
                for panel in range(first_panel, last_panel):
                    vector = vectors * panel // panels
                    columns = (vectors * (panel + 1) // panels - vector) * lanes
                    weight = v.advance(packed, vector * taps * lanes + first * columns)
                    panel_sums = v.advance(sums, (panel - first_panel) * most * width if depth < taps else 0)
                    # each tile fetches its share of the next panel's weights
                    step = (columns + tiles - 1) // tiles
                    for tile in range(tiles):
                        gemm(
                            last - first, v.advance(lowered, tile * tile_step), weight, columns,
                            v.advance(weight, taps * columns + tile * (last - first) * step), step,
                            v.advance(panel_sums, tops[tile] * width), width, 0, tops[tile + 1] - tops[tile], columns,
                            first > 0,
                        )  # fmt: skip
                    if last == taps:
                        channel = group * k + vector * lanes
                        store_pixels(
                            panel_sums, pixel, count, min(columns, k - vector * lanes), block_sums,
                            0 if args[f.bias] == 0 else args[f.bias] + channel * v.itemsize,
                            v.advance(v.pointer(args[f.out]), image * args[f.out_n] + channel * out_k),
                            out_k, args[f.out_h], args[f.out_w], ow, flat,
                        )  # fmt: skip

    return kernel
