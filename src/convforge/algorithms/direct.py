"""Direct convolution: every output is summed in place from the input, in registers, with no memory of its own.

A tile is ``rows`` output channels times ``vectors`` segments, each of ``lanes`` neighbouring pixels of an output row:
it loads shifted windows of the input and broadcasts weights. It serves every stride, dilation and group; maps
narrower than a segment waste lanes. The weight gradient is dot products along the output rows.
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
from convforge.algorithms.stages import (
    ALIGNMENT,
    INDEX_BYTES,
    ceil_div,
    fill_zero,
    grad_weight_fields,
    refuses_all_but_2d,
    round_up,
    sum_parts,
)
from convforge.problem import ConvProblem, Problem
from convforge.program import Program, Stage, buffer

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

_PASSES = ("forward", "grad_input", "grad_weight")
# enough items to share out among the cores of any machine, whatever their number
_LEAST_ITEMS = 64


def _refuses(problem: Problem, pass_: str) -> str | None:
    return refuses_all_but_2d(problem)


def _cost(problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Whole tiles near the peak, what a tile takes beside its sums, the output's way to memory, packed weights."""
    assert isinstance(problem, ConvProblem)
    p, tile = problem, machine.tile(problem.dtype)
    cycle = 4 * tile.lanes / machine.peak(p.dtype)
    step = tile.rows * tile.vectors / 2
    if pass_ == "grad_weight":
        depth = p.c // p.groups * prod(p.kernel)
        tiles = p.groups * ceil_div(p.k // p.groups, tile.rows) * ceil_div(depth, tile.vectors)
        steps = p.n * p.output[0] * (ceil_div(p.output[1], tile.lanes) + _ROW_STEPS)
        return tiles * (step * steps / _DOT_EFFICIENCY + _TILE_CYCLES) * cycle + _CALL_SECONDS
    cycles, written = 0.0, p.k * prod(p.output) if pass_ == "forward" else p.c * prod(p.input)
    for r in correlations(p, pass_):
        tiles = r.n * r.groups * ceil_div(r.k, tile.rows) * _tiles(r, tile)
        efficiency = _EFFICIENCY if r.stride[1] == 1 else _STRIDED_EFFICIENCY
        cycles += tiles * (step * r.c * r.taps / efficiency + _TILE_CYCLES)
    packing = 0.0 if mode == "prepared" else p.weight_bytes * _PACK_SECONDS
    return cycles * cycle + p.n * written * p.itemsize * _OUTPUT_SECONDS + packing + _CALL_SECONDS


#: Measured: share of the peak that the sums reach, where columns are picked from wider windows, and in the weight
#: gradient, whose operands come from the second cache; steps that a row of the weight gradient takes beside its
#: segments; cycles that a tile takes to plan its taps and store its sums, or to add them over the lanes.
_EFFICIENCY = 0.85
_STRIDED_EFFICIENCY = 0.34
_DOT_EFFICIENCY = 0.55
_ROW_STEPS = 2
_TILE_CYCLES = 120
#: Seconds a byte of output takes beyond that, a byte of the weight to pack, and a call.
_OUTPUT_SECONDS = 1.2e-11
_PACK_SECONDS = 1e-10
_CALL_SECONDS = 2e-6


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
        splits = _splits(r, tile, block_bytes, machine)
        items = r.n * splits * _tiles(r, tile) * r.groups
        stages.append(
            Stage(
                "direct_forward",
                {**input_fields(r), "packed": packed, "bias": bias_field(r), **output_fields(r), **geometry(r),
                 "splits": splits},
                items,
                # the groups of a tile share its table of taps
                grain=min(r.groups, ceil_div(items, _LEAST_ITEMS)),
            )
        )  # fmt: skip
        packed_bytes += round_up(r.groups * blocks * block_bytes)
        scratch_bytes = max(scratch_bytes, _scratch_bytes(r.taps, tile, itemsize))
    return Program(
        dtype=problem.dtype,
        stages=stages,
        prepare=prepare,
        packed_bytes=packed_bytes,
        scratch_bytes=scratch_bytes,
    )


def _splits(r: Correlation, tile: Tile, block_bytes: int, machine: Machine) -> int:
    """Into how many ranges the blocks of output channels are split: the weights of one stay in half the L2 cache."""
    blocks = ceil_div(r.k, tile.rows)
    cached = ceil_div(blocks * block_bytes, max(block_bytes, machine.l2 // 2))
    shared = ceil_div(_LEAST_ITEMS, r.n * r.groups * _tiles(r, tile))
    return min(blocks, max(cached, shared))


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
    """The values of a tile, three numbers for each vector of the largest tile, and a table.

    An entry of the table has a few numbers, and for each of those vectors two more and two masks of at most a vector.
    """
    vectors = 2 * tile.vectors
    window = 4 * INDEX_BYTES + 2 * tile.lanes * itemsize
    return tile.rows * tile.columns * itemsize + 3 * vectors * INDEX_BYTES + entries * (ALIGNMENT + vectors * window)


def _vectors(r: Correlation, tile: Tile) -> int:
    """Segments of a tile: with few output channels a group it has half the rows, and twice the segments."""
    return 2 * tile.vectors if 2 * r.k <= tile.rows else tile.vectors


def _tiles(r: Correlation, tile: Tile) -> int:
    return ceil_div(r.output[0] * ceil_div(r.output[1], tile.lanes), _vectors(r, tile))


POLICIES = (Policy("direct", _PASSES, ("conv",), _refuses, _cost, _error, _program),)
