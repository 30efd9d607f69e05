"""The product of im2col with output channels in the lanes, pixels in the tile's rows: no lane idles on a small map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.fetch import fetching
from convforge.kernels.numba.gemm import gemm_ahead, gemm_in_place, transposed
from convforge.kernels.numba.generate import define
from convforge.kernels.numba.im2col_scatter import scattering
from convforge.kernels.numba.taps_source import taps_source
from convforge.kernels.numba.weights import packing

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Target


def im2col_pixels(target: Target) -> Callable[..., None]:
    """Output channels in the lanes, pixels in the rows of the tile: no lane idles on a small map."""
    return _pixels(target, in_place=False)


def im2col_pixels_in_place(target: Target) -> Callable[..., None]:
    """The same where tiles read the input, or a padded copy of all channels: nothing is lowered."""
    return _pixels(target, in_place=True)


def im2col_pixels_apart(target: Target) -> Callable[..., None]:
    """The same with a stride along the rows: a tile's pixels are as far apart."""
    return _pixels(target, in_place=True, apart=True)


def _pixels(target: Target, *, in_place: bool, apart: bool = False) -> Callable[..., None]:
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    width = lanes * target.vectors
    f = abi.fields("im2col_pixels")
    source, scatter = taps_source(target), scattering(target)
    pack_block = packing(target, lanes)
    aim, channel_step, read_channels = source.aim, source.channel_step, source.read_channels
    list_taps, repeat_taps = source.list_taps, source.repeat_taps

    names = [f"row{i}" for i in range(lanes)]
    lines = ["def store_block(sums, bias, to, step, rows, n):"]
    lines += [f"    {name} = v.load(sums, {i * width})" for i, name in enumerate(names)]
    steps, names, functions = transposed(target, names)
    lines += [f"    {step}" for step in steps]
    lines += ["    biases = v.pointer(bias)"]
    for i, name in enumerate(names):
        lines += [f"    if {i} < rows:"]
        lines += [f"        init = v.broadcast(biases[{i}]) if bias != 0 else v.zero()"]
        lines += [f"        v.store_partial(v.advance(to, {i} * step), {name} + init, n)"]
    store_block = target.call(define("store_block", lines, v=v, **functions))

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

    @target.jit
    def copy_plane(plane, row_step, columns, pixel, count, to):
        # to[i] = the pixel + i-th pixel of a plane whose rows lie apart
        for i in range(count):
            row = (pixel + i) // columns
            to[i] = plane[row * row_step + pixel + i - row * columns]

    @target.jit
    def pack_panel(w, pitch, taps, channels, packed, columns):
        # packed[taps][columns] = w[channel * pitch + tap], zero for channels past the last one; taps at a time, so that
        # the lines that the vectors of a panel share stay in the first cache
        for tap in range(0, taps, 16 * lanes):
            for channel in range(0, columns, lanes):
                pack_block(
                    v.advance(w, channel * pitch + tap), pitch, 1, 1, 1, min(taps - tap, 16 * lanes), 1, 1,
                    min(channels - channel, lanes), v.advance(packed, tap * columns + channel), columns,
                )  # fmt: skip

    gemm = gemm_in_place(target, apart=apart) if in_place else gemm_ahead(target)
    pace, line = fetching(target).pace, fetching(target).line

    if in_place:

        @target.jit
        def multiply(
            depth, run, skipped, lowered, read, pixels, offsets, weight, columns, ahead, step, sums, rows, accumulate
        ):
            gemm(
                run, depth // (run + skipped), skipped, read, pixels, offsets, weight, columns, ahead, step, sums,
                width, 0, rows, columns, accumulate,
            )  # fmt: skip

    else:

        @target.jit
        def multiply(
            depth, run, skipped, lowered, read, pixels, offsets, weight, columns, ahead, step, sums, rows, accumulate
        ):
            gemm(depth, lowered, 0, weight, columns, ahead, step, sums, width, 0, rows, columns, accumulate)

    @target.jit
    def used_taps(top, ih, kh, kw, dh):
        # those of a row of output pixels, its first and how many: kernel rows that see padding alone are left out,
        # unless all do
        first, last = 0, kh
        while first < last and top + first * dh < 0:
            first += 1
        while first < last and top + (last - 1) * dh >= ih:
            last -= 1
        if first == last:
            first, last = 0, kh
        return first * kw, (last - first) * kw

    @target.jit
    def input_after(args, item, end):
        # another image's or group's input that the next item reads, or 0
        n, planes, after = args[f.n], args[f.n] * args[f.splits], item + 1
        if args[f.shares] > 1 or after == end or (after % n == item % n and after // planes == item // planes):
            return 0
        return args[f.x] + (after % n * args[f.x_n] + after // planes * args[f.c] * args[f.x_c]) * v.itemsize

    def kernel(args, scratch, begin, end):
        n, c, k, oh, ow = args[f.n], args[f.c], args[f.k], args[f.oh], args[f.ow]
        ih, iw, kh, kw, sh, sw = args[f.ih], args[f.iw], args[f.kh], args[f.kw], args[f.sh], args[f.sw]
        ph, pw, dh, dw = args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        x_c, x_h, out_k = args[f.x_c], args[f.x_h], args[f.out_k]
        unpacked, depth, splits, shares = args[f.unpacked] != 0, args[f.depth], args[f.splits], args[f.shares]
        area, pixels = kh * kw, oh * ow
        taps = c * area
        row_pixels = ow
        if area * sh * sw == 1 and ph == 0 and pw == 0 and ih == oh and iw == ow and x_h == iw:
            # output pixels are input pixels: the plane is one row
            ih, iw, row_pixels = 1, ih * iw, pixels
        vectors = (k + lanes - 1) // lanes
        panels = args[f.panels]
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
        # whether tiles do not end with the rows though these lie apart
        copied = in_place and not by_rows and row_pixels < pixels
        # scratch: starts[most], tops[tiles + 1], offsets[channels * area], lowered[tiles][depth * ROWS + 2 * LANES] or,
        # in place, for tiles that do not end with the rows [depth][most + LANES], and else nothing,
        # sums[panels of a split, or 1][most][columns of a tile], block[LANES][columns], where weights are not packed
        # panel[depth][columns], stripes of some channels
        starts = v.pointer_int64(scratch)
        tops = v.advance(starts, most)
        offsets = v.advance(tops, most_tiles + 1)
        lowered = v.pointer(scratch + 8 * (most + most_tiles + 1 + listed))
        # neighbouring tiles would else compete for the same sets of the cache
        tile_step = depth * tile_rows + 2 * lanes
        pitch_copied = most + lanes
        held = most_tiles * tile_step
        if in_place:
            held = 0 if by_rows else depth * pitch_copied
        sums = v.advance(lowered, held)
        block_sums = v.advance(sums, waiting * most * width)
        panel_weights = v.advance(block_sums, lanes * width)
        taken = 8 * (most + most_tiles + 1 + listed)
        taken += (held + (waiting * most + lanes) * width) * v.itemsize
        taken += depth * width * v.itemsize if unpacked else 0
        stripe = v.pointer(scratch + (taken + 63) // 64 * 64)
        # in place, columns are left where they are
        pixels_apart = sw if apart else 1
        phases = 1 if in_place or kw == 1 else sw
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
            weights = v.advance(v.pointer(args[f.packed]), group * taps * (k if unpacked else vectors * lanes))
            top, left, rows, pitch, inside = aim(
                row_pixels, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, row_step, pixels_apart, pixel, count
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
                starts[p] = p if copied else row * pixel_step + column * pixels_apart
                column += 1
                if column == row_pixels:
                    column = 0
                    row += 1
            channel_apart = channel_step(inside, x_c, rows * phases * pitch)
            repeat_taps(offsets, area, channels, pitch_copied if copied else channel_apart)
            if by_rows:
                tiles = count // unit * row_tiles
                for tile in range(tiles + 1):
                    row = tile // row_tiles
                    tops[tile] = row * unit + unit * (tile - row * row_tiles) // row_tiles
            else:
                tiles = (count + tile_rows - 1) // tile_rows
                for tile in range(tiles + 1):
                    tops[tile] = count * tile // tiles
            read = stripe
            for first in range(0, taps, depth):
                last = min(first + depth, taps)
                channel = first // area
                tap = first - channel * area
                if copied:
                    for p in range(first, last):
                        to = v.advance(lowered, (p - first) * pitch_copied)
                        copy_plane(v.advance(x, p * x_c), x_h, ow, pixel, count, to)
                    read = lowered
                elif in_place and (first == 0 or channels < c):
                    read = read_channels(
                        inside, 1, v.advance(x, channel * x_c), x_c, x_h, ih, iw, top, left, rows, row_step, phases,
                        pitch, min(channels, c - channel), channel_apart, stripe,
                    )  # fmt: skip
                p = last if in_place else first
                while p < last:
                    times = min(listed - tap, last - p)
                    read = read_channels(
                        inside, sw, v.advance(x, channel * x_c), x_c, x_h, ih, iw, top, left, rows, row_step, phases,
                        pitch, (tap + times + area - 1) // area, channel_apart, stripe,
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
                    weight = v.advance(weights, vector * taps * lanes + first * (1 if unpacked else columns))
                    ahead = v.advance(weight, taps * columns)
                    if unpacked:
                        channels_left = min(columns, k - vector * lanes)
                        pack_panel(weight, taps, last - first, channels_left, panel_weights, columns)
                        weight = panel_weights
                    panel_sums = v.advance(sums, (panel - first_panel) * most * width if depth < taps else 0)
                    # each tile fetches its share of the next panel's weights, or some the channels that are read next
                    after, fetching_tiles, lines = 0, 0, (last - first + pace - 1) // pace
                    if in_place and area > 1 and panel + 1 == last_panel:
                        channel = last // area
                        after = input_after(args, item, end)
                        if channel < c:
                            after = args[f.x] + (image * args[f.x_n] + (group * c + channel) * x_c) * v.itemsize
                        wanted = min(channels, c - channel % c) * args[f.ih] * x_h // line
                        fetching_tiles = (wanted + lines - 1) // lines
                        if after == 0 or 2 * fetching_tiles > tiles:
                            fetching_tiles = 0
                    sharing = tiles - fetching_tiles
                    step = (columns + sharing - 1) // sharing * pace
                    skips = args[f.totals] != 0 and v.pointer(args[f.totals])[group * panels + panel] == 0
                    for tile in range(tiles):
                        ahead_tile, ahead_step = v.advance(ahead, tile * (last - first) * (step // pace)), step
                        if tile >= sharing:
                            ahead_tile = v.advance(v.pointer(after), (tile - sharing) * lines * line)
                            ahead_step = line
                        first_tap, run, skipped = 0, last - first, 0
                        if skips:
                            row = pixel // unit + tile // row_tiles
                            first_tap, run = used_taps(row * sh - ph, ih, kh, kw, dh)
                            skipped = area - run
                        multiply(
                            last - first, run, skipped, v.advance(lowered, tile * tile_step),
                            v.advance(read, starts[tops[tile]]), pixels_apart,
                            v.advance(offsets, (first if channels == c else 0) + first_tap),
                            v.advance(weight, first_tap * columns), columns, ahead_tile, ahead_step,
                            v.advance(panel_sums, tops[tile] * width), tops[tile + 1] - tops[tile], first > 0,
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
