"""The product of im2col with output pixels in the lanes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from convforge.algorithms.im2col_blocks import Cut, pack, panel_depth, plain, runs, streams, stripe_of
from convforge.algorithms.lowering import Correlation, bias_field, geometry, input_fields, output_fields
from convforge.algorithms.stages import ALIGNMENT, ceil_div, even_items, even_parts, least_items
from convforge.program import Slot, Stage

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

#: Fewest blocks of output channels that share one lowered panel: lowering a row costs about as much as two blocks.
_LEAST_BLOCKS = 8
#: Most panels of pixels that share a block of weights, and of an item where the input is read in place.
_MOST_WIDTH = 12
_STREAMED_WIDTH = 96
#: Panels of an item from which on one more item makes shares evener.
_LEAST_PANELS = 4
#: Fields of a run of pixels, and of a panel's place, in the kernel.
_RUN_INTEGERS = 4
_PLACE_INTEGERS = 2
#: Measured, in fused multiply-adds of a vector: what copying a run of a tap from the stripe takes, a vector into it, an
#: item's runs, and a tile to begin, add its bias and store its sums.
_COPY_FMAS = 4
_STRIPE_FMAS = 8
_SPAN_FMAS = 2000
_TILE_FMAS = 60


def cut(r: Correlation, tile: Tile, itemsize: int, machine: Machine, packed: Slot) -> Cut:
    """How it is done."""
    blocks = ceil_div(r.k, tile.rows)
    depth = panel_depth(r, tile, itemsize, machine)
    share = _share(r, tile, itemsize, machine, depth)
    stage = Stage(
        "im2col_forward",
        {**input_fields(r), "packed": packed, "unpacked": 0, "bias": bias_field(r), **output_fields(r), **geometry(r),
         "depth": depth, "splits": share.splits, "by_rows": int(share.by_rows), "cuts": share.cuts,
         "stacks": share.stacks, "accumulate": int(r.accumulate)},
        r.n * r.groups * share.splits * share.spans,
    )  # fmt: skip
    panel = depth * tile.columns + tile.lanes
    reals = share.width * panel + tile.rows * tile.columns + _stripe(r, tile, share) + tile.lanes
    integers = share.width * (_PLACE_INTEGERS + tile.columns * _RUN_INTEGERS) + r.taps
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
    depth = panel_depth(r, tile, itemsize, machine)
    share = _share(r, tile, itemsize, machine, depth)
    lines, pixels = _lines(r, share.by_rows)
    line = ceil_div(pixels, tile.lanes)
    lowered: float = 0
    if not plain(r):
        lowered = _COPY_FMAS * taps * runs(r.output, tile)
        lowered += _STRIPE_FMAS * r.c * share.spans * _stripe(r, tile, share) / tile.lanes
        lowered += _SPAN_FMAS * share.spans
    tiles = ceil_div(lines * line, tile.vectors) * ceil_div(r.k, tile.rows) * ceil_div(taps, depth)
    products = lines * (line + _idle(line, tile)) * max(r.k, tile.rows // 2) * taps + _TILE_FMAS * tiles
    return products + share.splits * lowered


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


@dataclass(frozen=True, slots=True)
class _Share:
    """How the pixels and output channels of an image are shared out.

    Attributes
    ----------
    by_rows
        Whether a line, which panels cover, is a row of pixels, or all of them.
    cuts, stacks
        Parts of a line, and of the lines: an item takes one of each.
    width
        Most panels of an item.
    splits
        Ranges of output channels, each of which lowers the input anew.
    """

    by_rows: bool
    cuts: int
    stacks: int
    width: int
    splits: int

    @property
    def spans(self) -> int:
        """Items that the pixels of an image are cut into."""
        return self.cuts * self.stacks


def _lines(r: Correlation, by_rows: bool) -> tuple[int, int]:
    """Lines, and pixels in each."""
    return (r.output[0], r.output[1]) if by_rows else (1, r.pixels)


def _share(r: Correlation, tile: Tile, itemsize: int, machine: Machine, depth: int) -> _Share:
    """Items of panels that fill a quarter of the second cache, yet enough for all cores, and evenly.

    Output channels are split only where there are too few panels, or a few that the cores cannot share evenly.
    """
    by_rows = _by_rows(r, tile)
    lines, pixels = _lines(r, by_rows)
    panels, planes = ceil_div(pixels, tile.columns), max(1, r.n) * r.groups
    fitting = machine.l2 // 4 // (depth * tile.columns * itemsize)
    most = _STREAMED_WIDTH if streams(r, tile) else min(fitting, _MOST_WIDTH)
    width = max(1, min(lines * panels * planes // least_items(machine), most))
    cuts, stacks = ceil_div(panels, width), ceil_div(lines, max(1, width // panels))
    if cuts > 1 and width >= _LEAST_PANELS:
        cuts = min(panels, even_items(cuts * stacks * planes, machine) // (stacks * planes))
    items = planes * cuts * stacks
    wanted = max(ceil_div(least_items(machine), items), even_parts(items, machine))
    splits = max(1, min(wanted, ceil_div(r.k, tile.rows) // _LEAST_BLOCKS))
    return _Share(by_rows, cuts, stacks, ceil_div(panels, cuts) * ceil_div(lines, stacks), splits)


def _stripe(r: Correlation, tile: Tile, share: _Share) -> int:
    """Elements of one channel of the padded input under an item's pixels."""
    oh, ow = r.output
    if not share.by_rows:
        pixels = min(share.width * tile.columns, r.pixels)
        return stripe_of(r, tile, min(oh, ceil_div(pixels - 1, ow) + 1), ow)
    return stripe_of(r, tile, ceil_div(oh, share.stacks), ow)
