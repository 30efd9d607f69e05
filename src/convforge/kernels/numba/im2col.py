"""Convolution as a matrix product whose right-hand side, the lowered input, only ever exists as small panels.

Here output pixels are in the lanes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.fetch import fetching
from convforge.kernels.numba.gemm import gemm_ahead, gemm_copying
from convforge.kernels.numba.im2col_scatter import scattering
from convforge.kernels.numba.taps_source import taps_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Target


def im2col_forward(target: Target) -> Callable[..., None]:
    """Panels of pixels at a time, in the lanes, that all blocks of output channels are multiplied with."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    tile_columns = lanes * target.vectors
    most = target.vectors
    f = abi.fields("im2col_forward")
    source, scatter = taps_source(target), scattering(target)
    aim, read_channels, list_taps = source.aim, source.read_channels, source.list_taps
    gemm, copying_gemm = gemm_ahead(target), gemm_copying(target)
    fetch = fetching(target)
    fetched_lines, nth_column, pace = fetch.lines, fetch.nth_column, fetch.pace

    @target.jit
    def first_pixel(vectors, line_panels, line, part):
        # shares of whole vectors: 49 pixels are better done as 32 + 17 than as 48 + 1
        return min(vectors * part // line_panels * lanes, line)

    @target.call
    def nth_panels(number, g, splits, stacks, cuts, line, lines, vectors, line_panels, blocks):
        # what an item computes: some lines, parts of them and blocks of output channels; all its pixels lie among
        # `count` from `pixel` on
        at_stack = number // cuts
        cut = number - at_stack * cuts
        rest = at_stack // stacks
        stack = at_stack - rest * stacks
        image_group = rest // splits
        split = rest - image_group * splits
        image = image_group // g
        first_line, last_line = lines * stack // stacks, lines * (stack + 1) // stacks
        first_part, last_part = line_panels * cut // cuts, line_panels * (cut + 1) // cuts
        pixel = first_line * line + first_pixel(vectors, line_panels, line, first_part)
        count = (last_line - 1) * line + first_pixel(vectors, line_panels, line, last_part) - pixel
        return (
            image, image_group - image * g, first_line, last_line, first_part, last_part,
            blocks * split // splits, blocks * (split + 1) // splits, pixel, count,
        )  # fmt: skip

    @target.call
    def fetched_rows(x, row_pixels, sh, sw, ph, pw, x_h, pixel, count):
        # where the rows begin that 1x1 kernels read for these pixels, how many they are, how far apart, and their lines
        row = pixel // row_pixels
        rows = (pixel + count - 1) // row_pixels - row + 1
        column, columns = 0, row_pixels
        if rows == 1:
            column, columns = pixel - row * row_pixels, count
        first = v.advance(x, (row * sh - ph) * x_h + column * sw - pw)
        return first, rows, sh * x_h, fetched_lines((columns - 1) * sw + 1)

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
        unpacked, depth, splits = args[f.unpacked] != 0, args[f.depth], args[f.splits]
        area, pixels = kh * kw, oh * ow
        taps = c * area
        blocks = (k + tile_rows - 1) // tile_rows
        # weights that are not packed are rows of taps
        lda = taps if unpacked else 0
        group_weights = taps * (k if unpacked else blocks * tile_rows)
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
        cuts, stacks = args[f.cuts], args[f.stacks]
        item_width = ((line_panels + cuts - 1) // cuts) * ((lines + stacks - 1) // stacks)
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
            image, group, first_line, last_line, first_part, last_part, first_block, last_block, pixel, count = (
                nth_panels(item, g, splits, stacks, cuts, line, lines, vectors, line_panels, blocks)
            )
            item_pixel, item_count = pixel, count
            x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + group * c * x_c)
            first_row = pixel // row_pixels
            # a source that spans rows starts with their first column
            first_column = pixel - first_row * row_pixels
            if first_column + count > row_pixels:
                first_column = 0
            top, left, rows, pitch, inside = aim(
                row_pixels, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, row_step, 1, pixel, count
            )
            row_pitch = x_h if inside else phases * pitch
            pixel_step = sh * x_h if inside else sh // row_step * row_pitch
            list_taps(kh, kw, dh, dw, row_pitch, pitch, sw if phases > 1 else 1, offsets)
            # whole vectors of x that are panels already are copied by the first of several blocks
            copied = inside and area == 1 and ih == 1 and flat
            runs = panels = 0
            for at in range(first_line, last_line):
                for part in range(first_part, last_part):
                    start = first_pixel(vectors, line_panels, line, part)
                    count = first_pixel(vectors, line_panels, line, part + 1) - start
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
            # one block of output channels has no use for a copy
            single = last_block - first_block == 1
            for first in range(0, taps, depth):
                last = min(first + depth, taps)
                more = first > 0 or args[f.accumulate] != 0
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
                coming = due = fetched = coming_lines = coming_step = 0
                coming_x = x
                tiles = panels * (last_block - first_block)
                if area == 1 and not single:
                    if last < taps:
                        coming_x, coming, coming_step, coming_lines = fetched_rows(
                            v.advance(x, last * x_c), row_pixels, sh, sw, ph, pw, x_h, item_pixel, item_count
                        )
                    elif item + 1 < args[f.n] * g * splits * stacks * cuts:
                        # the likely next one of this worker
                        image_, group_, _, _, _, _, _, _, pixel, count = nth_panels(
                            item + 1, g, splits, stacks, cuts, line, lines, vectors, line_panels, blocks
                        )
                        coming_x, coming, coming_step, coming_lines = fetched_rows(
                            v.advance(v.pointer(args[f.x]), image_ * args[f.x_n] + group_ * c * x_c), row_pixels,
                            sh, sw, ph, pw, x_h, pixel, count,
                        )  # fmt: skip
                    coming *= coming_lines * pace
                for block in range(first_block, last_block):
                    row = block * tile_rows
                    at_weight = group * group_weights + row * taps + first * (1 if unpacked else tile_rows)
                    weight = v.advance(v.pointer(args[f.packed]), at_weight)
                    bias = 0 if args[f.bias] == 0 else args[f.bias] + (group * k + row) * v.itemsize
                    out = v.advance(v.pointer(args[f.out]), image * args[f.out_n] + (group * k + row) * out_k)
                    for panel in range(panels):
                        pixel, count = panel_pixels[panel], panel_counts[panel]
                        source = v.advance(packed, panel * panel_step)
                        # weights that follow, or the rows below, or else a line of what comes next
                        ahead = v.advance(weight, tile_rows * (taps if unpacked else 256))
                        ahead_step = tile_rows * pace
                        due += coming
                        if due >= tiles:
                            due -= tiles
                            ahead = nth_column(coming_x, x_c, coming_step, coming_lines, last - first, fetched)
                            ahead_step = x_c
                            fetched += 1
                        if copied and single and count % lanes == 0:
                            gemm(
                                last - first, weight, lda, v.advance(x, first * x_c + pixel), x_c, ahead,
                                ahead_step, v.advance(out, pixel), out_k, bias, k - row, count, more,
                            )  # fmt: skip
                        elif copied and block == first_block and count % lanes == 0:
                            copying_gemm(
                                last - first, weight, lda, v.advance(x, first * x_c + pixel), x_c, source,
                                ahead, ahead_step, v.advance(out, pixel), out_k, bias, k - row, count, more,
                            )  # fmt: skip
                        elif flat:
                            gemm(
                                last - first, weight, lda, source, tile_columns, ahead, ahead_step,
                                v.advance(out, pixel), out_k, bias, k - row, count, more,
                            )  # fmt: skip
                        else:
                            gemm(
                                last - first, weight, lda, source, tile_columns, ahead, ahead_step, sums,
                                tile_columns, bias if first == 0 else 0, k - row, count, False,
                            )  # fmt: skip
                            scatter(
                                sums, min(k - row, tile_rows), out, out_k, args[f.out_h], args[f.out_w], ow, pixel,
                                count, more,
                            )  # fmt: skip

    return kernel
