"""Convolution as a matrix product whose right-hand side, the lowered input, only ever exists as small panels.

A row of the lowered input is one tap ``(c * kh + i) * kw + j`` of the kernel, a column one output pixel
``h * ow + w``: it holds ``x[c, h * sh - ph + i * dh, w * sw - pw + j * dw]``, or 0 outside of x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.gemm import dot_products, dot_tile_rows, gemm_copying, gemm_rows, transposed
from convforge.kernels.numba.generate import define

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target


def _lower(target: Target) -> Inner:
    """Make ``lower(x, x_c, x_h, ih, iw, ow, kh, kw, sh, sw, ph, pw, dh, dw, first, last, pixel, count, panel, width)``.

    panel[last - first][width] = rows ``first`` to ``last`` of the lowered input, its columns from ``pixel`` on.
    Columns from ``count`` to ``width`` get any numbers.
    """
    v = target.v
    lanes = v.lanes

    @target.jit
    def channels(x, x_c, step, lo, hi, times, to, to_row, room):
        # lanes past the run are written too, as far as there is room: the next run overwrites them
        for _ in range(times):
            pixels = v.load_strided(x, step, lo, hi)
            if room >= lanes:
                v.store(to, 0, pixels)
            else:
                v.store_partial(to, pixels, room)
            x = v.advance(x, x_c)
            to = v.advance(to, to_row)

    @target.call
    def lower(x, x_c, x_h, ih, iw, ow, kh, kw, sh, sw, ph, pw, dh, dw, first, last, pixel, count, panel, width):
        taps = kh * kw
        first_c, last_c = first // taps, last // taps
        first_tap, last_tap = first - first_c * taps, last - last_c * taps
        row = pixel // ow
        column = pixel - row * ow
        lane = 0
        while lane < count:
            run = min(min(ow - column, count - lane), lanes)
            for i in range(kh):
                h = row * sh - ph + i * dh
                for j in range(kw):
                    w = column * sw - pw + j * dw
                    lo = 0 if w >= 0 else (sw - 1 - w) // sw
                    hi = min(run, (iw - w + sw - 1) // sw) if h >= 0 and h < ih and w < iw else 0
                    tap = i * kw + j
                    c = first_c + (1 if tap < first_tap else 0)
                    times = last_c + (1 if tap < last_tap else 0) - c
                    source = v.advance(x, c * x_c + h * x_h + w)
                    to = v.advance(panel, (c * taps + tap - first) * width + lane)
                    if sw == 1:
                        channels(source, x_c, 1, lo, hi, times, to, taps * width, width - lane)
                    elif sw == 2:
                        channels(source, x_c, 2, lo, hi, times, to, taps * width, width - lane)
                    else:
                        channels(source, x_c, sw, lo, hi, times, to, taps * width, width - lane)
            lane += run
            column += run
            if column == ow:
                column = 0
                row += 1

    return lower


def _stripes(target: Target) -> tuple[Inner, Inner, Inner]:
    """Make ``aim``, ``read_channel`` and ``list_taps``: where the taps of some output pixels are read.

    That is in x itself, if it is ``inside``, or in a stripe: the input under the pixels, padded with zeros, its columns
    split by their phase within a stride, so that what neighbouring pixels read for one tap lies in one piece. A stripe
    holds one channel. It has ``rows`` rows of ``phases`` pieces of ``pitch`` elements; the first is row ``top`` of x
    from column ``left`` on, the next ones are ``row_step`` rows of x apart.

    ``aim(ow, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, phases, row_step, pixel, count)`` is (top, left, rows, pitch,
    inside). ``read_channel(inside, sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)`` fills the
    stripe where it is needed, and is what the places of taps and pixels are relative to. ``list_taps(kh, kw, dh, dw,
    row, phase, step, offsets)`` lists where a pixel reads each tap of a channel relative to its first one, given the
    distance of rows (of x), of phases, and of the columns of a phase.
    """
    v, lanes = target.v, target.lanes

    @target.call
    def aim(ow, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, phases, row_step, pixel, count):
        h = pixel // ow
        w = pixel - h * ow
        last_h = (pixel + count - 1) // ow
        width = count if h == last_h else ow
        reach_h = (last_h - h) * sh + (kh - 1) * dh
        reach_w = (width - 1) * sw + (kw - 1) * dw
        top = h * sh - ph
        left = (w if h == last_h else 0) * sw - pw
        pitch = width + (kw - 1) * dw // sw
        if phases > 1:
            pitch = (pitch + lanes - 1) // lanes * lanes
        inside = sw == 1 and top >= 0 and top + reach_h < ih and left >= 0 and left + reach_w < iw
        return top, left, reach_h // row_step + 1, pitch, inside

    def make(stride: int) -> Inner:
        @target.jit
        def load(whole, row, lo, hi):
            return v.load(row, 0) if whole else v.load_window(row, lo, hi)

        @target.jit
        def fill_piece(whole, row, lo, hi, sw, phases, pitch, room, to):
            if stride == 1:
                v.store_partial(to, load(whole, row, lo, hi), room)
            elif stride == 2:
                a = load(whole, row, lo, hi)
                b = load(whole, v.advance(row, lanes), lo - lanes, hi - lanes)
                v.store_partial(to, v.even(a, b), room)
                if phases > 1:
                    v.store(to, pitch, v.odd(a, b))
            elif stride == 4 and phases > 1:
                a = load(whole, row, lo, hi)
                b = load(whole, v.advance(row, lanes), lo - lanes, hi - lanes)
                c = load(whole, v.advance(row, 2 * lanes), lo - 2 * lanes, hi - 2 * lanes)
                d = load(whole, v.advance(row, 3 * lanes), lo - 3 * lanes, hi - 3 * lanes)
                ab, cd = v.even(a, b), v.even(c, d)
                v.store(to, 0, v.even(ab, cd))
                v.store(to, 2 * pitch, v.odd(ab, cd))
                ab, cd = v.odd(a, b), v.odd(c, d)
                v.store(to, pitch, v.even(ab, cd))
                v.store(to, 3 * pitch, v.odd(ab, cd))
            else:
                for q in range(phases):
                    pixels = v.load_strided(v.advance(row, q), sw, (lo - q + sw - 1) // sw, (hi - q + sw - 1) // sw)
                    v.store_partial(v.advance(to, q * pitch), pixels, room)

        @target.call
        def fill_rows(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, to):
            for r in range(rows):
                h = top + r * row_step
                row = v.advance(x, h * x_h)
                for t in range(0, pitch, lanes):
                    column = left + t * sw
                    piece = v.advance(to, t)
                    if h < 0 or h >= ih:
                        for q in range(phases):
                            v.store_partial(v.advance(piece, q * pitch), v.zero(), pitch - t)
                    elif column >= 0 and column + sw * lanes <= iw:
                        fill_piece(True, v.advance(row, column), 0, sw * lanes, sw, phases, pitch, pitch - t, piece)
                    else:
                        lo, hi = -column, iw - column
                        fill_piece(False, v.advance(row, column), lo, hi, sw, phases, pitch, pitch - t, piece)
                to = v.advance(to, phases * pitch)

        return fill_rows

    fill1, fill2, fill4, fill_any = make(1), make(2), make(4), make(0)

    @target.jit
    def read_channel(inside, sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe):
        source = stripe
        if inside:
            source = v.advance(x, top * x_h + left)
        elif sw == 1:
            fill1(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        elif sw == 2:
            fill2(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        elif sw == 4 and phases > 1:
            fill4(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        else:
            fill_any(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        return source

    @target.call
    def list_taps(kh, kw, dh, dw, row, phase, step, offsets):
        for j in range(kw):
            column = j * dw // step
            at = (j * dw - column * step) * phase + column
            for i in range(kh):
                offsets[i * kw + j] = i * dh * row + at

    return aim, read_channel, list_taps


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
    (aim, read_channel, list_taps), scatter = _stripes(target), _scatter(target)
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
        stripe = v.advance(sums, tile_rows * tile_columns)
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
                row_pixels, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, phases, row_step, pixel, count
            )
            row_pitch = x_h if inside else phases * pitch
            pixel_step = sh * x_h if inside else sh // row_step * row_pitch
            list_taps(kh, kw, dh, dw, row_pitch, pitch, sw if phases > 1 else 1, offsets)
            if not inside:
                v.store(stripe, rows * row_pitch, v.zero())
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
    (aim, read_channel, list_taps), gemm, scatter = _stripes(target), gemm_rows(target), _scatter(target)

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
        stripe = v.advance(block_sums, lanes * width)
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
                row_pixels, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, phases, row_step, pixel, count
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
                    for tile in range(tiles):
                        gemm(
                            last - first, v.advance(lowered, tile * tile_step), weight, columns,
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


def im2col_grad_weight(target: Target) -> Callable[..., None]:
    """Dot products of grad_output's rows with rows of the lowered input, a panel of pixels at a time."""
    v = target.v
    copy_rows = dot_tile_rows(target)
    f = abi.fields("im2col_grad_weight")
    lower, products = _lower(target), dot_products(target)

    @target.call
    def copy(y, y_k, y_h, ow, rows, pixel, count, copied, width):
        # pixels in one piece, of a grad_output whose rows are apart
        for row in range(rows):
            h = pixel // ow
            w = pixel - h * ow
            for i in range(count):
                copied[row * width + i] = y[row * y_k + h * y_h + w]
                w += 1
                if w == ow:
                    w = 0
                    h += 1

    def kernel(args, scratch, begin, end):
        g, c, k, oh, ow = args[f.g], args[f.c], args[f.k], args[f.oh], args[f.ow]
        ih, iw, kh, kw, sh, sw = args[f.ih], args[f.iw], args[f.kh], args[f.kw], args[f.sh], args[f.sw]
        ph, pw, dh, dw = args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        x_c, x_h, y_k, y_h = args[f.x_c], args[f.x_h], args[f.y_k], args[f.y_h]
        parts, width = args[f.parts], args[f.panel]
        taps, pixels = c * kh * kw, oh * ow
        panels = (pixels + width - 1) // width
        pairs = args[f.n] * panels
        blocks = (taps + args[f.columns] - 1) // args[f.columns]
        flat = y_h == ow or oh == 1
        row_pixels = ow
        if kh * kw * sh * sw == 1 and ph == 0 and pw == 0 and ih == oh and iw == ow and x_h == iw:
            ih, iw, row_pixels = 1, ih * iw, pixels
        # scratch: lowered[columns][panel], rows of grad_output [rows of a dot tile][panel]
        lowered = v.pointer(scratch)
        copied = v.advance(lowered, args[f.columns] * width)
        for item in range(begin, end):
            part_group = item // blocks
            first = (item - part_group * blocks) * args[f.columns]
            part = part_group // g
            group = part_group - part * g
            columns = min(args[f.columns], taps - first)
            sums = v.advance(v.pointer(args[f.partial]), part_group * k * taps + first)
            for row in range(k):
                for i in range(columns):
                    sums[row * taps + i] = 0
            for pair in range(pairs * part // parts, pairs * (part + 1) // parts):
                image = pair // panels
                pixel = (pair - image * panels) * width
                count = min(width, pixels - pixel)
                x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + group * c * x_c)
                y = v.advance(v.pointer(args[f.y]), image * args[f.y_n] + group * k * y_k)
                lower(
                    x, x_c, x_h, ih, iw, row_pixels, kh, kw, sh, sw, ph, pw, dh, dw, first, first + columns, pixel,
                    count, lowered, width,
                )  # fmt: skip
                if flat:
                    products(count, v.advance(y, pixel), y_k, lowered, width, sums, taps, k, columns)
                    continue
                for row in range(0, k, copy_rows):
                    rows = min(copy_rows, k - row)
                    copy(v.advance(y, row * y_k), y_k, y_h, ow, rows, pixel, count, copied, width)
                    products(count, copied, width, lowered, width, v.advance(sums, row * taps), taps, rows, columns)

    return kernel
