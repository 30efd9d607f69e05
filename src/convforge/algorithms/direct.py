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
from convforge.problem import ConvProblem, Problem
from convforge.program import Program, Slot, Stage, View, buffer

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

_PASSES = ("forward", "grad_input", "grad_weight")
_ALIGNMENT = 64
_INDEX_BYTES = 8
# enough items to share out among the cores of any machine, whatever their number
_LEAST_ITEMS = 64


def _refuses(problem: Problem, pass_: str) -> str | None:
    if not isinstance(problem, ConvProblem):
        return "it convolves, it does not pool"
    if problem.ndim != 2:
        return f"its kernels are 2-D, the problem is {problem.ndim}-D"
    return None


def _cost(problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Whole tiles near the peak, what a tile takes beside its sums, the output's way to memory, packed weights."""
    assert isinstance(problem, ConvProblem)
    p, tile = problem, machine.tile(problem.dtype)
    cycle = 4 * tile.lanes / machine.peak(p.dtype)
    step = tile.rows * tile.vectors / 2
    if pass_ == "grad_weight":
        depth = p.c // p.groups * prod(p.kernel)
        tiles = p.groups * _blocks(p.k // p.groups, tile.rows) * _blocks(depth, tile.vectors)
        steps = p.n * p.output[0] * (_blocks(p.output[1], tile.lanes) + _ROW_STEPS)
        return tiles * (step * steps / _DOT_EFFICIENCY + _TILE_CYCLES) * cycle + _CALL_SECONDS
    cycles, written = 0.0, p.k * prod(p.output) if pass_ == "forward" else p.c * prod(p.input)
    for r in correlations(p, pass_):
        tiles = r.n * r.groups * _blocks(r.k, tile.rows) * _tiles(r, tile)
        cycles += tiles * (step * r.c * r.taps / _EFFICIENCY + _TILE_CYCLES)
    packing = 0.0 if mode == "prepared" else p.weight_bytes * _PACK_SECONDS
    return cycles * cycle + p.n * written * p.itemsize * _OUTPUT_SECONDS + packing + _CALL_SECONDS


#: Measured: share of the peak that the sums reach, and those of the weight gradient, whose operands come from the
#: second cache; steps that a row of the weight gradient takes beside its segments; cycles that a tile takes to plan its
#: taps and store its sums, or to add them over the lanes.
_EFFICIENCY = 0.85
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
        blocks, block_bytes = _blocks(r.k, tile.rows), r.c * r.taps * tile.rows * itemsize
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
                grain=min(r.groups, _blocks(items, _LEAST_ITEMS)),
            )
        )  # fmt: skip
        packed_bytes += _round_up(r.groups * blocks * block_bytes)
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
    blocks = _blocks(r.k, tile.rows)
    cached = _blocks(blocks * block_bytes, max(block_bytes, machine.l2 // 2))
    shared = _blocks(_LEAST_ITEMS, r.n * r.groups * _tiles(r, tile))
    return min(blocks, max(cached, shared))


def _grad_weight(p: ConvProblem, tile: Tile) -> Program:
    c, k, depth = p.c // p.groups, p.k // p.groups, p.c // p.groups * prod(p.kernel)
    rows = p.n * p.output[0]
    items = p.groups * _blocks(k, tile.rows) * _blocks(depth, tile.vectors)
    parts = min(rows, _blocks(_LEAST_ITEMS, items))
    stage = Stage(
        "direct_grad_weight",
        {**grad_weight_fields(p), "n": p.n, "g": p.groups, "c": c, "k": k, "parts": parts},
        parts * items,
    )
    segments = _blocks(p.output[1], tile.lanes)
    return Program(
        dtype=p.dtype,
        stages=(stage, sum_parts(p, parts)),
        workspace_bytes=parts * p.weight_bytes,
        scratch_bytes=_scratch_bytes(segments, tile, p.itemsize),
        contiguous=frozenset({"out"}),
    )


def grad_weight_fields(p: ConvProblem) -> dict[str, Slot | int]:
    """Arrays and geometry of a weight gradient whose partial sums start the workspace; channels and parts are left."""
    x, y = View.of("x", 4), View.of("grad_output", 4)
    return {
        "x": x.address, "x_n": x.stride(0), "x_c": x.stride(1), "x_h": x.stride(2),
        "y": y.address, "y_n": y.stride(0), "y_k": y.stride(1), "y_h": y.stride(2),
        "partial": buffer("workspace", 0),
        "ih": p.input[0], "iw": p.input[1], "oh": p.output[0], "ow": p.output[1],
        "kh": p.kernel[0], "kw": p.kernel[1], "sh": p.stride[0], "sw": p.stride[1],
        "ph": p.padding[0][0], "pw": p.padding[1][0], "dh": p.dilation[0], "dw": p.dilation[1],
    }  # fmt: skip


def sum_parts(p: ConvProblem, parts: int) -> Stage:
    """The stage that adds the partial weight gradients up."""
    count = prod(p.weight_shape)
    out = View.of("out", 4)
    return Stage(
        "sum_parts", {"partial": buffer("workspace", 0), "out": out.address, "parts": parts, "count": count},
        _blocks(count, 1024),
    )  # fmt: skip


def fill_zero(r: Correlation) -> Stage:
    """The stage that writes an output which no tap reaches."""
    channels = r.groups * r.k
    return Stage(
        "fill_zero",
        {**output_fields(r), "n": r.n, "channels": channels, "oh": r.output[0], "ow": r.output[1]},
        r.n * channels,
    )


def _scratch_bytes(entries: int, tile: Tile, itemsize: int) -> int:
    """The values of a tile, three numbers for each vector of the largest tile, and a table.

    An entry of the table has a few numbers, and for each of those vectors two more and two masks of at most a vector.
    """
    vectors = 2 * tile.vectors
    window = 4 * _INDEX_BYTES + 2 * tile.lanes * itemsize
    return tile.rows * tile.columns * itemsize + 3 * vectors * _INDEX_BYTES + entries * (_ALIGNMENT + vectors * window)


def _vectors(r: Correlation, tile: Tile) -> int:
    """Segments of a tile: with few output channels a group it has half the rows, and twice the segments."""
    return 2 * tile.vectors if 2 * r.k <= tile.rows else tile.vectors


def _tiles(r: Correlation, tile: Tile) -> int:
    return _blocks(r.output[0] * _blocks(r.output[1], tile.lanes), _vectors(r, tile))


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _round_up(nbytes: int) -> int:
    return _blocks(nbytes, _ALIGNMENT) * _ALIGNMENT


POLICIES = (Policy("direct", _PASSES, ("conv",), _refuses, _cost, _error, _program),)
