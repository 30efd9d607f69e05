"""The weight gradient as dot products of grad_output's rows with rows of the lowered input, pixels at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.gemm import dot_products, dot_tile_rows

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
