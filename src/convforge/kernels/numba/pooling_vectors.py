"""Rows of ``count`` elements in whole vectors, the last of which overlaps the one before.

Only rows shorter than a vector are masked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


def filling(target: Target) -> Inner:
    """Make ``fill(row, value, width)``, for widths that are multiples of the lanes."""
    v = target.v

    @target.jit
    def fill(row, value, width):
        for i in range(0, width, v.lanes):
            v.store(row, i, v.broadcast(value))

    return fill


def row_vectors(target: Target) -> tuple[Inner, Inner, Inner]:
    """Make ``vector_of(i, count)``, ``load(source, i, count)`` and ``store(out, i, x, count)``.

    The vector for the elements from ``i`` on starts at ``vector_of(i, count)``; there it is loaded and stored.
    """
    v, lanes = target.v, target.lanes
    vector_of = target.jit(lambda i, count: max(0, min(i, count - lanes)))
    load = target.jit(
        lambda source, i, count: v.load(source, i) if count >= lanes else v.load_partial(v.advance(source, i), count)
    )

    @target.jit
    def store(out, i, x, count):
        if count >= lanes:
            v.store(out, i, x)
        else:
            v.store_partial(v.advance(out, i), x, count)

    return vector_of, load, store
