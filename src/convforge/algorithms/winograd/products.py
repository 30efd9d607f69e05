"""The products of Winograd's transforms: what is in the lanes, and what they take.

With tiles in the lanes, lanes idle past the last tile: 7 of 32 for the 25 tiles of a map of 28x28 by F(6, 3). With
output channels in the lanes none does, but the products must be transposed for the output transform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.algorithms.stages import ceil_div

if TYPE_CHECKING:
    from convforge.algorithms.lowering import Correlation
    from convforge.kernels.abi import Filtering
    from convforge.runtime.machine import Machine, Tile

#: Channels whose products are summed in one chain by the kernels.
_DEPTH = 128
#: Measured on one core: share of the peak that the products reach; cycles that those of a panel and a block of rows
#: take to begin and to be stored, and those of a panel beside them; steps (a machine's time of two multiply-adds) that
#: a vector of a square of products takes to be transposed; cycles until a multiply-add's sum is added to: 4, and some
#: delay; how much longer a tile of 4 rows takes with output channels in the lanes.
GEMM_SHARE = 0.92
_PRODUCT_CYCLES = 18
_SWEEP_CYCLES = 40
_TRANSPOSE_STEPS = 5
_LATENCY = 4.5
_LOW_FACTOR = 1.2


def vector_count(f: Filtering, r: Correlation, tile: Tile) -> int:
    """Vectors of tiles; an empty batch counts as one."""
    return max(1, ceil_div(tile_count(f, r), tile.lanes))


def tile_count(f: Filtering, r: Correlation) -> int:
    """Tiles of all images."""
    return r.n * ceil_div(r.output[0], f.m) * ceil_div(r.output[1], f.m)


def by_channels(f: Filtering, r: Correlation, tile: Tile, blocks: int, machine: Machine) -> bool:
    """Whether output channels are in the lanes: that takes less where tiles would leave many of them idle."""
    if tile.group != tile.lanes:
        return False
    return _by_channels(f, r, tile, blocks, machine) < _by_tiles(f, r, tile, blocks, machine)


def seconds(f: Filtering, r: Correlation, tile: Tile, blocks: int, machine: Machine) -> float:
    """Modelled time of a group's products."""
    if by_channels(f, r, tile, blocks, machine):
        return _by_channels(f, r, tile, blocks, machine)
    return _by_tiles(f, r, tile, blocks, machine)


def _by_tiles(f: Filtering, r: Correlation, tile: Tile, blocks: int, machine: Machine) -> float:
    vectors, panels = vector_count(f, r, tile), _panels(f, r, tile, blocks)
    row_blocks = ceil_div(r.k, tile.rows)
    # products of one vector a row wait for loads: of as many weights, and of the vector for two blocks of rows
    loads = panels * (tile.rows + 0.5) * machine.multiply_adds / 2
    steps = r.c * row_blocks * max(vectors * tile.rows, loads) / 2 / GEMM_SHARE
    return f.alpha**2 * (steps * machine.step + panels * (row_blocks * _PRODUCT_CYCLES + _SWEEP_CYCLES) * machine.cycle)


def _by_channels(f: Filtering, r: Correlation, tile: Tile, blocks: int, machine: Machine) -> float:
    tiles, panels = max(1, tile_count(f, r)), _panels(f, r, tile, blocks)
    vectors = ceil_div(r.k, tile.lanes)
    sweeps, heights = ceil_div(vectors, tile.vectors), panels * ceil_div(ceil_div(tiles, panels), tile.rows)
    width, height = vectors / sweeps, max(tile.rows / 2, tiles / heights)
    step = max(width * height, max((width + height) / 2, _LATENCY) * machine.multiply_adds) / 2
    steps = r.c * sweeps * heights * step / GEMM_SHARE * (_LOW_FACTOR if tile.rows == 4 else 1)
    steps += vectors * vector_count(f, r, tile) * tile.lanes * _TRANSPOSE_STEPS
    cycles = sweeps * heights * ceil_div(r.c, _DEPTH) * _PRODUCT_CYCLES
    return f.alpha**2 * (steps * machine.step + cycles * machine.cycle)


def _panels(f: Filtering, r: Correlation, tile: Tile, blocks: int) -> int:
    """Panels of tiles of all blocks."""
    least, larger = divmod(vector_count(f, r, tile), blocks)
    return larger * ceil_div(least + 1, tile.vectors) + (blocks - larger) * ceil_div(least, tile.vectors)
