"""How a block of threads shares a product of matrices: plain data, which policies and kernels both read.

A block computes ``bm x bn`` sums, ``bk`` products at a time from two panels in shared memory. A warp's 32 threads are
4 x 8; a thread holds ``tm x tn`` sums, in fours of rows and of columns that lie apart, so that the eight columns of a
warp read 128 contiguous bytes of shared memory at once, and its four rows as many again:

    columns of a warp:  t0t0t0t0 t1t1t1t1 ... t7t7t7t7 | t0t0t0t0 t1t1t1t1 ...
                        <---- column_step = 32 ------>
"""

from __future__ import annotations

from dataclasses import dataclass

#: Threads of a warp by rows and columns, and elements of one access.
WARP_ROWS = 4
WARP_COLUMNS = 8
WIDTH = 4


@dataclass(frozen=True, slots=True)
class Tile:
    """Sums of a block, depth of a step, sums of a thread, and how many elements pad a row of a panel.

    A panel is padded where it is filled by columns (``pad=4``): eight threads that write one element to each of eight
    rows then meet eight different banks.
    """

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int
    pad: int = 0

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.bm * self.bn // (self.tm * self.tn)

    @property
    def a_pitch(self) -> int:
        """Elements from row to row of the left panel."""
        return self.bm + self.pad

    @property
    def b_pitch(self) -> int:
        """Elements from row to row of the right panel."""
        return self.bn + self.pad

    @property
    def row_step(self) -> int:
        """Rows from one of a thread's fours to the next."""
        return WARP_ROWS * WIDTH

    @property
    def column_step(self) -> int:
        """Columns from one of a thread's fours to the next."""
        return WARP_COLUMNS * WIDTH

    @property
    def warp_columns(self) -> int:
        """Warps side by side."""
        return self.bn // (WARP_COLUMNS * self.tn)

    @property
    def blocks(self) -> int:
        """Blocks that a multiprocessor must hold: so many that 512 threads share its registers, 128 each.

        Of 64 x 64 sums, 384 threads: with 128 registers some kernels of that tile spilled.
        """
        sharing = 384 if self.bm == self.bn == 64 else 512
        return max(1, sharing // self.threads)


#: What a block of the fused Winograd kernel computes: sums of so many tiles by so many output channels at 16 points,
#: two of which are a warp's; and its threads.
FUSED = Tile(32, 64, 8, 8, 8)
FUSED_THREADS = 256
