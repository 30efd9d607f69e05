"""The product of im2col with output pixels in the lanes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from convforge.algorithms.im2col_blocks import Cut, least_items, pack, panel_depth, plain, runs, streams, stripe_of
from convforge.algorithms.lowering import Correlation, bias_field, geometry, input_fields, output_fields
from convforge.algorithms.stages import ALIGNMENT, ceil_div
from convforge.program import Slot, Stage

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

#: Fewest blocks of output channels that share one lowered panel: lowering a row costs about as much as two blocks.
_LEAST_BLOCKS = 8
#: Most panels of pixels that share a block of weights, and of an item where the input is read in place.
_MOST_WIDTH = 12
_STREAMED_WIDTH = 96
#: Fields of a run of pixels, and of a panel's place, in the kernel.
_RUN_INTEGERS = 4
_PLACE_INTEGERS = 2
#: Measured, in fused multiply-adds of a vector: what copying a run of a tap from the stripe takes, a vector into it, an
#: item's runs, and a tile to begin, add its bias and store its sums.
_COPY_FMAS = 5
_STRIPE_FMAS = 8
_SPAN_FMAS = 2000
_TILE_FMAS = 60


def cut(r: Correlation, tile: Tile, itemsize: int, machine: Machine, packed: Slot) -> Cut:
    """How it is done."""
    blocks = ceil_div(r.k, tile.rows)
    by_rows = _by_rows(r, tile)
    depth = panel_depth(r, tile, itemsize, machine)
    width = _width(r, tile, itemsize, machine, depth, by_rows)
    spans, splits = _spans(r, tile, width, by_rows), _splits(r, tile, machine, width, by_rows)
    stage = Stage(
        "im2col_forward",
        {**input_fields(r), "packed": packed, "unpacked": 0, "bias": bias_field(r), **output_fields(r), **geometry(r),
         "depth": depth, "splits": splits, "by_rows": int(by_rows), "width": width,
         "accumulate": int(r.accumulate)},
        r.n * r.groups * splits * spans,
    )  # fmt: skip
    panel = depth * tile.columns + tile.lanes
    reals = width * panel + tile.rows * tile.columns + _stripe(r, tile, width, by_rows) + tile.lanes
    integers = width * (_PLACE_INTEGERS + tile.columns * _RUN_INTEGERS) + r.taps
    return Cut(
        pack=pack("pack_weight", r, packed, blocks),
        packed=r.groups * blocks * tile.rows * r.c * r.taps,
        stage=stage,
        unprepared=replace(stage, args={**stage.args, "packed": r.weight.address, "unpacked": 1}),
        scratch_bytes=8 * integers + reals * itemsize + ALIGNMENT,
    )


def fmas(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> float:
    """Fused multiply-adds of vectors that it takes for an image's group, or would in their time."""
    taps = r.c * r.taps
    by_rows = _by_rows(r, tile)
    depth = panel_depth(r, tile, itemsize, machine)
    width = _width(r, tile, itemsize, machine, depth, by_rows)
    vectors = r.output[0] * ceil_div(r.output[1], tile.lanes) if by_rows else ceil_div(r.pixels, tile.lanes)
    lowered: float = 0
    if not plain(r):
        spans = _spans(r, tile, width, by_rows)
        lowered = _COPY_FMAS * taps * runs(r.output, tile)
        lowered += _STRIPE_FMAS * r.c * spans * _stripe(r, tile, width, by_rows) / tile.lanes
        lowered += _SPAN_FMAS * spans
    tiles = ceil_div(vectors, tile.vectors) * ceil_div(r.k, tile.rows) * ceil_div(taps, depth)
    idle = _idle(ceil_div(r.output[1], tile.lanes), tile) * r.output[0] if by_rows else _idle(vectors, tile)
    products = (vectors + idle) * max(r.k, tile.rows // 2) * taps + _TILE_FMAS * tiles
    return products + _splits(r, tile, machine, width, by_rows) * lowered


def _idle(vectors: int, tile: Tile) -> float:
    """Vectors' worth of time that a line loses to panels of fewer vectors than a tile has: their sums wait.

    A low tile has too few of them to hide the latency of a multiply-add.
    """
    if tile.rows > 4:
        return 0
    return (ceil_div(vectors, tile.vectors) * tile.vectors - vectors) / 2


def _by_rows(r: Correlation, tile: Tile) -> bool:
    """Whether panels end with the rows of pixels: few lanes idle, and no row is copied for some of its pixels.

    One tap is copied soon enough: whole tiles are worth more.
    """
    if plain(r):
        return False
    row, flat = ceil_div(r.output[1], tile.lanes), ceil_div(r.pixels, tile.lanes)
    idle, flat_idle = (_idle(row, tile), _idle(flat, tile)) if r.taps == 1 else (0, 0)
    return r.output[0] * (row + idle) * 16 <= (flat + flat_idle) * 17


def _width(r: Correlation, tile: Tile, itemsize: int, machine: Machine, depth: int, by_rows: bool) -> int:
    """Most panels of an item: a quarter of the second cache, yet enough items, if there are that many panels."""
    line_panels = ceil_div(r.output[1] if by_rows else r.pixels, tile.columns)
    lines = r.output[0] if by_rows else 1
    fitting = machine.l2 // 4 // (depth * tile.columns * itemsize)
    wanted = lines * line_panels * max(1, r.n) * r.groups // least_items(machine)
    most = _STREAMED_WIDTH if streams(r, tile) else min(fitting, _MOST_WIDTH)
    return max(1, min(wanted, most))


def _spans(r: Correlation, tile: Tile, width: int, by_rows: bool) -> int:
    """Items that the pixels of an image are cut into."""
    lines, pixels = (r.output[0], r.output[1]) if by_rows else (1, r.pixels)
    line_panels = ceil_div(pixels, tile.columns)
    return ceil_div(lines, max(1, width // line_panels)) * ceil_div(line_panels, width)


def _stripe(r: Correlation, tile: Tile, width: int, by_rows: bool) -> int:
    """Elements of one channel of the padded input under an item's pixels."""
    oh, ow = r.output
    if not by_rows:
        pixels = min(width * tile.columns, r.pixels)
        return stripe_of(r, tile, min(oh, ceil_div(pixels - 1, ow) + 1), ow)
    stacked = max(1, width // ceil_div(ow, tile.columns))
    return stripe_of(r, tile, min(stacked, oh), ow)


def _splits(r: Correlation, tile: Tile, machine: Machine, width: int, by_rows: bool) -> int:
    """Ranges of output channels, each of which lowers the input anew: as few as give enough items."""
    blocks = ceil_div(r.k, tile.rows)
    wanted = ceil_div(least_items(machine), max(1, r.n) * r.groups * _spans(r, tile, width, by_rows))
    return max(1, min(wanted, blocks // _LEAST_BLOCKS))
