"""The windows of a row joined to their sums or maxima, separably: joined down their rows, and then along them.

The rows of the windows are joined into a row of scratch whose borders hold what changes nothing, so that the second
pass needs no masks. In a maximum NaN wins, and of equals the old one stays.

The loops over a row are functions of their own: inlined into their kernel they would keep what it counts with in
memory, not in registers (a quarter of the time).
"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

from convforge.kernels.numba.pooling_vectors import row_vectors

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


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


def joined_taps(target: Target, average: bool) -> Inner:
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


def joined_rows(target: Target, average: bool) -> Inner:
    """Make ``rows(taps, x, step, out, count)``: out[j] = x[j], x[step + j], ... joined."""
    (vector_of, load, store), join = row_vectors(target), _join(target, average)
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


def joined_columns(target: Target, average: bool) -> Inner:
    """Make ``columns(taps, dilation, stride, row, spare, out, count, divisors, factor)``.

    ``out[j] = row[j * stride], row[j * stride + dilation], ...`` joined; an average over ``divisors[j] * factor``.
    Windows are joined at every element of the row. A stride of 2 drops half of them on the way; for others they go to
    ``spare``, where those wanted are picked. A single window has its elements in the lanes: past its taps the row holds
    what changes nothing.
    """
    v = target.v
    lanes = v.lanes
    join, taps_of = _join(target, average), joined_taps(target, average)
    vector_of, _, store = row_vectors(target)

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
