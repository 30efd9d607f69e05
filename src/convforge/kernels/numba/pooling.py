"""Pooling, separable: the rows of windows are joined into a row of scratch, and then the windows of that row.

The borders of a row of scratch hold what changes nothing, so that this second pass needs no masks. An item is a
block of one plane's outputs. Rows of ``count`` elements are walked in whole vectors, the last of which overlaps the one
before: only rows shorter than a vector are masked. A join is a sum, or a maximum in which NaN wins and of equals the
old one stays.

The loops over a row are functions of their own: inlined into their kernel they would keep what it counts with in
memory, not in registers (a quarter of the time).
"""

from __future__ import annotations

from collections import namedtuple
from math import inf, nan
from typing import TYPE_CHECKING, Any

from convforge.kernels import abi
from convforge.kernels.numba.integers import ceiling

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target

_Block = namedtuple("_Block", "image channel row column")


def _block_of(target: Target) -> Inner:
    """Make ``block_of(item, channels, height, width, rows, columns)``: where an item lies in planes cut into blocks."""
    up = ceiling(target)

    @target.jit
    def block_of(item, channels, height, width, rows, columns):
        across, down = up(width, columns), up(height, rows)
        column = item % across * columns
        row = item // across % down * rows
        plane = item // across // down
        return _Block(plane // channels, plane % channels, row, column)

    return block_of


def _advance(target: Target) -> Inner:
    """Make ``advance(block, channels, height, width, rows, columns)``: the next item's, without divisions."""

    @target.jit
    def advance(b, channels, height, width, rows, columns):
        if b.column + columns < width:
            return _Block(b.image, b.channel, b.row, b.column + columns)
        if b.row + rows < height:
            return _Block(b.image, b.channel, b.row + rows, 0)
        if b.channel + 1 < channels:
            return _Block(b.image, b.channel + 1, 0, 0)
        return _Block(b.image + 1, 0, 0, 0)

    return advance


def _fill(target: Target) -> Inner:
    """Make ``fill(row, value, width)``, for widths that are multiples of the lanes."""
    v = target.v

    @target.jit
    def fill(row, value, width):
        for i in range(0, width, v.lanes):
            v.store(row, i, v.broadcast(value))

    return fill


def _vector_of(target: Target) -> Inner:
    """Make ``vector_of(i, count)``: where vector ``i`` of a row starts."""
    lanes = target.lanes
    return target.jit(lambda i, count: max(0, min(i, count - lanes)))


def _load(target: Target) -> Inner:
    """Make ``load(source, i, count)`` for a vector of a row of ``count`` elements."""
    v = target.v
    return target.jit(
        lambda source, i, count: v.load(source, i) if count >= v.lanes else v.load_partial(v.advance(source, i), count)
    )


def _store(target: Target) -> Inner:
    """Make ``store(out, i, x, count)`` for a vector of a row of ``count`` elements."""
    v = target.v

    @target.jit
    def store(out, i, x, count):
        if count >= v.lanes:
            v.store(out, i, x)
        else:
            v.store_partial(v.advance(out, i), x, count)

    return store


def _join(target: Target, average: bool) -> Inner:
    v = target.v
    if average:
        return target.jit(lambda new, old: new + old)

    @target.jit
    def join(new, old):
        # LLVM makes one comparison of both tests, and one instruction of the inner choice
        either_nan = v.either(v.is_nan(new), v.is_nan(old))
        return v.select(either_nan, v.broadcast(nan), v.select(new > old, new, old))

    return join


def _taps(target: Target, average: bool) -> Inner:
    """Make ``taps(count, source, i, step)``: whole vectors at ``source + i``, ``step`` apart, joined."""
    v = target.v
    join = _join(target, average)

    @target.jit
    def taps(count, source, i, step):
        joined = v.load(source, i)
        for t in range(1, count):
            joined = join(v.load(source, i + t * step), joined)
        return joined

    return taps


def _rows(target: Target, average: bool) -> Inner:
    """Make ``rows(taps, x, step, out, count)``: out[j] = x[j], x[step + j], ... joined."""
    load, store, vector_of, join = _load(target), _store(target), _vector_of(target), _join(target, average)
    lanes = target.lanes

    @target.jit
    def rows_of(taps, x, step, out, count):
        for i in range(0, count, lanes):
            j = vector_of(i, count)
            joined = load(x, j, count)
            for t in range(1, taps):
                joined = join(load(x, t * step + j, count), joined)
            store(out, j, joined, count)

    @target.call
    def rows(taps, x, step, out, count):
        if taps == 3:
            rows_of(3, x, step, out, count)
        elif taps == 2:
            rows_of(2, x, step, out, count)
        else:
            rows_of(taps, x, step, out, count)

    return rows


def _columns(target: Target, average: bool) -> Inner:
    """Make ``columns(taps, dilation, stride, row, spare, out, count, divisors, factor)``.

    ``out[j] = row[j * stride], row[j * stride + dilation], ...`` joined; an average over ``divisors[j] * factor``.
    Windows are joined at every element of the row. A stride of 2 drops half of them on the way; for others they go to
    ``spare``, where those wanted are picked. A single window has its elements in the lanes: past its taps the row holds
    what changes nothing.
    """
    v = target.v
    lanes = v.lanes
    join, taps_of, store, vector_of = _join(target, average), _taps(target, average), _store(target), _vector_of(target)

    if average:
        finish = target.jit(lambda joined, divisors, j, factor: joined / (v.load(divisors, j) * v.broadcast(factor)))
    else:
        finish = target.jit(lambda joined, divisors, j, factor: joined)

    @target.jit
    def whole(taps, row, out, divisors, factor):
        joined = v.load(row, 0)
        for i in range(lanes, taps, lanes):
            joined = join(v.load(row, i), joined)
        remaining = lanes
        while remaining > 1:
            joined = join(v.odd(joined, joined), v.even(joined, joined))
            remaining //= 2
        v.store_partial(out, finish(joined, divisors, 0, factor), 1)

    @target.jit
    def next_to_each_other(taps, dilation, row, out, count, divisors, factor):
        for i in range(0, count, lanes):
            j = vector_of(i, count)
            store(out, j, finish(taps_of(taps, row, j, dilation), divisors, j, factor), count)

    @target.jit
    def every_second(taps, dilation, row, out, count, divisors, factor):
        for i in range(0, count, lanes):
            j = vector_of(i, count)
            joined = v.even(taps_of(taps, row, 2 * j, dilation), taps_of(taps, row, 2 * j + lanes, dilation))
            store(out, j, finish(joined, divisors, j, factor), count)

    @target.call
    def columns(taps, dilation, stride, row, spare, out, count, divisors, factor):
        if count == 1 and dilation == 1:
            whole(taps, row, out, divisors, factor)
        elif stride == 1 and taps == 3:
            next_to_each_other(3, dilation, row, out, count, divisors, factor)
        elif stride == 1:
            next_to_each_other(taps, dilation, row, out, count, divisors, factor)
        elif stride == 2 and taps == 3:
            every_second(3, dilation, row, out, count, divisors, factor)
        elif stride == 2 and taps == 2:
            every_second(2, dilation, row, out, count, divisors, factor)
        elif stride == 2:
            every_second(taps, dilation, row, out, count, divisors, factor)
        else:
            for i in range(0, (count - 1) * stride + 1, max(stride, lanes)):
                v.store(spare, i, taps_of(taps, row, i, dilation))
            for i in range(0, count, lanes):
                j = vector_of(i, count)
                joined = v.load_strided(v.advance(spare, j * stride), stride, 0, count - j)
                store(out, j, finish(joined, divisors, j, factor), count)

    return columns


# The same with each maximum's place in its window, as an exact number of the dtype. Of equals the first place wins, in
# whichever order they meet.


def _exceeds(target: Target) -> Inner:
    """Make ``exceeds(a, b)``: a is larger, or NaN where b is not."""
    v = target.v
    return target.jit(lambda a, b: v.either(a > b, v.both(v.is_nan(a), b == b)))


def _rows_places(target: Target) -> Inner:
    """Make ``rows_places(taps, x, step, first, pitch, values, places, count)``: x[t * step] is at first + t * pitch."""
    v = target.v
    lanes = v.lanes
    load, store, vector_of, exceeds = _load(target), _store(target), _vector_of(target), _exceeds(target)

    @target.call
    def rows_places(taps, x, step, first, pitch, values, places, count):
        for i in range(0, count, lanes):
            j = vector_of(i, count)
            value = load(x, j, count)
            place = tap = v.broadcast(first)
            for t in range(1, taps):
                new = load(x, t * step + j, count)
                tap = tap + v.broadcast(pitch)
                wins = exceeds(new, value)
                value, place = v.select(wins, new, value), v.select(wins, tap, place)
            store(values, j, value, count)
            store(places, j, place, count)

    return rows_places


def _columns_places(target: Target) -> Inner:
    """Make ``columns_places``, as :func:`_columns`; the indices of window j count from ``index + j * stride``.

    Its arguments: ``taps, dilation, stride, values, places, spare_values, spare_places, out, indices, index, count``.
    """
    v = target.v
    lanes = v.lanes
    store, vector_of, exceeds = _store(target), _vector_of(target), _exceeds(target)

    @target.jit
    def taps_places(taps, dilation, values, places, i):
        value, place = v.load(values, i), v.load(places, i)
        for t in range(1, taps):
            new = v.load(values, i + t * dilation)
            tap = v.load(places, i + t * dilation) + v.broadcast(t * dilation)
            equal = v.either(new == value, v.both(v.is_nan(new), v.is_nan(value)))
            wins = v.either(exceeds(new, value), v.both(equal, tap < place))
            value, place = v.select(wins, new, value), v.select(wins, tap, place)
        return value, place

    @target.jit
    def finish(value, place, stride, out, indices, index, j, count):
        store(out, j, value, count)
        steps = v.widen(v.lane()) * v.broadcast_int64(stride)
        flat = v.widen(v.to_int(place)) + steps + v.broadcast_int64(index + j * stride)
        if count >= lanes:
            v.store(indices, j, flat)
        else:
            v.store_partial(indices, flat, count)

    @target.call
    def columns_places(taps, dilation, stride, values, places, spare_values, spare_places, out, indices, index, count):
        if stride > 2:
            for i in range(0, (count - 1) * stride + 1, max(stride, lanes)):
                value, place = taps_places(taps, dilation, values, places, i)
                v.store(spare_values, i, value)
                v.store(spare_places, i, place)
        for i in range(0, count, lanes):
            j = vector_of(i, count)
            if stride == 1:
                value, place = taps_places(taps, dilation, values, places, j)
            elif stride == 2:
                lower, lower_place = taps_places(taps, dilation, values, places, 2 * j)
                upper, upper_place = taps_places(taps, dilation, values, places, 2 * j + lanes)
                value, place = v.even(lower, upper), v.even(lower_place, upper_place)
            else:
                value = v.load_strided(v.advance(spare_values, j * stride), stride, 0, count - j)
                place = v.load_strided(v.advance(spare_places, j * stride), stride, 0, count - j)
            finish(value, place, stride, out, indices, index, j, count)

    return columns_places


def max_pool_forward(target: Target) -> Callable[..., None]:
    """Maxima, and their indices where these have an address."""
    v = target.v
    f: Any = abi.fields("max_pool_forward")
    up, fill, block_of, advance = ceiling(target), _fill(target), _block_of(target), _advance(target)
    rows_of, columns_of = _rows(target, False), _columns(target, False)
    rows_places, columns_places = _rows_places(target), _columns_places(target)

    def kernel(args, scratch, begin, end):
        channels, ih, iw, oh, ow, kh, kw = (
            args[f.c], args[f.ih], args[f.iw], args[f.oh], args[f.ow], args[f.kh], args[f.kw]
        )  # fmt: skip
        sh, sw, ph, pw, dh, dw = args[f.sh], args[f.sw], args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        rows, columns, width, batch = args[f.rows], args[f.columns], args[f.width], args[f.batch]
        x_h, has_indices = args[f.x_h], args[f.indices] != 0
        spare_values = v.pointer(scratch)
        spare_places = v.advance(spare_values, width)
        values = v.advance(spare_places, width)
        places = v.advance(values, batch * width)
        known = -1
        b = block_of(begin, channels, oh, ow, rows, columns)
        for _ in range(begin, end):
            count = min(columns, ow - b.column)
            left = b.column * sw - pw
            low = max(0, -left)
            high = min(iw - left, (count - 1) * sw + (kw - 1) * dw + 1)
            if b.column != known:
                known = b.column
                fill(values, -inf, batch * width)
                if has_indices:
                    fill(places, inf, batch * width)
            x = v.advance(v.pointer(args[f.x]), b.image * args[f.x_n] + b.channel * args[f.x_c] + left + low)
            out = v.advance(v.pointer(args[f.out]), b.image * args[f.out_n] + b.channel * args[f.out_k] + b.column)
            indices = v.advance(
                v.pointer_int64(args[f.indices]), b.image * args[f.indices_n] + b.channel * args[f.indices_c] + b.column
            )
            bottom = min(b.row + rows, oh)
            for row in range(b.row, bottom, batch):
                for i in range(min(batch, bottom - row)):
                    top = (row + i) * sh - ph
                    first = 0 if top >= 0 else up(-top, dh)
                    last = kh if top + (kh - 1) * dh < ih else up(ih - top, dh)
                    source = v.advance(x, (top + first * dh) * x_h)
                    to = v.advance(values, i * width + low)
                    if has_indices:
                        rows_places(
                            last - first, source, dh * x_h, first * dh * iw, dh * iw, to,
                            v.advance(places, i * width + low), high - low,
                        )  # fmt: skip
                    else:
                        rows_of(last - first, source, dh * x_h, to, high - low)
                for i in range(min(batch, bottom - row)):
                    joined = v.advance(values, i * width)
                    target_row = v.advance(out, (row + i) * args[f.out_h])
                    if has_indices:
                        columns_places(
                            kw, dw, sw, joined, v.advance(places, i * width), spare_values, spare_places, target_row,
                            v.advance(indices, (row + i) * args[f.indices_h]), ((row + i) * sh - ph) * iw + left, count,
                        )  # fmt: skip
                    else:
                        columns_of(kw, dw, sw, joined, spare_values, target_row, count, joined, 1)
            b = advance(b, channels, oh, ow, rows, columns)

    return kernel


def max_pool_backward(target: Target) -> Callable[..., None]:
    """Gradients added where the maxima were."""
    v = target.v
    lanes = v.lanes
    f: Any = abi.fields("max_pool_backward")
    store, vector_of = _store(target), _vector_of(target)

    def kernel(args, scratch, begin, end):
        channels, ih, iw, oh, ow, out_h = (
            args[f.c], args[f.ih], args[f.iw], args[f.oh], args[f.ow], args[f.out_h]
        )  # fmt: skip
        for item in range(begin, end):
            image, channel = item // channels, item % channels
            out = v.advance(v.pointer(args[f.out]), image * args[f.out_n] + channel * args[f.out_k])
            y = v.advance(v.pointer(args[f.y]), image * args[f.y_n] + channel * args[f.y_k])
            indices = v.advance(
                v.pointer_int64(args[f.indices]), image * args[f.indices_n] + channel * args[f.indices_c]
            )
            for i in range(ih):
                for j in range(0, iw, lanes):
                    store(v.advance(out, i * out_h), vector_of(j, iw), v.zero(), iw)
            for _ in range(oh):
                if out_h == iw:
                    for j in range(ow):
                        out[indices[j]] += y[j]
                else:
                    for j in range(ow):
                        out[indices[j] // iw * out_h + indices[j] % iw] += y[j]
                y = v.advance(y, args[f.y_h])
                indices = v.advance(indices, args[f.indices_h])

    return kernel


def _counted(target: Target) -> Inner:
    """Make ``counted(start, taps, first, end)``: pixels of a window that lie in first ... end."""
    return target.jit(lambda start, taps, first, end: min(start + taps, end) - max(start, first))


def avg_pool_forward(target: Target) -> Callable[..., None]:
    """Sums over their divisors."""
    v = target.v
    f: Any = abi.fields("avg_pool_forward")
    fill, block_of, advance, counted = _fill(target), _block_of(target), _advance(target), _counted(target)
    rows_of, columns_of = _rows(target, True), _columns(target, True)

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
    up, fill, block_of, advance = ceiling(target), _fill(target), _block_of(target), _advance(target)
    load, store, vector_of, taps_of, counted = (
        _load(target), _store(target), _vector_of(target), _taps(target, True), _counted(target)
    )  # fmt: skip

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
