"""Direct convolution: every output is summed in registers, straight from the input under a band of output pixels.

A tile is ``rows`` output channels times ``vectors`` segments, each of ``lanes`` neighbouring pixels of an output row:
it loads shifted windows of the input and broadcasts weights. Where a band reaches beyond the input, or the kernel steps
over columns, its part of the input is copied first, padded and with its columns split by their phase within a stride;
else it is read in place. Maps narrower than a segment waste lanes. The weight gradient is dot products along the output
rows.

Memory beyond the arrays: a worker takes half the second cache, or one row of segments of every channel; and tables of
24 bytes for a segment of its band and 8 for a tap.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from convforge.algorithms.stages import (
    ALIGNMENT,
    INDEX_BYTES,
    ceil_div,
    even_items,
    fill_zero,
    grad_weight_fields,
    least_items,
    refuses_all_but_2d,
    round_up,
    sum_parts,
)
from convforge.problem import ConvProblem, Problem
from convforge.program import Program, Stage, buffer

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

_PASSES = ("forward", "grad_input", "grad_weight")
#: Rows and vectors of columns that a band is not cut below for its cache's sake, as long as that helps: those at its
#: edge are copied again; and blocks of output channels that are worth a copy.
_LEAST_ROWS = 8
_LEAST_VECTORS = 8
_LEAST_BLOCKS = 4
#: Of the weight gradient: enough to share out among the cores of any machine, whatever their number.
_LEAST_ITEMS = 64


def _refuses(problem: Problem, pass_: str) -> str | None:
    return refuses_all_but_2d(problem)


def _cost(problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Whole tiles near the peak, what a tile takes beside its sums, the output's way to memory, packed weights."""
    assert isinstance(problem, ConvProblem)
    p, tile = problem, machine.tile(problem.dtype)
    if pass_ == "grad_weight":
        depth = p.c // p.groups * prod(p.kernel)
        tiles = p.groups * ceil_div(p.k // p.groups, tile.rows) * ceil_div(depth, tile.vectors)
        segments = p.n * p.output[0] * (ceil_div(p.output[1], tile.lanes) + _ROW_SEGMENTS)
        a_tile = segments * tile.rows * tile.vectors / 2 / _DOT_EFFICIENCY + _TILE_STEPS
        return tiles * a_tile * machine.step + _CALL_SECONDS
    written = p.k * prod(p.output) if pass_ == "forward" else p.c * prod(p.input)
    steps = streamed = items = 0.0
    for r in correlations(p, pass_):
        if r.taps == 0:
            continue  # zeros are written, nothing is summed
        band = _band(r, tile, machine, p.itemsize)
        whole, rest = divmod(r.k, tile.rows)
        blocks, rows = ceil_div(r.k, tile.rows), whole * tile.rows + (max(rest, tile.rows // 2) if rest else 0)
        vectors = r.output[0] * ceil_div(r.output[1], tile.lanes)
        sums = vectors * rows * (r.c * r.taps / 2 / _EFFICIENCY + _VECTOR_STEPS)
        read = band.count * r.c * _channel(r, tile, band.rows, band.columns) / tile.lanes
        again = blocks * _READ_STEPS if band.scratch_bytes > machine.l1 else 0
        steps += r.n * r.groups * (sums + read * (band.splits * _COPY_STEPS + again))
        items += r.n * r.groups * band.splits * band.count
        streamed += r.n * band.count * p.weight_bytes * r.taps / prod(p.kernel)
    memory = streamed / (machine.bandwidth * (_CACHED if p.weight_bytes < machine.l3 // 2 else 1))
    packing = 0.0 if mode == "prepared" else p.weight_bytes * _PACK_SECONDS
    seconds = steps * machine.step + items * _ITEM_CYCLES * machine.cycle + _CALL_SECONDS
    return seconds + memory + p.n * written * p.itemsize * _OUTPUT_SECONDS + packing


#: Measured: share of the peak that the sums reach, and in the weight gradient, whose operands come from the second
#: cache; segments in whose time a row of the weight gradient begins; steps (a machine's time of two multiply-adds) that
#: a vector of a tile takes to begin and to be stored, a tile of the weight gradient to be added over its lanes, a
#: vector of the input to be copied, and to be read from the second cache, for each block of output channels; cycles of
#: an item beside all that.
_EFFICIENCY = 0.98
_DOT_EFFICIENCY = 0.55
_ROW_SEGMENTS = 2
_VECTOR_STEPS = 2
_TILE_STEPS = 120
_COPY_STEPS = 3
_READ_STEPS = 0.5
_ITEM_CYCLES = 120
#: Seconds a byte of output takes beyond that, a byte of the weight to pack, and a call; how much faster weights come
#: from the last cache than from memory.
_OUTPUT_SECONDS = 1.2e-11
_PACK_SECONDS = 6e-11
_CALL_SECONDS = 2e-6
_CACHED = 3


def _error(problem: Problem, pass_: str) -> float:
    """Rounding of one chain of additions as a random walk: measured 0.35 eps sqrt(length)."""
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        length = problem.n * prod(problem.output)
    else:
        channels = problem.c if pass_ == "forward" else problem.k
        length = channels // problem.groups * prod(problem.kernel)
    return float(np.finfo(problem.dtype).eps) * (1 + 0.5 * sqrt(length))


def _program(problem: Problem, pass_: str, tile: Tile, machine: Machine) -> Program:
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        return _grad_weight(problem, tile)
    stages: list[Stage] = []
    prepare: list[Stage] = []
    packed_bytes = scratch_bytes = 0
    itemsize = problem.itemsize
    for r in correlations(problem, pass_):
        if r.taps == 0:
            stages.append(fill_zero(r))
            continue
        blocks, block_bytes = ceil_div(r.k, tile.rows), r.c * r.taps * tile.rows * itemsize
        packed = buffer("packed", packed_bytes)
        prepare.append(
            Stage(
                "pack_weight",
                {**weight_fields(r), "packed": packed, "g": r.groups, "k": r.k, "c": r.c, "kh": r.kernel[0],
                 "kw": r.kernel[1]},
                r.groups * blocks,
            )
        )  # fmt: skip
        band = _band(r, tile, machine, itemsize)
        stages.append(
            Stage(
                "direct_forward",
                {**input_fields(r), "packed": packed, "bias": bias_field(r), **output_fields(r), **geometry(r),
                 "splits": band.splits, "rows": band.rows, "columns": band.columns},
                r.n * r.groups * band.splits * band.count,
            )
        )  # fmt: skip
        packed_bytes += round_up(r.groups * blocks * block_bytes)
        scratch_bytes = max(scratch_bytes, band.scratch_bytes)
    return Program(
        dtype=problem.dtype,
        stages=stages,
        prepare=prepare,
        packed_bytes=packed_bytes,
        scratch_bytes=scratch_bytes,
    )


@dataclass(frozen=True, slots=True)
class _Band:
    """What an item of a correlation does.

    Attributes
    ----------
    rows, columns
        Output pixels under whose input it works; the columns are a multiple of the lanes, or all.
    count
        Of bands that cover an image.
    splits
        Ranges of output channels, each an item of its own.
    scratch_bytes
        Memory for the band's input, and tables.
    """

    rows: int
    columns: int
    count: int
    splits: int
    scratch_bytes: int


def _band(r: Correlation, tile: Tile, machine: Machine, itemsize: int) -> _Band:
    """Choose bands whose input stays in the second cache, and that are enough items for every core."""
    oh, ow = r.output
    rows, columns, stacks = oh, ow, 1
    planes, least = max(1, r.n) * r.groups, least_items(machine)

    def input_bytes() -> int:
        return r.c * (_channel(r, tile, rows, columns) + 2 * ALIGNMENT // itemsize + tile.lanes) * itemsize

    while rows > _LEAST_ROWS and (input_bytes() > machine.l2 // 2 or planes * stacks < least):
        stacks += 1
        rows = ceil_div(oh, stacks)
    rows = min(rows, ceil_div(oh, even_items(planes * stacks, machine) // planes))
    while columns > _LEAST_VECTORS * tile.lanes and input_bytes() > machine.l2 // 2:
        columns = round_up(ceil_div(columns, 2), tile.lanes)
    while rows > 1 and input_bytes() > machine.l2 // 2:
        rows = ceil_div(rows, 2)
    count = ceil_div(oh, rows) * ceil_div(ow, columns)
    splits = min(ceil_div(least, planes * count), ceil_div(r.k, _LEAST_BLOCKS * tile.rows))
    tables = 3 * INDEX_BYTES * rows * ceil_div(columns, tile.lanes) + INDEX_BYTES * r.c * r.taps
    reals = tile.rows * tile.columns + tile.lanes
    return _Band(rows, columns, count, splits, tables + input_bytes() + reals * itemsize + ALIGNMENT)


def _channel(r: Correlation, tile: Tile, rows: int, columns: int) -> int:
    """Elements of one channel of the padded input under a band."""
    (kh, kw), (sh, sw), (dh, dw) = r.kernel, r.stride, r.dilation
    read = (rows - 1) * sh + (kh - 1) * dh + 1 if kh > 1 else rows
    return read * (sw if kw > 1 else 1) * round_up(columns + (kw - 1) * dw // sw, tile.lanes)


def _grad_weight(p: ConvProblem, tile: Tile) -> Program:
    c, k, depth = p.c // p.groups, p.k // p.groups, p.c // p.groups * prod(p.kernel)
    rows = p.n * p.output[0]
    items = p.groups * ceil_div(k, tile.rows) * ceil_div(depth, tile.vectors)
    parts = min(rows, ceil_div(_LEAST_ITEMS, items))
    stage = Stage(
        "direct_grad_weight",
        {**grad_weight_fields(p), "n": p.n, "g": p.groups, "c": c, "k": k, "parts": parts},
        parts * items,
    )
    segments = ceil_div(p.output[1], tile.lanes)
    return Program(
        dtype=p.dtype,
        stages=(stage, sum_parts(p, parts)),
        workspace_bytes=parts * p.weight_bytes,
        scratch_bytes=_scratch_bytes(segments, tile, p.itemsize),
        contiguous=frozenset({"out"}),
    )


def _scratch_bytes(entries: int, tile: Tile, itemsize: int) -> int:
    """The values of a tile, three numbers for each of its vectors, and a table.

    An entry of the table has a few numbers, and for each of those vectors two more and two masks of at most a vector.
    """
    window = 4 * INDEX_BYTES + 2 * tile.lanes * itemsize
    table = entries * (ALIGNMENT + tile.vectors * window)
    return tile.rows * tile.columns * itemsize + 3 * tile.vectors * INDEX_BYTES + table


POLICIES = (Policy("direct", _PASSES, ("conv",), _refuses, _cost, _error, _program),)
