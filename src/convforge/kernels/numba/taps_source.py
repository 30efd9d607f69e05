"""Where the lowered input of a convolution is read: in the input itself, or in a padded copy of a part of one channel.

A row of the lowered input is one tap ``(c * kh + i) * kw + j`` of the kernel, a column one output pixel
``h * ow + w``: it holds ``x[c, h * sh - ph + i * dh, w * sw - pw + j * dw]``, or 0 outside of x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from convforge.kernels.numba.stripes import stripes

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


class TapsSource(NamedTuple):
    """Functions that find where the taps of some output pixels are read.

    That is in x itself, if it is ``inside``, or in a stripe (see :mod:`.stripes`).

    Attributes
    ----------
    aim
        ``aim(ow, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, row_step, pixel, count)`` is (top, left, rows, pitch,
        inside) for the ``count`` pixels from ``pixel`` on, in whole rows if there are several.
    aim_at
        ``aim_at(kh, kw, sh, sw, ph, pw, dh, dw, ih, iw, row_step, row, rows, column, columns, in_place)`` is
        the same for a block of pixels; without ``in_place`` it is not inside.
    read_channel
        ``read_channel(inside, sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)`` fills the stripe
        where it is needed, and is what the places of taps and pixels are relative to.
    list_taps
        ``list_taps(kh, kw, dh, dw, row, phase, step, offsets)`` lists where a pixel reads each tap of a channel,
        relative to its first one, given the distance of rows (of x), of phases, and of the columns of a phase.
    """

    aim: Inner
    aim_at: Inner
    read_channel: Inner
    list_taps: Inner


def taps_source(target: Target) -> TapsSource:
    """Make them."""
    v, lanes = target.v, target.lanes
    fill_stripe = stripes(target)

    @target.call
    def aim_at(kh, kw, sh, sw, ph, pw, dh, dw, ih, iw, row_step, row, rows, column, columns, in_place):
        reach_h = (rows - 1) * sh + (kh - 1) * dh
        reach_w = (columns - 1) * sw + (kw - 1) * dw
        top = row * sh - ph
        left = column * sw - pw
        pitch = (columns + (kw - 1) * dw // sw + lanes - 1) // lanes * lanes
        inside = in_place and sw == 1 and top >= 0 and top + reach_h < ih and left >= 0 and left + reach_w < iw
        return top, left, reach_h // row_step + 1, pitch, inside

    @target.jit
    def aim(ow, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, row_step, pixel, count):
        row = pixel // ow
        column = pixel - row * ow
        rows = (pixel + count - 1) // ow - row + 1
        if rows > 1:
            column = 0
            count = ow
        return aim_at(kh, kw, sh, sw, ph, pw, dh, dw, ih, iw, row_step, row, rows, column, count, True)

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

    return TapsSource(aim, aim_at, read_channel, list_taps)
