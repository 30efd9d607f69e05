"""How large a product's tiles are, and how many blocks share a sum: one model for im2col and Winograd.

It looks at the sizes of the product alone, never at the device: the ranges a sum is cut into decide how it is rounded,
and a problem shall have the same bits on every GPU. The tile decides nothing but the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convforge.algorithms.cuda.stages import sums
from convforge.algorithms.stages import ceil_div
from convforge.kernels.cuda.tile import Tile

if TYPE_CHECKING:
    from convforge.runtime.gpu import Gpu

#: Depth of a step.
DEPTH = 8
#: Multiprocessors of the device that blocks are shared out for, and threads that each needs to hide its latencies.
_MULTIPROCESSORS = 132
_THREADS = 512
#: Tiles by type, and the share of the peak at which their main loop can run: multiply-adds among its instructions.
_TILES = {
    "float32": (
        (Tile(128, 128, DEPTH, 8, 8), 0.83),
        (Tile(64, 128, DEPTH, 8, 8), 0.8),
        (Tile(64, 64, DEPTH, 8, 8), 0.76),
        (Tile(32, 32, DEPTH, 4, 4), 0.5),
    ),
    "float64": ((Tile(128, 64, DEPTH, 8, 4), 0.85), (Tile(64, 64, DEPTH, 8, 4), 0.8), (Tile(32, 32, DEPTH, 4, 4), 0.6)),
}
#: Share of that where a multiprocessor holds a single block that leaves half of its threads idle.
_LONELY = 0.75
#: Steps that a block takes to begin and to end, fewest steps of a range, most ranges, and longest sum without a cut.
_BLOCK_STEPS = 12
_LEAST_STEPS = 16
_MOST_PARTS = 1024
MOST_PRODUCTS = 16384
#: Products of a range that cost as much as writing and adding up its sum.
_PART_PRODUCTS = 24


@dataclass(frozen=True, slots=True)
class Shape:
    """``batch`` products of matrices, ``m x depth`` times ``depth x n``."""

    m: int
    n: int
    depth: int
    batch: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A tile, the ranges of steps that sums are cut into, and the multiply-adds that a multiprocessor waits for."""

    tile: Tile
    parts: int
    work: float

    def seconds(self, gpu: Gpu, dtype: str) -> float:
        """Modelled time."""
        return self.work * _MULTIPROCESSORS * 2 / gpu.peak(sums(dtype))


def cut(shape: Shape, dtype: str, steps: int, most_parts: int = _MOST_PARTS) -> Cut:
    """The tile and ranges that take the least modelled time; ``steps`` of :data:`DEPTH` products make a sum."""
    choices = []
    for tile, share in _TILES[sums(dtype)]:
        blocks = ceil_div(shape.m, tile.bm) * ceil_div(shape.n, tile.bn) * shape.batch
        for parts in _parts(steps, min(most_parts, 65535)):
            held = ceil_div(blocks * parts, _MULTIPROCESSORS)
            busy = min(1.0, held * tile.threads / _THREADS)
            rate = share * (_LONELY + (1 - _LONELY) * busy if busy >= 0.5 else _LONELY * 2 * busy)
            block = tile.bm * tile.bn * DEPTH * (ceil_div(steps, parts) + _BLOCK_STEPS)
            adding = parts * shape.m * shape.n * shape.batch * _PART_PRODUCTS / _MULTIPROCESSORS if parts > 1 else 0
            choices.append(Cut(tile, parts, held * block / rate + adding))
    return min(choices, key=lambda choice: choice.work)


def _parts(steps: int, most: int) -> list[int]:
    """Numbers of ranges worth a try, such that none is empty; a longer sum than is good for its rounding is cut."""
    least = min(most, ceil_div(steps * DEPTH, MOST_PRODUCTS)) or 1
    most = max(least, min(most, steps // _LEAST_STEPS))
    sizes = {min(most, max(least, count << shift)) for count in (4, 5, 6, 7) for shift in range(-2, 9) if shift >= 0}
    sizes |= {least, *(count for count in (1, 2, 3) if least <= count <= most)}
    return sorted({ceil_div(steps, ceil_div(steps, size)) if steps else 1 for size in sizes})
