"""Average pooling: sums over their divisors, and the gradient that gathers what they spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convforge.kernels import abi
from convforge.kernels.numba.integers import ceiling
from convforge.kernels.numba.pooling_blocks import blocks
from convforge.kernels.numba.pooling_vectors import filling, row_vectors
from convforge.kernels.numba.pooling_windows import joined_columns, joined_rows, joined_taps

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target


def _counted(target: Target) -> Inner:
    """Make ``counted(start, taps, first, end)``: pixels of a window that lie in first ... end."""
    return target.jit(lambda start, taps, first, end: min(start + taps, end) - max(start, first))


def avg_pool_forward(target: Target) -> Callable[..., None]:
    """Sums over their divisors."""
    v = target.v
    f: Any = abi.fields("avg_pool_forward")
    fill, (block_of, advance), counted = filling(target), blocks(target), _counted(target)
    rows_of, columns_of = joined_rows(target, True), joined_columns(target, True)

    def kernel(args, scratch, begin, end):
        channels, ih, iw, oh, ow, kh, kw = (
            args[f.c], args[f.ih], args[f.iw], args[f.oh], args[f.ow], args[f.kh], args[f.kw]
        )  # fmt: skip
        sh, sw, ph, pw, divisor = args[f.sh], args[f.sw], args[f.ph], args[f.pw], args[f.divisor]
        rows, columns, width, batch = args[f.rows], args[f.columns], args[f.width], args[f.batch]
        x_h = args[f.x_h]
        spare = v.pointer(scratch)
        divisors = v.advance(spare, width)
        sums = v.advance(divisors, width)
        known = -1
        b = block_of(begin, channels, oh, ow, rows, columns)
        for _ in range(begin, end):
            count = min(columns, ow - b.column)
            left = b.column * sw - pw
            low = max(0, -left)
            high = min(iw - left, (count - 1) * sw + kw)
            if b.column != known:
                known = b.column
                fill(sums, 0.0, batch * width)
                for i in range(count):
                    divisors[i] = divisor if divisor else counted(left + i * sw, kw, args[f.w_first], args[f.w_end])
            x = v.advance(v.pointer(args[f.x]), b.image * args[f.x_n] + b.channel * args[f.x_c] + left + low)
            out = v.advance(v.pointer(args[f.out]), b.image * args[f.out_n] + b.channel * args[f.out_k] + b.column)
            bottom = min(b.row + rows, oh)
            for row in range(b.row, bottom, batch):
                for i in range(min(batch, bottom - row)):
                    top = (row + i) * sh - ph
                    first, last = max(0, -top), min(kh, ih - top)
                    source = v.advance(x, (top + first) * x_h)
                    rows_of(last - first, source, x_h, v.advance(sums, i * width + low), high - low)
                for i in range(min(batch, bottom - row)):
                    top = (row + i) * sh - ph
                    factor = 1 if divisor else counted(top, kh, args[f.h_first], args[f.h_end])
                    columns_of(
                        kw, 1, sw, v.advance(sums, i * width), spare, v.advance(out, (row + i) * args[f.out_h]), count,
                        divisors, factor,
                    )  # fmt: skip
            b = advance(b, channels, oh, ow, rows, columns)

    return kernel


def avg_pool_backward(target: Target) -> Callable[..., None]:
    """Every pixel gathers the shares of the windows that it is in, a share being y over the window's divisor.

    The shares of a row of windows are summed down the rows that see the pixel's, then spread ``sw`` apart between
    zeros, so that a pixel sums kw neighbours.
    """
    v = target.v
    lanes = v.lanes
    f: Any = abi.fields("avg_pool_backward")
    up, fill, (block_of, advance), counted = ceiling(target), filling(target), blocks(target), _counted(target)
    (vector_of, load, store), taps_of = row_vectors(target), joined_taps(target, True)

    @target.jit
    def spread_out(spread, lanes_of, shares, stride, count):
        # spread[l * stride] = shares[l]; what lies between is zero already, or becomes so
        if stride == 1:
            v.store(spread, 0, shares)
        elif stride == 2:
            v.store(spread, 0, v.low(shares, v.zero()))
            v.store(spread, lanes, v.high(shares, v.zero()))
        else:
            v.store(lanes_of, 0, shares)
            for lane in range(min(count, lanes)):
                spread[lane * stride] = lanes_of[lane]

    def kernel(args, scratch, begin, end):
        channels, ih, iw, oh, ow, kh, kw = (
            args[f.c], args[f.ih], args[f.iw], args[f.oh], args[f.ow], args[f.kh], args[f.kw]
        )  # fmt: skip
        sh, sw, ph, pw, divisor = args[f.sh], args[f.sw], args[f.ph], args[f.pw], args[f.divisor]
        rows, columns, width = args[f.rows], args[f.columns], args[f.width]
        out_h, y_h = args[f.out_h], args[f.y_h]
        spread = v.pointer(scratch)
        divisors = v.advance(spread, width)
        lanes_of = v.advance(divisors, width)
        known = -1
        b = block_of(begin, channels, ih, iw, rows, columns)
        for _ in range(begin, end):
            pixels = min(columns, iw - b.column)
            # spread[j] is the share of the window that starts in padded column start + j
            start = b.column + pw - kw + 1
            low = max(0, up(start, sw))
            count = min(ow, (b.column + pixels - 1 + pw) // sw + 1) - low
            if b.column != known:
                known = b.column
                fill(spread, 0.0, width)
                fill(divisors, 1.0, width)
                for j in range(count):
                    divisors[j] = (
                        divisor if divisor else counted((low + j) * sw - pw, kw, args[f.w_first], args[f.w_end])
                    )
            y = v.advance(v.pointer(args[f.y]), b.image * args[f.y_n] + b.channel * args[f.y_k] + low)
            out = v.advance(v.pointer(args[f.out]), b.image * args[f.out_n] + b.channel * args[f.out_k] + b.column)
            known_first = known_last = -1
            for row in range(b.row, min(b.row + rows, ih)):
                first, last = max(0, up(row + ph - kh + 1, sh)), min(oh, (row + ph) // sh + 1)
                target_row = v.advance(out, row * out_h)
                if first == known_first and last == known_last:
                    for i in range(0, pixels, lanes):
                        j = vector_of(i, pixels)
                        store(target_row, j, load(v.advance(target_row, -out_h), j, pixels), pixels)
                else:
                    known_first, known_last = first, last
                    for i in range(0, count, lanes):
                        j = vector_of(i, count)
                        shares = v.zero()
                        for k in range(first, last):
                            factor = 1 if divisor else counted(k * sh - ph, kh, args[f.h_first], args[f.h_end])
                            shares = shares + load(y, k * y_h + j, count) / (v.load(divisors, j) * v.broadcast(factor))
                        spread_out(v.advance(spread, (low + j) * sw - start), lanes_of, shares, sw, count - j)
                    for i in range(0, pixels, lanes):
                        j = vector_of(i, pixels)
                        store(target_row, j, taps_of(kw, spread, j, 1), pixels)
            b = advance(b, channels, ih, iw, rows, columns)

    return kernel
