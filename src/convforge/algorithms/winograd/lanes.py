"""What is in the lanes of Winograd's vectors, tiles or channels, and how long that takes.

With tiles in the lanes, lanes idle past the last tile: 7 of 32 for the 25 tiles of a map of 28x28 by F(6, 3). Input and
outputs are read and written in place, tile rows that are no whole vectors by masks. With channels in the lanes neither
tiles nor borders cost anything, but groups of few channels do, and input and outputs are transposed.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING

from convforge.algorithms.lowering import phases
from convforge.algorithms.stages import ceil_div

if TYPE_CHECKING:
    from convforge.algorithms.lowering import Correlation
    from convforge.kernels.abi import Filtering
    from convforge.runtime.machine import Machine, Tile

#: Channels whose products are summed in one chain by the kernels.
_DEPTH = 128
#: Measured on one core: share of the peak that the products reach; cycles that a register tile of them takes to begin
#: and to be stored, with channels and with tiles in the lanes, and those of a panel of tiles beside that; cycles until
#: a multiply-add's sum is added to: 4, and some delay.
GEMM_SHARE = 0.92
_PRODUCT_CYCLES = 18
_SWEPT_CYCLES = 36
_SWEEP_CYCLES = 40
_LATENCY = 4.5
#: Measured likewise, of tiles in the lanes: steps (a machine's time of two multiply-adds) for a vector of a channel's
#: transformed input or products, and for an element put into its phase or taken from it, cycles for a vector of a row
#: of input or output; of channels in the lanes: steps for a vector of a tile's, and for a square of pixels and channels
#: to be transposed.
_TILE_STEPS = {"f2": 1.8, "f3": 2.4, "f4": 2.6, "f6": 3.4, "f4_5x5": 4.0, "f2_s2": 1.2, "f4_s2": 2.6}
_PHASE_STEPS = 1.5
_ROW_CYCLES = 10
_CHANNEL_STEPS = {"f2": 2.4, "f3": 3.4, "f4": 3.4, "f6": 3.4, "f4_5x5": 3.4, "f2_s2": 2.4, "f4_s2": 3.4}
_TRANSPOSE_STEPS = 47
#: By how much weights that come from beyond the second cache are a trouble more to channels in the lanes than to tiles,
#: and those that come from memory.
_FAR_FACTOR = 1.1
_MEMORY_FACTOR = 1.3
#: Measured likewise: seconds for a block of tiles, with tiles in the lanes and with channels.
_BLOCK_SECONDS = 6e-7
_PIXELS_SECONDS = 1.4e-6


#: Tiles of a row, and rows, that end with shorter ones: none, where all are whole.
WHOLE = (0, 0)


def vector_count(f: Filtering, r: Correlation, tile: Tile) -> int:
    """Vectors of whole tiles; an empty batch counts as one."""
    return max(1, ceil_div(tile_count(f, r), tile.lanes))


def tile_count(f: Filtering, r: Correlation, short: tuple[int, int] = WHOLE) -> int:
    """Tiles of all images, and of all phases of a dilation."""
    high, wide = _tiles(f, r, short)
    return r.n * prod(r.dilation) * high * wide


def tile_rows(f: Filtering, r: Correlation, short: tuple[int, int]) -> int:
    """Rows of tiles of an image."""
    return _tiles(f, r, short)[0]


def _tiles(f: Filtering, r: Correlation, short: tuple[int, int]) -> tuple[int, int]:
    """Rows of tiles, and tiles in a row, of an image or of one phase of a dilated one."""
    high, wide = (
        few + ceil_div(ceil_div(size, d) - few * f.short, f.m)
        for size, d, few in zip(r.output, r.dilation, short, strict=True)
    )
    return high, wide


def shorter(f: Filtering, r: Correlation) -> tuple[int, int]:
    """How many tiles of a column and of a row are best shorter: they then take the fewest products."""
    if not f.short or prod(r.dilation) > 1:
        return WHOLE

    def products(size: int, few: int) -> int:
        return few * (f.short + f.halo) + max(0, ceil_div(size - few * f.short, f.m)) * f.alpha

    high, wide = (min(range(ceil_div(size, f.short) + 1), key=partial(products, size)) for size in r.output)
    return high, wide


def pixel_elements(f: Filtering, r: Correlation, tile: Tile, tiles: int, short: tuple[int, int] = WHOLE) -> int:
    """Scratch of the transforms of so many tiles at most, with channels in the lanes.

    Padded rows of an image and one of zeros, or outputs of a row of tiles; if it is dilated all rows, all outputs; and
    a tile.
    """
    (high, wide), (dh, dw), outputs = _tiles(f, r, short), r.dilation, r.pixels
    if dh * dw == 1:
        high = min(high, ceil_div(tiles - 1, wide) + 1)
        outputs = f.m**2 * wide
    height, width = ((high - 1) * f.step + f.alpha) * dh, ((wide - 1) * f.step + f.alpha) * dw
    return (max((height + 1) * width, outputs + tile.lanes) + f.alpha**2) * tile.lanes


def takes_channels(tile: Tile, itemsize: int) -> bool:
    """Whether there are kernels with channels in the lanes: vectors of 16 bytes would gain little for their code."""
    return tile.group == tile.lanes and tile.lanes * itemsize >= 32


def by_channels(f: Filtering, r: Correlation, tile: Tile, blocks: int, itemsize: int, machine: Machine) -> bool:
    """Whether channels are better in the lanes; with tiles a dilation takes its phases as images."""
    largest = ceil_div(vector_count(f, r, tile), blocks) * tile.lanes
    if not takes_channels(tile, itemsize) or pixel_elements(f, r, tile, largest) * itemsize > machine.l2 // 2:
        return False
    channels = _by_channels(f, r, tile, blocks, machine, WHOLE) * trouble(f, r, itemsize, machine)
    apart = phases(r)
    tiles = _by_tiles(f, apart, tile, blocks, machine)
    return channels < (tiles if apart is r else tiles + phase_seconds(apart, machine))


def trouble(f: Filtering, r: Correlation, itemsize: int, machine: Machine) -> float:
    """By how much longer it takes with channels in the lanes, since weights come from far."""
    weight = f.alpha**2 * r.c * r.k * itemsize
    return 1 if weight <= machine.l2 else _FAR_FACTOR if weight <= machine.l3 // 2 else _MEMORY_FACTOR


def seconds(
    f: Filtering, r: Correlation, tile: Tile, blocks: int, channels: bool, machine: Machine,
    short: tuple[int, int] = WHOLE,
) -> float:  # fmt: skip
    """Modelled time of a group's transforms and products, and of its blocks."""
    if channels:
        return _by_channels(f, r, tile, blocks, machine, short) + blocks * _PIXELS_SECONDS
    return _by_tiles(f, r, tile, blocks, machine) + blocks * _BLOCK_SECONDS


def phase_seconds(r: Correlation, machine: Machine) -> float:
    """Modelled time of a group's parting into phases, which are the images of ``r``, and joining."""
    return r.n * (r.c * prod(r.input) + r.k * r.pixels) * _PHASE_STEPS * machine.step


def _by_tiles(f: Filtering, r: Correlation, tile: Tile, blocks: int, machine: Machine) -> float:
    area, vectors, panels = f.alpha**2, vector_count(f, r, tile), _panels(f, r, tile, blocks)
    row_blocks = ceil_div(r.k, tile.rows)
    # products of one vector a row wait for loads: of as many weights, and of the vector for two blocks of rows
    loads = panels * (tile.rows + 0.5) * machine.multiply_adds / 2
    steps = area * r.c * row_blocks * max(vectors * tile.rows, loads) / 2 / GEMM_SHARE
    cycles = area * panels * (row_blocks * _SWEPT_CYCLES + _SWEEP_CYCLES)
    rows, columns = r.output
    width = ceil_div(columns, f.m) * f.step
    halo = f.halo if width - r.padding[1] < r.input[1] else 0
    runs = ceil_div(rows, f.m) * f.alpha * ceil_div(width + halo, tile.lanes)
    steps += area * vectors * (r.c + r.k) * _TILE_STEPS[f.name]
    cycles += r.n * (runs * r.c + rows * ceil_div(columns, tile.lanes) * r.k) * _ROW_CYCLES
    return steps * machine.step + cycles * machine.cycle


def _by_channels(
    f: Filtering, r: Correlation, tile: Tile, blocks: int, machine: Machine, short: tuple[int, int]
) -> float:
    channels, vectors = ceil_div(r.c, tile.lanes), ceil_div(r.k, tile.lanes)
    sweeps = ceil_div(vectors, tile.vectors)
    width = vectors / sweeps
    steps = cycles = products = 0.0
    for xis, tiles in _products(f, r, short):
        heights = blocks * ceil_div(ceil_div(tiles, blocks), tile.rows)
        height = max(tile.rows / 2, tiles / heights)
        step = max(width * height, max((width + height) / 2, _LATENCY) * machine.multiply_adds) / 2
        steps += xis * r.c * sweeps * heights * step / GEMM_SHARE
        cycles += xis * sweeps * heights * ceil_div(r.c, _DEPTH) * _PRODUCT_CYCLES
        products += xis * tiles
    rows, columns = r.output
    squares = r.input[0] * ceil_div(r.input[1], tile.lanes) * channels
    height = rows if prod(r.dilation) > 1 else min(f.m, rows)  # of outputs that are transposed at a time
    squares += ceil_div(rows, height) * ceil_div(height * columns, tile.lanes) * vectors
    steps += products * (channels + vectors) * _CHANNEL_STEPS[f.name] + r.n * squares * _TRANSPOSE_STEPS
    return steps * machine.step + cycles * machine.cycle


def _products(f: Filtering, r: Correlation, short: tuple[int, int]) -> list[tuple[int, int]]:
    """So many xi have products of so many tiles each."""
    if short == WHOLE:
        return [(f.alpha**2, max(1, tile_count(f, r)))]
    (high, wide), kept = _tiles(f, r, short), f.short + f.halo
    down = (kept, high), (f.alpha - kept, high - short[0])
    across = (kept, wide), (f.alpha - kept, wide - short[1])
    images = max(1, r.n)
    return [(a * b, images * rows * columns) for a, rows in down for b, columns in across if rows * columns]


def _panels(f: Filtering, r: Correlation, tile: Tile, blocks: int) -> int:
    """Panels of tiles of all blocks."""
    least, larger = divmod(vector_count(f, r, tile), blocks)
    return larger * ceil_div(least + 1, tile.vectors) + (blocks - larger) * ceil_div(least, tile.vectors)
