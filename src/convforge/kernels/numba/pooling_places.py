"""Maxima of windows, as in :mod:`.pooling_windows`, each with its place in its window, as an exact number of the dtype.

Of equals the first place wins, in whichever order they meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels.numba.pooling_vectors import row_vectors

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


def _exceeds(target: Target) -> Inner:
    """Make ``exceeds(a, b)``: a is larger, or NaN where b is not."""
    v = target.v
    return target.jit(lambda a, b: v.either(a > b, v.both(v.is_nan(a), b == b)))


def placed_rows(target: Target) -> Inner:
    """Make ``rows_places(taps, x, step, first, pitch, values, places, count)``: x[t * step] is at first + t * pitch."""
    v = target.v
    lanes = v.lanes
    (vector_of, load, store), exceeds = row_vectors(target), _exceeds(target)

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


def placed_columns(target: Target) -> Inner:
    """Make ``columns_places``, as :func:`.joined_columns`'s; the indices of window j count from ``index + j * stride``.

    Its arguments: ``taps, dilation, stride, values, places, spare_values, spare_places, out, indices, index, count``.
    """
    v = target.v
    lanes = v.lanes
    (vector_of, _, store), exceeds = row_vectors(target), _exceeds(target)

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
