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
        ``aim(ow, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, row_step, step, pixel, count)`` is (top, left, rows, pitch,
        inside) for the ``count`` pixels from ``pixel`` on, in whole rows if there are several. Where they are read,
        neighbours are ``step`` apart: 1, or else the stride.
    aim_at
        ``aim_at(kh, kw, sh, sw, ph, pw, dh, dw, ih, iw, row_step, step, row, rows, column, columns, in_place)`` is
        the same for a block of pixels; without ``in_place`` it is not inside.
    channel_step
        ``channel_step(inside, x_c, elements)`` is how far apart the places of channels are: in x, or stripes of as many
        elements.
    read_channels
        ``read_channels(inside, sw, x, x_c, x_h, ih, iw, top, left, rows, row_step, phases, pitch, channels, step,
        stripe)`` fills stripes ``step`` apart where they are needed, and is what the places of taps and pixels are
        relative to.
    list_taps
        ``list_taps(kh, kw, dh, dw, row, phase, step, offsets)`` lists where a pixel reads each tap of a channel,
        relative to its first one, given the distance of rows (of x), of phases, and of the columns of a phase.
    repeat_taps
        ``repeat_taps(offsets, area, channels, step)`` goes on with more channels.
    """

    aim: Inner
    aim_at: Inner
    channel_step: Inner
    read_channels: Inner
    list_taps: Inner
    repeat_taps: Inner


def taps_source(target: Target) -> TapsSource:
    """Make them."""
    v, lanes = target.v, target.lanes
    fill_stripe, line = stripes(target), 64 // v.itemsize

    @target.call
    def aim_at(kh, kw, sh, sw, ph, pw, dh, dw, ih, iw, row_step, step, row, rows, column, columns, in_place):
        reach_h = (rows - 1) * sh + (kh - 1) * dh
        reach_w = (columns - 1) * sw + (kw - 1) * dw
        top = row * sh - ph
        left = column * sw - pw
        pitch = (reach_w * step // sw + lanes) // lanes * lanes
        inside = in_place and sw == step and top >= 0 and top + reach_h < ih and left >= 0 and left + reach_w < iw
        return top, left, reach_h // row_step + 1, pitch, inside

    @target.jit
    def aim(ow, ih, iw, kh, kw, sh, sw, ph, pw, dh, dw, row_step, step, pixel, count):
        row = pixel // ow
        column = pixel - row * ow
        rows = (pixel + count - 1) // ow - row + 1
        if rows > 1:
            column = 0
            count = ow
        return aim_at(kh, kw, sh, sw, ph, pw, dh, dw, ih, iw, row_step, step, row, rows, column, count, True)

    @target.jit
    def channel_step(inside, x_c, elements):
        # stripes an odd number of cache lines apart: many would else compete for the same sets of the cache
        return x_c if inside else ((elements + lanes) // line | 1) * line + line

    @target.jit
    def read_channels(
        inside, sw, x, x_c, x_h, ih, iw, top, left, rows, row_step, phases, pitch, channels, step, stripe
    ):
        if inside:
            return v.advance(x, top * x_h + left)
        for c in range(channels):
            fill_stripe(
                sw, v.advance(x, c * x_c), x_h, ih, iw, top, left, rows, row_step, phases, pitch,
                v.advance(stripe, c * step),
            )  # fmt: skip
        return stripe

    @target.call
    def list_taps(kh, kw, dh, dw, row, phase, step, offsets):
        for j in range(kw):
            column = j * dw // step
            at = (j * dw - column * step) * phase + column
            for i in range(kh):
                offsets[i * kw + j] = i * dh * row + at

    @target.call
    def repeat_taps(offsets, area, channels, step):
        for p in range(area, channels * area):
            offsets[p] = offsets[p - area] + step

    return TapsSource(aim, aim_at, channel_step, read_channels, list_taps, repeat_taps)
