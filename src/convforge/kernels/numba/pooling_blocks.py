"""Where a block of a plane lies, which is what a pooling kernel's item is."""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING

from convforge.kernels.numba.integers import ceiling

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target

_Block = namedtuple("_Block", "image channel row column")


def blocks(target: Target) -> tuple[Inner, Inner]:
    """Make ``block_of(item, ...)`` and ``advance(block, ...)``, where an item lies and where the next one does.

    Their other arguments are ``channels, height, width, rows, columns``: planes of height x width are cut into blocks
    of rows x columns.
    """
    up = ceiling(target)

    @target.jit
    def block_of(item, channels, height, width, rows, columns):
        across, down = up(width, columns), up(height, rows)
        column = item % across * columns
        row = item // across % down * rows
        plane = item // across // down
        return _Block(plane // channels, plane % channels, row, column)

    @target.jit
    def advance(b, channels, height, width, rows, columns):
        # small planes would else spend their time on divisions
        if b.column + columns < width:
            return _Block(b.image, b.channel, b.row, b.column + columns)
        if b.row + rows < height:
            return _Block(b.image, b.channel, b.row + rows, 0)
        if b.channel + 1 < channels:
            return _Block(b.image, b.channel + 1, 0, 0)
        return _Block(b.image + 1, 0, 0, 0)

    return block_of, advance
