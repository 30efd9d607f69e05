"""Convolution as a matrix product whose right-hand side, the lowered input, only ever exists as small panels.

A row of the lowered input is one tap ``(c * kh + i) * kw + j`` of the kernel, a column one output pixel
``h * ow + w``: it holds ``x[c, h * sh - ph + i * dh, w * sw - pw + j * dw]``, or 0 outside of x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.gemm import dot_products, dot_tile_rows, gemm_pixels, gemm_table, transposed
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


def _stripes(target: Target) -> tuple[Inner, Inner]:
    """Make ``fill_stripe`` and ``list_taps``.

    A stripe is the input under some output pixels, padded with zeros, its columns split by their phase within a
    stride: what neighbouring pixels read for one tap lies in one piece. A channel has ``rows`` rows of ``phases``
    pieces of ``pitch`` elements; the first is row ``top`` of x from column ``left`` on, the next ones are ``row_step``
    rows of x apart.

    ``fill_stripe(sw, x, x_c, x_h, ih, iw, top, left, rows, row_step, phases, pitch, channels, to)`` writes it.
    ``list_taps(kh, kw, dh, dw, first, count, channel, row, phase, step, offsets)`` lists where the first pixel reads
    the rows of the lowered input from ``first`` on, relative to the first row's channel at tap (0, 0), given the
    distance of channels and of rows (of x), of phases, and of the columns of a phase.
    """
    v, lanes = target.v, target.lanes

    def make(stride: int) -> Inner:
        @target.jit
        def fill_piece(row, column, iw, sw, phases, pitch, room, to):
            lo, hi = -column, iw - column
            if stride == 1:
                v.store_partial(to, v.load_window(row, lo, hi), room)
            elif stride == 2:
                a = v.load_window(row, lo, hi)
                b = v.load_window(v.advance(row, lanes), lo - lanes, hi - lanes)
                v.store_partial(to, v.even(a, b), room)
                if phases > 1:
                    v.store(to, pitch, v.odd(a, b))
            elif stride == 4 and phases > 1:
                a = v.load_window(row, lo, hi)
                b = v.load_window(v.advance(row, lanes), lo - lanes, hi - lanes)
                c = v.load_window(v.advance(row, 2 * lanes), lo - 2 * lanes, hi - 2 * lanes)
                d = v.load_window(v.advance(row, 3 * lanes), lo - 3 * lanes, hi - 3 * lanes)
                ab, cd = v.even(a, b), v.even(c, d)
                v.store(to, 0, v.even(ab, cd))
                v.store(to, 2 * pitch, v.odd(ab, cd))
                ab, cd = v.odd(a, b), v.odd(c, d)
                v.store(to, pitch, v.even(ab, cd))
                v.store(to, 3 * pitch, v.odd(ab, cd))
            else:
                for q in range(phases):
                    at = column + q
                    first = 0 if at >= 0 else (sw - 1 - at) // sw
                    last = 0 if at >= iw else (iw - at + sw - 1) // sw
                    pixels = v.load_strided(v.advance(row, q), sw, first, last)
                    v.store_partial(v.advance(to, q * pitch), pixels, room)

        @target.call
        def fill_columns(sw, x, x_c, x_h, ih, iw, top, left, rows, row_step, phases, pitch, channels, to):
            # column by column of vectors, as their edges are the same in all rows
            for t in range(0, pitch, lanes):
                column = left + t * sw
                piece = v.advance(to, t)
                for c in range(channels):
                    for r in range(rows):
                        h = top + r * row_step
                        if h < 0 or h >= ih:
                            for q in range(phases):
                                v.store_partial(v.advance(piece, q * pitch), v.zero(), pitch - t)
                        else:
                            row = v.advance(x, c * x_c + h * x_h + column)
                            fill_piece(row, column, iw, sw, phases, pitch, pitch - t, piece)
                        piece = v.advance(piece, phases * pitch)

        return fill_columns

    fill1, fill2, fill4, fill_any = make(1), make(2), make(4), make(0)

    @target.jit
    def fill_stripe(sw, x, x_c, x_h, ih, iw, top, left, rows, row_step, phases, pitch, channels, to):
        if sw == 1:
            fill1(sw, x, x_c, x_h, ih, iw, top, left, rows, row_step, phases, pitch, channels, to)
        elif sw == 2:
            fill2(sw, x, x_c, x_h, ih, iw, top, left, rows, row_step, phases, pitch, channels, to)
        elif sw == 4 and phases > 1:
            fill4(sw, x, x_c, x_h, ih, iw, top, left, rows, row_step, phases, pitch, channels, to)
        else:
            fill_any(sw, x, x_c, x_h, ih, iw, top, left, rows, row_step, phases, pitch, channels, to)

    @target.call
    def list_taps(kh, kw, dh, dw, first, count, channel, row, phase, step, offsets):
        area = kh * kw
        i, j = first // kw % kh, first % kw
        start = 0
        for p in range(min(count, area)):
            column = j * dw // step
            offsets[p] = start + i * dh * row + (j * dw - column * step) * phase + column
            j += 1
            if j == kw:
                j = 0
                i += 1
                if i == kh:
                    i = 0
                    start += channel
        for p in range(area, count):
            offsets[p] = offsets[p - area] + channel

    return fill_stripe, list_taps


def _scatter(target: Target) -> Inner:
    """Make ``scatter(sums, rows, out, out_k, out_h, out_w, ow, pixel, count)``, for pixels not in one piece."""
    v = target.v
    width = target.lanes * target.vectors

    @target.call
    def scatter(sums, rows, out, out_k, out_h, out_w, ow, pixel, count):
        first_h = pixel // ow
        first_w = pixel - first_h * ow
        for row in range(rows):
            to = v.advance(out, row * out_k)
            h, w = first_h, first_w
            for i in range(count):
                to[h * out_h + w * out_w] = sums[row * width + i]
                w += 1
                if w == ow:
                    w = 0
                    h += 1

    return scatter


def im2col_forward(target: Target) -> Callable[..., None]:
    """A panel of pixels at a time, in the lanes; x itself, or a stripe of it, is the right-hand side where possible."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    tile_columns = lanes * target.vectors
    most = target.vectors
    f = abi.fields("im2col_forward")
    (fill_stripe, list_taps), gemm, scatter = _stripes(target), gemm_table(target), _scatter(target)

    @target.call
    def cut_runs(ow, pixel, count, row_step, pitch, firsts, starts):
        # the runs of at most LANES pixels of one row: where each stands in the panel, and in the stripe
        row = pixel // ow
        column = pixel - row * ow
        origin = 0 if column + count > ow else column
        lane = runs = above = 0
        while lane < count:
            firsts[runs] = lane
            starts[runs] = above * row_step * pitch + column - origin
            run = min(min(ow - column, count - lane), lanes)
            lane += run
            column += run
            runs += 1
            if column == ow:
                column = 0
                above += 1
        return runs

    @target.call
    def lower(source, offsets, rows, firsts, starts, runs, panel):
        # lanes past a run are overwritten by the next one
        for p in range(rows):
            row = v.advance(source, offsets[p])
            for q in range(runs):
                v.store(panel, firsts[q], v.load(row, starts[q]))
            panel = v.advance(panel, tile_columns)

    def kernel(args, scratch, begin, end):
        g, c, k, oh, ow = args[f.g], args[f.c], args[f.k], args[f.oh], args[f.ow]
        ih, iw, kh, kw, sh, sw = args[f.ih], args[f.iw], args[f.kh], args[f.kw], args[f.sh], args[f.sw]
        ph, pw, dh, dw = args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        x_c, x_h, out_k = args[f.x_c], args[f.x_h], args[f.out_k]
        depth, splits = args[f.depth], args[f.splits]
        area, pixels = kh * kw, oh * ow
        taps = c * area
        blocks = (k + tile_rows - 1) // tile_rows
        flat = args[f.out_w] == 1 and (args[f.out_h] == ow or oh == 1)
        row_pixels = ow
        if area * sh * sw == 1 and ph == 0 and pw == 0 and ih == oh and iw == ow and x_h == iw:
            # output pixels are input pixels: the plane is one row
            ih, iw, row_pixels = 1, ih * iw, pixels
        # a line is what panels divide: a row of pixels, or all of them
        line = row_pixels if args[f.by_rows] else pixels
        vectors = (line + lanes - 1) // lanes
        line_panels = (vectors + most - 1) // most
        panels = pixels // line * line_panels
        # scratch: firsts and starts of runs [columns of a tile], offsets[depth], panel[depth][columns of a tile] and
        # LANES more, sums[rows of a split][columns of a tile], stripe
        firsts = v.pointer_int64(scratch)
        starts = v.advance(firsts, tile_columns)
        offsets = v.advance(starts, tile_columns)
        panel = v.pointer(scratch + 8 * (2 * tile_columns + depth))
        sums = v.advance(panel, depth * tile_columns + lanes)
        striped = v.advance(sums, (blocks + splits - 1) // splits * tile_rows * tile_columns)
        phases = sw if kw > 1 else 1
        row_step = 1 if kh > 1 else sh
        for item in range(begin, end):
            # shares of whole vectors: 49 pixels are better done as 32 + 17 than as 48 + 1
            rest = item // panels
            which = item - rest * panels
            at_line = which // line_panels
            part = which - at_line * line_panels
            start = vectors * part // line_panels * lanes
            count = min(vectors * (part + 1) // line_panels * lanes, line) - start
            pixel = start + at_line * line
            image_group = rest // splits
            split = rest - image_group * splits
            image = image_group // g
            group = image_group - image * g
            first_block, last_block = blocks * split // splits, blocks * (split + 1) // splits
            x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + group * c * x_c)
            first_row = first_block * tile_rows
            out = v.advance(v.pointer(args[f.out]), image * args[f.out_n] + (group * k + first_row) * out_k)
            h = pixel // row_pixels
            w = pixel - h * row_pixels
            last_h = (pixel + count - 1) // row_pixels
            # rows and columns of x from the first pixel's first tap to the last one's last tap, in whole vectors
            reach_h = (last_h - h) * sh + (kh - 1) * dh
            reach_w = (kw - 1) * dw + (count + lanes - 1) // lanes * lanes
            top = h * sh - ph
            left = (w if h == last_h else 0) * sw - pw
            inside = sw == 1 and h == last_h and top >= 0 and top + reach_h < ih and left >= 0 and left + reach_w <= iw
            rows = reach_h // row_step + 1
            pitch = (count if h == last_h else row_pixels) + (kw - 1) * dw // sw
            if phases > 1:
                pitch = (pitch + lanes - 1) // lanes * lanes
            channel = rows * phases * pitch
            joined = True
            runs = 0
            if not inside:
                runs = cut_runs(row_pixels, pixel, count, sh // row_step, phases * pitch, firsts, starts)
                for p in range(runs):
                    joined = joined and starts[p] == starts[0] + firsts[p]
            for first in range(0, taps, depth):
                last = min(first + depth, taps)
                first_c = first // area
                # whole channels at a time use the same table
                listed = first > 0 and joined and depth % area == 0
                if inside:
                    source = v.advance(x, first_c * x_c + top * x_h + left)
                    if not listed:
                        list_taps(kh, kw, dh, dw, first, last - first, x_c, x_h, 0, 1, offsets)
                else:
                    fill_stripe(
                        sw, v.advance(x, first_c * x_c), x_c, x_h, ih, iw, top, left, rows, row_step, phases, pitch,
                        (last - 1) // area + 1 - first_c, striped,
                    )  # fmt: skip
                    if not listed:
                        list_taps(
                            kh, kw, dh, dw, first, last - first, channel, phases * pitch, pitch,
                            sw if phases > 1 else 1, offsets,
                        )  # fmt: skip
                    source = v.advance(striped, starts[0])
                    if not joined:
                        lower(striped, offsets, last - first, firsts, starts, runs, panel)
                        source = panel
                        for p in range(last - first):
                            offsets[p] = p * tile_columns
                for block in range(first_block, last_block):
                    row = block * tile_rows
                    weight = v.advance(v.pointer(args[f.packed]), ((group * blocks + block) * taps + first) * tile_rows)
                    bias = 0 if args[f.bias] == 0 else args[f.bias] + (group * k + row) * v.itemsize
                    done = row - first_row
                    to = v.advance(out, done * out_k + pixel) if flat else v.advance(sums, done * tile_columns)
                    to_row = out_k if flat else tile_columns
                    gemm(last - first, weight, source, offsets, to, to_row, bias, k - row, count, first > 0)
            if not flat:
                rows = min(k, last_block * tile_rows) - first_row
                scatter(sums, rows, out, out_k, args[f.out_h], args[f.out_w], ow, pixel, count)

    return kernel


def im2col_pixels(target: Target) -> Callable[..., None]:
    """Output channels in the lanes, pixels one by one: no lane idles on a small map, weights are read once an item."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    width = lanes * target.vectors
    most_vectors = target.vectors
    f = abi.fields("im2col_pixels")
    (fill_stripe, list_taps), gemm, scatter = _stripes(target), gemm_pixels(target), _scatter(target)

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

    def kernel(args, scratch, begin, end):
        n, c, k, oh, ow = args[f.n], args[f.c], args[f.k], args[f.oh], args[f.ow]
        ih, iw, kh, kw, sh, sw = args[f.ih], args[f.iw], args[f.kh], args[f.kw], args[f.sh], args[f.sw]
        ph, pw, dh, dw = args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        x_c, x_h, out_k = args[f.x_c], args[f.x_h], args[f.out_k]
        depth, splits, shares = args[f.depth], args[f.splits], args[f.shares]
        area, pixels = kh * kw, oh * ow
        taps = c * area
        vectors = (k + lanes - 1) // lanes
        panels = (vectors + most_vectors - 1) // most_vectors
        most = ((pixels + shares - 1) // shares + lanes - 1) // lanes * lanes
        flat = args[f.out_w] == 1 and (args[f.out_h] == ow or oh == 1)
        # scratch: starts[most], offsets[depth], sums[panels of a split][most][columns of a tile], stripe
        starts = v.pointer_int64(scratch)
        offsets = v.advance(starts, most)
        sums = v.pointer(scratch + 8 * (most + depth))
        striped = v.advance(sums, (panels + splits - 1) // splits * most * width)
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
            h = pixel // ow
            w = pixel - h * ow
            top, left = h * sh - ph, -pw
            rows = ((pixel + count - 1) // ow - h) * sh + (kh - 1) * dh + 1
            pitch = (ow - 1) * sw + (kw - 1) * dw + 1
            channel = rows * pitch
            inside = top >= 0 and top + rows <= ih and left >= 0 and left + pitch <= iw
            row = 0
            for p in range(count):
                starts[p] = row * sh * (x_h if inside else pitch) + w * sw
                w += 1
                if w == ow:
                    w = 0
                    row += 1
            tiles = (count + tile_rows - 1) // tile_rows
            for first in range(0, taps, depth):
                last = min(first + depth, taps)
                first_c = first // area
                source = v.advance(x, first_c * x_c + top * x_h + left)
                if first == 0 or depth % area > 0:
                    list_taps(
                        kh, kw, dh, dw, first, last - first, x_c if inside else channel, x_h if inside else pitch, 0, 1,
                        offsets,
                    )  # fmt: skip
                if not inside:
                    # pixels are read one by one: nothing is gained from splitting columns by phase
                    fill_stripe(
                        1, v.advance(x, first_c * x_c), x_c, x_h, ih, iw, top, left, rows, 1, 1, pitch,
                        (last - 1) // area + 1 - first_c, striped,
                    )  # fmt: skip
                    source = striped
                for panel in range(first_panel, last_panel):
                    vector = vectors * panel // panels
                    count_vectors = vectors * (panel + 1) // panels - vector
                    weight = v.advance(packed, (vector * taps + first * count_vectors) * lanes)
                    for tile in range(tiles):
                        row = count * tile // tiles
                        gemm(
                            count_vectors, last - first, source, v.advance(starts, row), offsets, weight,
                            v.advance(sums, ((panel - first_panel) * most + row) * width),
                            count * (tile + 1) // tiles - row, first > 0,
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
                        store_block(block, bias, striped, width, channels, lanes)
                        scatter(
                            striped, channels, to, out_k, args[f.out_h], args[f.out_w], ow, pixel + row,
                            min(count - row, lanes),
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
