"""What a kernel will read next, fetched while it computes.

Some of the tiles on the way there, evenly spread, fetch one cache line of every channel each. In bursts between the
tiles most of it is lost: a CPU waits for few lines at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


class Upcoming(NamedTuple):
    """Functions that tell what to fetch.

    Attributes
    ----------
    lines
        ``lines(columns)`` is how many cache lines a row of as many elements is in.
    nth_line
        ``nth_line(first, row_step, lines, number)`` is a line of rows that are ``row_step`` elements apart.
    """

    lines: Inner
    nth_line: Inner


def upcoming(target: Target) -> Upcoming:
    """Make them."""
    v = target.v
    line = 64 // v.itemsize

    @target.jit
    def lines(columns):
        # rows begin anywhere in a line
        return columns // line + 1

    @target.jit
    def nth_line(first, row_step, lines, number):
        row = number // lines
        return v.advance(first, row * row_step + (number - row * lines) * line)

    return Upcoming(lines, nth_line)
