"""Where the lowered input of a convolution is read: in the input itself, or in a padded copy of a part of one channel.

A row of the lowered input is one tap ``(c * kh + i) * kw + j`` of the kernel, a column one output pixel
``h * ow + w``: it holds ``x[c, h * sh - ph + i * dh, w * sw - pw + j * dw]``, or 0 outside of x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


class TapsSource(NamedTuple):
    """Functions that find where the taps of some output pixels are read.

    That is in x itself, if it is ``inside``, or in a stripe: the input under the pixels, padded with zeros, its columns
    split by their phase within a stride, so that what neighbouring pixels read for one tap lies in one piece. A stripe
    holds one channel. It has ``rows`` rows of ``phases`` pieces of ``pitch`` elements; the first is row ``top`` of x
    from column ``left`` on, the next ones are ``row_step`` rows of x apart.

    Attributes
    ----------
    aim
        ``aim(ow, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, phases, row_step, pixel, count)`` is (top, left, rows, pitch,
        inside) for the ``count`` pixels from ``pixel`` on, in whole rows if there are several.
    aim_at
        ``aim_at(kh, kw, sh, sw, ph, pw, dh, dw, ih, iw, phases, row_step, row, rows, column, columns, in_place)`` is
        the same for a block of pixels; without ``in_place`` it is not inside.
    fill_stripe
        ``fill_stripe(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)`` copies one channel, and
        LANES zeros after it.
    read_channel
        ``read_channel(inside, sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)`` does so where it
        is needed, and is what the places of taps and pixels are relative to.
    list_taps
        ``list_taps(kh, kw, dh, dw, row, phase, step, offsets)`` lists where a pixel reads each tap of a channel,
        relative to its first one, given the distance of rows (of x), of phases, and of the columns of a phase.
    """

    aim: Inner
    aim_at: Inner
    fill_stripe: Inner
    read_channel: Inner
    list_taps: Inner


def taps_source(target: Target) -> TapsSource:
    """Make them."""
    v, lanes = target.v, target.lanes

    @target.call
    def aim_at(kh, kw, sh, sw, ph, pw, dh, dw, ih, iw, phases, row_step, row, rows, column, columns, in_place):
        reach_h = (rows - 1) * sh + (kh - 1) * dh
        reach_w = (columns - 1) * sw + (kw - 1) * dw
        top = row * sh - ph
        left = column * sw - pw
        pitch = columns + (kw - 1) * dw // sw
        if phases > 1:
            pitch = (pitch + lanes - 1) // lanes * lanes
        inside = in_place and sw == 1 and top >= 0 and top + reach_h < ih and left >= 0 and left + reach_w < iw
        return top, left, reach_h // row_step + 1, pitch, inside

    @target.jit
    def aim(ow, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, phases, row_step, pixel, count):
        row = pixel // ow
        column = pixel - row * ow
        rows = (pixel + count - 1) // ow - row + 1
        if rows > 1:
            column = 0
            count = ow
        return aim_at(kh, kw, sh, sw, ph, pw, dh, dw, ih, iw, phases, row_step, row, rows, column, count, True)

    @target.jit
    def zero_gaps(to, head, tail, size):
        # zeros in to[:head] and to[tail:size], in whole vectors
        for p in range(0, head, lanes):
            v.store(to, p, v.zero())
        for p in range(tail, size, lanes):
            v.store(to, p, v.zero())

    @target.jit
    def copy_row(row, n, to):
        # to[:n] = row[:n], or a vector if that is more
        if n < lanes:
            v.store(to, 0, v.load_partial(row, n))
        else:
            for p in range(0, n - lanes + 1, lanes):
                v.store(to, p, v.load(row, p))
            v.store(to, n - lanes, v.load(row, n - lanes))

    @target.jit
    def split_row(row, n, even, odd, both):
        # the even and, for both, the odd columns of row[:n], or a vector of each if that is more
        whole = n // (2 * lanes) * (2 * lanes)
        for p in range(0, whole, 2 * lanes):
            a, b = v.load(row, p), v.load(row, p + lanes)
            v.store(even, p // 2, v.even(a, b))
            if both:
                v.store(odd, p // 2, v.odd(a, b))
        if whole < n:
            p = max(n - 2 * lanes, 0)
            row = v.advance(row, p)
            a, b = v.load_partial(row, n - p), v.load_partial(v.advance(row, lanes), n - p - lanes)
            first, second = v.even(a, b), v.odd(a, b)
            if p % 2 != 0:
                first, second = second, first
            v.store(even, (p + 1) // 2, first)
            if both:
                v.store(odd, p // 2, second)

    @target.jit
    def load_columns(row, column, iw):
        return (
            v.load(row, column)
            if column >= 0 and column + lanes <= iw
            else v.load_window(v.advance(row, column), -column, iw - column)
        )

    def make(stride: int) -> Inner:
        @target.jit
        def fill_row(sw, row, left, iw, first, last, phases, pitch, to):
            if stride == 1:
                zero_gaps(to, first, last, pitch)
                copy_row(v.advance(row, left + first), last - first, v.advance(to, first))
            elif stride == 2:
                for q in range(phases):
                    zero_gaps(v.advance(to, q * pitch), (first + 1 - q) // 2, (last + 1 - q) // 2, pitch)
                # a first column of the odd ones by itself: the rest begins with an even one
                start = (first + 1) // 2
                even, odd = v.advance(to, start), v.advance(to, pitch + start)
                split_row(v.advance(row, left + 2 * start), last - 2 * start, even, odd, phases > 1)
                if phases > 1 and 2 * start > first:
                    to[pitch + first // 2] = row[left + first]
            elif stride == 4 and phases > 1:
                for t in range(0, pitch, lanes):
                    column = left + 4 * t
                    piece = v.advance(to, t)
                    a, b = load_columns(row, column, iw), load_columns(row, column + lanes, iw)
                    c, d = load_columns(row, column + 2 * lanes, iw), load_columns(row, column + 3 * lanes, iw)
                    ab, cd = v.even(a, b), v.even(c, d)
                    v.store(piece, 0, v.even(ab, cd))
                    v.store(piece, 2 * pitch, v.odd(ab, cd))
                    ab, cd = v.odd(a, b), v.odd(c, d)
                    v.store(piece, pitch, v.even(ab, cd))
                    v.store(piece, 3 * pitch, v.odd(ab, cd))
            else:
                for t in range(0, pitch, lanes):
                    for q in range(phases):
                        column = left + t * sw + q
                        lo, hi = (sw - 1 - column) // sw, (iw - column + sw - 1) // sw
                        v.store(to, t + q * pitch, v.load_strided(v.advance(row, column), sw, lo, hi))

        @target.call
        def fill_rows(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, to):
            # vectors go past the ends of pieces, and are overwritten by the next one
            # the columns of the stripe from first to last are columns of x
            width = sw * pitch
            first = min(max(-left, 0), width)
            last = max(min(iw - left, width), first)
            for r in range(rows):
                h = top + r * row_step
                if h < 0 or h >= ih or first == last:
                    zero_gaps(to, 0, 0, phases * pitch)
                else:
                    fill_row(sw, v.advance(x, h * x_h), left, iw, first, last, phases, pitch, to)
                to = v.advance(to, phases * pitch)
            v.store(to, 0, v.zero())

        return fill_rows

    fill1, fill2, fill4, fill_any = make(1), make(2), make(4), make(0)

    @target.jit
    def fill_stripe(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe):
        if sw == 1:
            fill1(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        elif sw == 2:
            fill2(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        elif sw == 4 and phases > 1:
            fill4(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        else:
            fill_any(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)

    @target.jit
    def read_channel(inside, sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe):
        if inside:
            return v.advance(x, top * x_h + left)
        fill_stripe(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        return stripe

    @target.call
    def list_taps(kh, kw, dh, dw, row, phase, step, offsets):
        for j in range(kw):
            column = j * dw // step
            at = (j * dw - column * step) * phase + column
            for i in range(kh):
                offsets[i * kw + j] = i * dh * row + at

    return TapsSource(aim, aim_at, fill_stripe, read_channel, list_taps)
