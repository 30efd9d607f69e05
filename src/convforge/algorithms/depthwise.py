"""Depthwise convolution: one input channel a group, as in MobileNet, and filters of one-channel images.

A group has too few channels for a matrix product. The lanes hold neighbouring output pixels instead, several output
rows are in flight so that an input row serves all that see it, and a channel's few weights are broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod, sqrt
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
    INDEX_BYTES,
    fill_zero,
    grad_weight_fields,
    refuses_all_but_2d,
    round_up,
    sum_parts,
)
from convforge.problem import ConvProblem, Problem
from convforge.program import Program, Stage

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

_PASSES = ("forward", "grad_input", "grad_weight")
#: Output columns whose input is copied at a time, in vectors: the copy of a few rows stays in the L1 cache.
_PANEL_VECTORS = 8
#: Vectors of output columns that the kernels sum up at a time, at most.
_STRIP_VECTORS = 4
#: Rows of a block of outputs, a multiple of the kernels' four: the input rows at its edge are read again.
_LEAST_ROWS = 16
# enough items to share out among the cores of any machine, whatever their number
_LEAST_ITEMS = 64


def _refuses(problem: Problem, pass_: str) -> str | None:
    reason = refuses_all_but_2d(problem)
    if reason is not None or not isinstance(problem, ConvProblem):
        return reason
    if problem.c != problem.groups:
        return f"it takes one input channel a group, the problem has {problem.c // problem.groups}"
    return None


def _cost(problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Whole vectors of outputs: their multiply-adds, and the loads, copies and stores that each one takes."""
    assert isinstance(problem, ConvProblem)
    p, lanes = problem, machine.tile(problem.dtype).lanes
    cycle = 4 * lanes / machine.peak(p.dtype)
    efficiency = _DOT_EFFICIENCY if pass_ == "grad_weight" else _EFFICIENCY
    cycles = 0.0
    for r in correlations(p, "forward" if pass_ == "grad_weight" else pass_):
        vectors = r.output[0] * -(-r.output[1] // lanes)
        each = r.c * (r.taps / 2 / efficiency + _VECTOR_CYCLES * prod(r.stride))
        cycles += r.n * r.groups * r.k * (vectors * each + _PLANE_CYCLES)
    return cycles * cycle + _CALL_SECONDS


#: Measured: share of the peak that the multiply-adds reach if all else is counted apart, likewise in the weight
#: gradient; cycles for one vector of outputs beside them, for each input row and column that it steps over; cycles for
#: a plane; seconds for a call.
_EFFICIENCY = 0.75
_DOT_EFFICIENCY = 0.5
_VECTOR_CYCLES = 3
_PLANE_CYCLES = 60
_CALL_SECONDS = 2e-6


def _error(problem: Problem, pass_: str) -> float:
    """Rounding of one chain of additions as a random walk, of one chain a lane and part for the weight gradient."""
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        length = problem.n * prod(problem.output)
    else:
        length = prod(problem.kernel) * (1 if pass_ == "forward" else problem.k // problem.groups)
    return float(np.finfo(problem.dtype).eps) * (1 + 0.5 * sqrt(length))


def _program(problem: Problem, pass_: str, tile: Tile, machine: Machine) -> Program:
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        return _grad_weight(problem, tile, machine)
    stages, scratch_bytes = [], 0
    for r, second in _paired(problem, pass_):
        if r.taps == 0 and (second is None or second.taps == 0):
            stages += [fill_zero(each) for each in (r, second) if each is not None]
            continue
        block = _block(r, second, tile, machine, problem.itemsize, r.n * r.groups)
        stages.append(_stage(r, second, block))
        sums = block.rows * _STRIP_VECTORS * tile.lanes + r.k * r.c * r.kernel[0] * (r.kernel[1] + _kw(second))
        scratch_bytes = max(scratch_bytes, block.table_bytes + round_up(sums * problem.itemsize) + block.copy_bytes)
    return Program(dtype=problem.dtype, stages=stages, scratch_bytes=scratch_bytes)


def _paired(problem: ConvProblem, pass_: str) -> list[tuple[Correlation, Correlation | None]]:
    """The correlations of a pass. The two phases of a row with a stride of 2 go together.

    Their outputs alternate, so that whole vectors can be stored.
    """
    every = correlations(problem, pass_)
    if pass_ == "forward" or problem.stride[1] != 2 or problem.input[1] == 1:
        return [(each, None) for each in every]
    return list(zip(every[::2], every[1::2], strict=True))


def _stage(r: Correlation, second: Correlation | None, block: _Block) -> Stage:
    args = {
        **input_fields(r), **weight_fields(r), "bias": bias_field(r), **output_fields(r), **geometry(r),
        "w2": 0, "kw2": 0, "pw2": 0, "ow2": 0, "rows": block.rows, "columns": block.columns,
    }  # fmt: skip
    if second is not None:
        if r.kernel[1] == 0:
            args |= weight_fields(second)
        args |= {
            "w2": second.weight.address, "kw2": second.kernel[1], "pw2": second.padding[1], "ow2": second.output[1],
            "out_w": 1,
        }  # fmt: skip
    items = r.n * r.groups * -(-r.output[0] // block.rows)
    return Stage(_kernel(r, second), args, items, grain=-(-items // _LEAST_ITEMS))


def _kernel(r: Correlation, second: Correlation | None) -> str:
    """The kernels differ in what they are specialised for; one that compiles when it is first used compiles less."""
    step = _step(r)
    if second is not None:
        return "depthwise_pair"
    if r.kernel == (3, 3) and r.dilation[1] == 1 and step == r.stride[1] <= 2:
        return "depthwise_3x3"
    return "depthwise_forward" if step == 1 else "depthwise_strided"


def _step(r: Correlation) -> int:
    """Rows from one output to the next, in rows from one tap to the next, where outputs that share rows are taken."""
    return r.stride[0] // gcd(r.stride[0], r.dilation[0])


def _grad_weight(p: ConvProblem, tile: Tile, machine: Machine) -> Program:
    (r,) = correlations(p, "forward")
    block = _block(r, None, tile, machine, p.itemsize, p.groups)
    units = p.n * -(-p.output[0] // block.rows)
    parts = min(units, -(-_LEAST_ITEMS // p.groups))
    args = {**grad_weight_fields(p), "n": p.n, "g": p.groups, "c": 1, "k": r.k}
    args |= {"rows": block.rows, "columns": block.columns, "parts": parts}
    kernel = "depthwise_grad_weight" if _step(r) == 1 else "depthwise_strided_grad_weight"
    return Program(
        dtype=p.dtype,
        stages=(Stage(kernel, args, parts * p.groups), sum_parts(p, parts)),
        workspace_bytes=parts * p.weight_bytes,
        scratch_bytes=block.table_bytes + r.k * r.taps * tile.lanes * p.itemsize + block.copy_bytes,
        contiguous=frozenset({"out"}),
    )


@dataclass(frozen=True, slots=True)
class _Block:
    """What an item does at a time, and the scratch memory that it takes.

    Attributes
    ----------
    rows, columns
        Output rows of an item, and output columns whose input is copied at a time.
    table_bytes, copy_bytes
        Of the kernels' tables of column offsets, and of a panel's copied input.
    """

    rows: int
    columns: int
    table_bytes: int
    copy_bytes: int


def _block(
    r: Correlation, second: Correlation | None, tile: Tile, machine: Machine, itemsize: int, planes: int
) -> _Block:
    """Choose rows and columns for ``planes`` independent planes of outputs."""
    columns = min(_PANEL_VECTORS, -(-r.output[1] // tile.lanes)) * tile.lanes
    kw, kw2 = r.kernel[1], _kw(second)
    both = [each for each in (r, second) if each is not None and each.kernel[1]]
    before = max(each.padding[1] for each in both)
    reach = 1 + max(before - each.padding[1] + (each.kernel[1] - 1) * each.dilation[1] for each in both)
    # the kernels' layout: each copied row has its phases one after the other, of whole vectors
    width = -(-(min(columns, r.output[1]) + (reach - 1) // r.stride[1]) // tile.lanes) * tile.lanes
    row_bytes = r.c * min(r.stride[1], reach) * width * itemsize
    zeros_bytes = (-(-reach // tile.lanes) + _STRIP_VECTORS) * tile.lanes * itemsize

    def copy_bytes(rows: int) -> int:
        lines = (rows - 1) * r.stride[0] + (r.kernel[0] - 1) * r.dilation[0] + 1
        return max(lines * row_bytes + tile.lanes * itemsize, zeros_bytes)

    rows = r.output[0]
    # until there are items to share out and the copy stays in half the L2 cache
    while rows > _LEAST_ROWS and (
        planes * -(-r.output[0] // rows) < _LEAST_ITEMS or copy_bytes(rows) > machine.l2 // 2
    ):
        rows = max(_LEAST_ROWS, -(-rows // 2))
    return _Block(rows, columns, round_up(2 * (kw + kw2) * INDEX_BYTES), copy_bytes(rows))


def _kw(r: Correlation | None) -> int:
    return 0 if r is None else r.kernel[1]


POLICIES = (Policy("depthwise", _PASSES, ("conv",), _refuses, _cost, _error, _program),)
