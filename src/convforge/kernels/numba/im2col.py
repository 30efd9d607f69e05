"""Convolution as a matrix product whose right-hand side, the lowered input, only ever exists as small panels.

A row of the lowered input is one tap ``(c * kh + i) * kw + j`` of the kernel, a column one output pixel
``h * ow + w``: it holds ``x[c, h * sh - ph + i * dh, w * sw - pw + j * dw]``, or 0 outside of x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.gemm import dot_products, dot_tile_rows, gemm_rows

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


def im2col_forward(target: Target) -> Callable[..., None]:
    """A panel of pixels at a time: lowered ``depth`` rows after another, each multiplied by all its weights."""
    v, tile_rows = target.v, target.rows
    tile_columns = v.lanes * target.vectors
    f = abi.fields("im2col_forward")
    lower, gemm = _lower(target), gemm_rows(target)

    @target.call
    def scatter(sums, rows, out, out_k, out_h, out_w, ow, pixel, count):
        # for outputs whose pixels do not lie in one piece
        h = pixel // ow
        w = pixel - h * ow
        for i in range(count):
            to = v.advance(out, h * out_h + w * out_w)
            for row in range(rows):
                to[row * out_k] = sums[row * tile_columns + i]
            w += 1
            if w == ow:
                w = 0
                h += 1

    def kernel(args, scratch, begin, end):
        g, c, k, oh, ow = args[f.g], args[f.c], args[f.k], args[f.oh], args[f.ow]
        ih, iw, kh, kw, sh, sw = args[f.ih], args[f.iw], args[f.kh], args[f.kw], args[f.sh], args[f.sw]
        ph, pw, dh, dw = args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        x_c, x_h, out_k = args[f.x_c], args[f.x_h], args[f.out_k]
        depth, splits = args[f.depth], args[f.splits]
        taps, pixels = c * kh * kw, oh * ow
        panels = (pixels + tile_columns - 1) // tile_columns
        blocks = (k + tile_rows - 1) // tile_rows
        flat = args[f.out_w] == 1 and (args[f.out_h] == ow or oh == 1)
        row_pixels = ow
        if kh * kw * sh * sw == 1 and ph == 0 and pw == 0 and ih == oh and iw == ow and x_h == iw:
            # output pixels are input pixels: the plane is one row
            ih, iw, row_pixels = 1, ih * iw, pixels
        # scratch: panel[depth][columns of a tile], sums[rows of a split][columns of a tile]
        panel = v.pointer(scratch)
        sums = v.advance(panel, depth * tile_columns)
        for item in range(begin, end):
            rest = item // panels
            pixel = (item - rest * panels) * tile_columns
            image_group = rest // splits
            split = rest - image_group * splits
            image = image_group // g
            group = image_group - image * g
            count = min(tile_columns, pixels - pixel)
            first_block, last_block = blocks * split // splits, blocks * (split + 1) // splits
            x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + group * c * x_c)
            first_row = first_block * tile_rows
            out = v.advance(v.pointer(args[f.out]), image * args[f.out_n] + (group * k + first_row) * out_k)
            for first in range(0, taps, depth):
                last = min(first + depth, taps)
                lower(
                    x, x_c, x_h, ih, iw, row_pixels, kh, kw, sh, sw, ph, pw, dh, dw, first, last, pixel, count, panel,
                    tile_columns,
                )  # fmt: skip
                for block in range(first_block, last_block):
                    row = block * tile_rows
                    weight = v.advance(v.pointer(args[f.packed]), ((group * blocks + block) * taps + first) * tile_rows)
                    bias = 0 if args[f.bias] == 0 else args[f.bias] + (group * k + row) * v.itemsize
                    done = row - first_row
                    to = v.advance(out, done * out_k + pixel) if flat else v.advance(sums, done * tile_columns)
                    to_row = out_k if flat else tile_columns
                    gemm(last - first, weight, panel, tile_columns, to, to_row, bias, k - row, count, first > 0)
            if not flat:
                rows = min(k, last_block * tile_rows) - first_row
                scatter(sums, rows, out, out_k, args[f.out_h], args[f.out_w], ow, pixel, count)

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
