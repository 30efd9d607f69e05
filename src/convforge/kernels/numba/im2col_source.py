"""Where the lowered input of a convolution is read: in the input itself, or in a padded copy of a part of one channel.

A row of the lowered input is one tap ``(c * kh + i) * kw + j`` of the kernel, a column one output pixel
``h * ow + w``: it holds ``x[c, h * sh - ph + i * dh, w * sw - pw + j * dw]``, or 0 outside of x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


def taps_source(target: Target) -> tuple[Inner, Inner, Inner]:
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
