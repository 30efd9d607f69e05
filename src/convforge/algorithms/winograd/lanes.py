"""What is in the lanes of Winograd's vectors, tiles or channels, and how long that takes.

With tiles in the lanes, lanes idle past the last tile: 7 of 32 for the 25 tiles of a map of 28x28 by F(6, 3). Input and
outputs are read and written in place, tile rows that are no whole vectors by masks. With channels in the lanes neither
tiles nor borders cost anything, but groups of few channels do, and input and outputs are transposed.
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
#: take to begin and to be stored, and those of a panel beside them; cycles until a multiply-add's sum is added to: 4,
#: and some delay.
GEMM_SHARE = 0.92
_PRODUCT_CYCLES = 18
_SWEEP_CYCLES = 40
_LATENCY = 4.5
#: Measured likewise, of tiles in the lanes: steps (a machine's time of two multiply-adds) for a vector of a channel's
#: transformed input or products, cycles for a vector of a row of input or output; of channels in the lanes: steps for
#: a vector of a tile's, and for a square of pixels and channels to be transposed.
_TILE_STEPS = {"f2": 1.8, "f3": 2.4, "f4": 2.6, "f6": 3.4, "f4_5x5": 4.0, "f2_s2": 1.2, "f4_s2": 2.6}
_ROW_CYCLES = 8
_CHANNEL_STEPS = {"f2": 2.4, "f3": 3.4, "f4": 3.4, "f6": 3.4, "f4_5x5": 3.4, "f2_s2": 2.4, "f4_s2": 3.4}
_TRANSPOSE_STEPS = 47
#: By how much weights that come from beyond the second cache are a trouble more to channels in the lanes than to tiles.
_FAR_FACTOR = 1.1


def vector_count(f: Filtering, r: Correlation, tile: Tile) -> int:
    """Vectors of tiles; an empty batch counts as one."""
    return max(1, ceil_div(tile_count(f, r), tile.lanes))


def tile_count(f: Filtering, r: Correlation) -> int:
    """Tiles of all images."""
    return r.n * ceil_div(r.output[0], f.m) * ceil_div(r.output[1], f.m)


def pixel_elements(f: Filtering, r: Correlation, tile: Tile, blocks: int) -> int:
    """Scratch of the transforms with channels in the lanes: padded rows of an image and one of zeros, or of tiles."""
    high, wide = (ceil_div(size, f.m) for size in r.output)
    most = min(high, ceil_div(ceil_div(vector_count(f, r, tile), blocks) * tile.lanes - 1, wide) + 1)
    height, width = (most - 1) * f.step + f.alpha, (wide - 1) * f.step + f.alpha
    return max((height + 1) * width, f.m**2 * wide + tile.lanes) * tile.lanes


def by_channels(f: Filtering, r: Correlation, tile: Tile, blocks: int, itemsize: int, machine: Machine) -> bool:
    """Whether channels are better in the lanes."""
    if tile.group != tile.lanes or pixel_elements(f, r, tile, blocks) * itemsize > machine.l2 // 2:
        return False
    far = f.alpha**2 * r.c * r.k * itemsize > machine.l2
    waiting = _FAR_FACTOR if far else 1
    return _by_channels(f, r, tile, blocks, machine) * waiting < _by_tiles(f, r, tile, blocks, machine)


def seconds(f: Filtering, r: Correlation, tile: Tile, blocks: int, channels: bool, machine: Machine) -> float:
    """Modelled time of a group's transforms and products."""
    return (_by_channels if channels else _by_tiles)(f, r, tile, blocks, machine)


def _by_tiles(f: Filtering, r: Correlation, tile: Tile, blocks: int, machine: Machine) -> float:
    area, vectors, panels = f.alpha**2, vector_count(f, r, tile), _panels(f, r, tile, blocks)
    row_blocks = ceil_div(r.k, tile.rows)
    # products of one vector a row wait for loads: of as many weights, and of the vector for two blocks of rows
    loads = panels * (tile.rows + 0.5) * machine.multiply_adds / 2
    steps = area * r.c * row_blocks * max(vectors * tile.rows, loads) / 2 / GEMM_SHARE
    cycles = area * panels * (row_blocks * _PRODUCT_CYCLES + _SWEEP_CYCLES)
    rows, columns = r.output
    width = ceil_div(columns, f.m) * f.step
    halo = f.halo if width - r.padding[1] < r.input[1] else 0
    runs = ceil_div(rows, f.m) * f.alpha * ceil_div(width + halo, tile.lanes)
    steps += area * vectors * (r.c + r.k) * _TILE_STEPS[f.name]
    cycles += r.n * (runs * r.c + rows * ceil_div(columns, tile.lanes) * r.k) * _ROW_CYCLES
    return steps * machine.step + cycles * machine.cycle


def _by_channels(f: Filtering, r: Correlation, tile: Tile, blocks: int, machine: Machine) -> float:
    area, tiles = f.alpha**2, max(1, tile_count(f, r))
    channels, vectors = ceil_div(r.c, tile.lanes), ceil_div(r.k, tile.lanes)
    sweeps, heights = ceil_div(vectors, tile.vectors), blocks * ceil_div(ceil_div(tiles, blocks), tile.rows)
    width, height = vectors / sweeps, max(tile.rows / 2, tiles / heights)
    step = max(width * height, max((width + height) / 2, _LATENCY) * machine.multiply_adds) / 2
    steps = area * r.c * sweeps * heights * step / GEMM_SHARE
    cycles = area * sweeps * heights * ceil_div(r.c, _DEPTH) * _PRODUCT_CYCLES
    rows, columns = r.output
    squares = r.input[0] * ceil_div(r.input[1], tile.lanes) * channels
    squares += ceil_div(rows, f.m) * ceil_div(min(f.m, rows) * columns, tile.lanes) * vectors
    steps += area * tiles * (channels + vectors) * _CHANNEL_STEPS[f.name] + r.n * squares * _TRANSPOSE_STEPS
    return steps * machine.step + cycles * machine.cycle


def _panels(f: Filtering, r: Correlation, tile: Tile, blocks: int) -> int:
    """Panels of tiles of all blocks."""
    least, larger = divmod(vector_count(f, r, tile), blocks)
    return larger * ceil_div(least + 1, tile.vectors) + (blocks - larger) * ceil_div(least, tile.vectors)
