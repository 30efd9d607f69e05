"""The product of im2col with output channels in the lanes and pixels in the tile's rows: for small maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from convforge.algorithms.im2col_blocks import Cut, pack, panel_depth, plain, stripe_of
from convforge.algorithms.lowering import Correlation, bias_field, geometry, input_fields, output_fields
from convforge.algorithms.stages import ALIGNMENT, ceil_div, even_items, even_parts, least_items, round_up
from convforge.program import Slot, Stage

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

#: Fewest panels of channels that share lowered pixels, and pixels that share a panel: lowering is worth that many.
#: Fewer panels where they are the only work for threads, since each item packs its weights for all pixels.
_LEAST_PANELS = 4
_LEAST_PACKED_PANELS = 3
_LEAST_PIXELS = 24
#: How many more items there are where items lower nothing.
_PLANES_ITEMS = 4
#: Most items that pack the same weights, each for itself: beyond, it takes less to pack them once and read them back.
MOST_PACKINGS = 2
#: Most taps whose input is lowered at a time.
_LISTED_TAPS = 64
#: Most of the sums' time that more items may take to copy the same input.
_COPIED_SHARE = 1 / 16
#: Rows of outputs beyond which padding is little, and share of the sums that it must leave.
_PADDED_ROWS = 64
_SUMMED_SHARE = 31 / 32
#: Measured: how much longer a step takes than with pixels in the lanes, also where what a tile reads of a panel is
#: spread over more bytes (the CPU finds the addresses of so many pages at once), or where pixels are a stride apart;
#: what lowering a tap of a pixel takes, in fused multiply-adds of a vector, from the input itself or from a stripe;
#: what a vector of a stripe takes, and an item that lowers nothing beside its sums; how much longer its steps take with
#: 16 registers, where a tile that reads packed pixels is written by hand; cycles that transposing a vector of sums
#: takes.
_FACTOR = 1.02
_FAR_FACTOR = 1.07
_APART_FACTOR = 1.08
_NEAR_BYTES = 96 << 12
_LOWERING_FMAS = 1
_STRIPED_FACTOR = 0.98
_STRIPED_FMAS = 1.5
_STRIPE_FMAS = 8
_ITEM_FMAS = 1500
_IN_PLACE_FMAS = 0.15
_TRANSPOSE_CYCLES = 7


def cut(r: Correlation, tile: Tile, itemsize: int, machine: Machine, packed: Slot) -> Cut:
    """How it is done."""
    elements = r.groups * round_up(r.k, tile.lanes) * r.c * r.taps
    least, skips = least_shares(r, tile, itemsize, machine), _summed(r, tile, itemsize, machine) < 1
    totals = replace(packed, constant=packed.constant + elements * itemsize) if skips else 0
    stage, scratch_bytes = _stage(r, tile, itemsize, machine, packed, totals, _shares(r, tile, itemsize, machine))
    unprepared = None
    if r.n * least <= MOST_PACKINGS:
        # each item packs its weights, so items share as few as they can
        unprepared, more = _stage(r, tile, itemsize, machine, r.weight.address, 0, least, unpacked=True)
        scratch_bytes = max(scratch_bytes, more)
    panels = stage.args["panels"]
    assert isinstance(panels, int)
    return Cut(
        pack=pack("pack_columns", r, packed, panels, totals=totals, panels=panels),
        packed=elements + r.groups * panels,
        stage=stage,
        unprepared=unprepared,
        scratch_bytes=scratch_bytes,
    )


def least_shares(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> int:
    """Ranges of pixels whose lowered input stays in the second cache."""
    depth = panel_depth(r, tile, itemsize, machine)
    return ceil_div(r.pixels, max(1, machine.l2 * 3 // 8 // (depth * itemsize)))


def _shares(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> int:
    """Ranges of pixels that are items, enough for all cores."""
    planes, most = max(1, r.n) * r.groups, r.pixels // _LEAST_PIXELS
    if _divides_channels(r, tile, itemsize, machine):
        items = planes * _panels(r, tile)
        shares = max(least_shares(r, tile, itemsize, machine), ceil_div(least_items(machine), items))
        return max(1, min(shares * even_parts(items * shares, machine), most))
    shares = max(least_shares(r, tile, itemsize, machine), min(ceil_div(least_items(machine), planes), most))
    return max(shares, min(even_items(planes * shares, machine) // planes, most))


def _reads_planes(r: Correlation, tile: Tile) -> bool:
    """Whether tiles read the input as it lies."""
    return plain(r) and r.pixels >= tile.rows // 2 and _longer(r, tile) < _LOWERING_FMAS


def _divides_channels(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> bool:
    """Whether items divide output channels rather than pixels: none lowers what others do, and weights are many."""
    return _reads_planes(r, tile) and r.k * r.c * itemsize > machine.l2 // 2


def _summed(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> float:
    """Share of the sums that are left without kernel rows of padding; 1 where that is not worth it, or can't be."""
    (high, dilation), rows = (r.kernel[0], r.dilation[0]), r.output[0]
    if plain(r) or rows > _PADDED_ROWS or panel_depth(r, tile, itemsize, machine) % r.taps:
        return 1
    tops = [row * r.stride[0] - r.padding[0] for row in range(rows)]
    used = [sum(0 <= top + i * dilation < r.input[0] for i in range(high)) for top in tops]
    share = sum(each or high for each in used) / (high * rows)
    return share if share <= _SUMMED_SHARE else 1


def _longer(r: Correlation, tile: Tile) -> float:
    """Fused multiply-adds that a tap of a pixel takes longer in place than packed, with all its channels."""
    return ceil_div(r.k, tile.lanes) * (_IN_PLACE_FMAS if tile.rows == 4 else 0)


def _panels(r: Correlation, tile: Tile) -> int:
    """Panels of output channels, each as wide as the tile or less."""
    return ceil_div(ceil_div(r.k, tile.lanes), tile.vectors)


def _even_panels(r: Correlation, tile: Tile, splits: int, machine: Machine) -> int:
    """As many, or some more of at least two vectors, which shares them evenly where cores get few of the ``splits``."""
    least = _panels(r, tile)
    even = round_up(least, splits)
    # sums of a low tile of few vectors would wait for each other
    fits = tile.rows > 4 and 2 * even <= ceil_div(r.k, tile.lanes)
    return even if fits and splits <= 2 * machine.cores else least


def _stage(
    r: Correlation, tile: Tile, itemsize: int, machine: Machine, packed: Slot, totals: Slot | int, shares: int, *,
    unpacked: bool = False,
) -> tuple[Stage, int]:  # fmt: skip
    """The product with channels in the lanes and ``shares`` ranges of pixels, and its bytes of scratch."""
    depth = panel_depth(r, tile, itemsize, machine)
    share = _share(r, tile, itemsize, machine, shares)
    splits = _splits(r, tile, itemsize, machine, share, shares, unpacked=unpacked)
    panels = _even_panels(r, tile, splits, machine)
    kernel = "im2col_pixels" if not share.in_place else "im2col_pixels_in_place"
    if share.in_place and r.stride[1] > 1:
        kernel = "im2col_pixels_apart"
    stage = Stage(
        kernel,
        {**input_fields(r), "packed": packed, "unpacked": int(unpacked), "bias": bias_field(r), **output_fields(r),
         **geometry(r), "depth": depth, "splits": splits, "shares": shares, "by_rows": int(share.by_rows),
         "channels": share.channels, "panels": panels, "totals": totals if share.in_place else 0},
        r.n * r.groups * splits * shares,
    )  # fmt: skip
    reals = share.stripes + tile.lanes
    if not share.in_place:
        reals += share.tiles * (depth * tile.rows + 2 * tile.lanes)
    elif not share.by_rows:  # rows that turn out to lie apart are copied
        reals += depth * (share.most + tile.lanes)
    waiting = 1 if depth >= r.c * r.taps else ceil_div(panels, splits)
    reals += (waiting * share.most + tile.lanes) * tile.columns + (depth * tile.columns if unpacked else 0)
    integers = share.most + share.tiles + 1 + share.channels * r.taps
    return stage, 8 * integers + reals * itemsize + ALIGNMENT


def _splits(
    r: Correlation, tile: Tile, itemsize: int, machine: Machine, share: _Share, shares: int, *, unpacked: bool
) -> int:
    """Ranges of panels that are items."""
    panels, vectors = _panels(r, tile), ceil_div(r.k, tile.lanes)
    # sums that wait for more taps stay in the second cache
    waits = panel_depth(r, tile, itemsize, machine) < r.c * r.taps
    held = max(1, machine.l2 // 2 // (share.most * tile.columns * itemsize)) if waits else panels
    least, most = least_items(machine), panels // (_LEAST_PACKED_PANELS if unpacked else _LEAST_PANELS)
    if _divides_channels(r, tile, itemsize, machine):
        least, most = _PLANES_ITEMS * least, panels
    elif share.in_place and not unpacked:
        # each copies the input, if any does
        copied = _STRIPE_FMAS * share.stripes / (share.channels * tile.lanes)
        most = int(min(panels, 1 + _COPIED_SHARE * share.most * r.taps * vectors / copied)) if copied else panels
        most -= most % machine.cores if most > machine.cores else 0
    wanted = min(ceil_div(least, max(1, r.n) * r.groups * shares), most)
    return min(panels, max(wanted, ceil_div(panels, held)))


def fmas(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> float:
    """Fused multiply-adds of vectors that it takes for an image's group, or would in their time."""
    taps = r.c * r.taps
    shares = _shares(r, tile, itemsize, machine)
    share = _share(r, tile, itemsize, machine, shares)
    # no tile is lower than half of the whole one
    pixels = max(r.pixels, shares * tile.rows // 2)
    sums: float = pixels * ceil_div(r.k, tile.lanes) * (taps + _TRANSPOSE_CYCLES * machine.multiply_adds)
    stripes = shares * r.c / share.channels * share.stripes / tile.lanes
    if share.in_place:
        sums *= _summed(r, tile, itemsize, machine)
        spread = plain(r) and share.channels * r.pixels * itemsize > _NEAR_BYTES
        factor = _APART_FACTOR if r.stride[1] > 1 else _FAR_FACTOR if spread else _FACTOR
        return factor * sums + _STRIPE_FMAS * stripes + _ITEM_FMAS * shares
    if plain(r):
        return _FACTOR * sums + _LOWERING_FMAS * r.pixels * taps
    return _STRIPED_FACTOR * sums + max(_STRIPED_FMAS * r.pixels * taps, _STRIPE_FMAS * stripes)


@dataclass(frozen=True, slots=True)
class _Share:
    """How a share of the output pixels is cut up.

    Attributes
    ----------
    by_rows
        Whether shares and tiles end with the rows of pixels: a tile then reads neighbours.
    in_place
        Whether tiles read the input, or a padded copy of all channels, in which their pixels are neighbours.
    most, tiles
        At most: pixels, in whole vectors, and tiles.
    channels
        Lowered, or copied, at a time.
    stripes
        Elements of the padded input of as many channels under it.
    """

    by_rows: bool
    in_place: bool
    most: int
    tiles: int
    channels: int
    stripes: int


def _share(r: Correlation, tile: Tile, itemsize: int, machine: Machine, shares: int) -> _Share:
    oh, ow = r.output
    row_tiles, fewest = ceil_div(ow, tile.rows), tile.rows // 2
    depth = panel_depth(r, tile, itemsize, machine)
    # those of a panel, where it ends with a channel
    together = r.c if depth % r.taps else min(r.c, depth // r.taps)
    whole_rows = not plain(r) and shares <= oh and ow // row_tiles >= fewest
    rows = ceil_div(oh, shares)
    by_rows = round_up(rows * ow, tile.lanes), rows * row_tiles
    if whole_rows and _longer(r, tile) < _STRIPED_FMAS:
        stripes = together * _stripe(r, tile, rows, itemsize, phases=False) if _padded(r) else 0
        if stripes * itemsize <= machine.l2 // 4:
            return _Share(True, True, *by_rows, together, stripes)
    # lowered, tiles of half the height would take as long as whole ones
    whole_rows = whole_rows and ow // row_tiles > fewest
    pixels = ceil_div(r.pixels, shares)
    most, tiles = (
        by_rows if whole_rows else (round_up(pixels, tile.lanes), ceil_div(round_up(pixels, tile.lanes), tile.rows))
    )
    if plain(r):
        in_place = _reads_planes(r, tile) and r.pixels // shares >= fewest
        return _Share(False, in_place, most, tiles, together if in_place else max(1, min(_LISTED_TAPS, r.c)), 0)
    rows = rows if whole_rows else min(oh, ceil_div(pixels - 1, ow) + 1)
    stripe = _stripe(r, tile, rows, itemsize, phases=True)
    channels = max(1, min(_LISTED_TAPS // r.taps, r.c, machine.l1 // 2 // (stripe * itemsize)))
    return _Share(whole_rows, False, most, tiles, channels, channels * stripe)


def _stripe(r: Correlation, tile: Tile, rows: int, itemsize: int, *, phases: bool) -> int:
    """Elements from one channel's stripe under rows of output pixels to the next."""
    return stripe_of(r, tile, rows, r.output[1], phases=phases) + 2 * ALIGNMENT // itemsize + tile.lanes


def _padded(r: Correlation) -> bool:
    """Whether outputs see padding."""
    reach = zip(r.output, r.stride, r.kernel, r.dilation, r.padding, r.input, strict=True)
    return any(p > 0 or (o - 1) * s + (k - 1) * d - p >= size for o, s, k, d, p, size in reach)
