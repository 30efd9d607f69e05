"""Convolution as a matrix product over lowered input ("im2col") that is packed panel by panel, never built whole.

Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", 2006, lower
the whole input; here each item lowers ``depth`` rows of one register tile's columns at a time and sweeps the output
channels while they are in the first cache (Anderson et al., "Low-memory GEMM-based convolution algorithms", 2017).

Memory beyond the arrays: a worker takes at most one and a quarter times the second cache (of a mebibyte, where that is
smaller), the packed weight at most a tile's rows times the weight (a group with one output channel fills a block of
them), and the partial sums of a weight gradient at most sixteen times the weight.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms.lowering import (
    Correlation,
    bias_field,
    correlations,
    geometry,
    input_fields,
    output_fields,
    weight_fields,
)
from convforge.algorithms.policy import Policy
from convforge.algorithms.stages import ceil_div, fill_zero, grad_weight_fields, refuses_all_but_2d, round_up, sum_parts
from convforge.problem import ConvProblem
from convforge.program import Program, Slot, Stage, buffer

if TYPE_CHECKING:
    from convforge.problem import Problem
    from convforge.runtime.machine import Machine, Tile

#: Items that a stage is split into where it can be, whatever the number of threads.
_LEAST_ITEMS = 16
#: Fewest blocks of output channels that share one lowered panel: lowering a row costs about as much as two blocks.
_LEAST_BLOCKS = 8
#: Most pixels and rows of lowered input that the weight gradient takes at a time: with fewer, the sums over a tile's
#: lanes, and reading grad_output anew for each block of rows, take more than a tenth of the time.
_MOST_PIXELS = 1024
_MOST_COLUMNS = 144
_LEAST_COLUMNS = 12
#: Largest tile of dot products: rows of grad_output, rows of lowered input.
_DOT_ROWS = 6
_DOT_COLUMNS = 4
#: Bounds a chain of additions, and so the error, on every machine.
_MOST_DEPTH = 1024
#: Fields of a run of pixels in the kernels.
_RUN_INTEGERS = 4
#: Steps of one vector of columns that lowering takes for each.
_LOWER_STEPS = 6
#: Steps of a tile that transposing its sums takes; how much longer a panel takes whose weights are not in the cache.
_TRANSPOSE_STEPS = 12
_STREAM_FACTOR = 1.1


def _refuses(problem: Problem, pass_: str) -> str | None:
    return refuses_all_but_2d(problem)


def _program(problem: Problem, pass_: str, tile: Tile, machine: Machine) -> Program:
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        return _grad_weight(problem, tile, machine)
    stages: list[Stage] = []
    prepare: list[Stage] = []
    packed_bytes = scratch_bytes = 0
    itemsize = problem.itemsize
    for r in correlations(problem, pass_):
        if r.taps == 0:
            stages.append(fill_zero(r))
            continue
        make = _in_pixels if _prefers_pixels(r, tile, itemsize, machine) else _in_panels
        pack, stage, elements, scratch = make(r, tile, itemsize, machine, buffer("packed", packed_bytes))
        prepare.append(pack)
        stages.append(stage)
        packed_bytes += round_up(elements * itemsize)
        scratch_bytes = max(scratch_bytes, scratch)
    return Program(
        dtype=problem.dtype, stages=stages, prepare=prepare, packed_bytes=packed_bytes, scratch_bytes=scratch_bytes
    )


def _in_panels(
    r: Correlation, tile: Tile, itemsize: int, machine: Machine, packed: Slot
) -> tuple[Stage, Stage, int, int]:
    """Output pixels in the lanes: the stages that pack and multiply, packed elements, bytes of scratch."""
    blocks = ceil_div(r.k, tile.rows)
    by_rows = _by_rows(r, tile)
    panels = _panels(r, tile, by_rows)
    depth, splits = _depth(r, tile, itemsize, machine), _splits(r, tile, panels)
    stage = Stage(
        "im2col_forward",
        {**input_fields(r), "packed": packed, "bias": bias_field(r), **output_fields(r), **geometry(r),
         "depth": depth, "splits": splits, "by_rows": int(by_rows)},
        r.n * r.groups * splits * panels,
    )  # fmt: skip
    rows = ceil_div(blocks, splits) * tile.rows
    reals = (depth + rows) * tile.columns + _stripe(r, tile, depth, by_rows) + 3 * tile.lanes
    integers = tile.columns * (_RUN_INTEGERS + 1) + depth
    pack = _pack("pack_weight", r, packed, blocks)
    return pack, stage, r.groups * blocks * tile.rows * r.c * r.taps, 8 * integers + reals * itemsize


def _in_pixels(
    r: Correlation, tile: Tile, itemsize: int, machine: Machine, packed: Slot
) -> tuple[Stage, Stage, int, int]:
    """Output channels in the lanes, likewise."""
    vectors = ceil_div(r.k, tile.lanes)
    panels = ceil_div(vectors, tile.vectors)
    depth = _depth(r, tile, itemsize, machine)
    shares = _shares(r, depth, itemsize, machine)
    most = round_up(ceil_div(r.pixels, shares), tile.lanes)
    # the sums of an item stay in the second cache
    held = max(1, machine.l2 // 4 // (most * tile.columns * itemsize))
    wanted = ceil_div(_LEAST_ITEMS, max(1, r.n) * r.groups * shares)
    splits = min(panels, max(wanted, ceil_div(panels, held)))
    stage = Stage(
        "im2col_pixels",
        {**input_fields(r), "packed": packed, "bias": bias_field(r), **output_fields(r), **geometry(r),
         "depth": depth, "splits": splits, "shares": shares},
        r.n * r.groups * splits * shares,
    )  # fmt: skip
    (_, ow), (kh, kw), (sh, sw), (dh, dw) = r.output, r.kernel, r.stride, r.dilation
    touched = min(r.output[0], ceil_div(ceil_div(r.pixels, shares) - 1, ow) + 1)
    stripe = ((touched - 1) * sh + (kh - 1) * dh + 1) * ((ow - 1) * sw + (kw - 1) * dw + 1) * _channels(r, depth)
    reals = ceil_div(panels, splits) * most * tile.columns + max(stripe, tile.lanes * tile.columns) + tile.lanes
    pack = _pack("pack_columns", r, packed, panels)
    return pack, stage, r.groups * vectors * tile.lanes * r.c * r.taps, 8 * (most + depth) + reals * itemsize


def _pack(kernel: str, r: Correlation, packed: Slot, blocks: int) -> Stage:
    fields: dict[str, Slot | int] = {
        "packed": packed, "g": r.groups, "k": r.k, "c": r.c, "kh": r.kernel[0], "kw": r.kernel[1],
    }  # fmt: skip
    return Stage(kernel, {**weight_fields(r), **fields}, r.groups * blocks)


def _prefers_pixels(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> bool:
    """Whether channels in the lanes waste less: whole vectors of either, the transposed output, and the weights' way.

    A panel of pixels reads all weights anew; beyond the second cache they come no faster than they are used.
    """
    taps = r.c * r.taps
    rows = ceil_div(r.pixels, ceil_div(r.pixels, tile.rows)) * ceil_div(r.pixels, tile.rows)
    pixels = rows * round_up(r.k, tile.lanes) * (taps + _TRANSPOSE_STEPS)
    panels = round_up(r.pixels, tile.lanes) * round_up(r.k, tile.rows // 2) * taps
    if r.k * taps * itemsize > machine.l2 // 2:
        return pixels < panels * _STREAM_FACTOR
    return pixels < panels


def _shares(r: Correlation, depth: int, itemsize: int, machine: Machine) -> int:
    """Ranges of pixels whose input, as far as ``depth`` taps read it, stays in the second cache."""
    return ceil_div(r.pixels, max(1, machine.l2 * 3 // 8 // (depth * itemsize)))


def _channels(r: Correlation, depth: int) -> int:
    """Most channels that ``depth`` rows of lowered input touch."""
    return min(r.c, ceil_div(depth - 1, r.taps) + 1) if depth % r.taps else depth // r.taps


def _depth(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> int:
    """Rows of a panel: equal shares of the taps that fill the first cache one and a half times.

    The tile reads a panel from the second cache without loss; longer panels go through the output less often.
    """
    most = max(1, min(_MOST_DEPTH, machine.l1 * 3 // 2 // (tile.columns * itemsize)))
    if r.taps <= most:
        return r.taps * ceil_div(r.c, ceil_div(r.c, most // r.taps))
    total = r.c * r.taps
    return ceil_div(total, ceil_div(total, most))


def _by_rows(r: Correlation, tile: Tile) -> bool:
    """Whether panels end with the rows of pixels: what idle lanes take is then less than lowering would."""
    if r.taps * prod(r.stride) == 1 and not any(r.padding) and r.input == r.output:
        return False
    blocks, width = ceil_div(r.k, tile.rows), r.output[1]
    rowwise = r.output[0] * ceil_div(width, tile.lanes)
    flat = ceil_div(r.pixels, tile.lanes)
    step = blocks * tile.rows / 2
    lowering = _LOWER_STEPS * (1 + tile.lanes / width)
    return rowwise * step <= flat * (step + lowering)


def _panels(r: Correlation, tile: Tile, by_rows: bool) -> int:
    lines, pixels = (r.output[0], r.output[1]) if by_rows else (1, r.pixels)
    return lines * ceil_div(pixels, tile.columns)


def _stripe(r: Correlation, tile: Tile, depth: int, by_rows: bool) -> int:
    """Elements of the padded input under a panel of pixels, of all channels that ``depth`` taps touch."""
    (oh, ow), (kh, kw), (sh, sw), (dh, dw) = r.output, r.kernel, r.stride, r.dilation
    touched = 1 if by_rows else min(oh, ceil_div(tile.columns - 1, ow) + 1)
    rows = (touched - 1) * sh + (kh - 1) * dh + 1 if kh > 1 else touched
    width = min(ow, tile.columns) if touched == 1 else ow
    phases = sw if kw > 1 else 1
    pitch = round_up(width + (kw - 1) * dw // sw, tile.lanes)
    return _channels(r, depth) * rows * phases * pitch


def _splits(r: Correlation, tile: Tile, panels: int) -> int:
    """Ranges of output channels, each of which lowers the input anew: as few as give enough items."""
    blocks = ceil_div(r.k, tile.rows)
    wanted = ceil_div(_LEAST_ITEMS, max(1, r.n) * r.groups * panels)
    return max(1, min(wanted, blocks // _LEAST_BLOCKS))


def _grad_weight(p: ConvProblem, tile: Tile, machine: Machine) -> Program:
    c, k, taps = p.c // p.groups, p.k // p.groups, p.c // p.groups * prod(p.kernel)
    pixels = prod(p.output)
    panel = round_up(ceil_div(pixels, ceil_div(pixels, _MOST_PIXELS)), tile.lanes)
    fitting = min(_MOST_COLUMNS, machine.l2 * 3 // 8 // (panel * p.itemsize))
    columns = min(taps, max(_LEAST_COLUMNS, fitting - fitting % _LEAST_COLUMNS))
    pairs = max(1, p.n) * ceil_div(pixels, panel)
    items = p.groups * ceil_div(taps, columns)
    parts = min(pairs, ceil_div(_LEAST_ITEMS, items))
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
    flops = 0.0
    if pass_ == "grad_weight":
        k, taps, pixels = p.k // p.groups, p.c // p.groups * prod(p.kernel), prod(p.output)
        panels = ceil_div(pixels, _MOST_PIXELS)
        steps = panels * (ceil_div(ceil_div(pixels, panels), tile.lanes) + _REDUCTION_STEPS)
        tiles = round_up(k, _DOT_ROWS) * round_up(taps, _DOT_COLUMNS)
        flops += 2 * tile.lanes * p.n * p.groups * (tiles * steps + _RUN_FMAS * taps * _runs(p.output, tile))
    else:
        for r in correlations(p, pass_):
            if r.taps == 0:
                continue  # zeros are written, nothing is summed
            taps = r.c * r.taps
            if _prefers_pixels(r, tile, p.itemsize, machine):
                tiles = ceil_div(r.pixels, tile.rows)
                steps = ceil_div(r.k, tile.lanes) * (taps + _TRANSPOSE_STEPS)
                products: float = tiles * ceil_div(r.pixels, tiles) * steps
            else:
                by_rows = _by_rows(r, tile)
                vectors = r.output[0] * ceil_div(r.output[1], tile.lanes) if by_rows else ceil_div(r.pixels, tile.lanes)
                products = vectors * round_up(r.k, tile.rows // 2) * (taps + _STORE_STEPS)
                splits = _splits(r, tile, _panels(r, tile, by_rows))
                if by_rows:
                    products += _STRIPE_FMAS * splits * _stripe_vectors(r, tile)
                elif r.taps * prod(r.stride) > 1:
                    products += _RUN_FMAS * splits * taps * _runs(r.output, tile)
            flops += 2 * tile.lanes * r.n * r.groups * products
    memory = p.weight_bytes / (machine.bandwidth * (_CACHED if p.weight_bytes < machine.l3 // 2 else 1))
    if pass_ != "grad_weight":
        written = p.k * prod(p.output) if pass_ == "forward" else p.c * prod(p.input)
        memory += _OUTPUT_SECONDS * p.n * written * p.itemsize
    packing = p.weight_bytes * _PACK_SECONDS if mode == "functional" and pass_ != "grad_weight" else 0.0
    return flops / (_EFFICIENCY * machine.peak(p.dtype)) + memory + packing + _CALL_SECONDS


#: Measured: share of the peak that the tiles reach inside the kernels; what lowering one run of LANES pixels takes,
#: in fused multiply-adds of a vector; what summing a tile of dot products over its lanes takes, in steps of the tile.
_EFFICIENCY = 0.93
_RUN_FMAS = 14
_REDUCTION_STEPS = 8
#: Likewise, for copying a vector of a stripe: measured 8 to 19 on layers with 4 to 16 channels a group. How much faster
#: weights come from the last cache than from memory.
_STRIPE_FMAS = 8
_CACHED = 3
#: Steps that a tile takes to add its bias and store its sums; seconds a byte of output takes beyond them.
_STORE_STEPS = 4
_OUTPUT_SECONDS = 1.2e-11
#: Seconds a byte of the weight takes to pack, and a call.
_PACK_SECONDS = 1e-10
_CALL_SECONDS = 2e-6


def _stripe_vectors(r: Correlation, tile: Tile) -> int:
    """Vectors of padded input that are copied for panels of rows; those inside a wide map are read in place."""
    panels = ceil_div(r.output[1], tile.columns)
    if prod(r.stride) == 1 and r.kernel[1] > 1:
        panels = min(panels, 2)
    return r.output[0] * panels * _stripe(r, tile, r.c * r.taps, True) // tile.lanes


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
