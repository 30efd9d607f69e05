"""Convolution as a matrix product over lowered input ("im2col") that is packed panel by panel, never built whole.

Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", 2006, lower
the whole input; here each item lowers ``depth`` rows of one register tile's columns at a time and sweeps the output
channels while they are in the first cache (Anderson et al., "Low-memory GEMM-based convolution algorithms", 2017).

Memory beyond the arrays: a worker takes at most one and a quarter times the second cache (of a mebibyte, where that is
smaller), the packed weight at most a tile's rows times the weight (a group with one output channel fills a block of
them), and the partial sums of a weight gradient at most sixteen times the weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms import im2col_dots
from convforge.algorithms.lowering import (
    Correlation,
    bias_field,
    correlations,
    geometry,
    input_fields,
    inside,
    output_fields,
    weight_fields,
)
from convforge.algorithms.policy import Policy
from convforge.algorithms.stages import (
    ALIGNMENT,
    ceil_div,
    fill_zero,
    grad_weight_fields,
    refuses_all_but_2d,
    round_up,
    sum_parts,
)
from convforge.problem import ConvProblem
from convforge.program import Program, Slot, Stage, buffer

if TYPE_CHECKING:
    from convforge.problem import Problem
    from convforge.runtime.machine import Machine, Tile

#: Partial sums of a weight gradient where nothing else gives threads work: they order its additions.
_MOST_PARTS = 16
#: Fewest blocks of output channels that share one lowered panel: lowering a row costs about as much as two blocks.
_LEAST_BLOCKS = 8
#: Fewest panels of channels that share lowered pixels, and pixels that share a panel, likewise; most panels of pixels
#: that share a block of weights.
_LEAST_PANELS = 4
_LEAST_PIXELS = 24
_MOST_WIDTH = 12
#: Most items that pack the same weights, each for itself: beyond, it takes less to pack them once and read them back.
_MOST_PACKINGS = 2
#: Rows of a panel and most panels of an item where the input is read in place.
_STREAMED_DEPTH = 8
_STREAMED_WIDTH = 96
#: Most pixels and rows of lowered input that the weight gradient takes at a time: with fewer, the sums over a tile's
#: lanes, and reading grad_output anew for each block of rows, take more than a tenth of the time.
_MOST_PIXELS = 1024
_MOST_COLUMNS = 144
_LEAST_COLUMNS = 12
#: Most taps whose input is lowered at a time where channels are in the lanes.
_LISTED_TAPS = 64
#: Largest tile of dot products: rows of grad_output, rows of lowered input.
_DOT_ROWS = 6
_DOT_COLUMNS = 4
#: Bounds a chain of additions, and so the error, on every machine.
_MOST_DEPTH = 1024
#: Share of a correlation's time that its parts without padding may take, and bytes by which their packed weights may
#: be more.
_PART_SHARE = 0.85
_MORE_PACKED = 32 << 20
#: Fields of a run of pixels, and of a panel's place, in the kernels.
_RUN_INTEGERS = 4
_PLACE_INTEGERS = 2


def _refuses(problem: Problem, pass_: str) -> str | None:
    return refuses_all_but_2d(problem)


def _program(problem: Problem, pass_: str, tile: Tile, machine: Machine) -> Program:
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        return _grad_weight(problem, tile, machine)
    stages: list[Stage] = []
    prepare: list[Stage] = []
    unprepared: Stage | None = None
    packed_bytes = scratch_bytes = 0
    itemsize = problem.itemsize
    every = _correlations(problem, pass_, tile, machine)
    if _in_dots(problem, pass_, every, machine):
        return im2col_dots.program(every[0], problem.dtype, itemsize, _least_items(machine))
    for r in every:
        if r.taps == 0:
            stages.append(fill_zero(r))
            continue
        make = _in_pixels if _prefers_pixels(r, tile, itemsize, machine) else _in_panels
        cut = make(r, tile, itemsize, machine, buffer("packed", packed_bytes))
        prepare.append(cut.pack)
        stages.append(cut.stage)
        unprepared = cut.unprepared
        packed_bytes += round_up(cut.packed * itemsize)
        scratch_bytes = max(scratch_bytes, cut.scratch_bytes)
    program = Program(
        dtype=problem.dtype, stages=stages, prepare=prepare, packed_bytes=packed_bytes, scratch_bytes=scratch_bytes
    )
    if unprepared is None or not _reads_rows(problem, pass_, every):
        return program
    return replace(program, unprepared=(unprepared,), contiguous=program.contiguous | {"weight"})


def _reads_rows(problem: ConvProblem, pass_: str, every: list[Correlation]) -> bool:
    """Whether an output channel's weights are taken in the order in which they lie."""
    return pass_ == "forward" and len(every) == 1 and every[0].kernel == problem.kernel


def _in_dots(problem: ConvProblem, pass_: str, every: list[Correlation], machine: Machine) -> bool:
    """Whether it is done as dot products."""
    return _reads_rows(problem, pass_, every) and im2col_dots.fits(every[0], problem.itemsize, machine)


def _correlations(problem: ConvProblem, pass_: str, tile: Tile, machine: Machine) -> list[Correlation]:
    """The correlations of a pass, those of them in parts that leave out much padding that way."""
    result, itemsize = [], problem.itemsize
    for r in correlations(problem, pass_):
        parts = inside(r) if r.taps > 1 else [r]
        packed = sum(part.taps for part in parts) * r.groups * round_up(r.k, tile.lanes) * r.c * itemsize
        if packed > min(tile.rows * problem.weight_bytes, problem.weight_bytes + _MORE_PACKED) or (
            _PART_SHARE * _flops(r, tile, itemsize, machine) < sum(_flops(p, tile, itemsize, machine) for p in parts)
        ):
            parts = [r]
        result += parts
    return result


@dataclass(frozen=True, slots=True)
class _Cut:
    """How a correlation is done.

    Attributes
    ----------
    pack, packed
        The stage that packs the weights, and as how many elements.
    stage
        The product.
    unprepared
        The same of weights as they lie, where that takes less than packing them first.
    scratch_bytes
        Of a worker.
    """

    pack: Stage
    packed: int
    stage: Stage
    unprepared: Stage | None
    scratch_bytes: int


def _in_panels(r: Correlation, tile: Tile, itemsize: int, machine: Machine, packed: Slot) -> _Cut:
    """Output pixels in the lanes."""
    blocks = ceil_div(r.k, tile.rows)
    by_rows = _by_rows(r, tile)
    depth = _depth(r, tile, itemsize, machine)
    width = _width(r, tile, itemsize, machine, depth, by_rows)
    spans, splits = _spans(r, tile, width, by_rows), _splits(r, tile, machine, width, by_rows)
    stage = Stage(
        "im2col_forward",
        {**input_fields(r), "packed": packed, "unpacked": 0, "bias": bias_field(r), **output_fields(r), **geometry(r),
         "depth": depth, "splits": splits, "by_rows": int(by_rows), "width": width},
        r.n * r.groups * splits * spans,
    )  # fmt: skip
    panel = depth * tile.columns + tile.lanes
    reals = width * panel + tile.rows * tile.columns + _stripe(r, tile, width, by_rows) + tile.lanes
    integers = width * (_PLACE_INTEGERS + tile.columns * _RUN_INTEGERS) + r.taps
    return _Cut(
        pack=_pack("pack_weight", r, packed, blocks),
        packed=r.groups * blocks * tile.rows * r.c * r.taps,
        stage=stage,
        unprepared=replace(stage, args={**stage.args, "packed": r.weight.address, "unpacked": 1}),
        scratch_bytes=8 * integers + reals * itemsize + ALIGNMENT,
    )


def _in_pixels(r: Correlation, tile: Tile, itemsize: int, machine: Machine, packed: Slot) -> _Cut:
    """Output channels in the lanes."""
    vectors = ceil_div(r.k, tile.lanes)
    least = _least_shares(r, tile, itemsize, machine)
    items = ceil_div(_least_items(machine), max(1, r.n) * r.groups)
    shares = max(least, min(items, r.pixels // _LEAST_PIXELS))
    stage, scratch_bytes = _pixel_stage(r, tile, itemsize, machine, packed, shares)
    unprepared = None
    if r.n * least <= _MOST_PACKINGS:
        # each item packs its weights, so items share as few as they can
        unprepared, more = _pixel_stage(r, tile, itemsize, machine, r.weight.address, least, unpacked=True)
        scratch_bytes = max(scratch_bytes, more)
    return _Cut(
        pack=_pack("pack_columns", r, packed, ceil_div(vectors, tile.vectors)),
        packed=r.groups * vectors * tile.lanes * r.c * r.taps,
        stage=stage,
        unprepared=unprepared,
        scratch_bytes=scratch_bytes,
    )


def _least_shares(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> int:
    """Ranges of pixels whose lowered input stays in the second cache."""
    depth = _depth(r, tile, itemsize, machine)
    return ceil_div(r.pixels, max(1, machine.l2 * 3 // 8 // (depth * itemsize)))


def _pixel_stage(
    r: Correlation, tile: Tile, itemsize: int, machine: Machine, packed: Slot, shares: int, *, unpacked: bool = False
) -> tuple[Stage, int]:
    """The product with channels in the lanes and ``shares`` ranges of pixels, and its bytes of scratch."""
    panels = ceil_div(ceil_div(r.k, tile.lanes), tile.vectors)
    depth = _depth(r, tile, itemsize, machine)
    cut = _cut_pixels(r, tile, itemsize, machine, shares)
    # sums that wait for more taps stay in the second cache
    held = panels if depth >= r.c * r.taps else max(1, machine.l2 // 4 // (cut.most * tile.columns * itemsize))
    wanted = min(ceil_div(_least_items(machine), max(1, r.n) * r.groups * shares), panels // _LEAST_PANELS)
    splits = min(panels, max(wanted, ceil_div(panels, held)))
    stage = Stage(
        "im2col_pixels",
        {**input_fields(r), "packed": packed, "unpacked": int(unpacked), "bias": bias_field(r), **output_fields(r),
         **geometry(r), "depth": depth, "splits": splits, "shares": shares, "by_rows": int(cut.by_rows),
         "channels": cut.channels},
        r.n * r.groups * splits * shares,
    )  # fmt: skip
    reals = cut.tiles * (depth * tile.rows + 2 * tile.lanes) + cut.stripes + tile.lanes
    waiting = 1 if depth >= r.c * r.taps else ceil_div(panels, splits)
    reals += (waiting * cut.most + tile.lanes) * tile.columns + (depth * tile.columns if unpacked else 0)
    integers = cut.most + cut.tiles + 1 + cut.channels * r.taps
    return stage, 8 * integers + reals * itemsize + ALIGNMENT


def _pack(kernel: str, r: Correlation, packed: Slot, blocks: int) -> Stage:
    fields: dict[str, Slot | int] = {
        "packed": packed, "g": r.groups, "k": r.k, "c": r.c, "kh": r.kernel[0], "kw": r.kernel[1],
    }  # fmt: skip
    return Stage(kernel, {**weight_fields(r), **fields}, r.groups * blocks)


def _prefers_pixels(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> bool:
    """Whether channels in the lanes take less: they leave fewer lanes idle on a small map.

    They may not pad the weights more than blocks of the tile's rows would.
    """
    padded = round_up(r.k, tile.lanes) > tile.rows * r.k
    return not padded and not _streams(r, tile) and _pixel_fmas(r, tile) < _panel_fmas(r, tile, itemsize, machine)


def _pixel_fmas(r: Correlation, tile: Tile) -> float:
    """Fused multiply-adds of vectors that channels in the lanes take for an image's group, or would in their time."""
    taps = r.c * r.taps
    sums = r.pixels * ceil_div(r.k, tile.lanes) * (taps + _TRANSPOSE_STEPS)
    factor, lowering = (_PIXEL_FACTOR, _PIXEL_FMAS) if _plain(r) else (_STRIPED_PIXEL_FACTOR, _STRIPED_PIXEL_FMAS)
    return factor * sums + lowering * r.pixels * taps


def _panel_fmas(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> float:
    """Likewise, pixels in the lanes."""
    taps = r.c * r.taps
    by_rows = _by_rows(r, tile)
    depth = _depth(r, tile, itemsize, machine)
    width = _width(r, tile, itemsize, machine, depth, by_rows)
    vectors = r.output[0] * ceil_div(r.output[1], tile.lanes) if by_rows else ceil_div(r.pixels, tile.lanes)
    lowered: float = 0
    if r.taps * prod(r.stride) > 1:
        spans = _spans(r, tile, width, by_rows)
        lowered = _COPY_FMAS * taps * _runs(r.output, tile)
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


@dataclass(frozen=True, slots=True)
class _PixelCut:
    """How a share of the output pixels is cut up where channels are in the lanes.

    Attributes
    ----------
    by_rows
        Whether shares and tiles end with the rows of pixels: a tile then reads neighbours.
    most, tiles
        Of a share, at most: pixels, in whole vectors, and tiles.
    channels
        Lowered at a time.
    stripes
        Elements of the padded input of as many channels under a share.
    """

    by_rows: bool
    most: int
    tiles: int
    channels: int
    stripes: int


def _cut_pixels(r: Correlation, tile: Tile, itemsize: int, machine: Machine, shares: int) -> _PixelCut:
    oh, ow = r.output
    row_tiles = ceil_div(ow, tile.rows)
    # tiles of half the height would take as long as whole ones
    by_rows = not _plain(r) and shares <= oh and ow // row_tiles > tile.rows // 2
    if by_rows:
        rows = ceil_div(oh, shares)
        pixels, tiles = rows * ow, rows * row_tiles
    else:
        pixels = ceil_div(r.pixels, shares)
        rows, tiles = min(oh, ceil_div(pixels - 1, ow) + 1), ceil_div(round_up(pixels, tile.lanes), tile.rows)
    stripe = _stripe_of(r, tile, rows, ow) + 2 * ALIGNMENT // itemsize + tile.lanes
    fitting = machine.l1 // 2 // (stripe * itemsize)
    channels = max(1, min(_LISTED_TAPS // r.taps, r.c if _plain(r) else min(r.c, fitting)))
    return _PixelCut(by_rows, round_up(pixels, tile.lanes), tiles, channels, channels * stripe)


def _plain(r: Correlation) -> bool:
    """Whether output pixels are input pixels, one after the other."""
    return r.taps * prod(r.stride) == 1 and not any(r.padding) and r.input == r.output


def _streams(r: Correlation, tile: Tile) -> bool:
    """Whether panels of input serve one block of output channels: they need no copy."""
    return _plain(r) and r.k <= tile.rows


def _depth(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> int:
    """Rows of a panel: equal shares of the taps that fill the first cache one and a half times.

    The tile reads a panel from the second cache without loss; longer panels go through the output less often. Where
    one block of output channels reads the input in place, few rows at a time: the CPU follows some sixteen streams from
    memory, and with 8 a 1x1 layer of 64 to 2 channels took a third of its time with 64.
    """
    if _streams(r, tile):
        return min(r.c, _STREAMED_DEPTH)
    most = max(1, min(_MOST_DEPTH, machine.l1 * 3 // 2 // (tile.columns * itemsize)))
    if r.taps <= most:
        return r.taps * ceil_div(r.c, ceil_div(r.c, most // r.taps))
    total = r.c * r.taps
    return ceil_div(total, ceil_div(total, most))


def _least_items(machine: Machine) -> int:
    """Items that a stage is split into where it can be: some for each core, whatever the number of threads."""
    return max(4, 2 * machine.cores)


def _by_rows(r: Correlation, tile: Tile) -> bool:
    """Whether panels end with the rows of pixels: few lanes idle, and no row is copied for some of its pixels."""
    if _plain(r):
        return False
    rowwise = r.output[0] * ceil_div(r.output[1], tile.lanes)
    return rowwise * 16 <= ceil_div(r.pixels, tile.lanes) * 17


def _width(r: Correlation, tile: Tile, itemsize: int, machine: Machine, depth: int, by_rows: bool) -> int:
    """Most panels of an item: a quarter of the second cache, yet enough items, if there are that many panels."""
    line_panels = ceil_div(r.output[1] if by_rows else r.pixels, tile.columns)
    lines = r.output[0] if by_rows else 1
    fitting = machine.l2 // 4 // (depth * tile.columns * itemsize)
    wanted = lines * line_panels * max(1, r.n) * r.groups // _least_items(machine)
    most = _STREAMED_WIDTH if _streams(r, tile) else min(fitting, _MOST_WIDTH)
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
        return _stripe_of(r, tile, min(oh, ceil_div(pixels - 1, ow) + 1), ow)
    stacked = max(1, width // ceil_div(ow, tile.columns))
    return _stripe_of(r, tile, min(stacked, oh), ow)


def _stripe_of(r: Correlation, tile: Tile, rows: int, columns: int) -> int:
    """Elements of one channel of the padded input under ``rows`` x ``columns`` output pixels."""
    (kh, kw), (sh, sw), (dh, dw) = r.kernel, r.stride, r.dilation
    read = (rows - 1) * sh + (kh - 1) * dh + 1 if kh > 1 else rows
    return read * (sw if kw > 1 else 1) * round_up(columns + (kw - 1) * dw // sw, tile.lanes)


def _splits(r: Correlation, tile: Tile, machine: Machine, width: int, by_rows: bool) -> int:
    """Ranges of output channels, each of which lowers the input anew: as few as give enough items."""
    blocks = ceil_div(r.k, tile.rows)
    wanted = ceil_div(_least_items(machine), max(1, r.n) * r.groups * _spans(r, tile, width, by_rows))
    return max(1, min(wanted, blocks // _LEAST_BLOCKS))


def _grad_weight(p: ConvProblem, tile: Tile, machine: Machine) -> Program:
    c, k, taps = p.c // p.groups, p.k // p.groups, p.c // p.groups * prod(p.kernel)
    pixels = prod(p.output)
    panel = round_up(ceil_div(pixels, ceil_div(pixels, _MOST_PIXELS)), tile.lanes)
    fitting = min(_MOST_COLUMNS, machine.l2 * 3 // 8 // (panel * p.itemsize))
    columns = min(taps, max(_LEAST_COLUMNS, fitting - fitting % _LEAST_COLUMNS))
    pairs = max(1, p.n) * ceil_div(pixels, panel)
    items = p.groups * ceil_div(taps, columns)
    parts = min(pairs, ceil_div(_MOST_PARTS, items))
    stage = Stage(
        "im2col_grad_weight",
        {**grad_weight_fields(p), "n": p.n, "g": p.groups, "c": c, "k": k, "parts": parts, "columns": columns,
         "panel": panel},
        parts * items,
    )  # fmt: skip
    reals = (columns + _DOT_ROWS) * panel + tile.lanes
    return Program(
        dtype=p.dtype,
        stages=(stage, sum_parts(p, parts)),
        workspace_bytes=parts * p.weight_bytes,
        scratch_bytes=8 * panel * _RUN_INTEGERS + reals * p.itemsize,
        contiguous=frozenset({"out"}),
    )


def _cost(problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Whole tiles near the peak, the lowering, and the weights' way through memory, one after the other."""
    assert isinstance(problem, ConvProblem)
    p, tile = problem, machine.tile(problem.dtype)
    flops, packed, packings = 0.0, float(p.weight_bytes), 0.0
    if pass_ == "grad_weight":
        k, taps, pixels = p.k // p.groups, p.c // p.groups * prod(p.kernel), prod(p.output)
        panels = ceil_div(pixels, _MOST_PIXELS)
        steps = panels * (ceil_div(ceil_div(pixels, panels), tile.lanes) + _REDUCTION_STEPS)
        tiles = round_up(k, _DOT_ROWS) * round_up(taps, _DOT_COLUMNS)
        flops += 2 * tile.lanes * p.n * p.groups * (tiles * steps + _RUN_FMAS * taps * _runs(p.output, tile))
    else:
        every = _correlations(p, pass_, tile, machine)
        if _in_dots(p, pass_, every, machine):
            flops += 2 * tile.lanes * p.groups * im2col_dots.fmas(every[0], tile.lanes)
        else:
            flops += sum(_flops(r, tile, p.itemsize, machine) for r in every)
        packed *= max(1, sum(r.taps for r in every) / prod(p.kernel))
        if mode == "functional":
            packings = _packings(p, pass_, every, tile, machine)
    memory = packed / (machine.bandwidth * (_CACHED if packed < machine.l3 // 2 else 1))
    if pass_ != "grad_weight":
        written = p.k * prod(p.output) if pass_ == "forward" else p.c * prod(p.input)
        memory += _OUTPUT_SECONDS * p.n * written * p.itemsize
    packing = packings * packed * _PACK_SECONDS
    return flops / (_EFFICIENCY * machine.peak(p.dtype)) + memory + packing + _CALL_SECONDS


def _packings(p: ConvProblem, pass_: str, every: list[Correlation], tile: Tile, machine: Machine) -> float:
    """How often a call packs its weights: never, or by the items that use them, or in a stage of its own."""
    if _in_dots(p, pass_, every, machine):
        return 0
    if not _reads_rows(p, pass_, every):
        return 1
    if not _prefers_pixels(every[0], tile, p.itemsize, machine):
        return 0
    times = p.n * _least_shares(every[0], tile, p.itemsize, machine)
    return times * _NEAR_PACKING if times <= _MOST_PACKINGS else 1


def _flops(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> float:
    """Operations that take as long as all that a correlation does; none for zeros, which are only written."""
    if r.taps == 0:
        return 0
    in_pixels = _prefers_pixels(r, tile, itemsize, machine)
    products = _pixel_fmas(r, tile) if in_pixels else _panel_fmas(r, tile, itemsize, machine)
    return 2 * tile.lanes * r.n * r.groups * products


#: Measured: share of the peak that the tiles reach inside the kernels; what lowering one run of LANES pixels for the
#: weight gradient takes, in fused multiply-adds of a vector; what summing a tile of dot products over its lanes takes,
#: in steps of the tile.
_EFFICIENCY = 0.93
_RUN_FMAS = 14
_REDUCTION_STEPS = 8
#: Likewise, for copying a run of a tap from the stripe or a vector into it, and for making an item's runs; where
#: channels are in the lanes, how much longer a step takes, and what lowering a tap of a pixel takes, from the input
#: itself or from a stripe. How much faster weights come from the last cache than from memory.
_COPY_FMAS = 5
_STRIPE_FMAS = 8
_SPAN_FMAS = 2000
_PIXEL_FACTOR = 1.02
_PIXEL_FMAS = 1
_STRIPED_PIXEL_FACTOR = 0.98
_STRIPED_PIXEL_FMAS = 1.5
_CACHED = 3
#: What a tile takes to begin, add its bias and store its sums; steps that transposing them takes; seconds a byte of
#: output takes.
_TILE_FMAS = 60
_TRANSPOSE_STEPS = 20
_OUTPUT_SECONDS = 1.2e-11
#: Seconds a byte of the weight takes to pack, the share of it where an item packs what it uses; seconds of a call.
_PACK_SECONDS = 8e-11
_NEAR_PACKING = 0.5
_CALL_SECONDS = 2e-6


def _runs(output: tuple[int, ...], tile: Tile) -> float:
    """Runs that cover one channel of output pixels: rows are cut at panels and at lanes."""
    return output[0] * ceil_div(output[1], tile.lanes) + prod(output) / tile.columns


def _error(problem: Problem, pass_: str) -> float:
    """Rounding as a random walk along the longest chain of additions: measured 0.15 eps sqrt(length).

    A chain runs through a panel, then over the panels; a few outputs alone scatter by up to an eps more.
    """
    assert isinstance(problem, ConvProblem)
    p = problem
    if pass_ == "grad_weight":
        length, panel = p.n * prod(p.output), _MOST_PIXELS
    else:
        length, panel = (p.c if pass_ == "forward" else p.k) // p.groups * prod(p.kernel), _MOST_DEPTH
    chain = min(length, panel) + length / panel
    return float(np.finfo(p.dtype).eps) * (1 + 0.2 * sqrt(chain))


POLICIES = (Policy("im2col", ConvProblem.passes, ("conv",), _refuses, _cost, _error, _program),)
