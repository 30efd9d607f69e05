"""Depthwise convolution: one input channel a group, as in MobileNet, and filters of one-channel images.

A group has too few channels for a matrix product. The lanes hold neighbouring output pixels instead, several output
rows are in flight so that an input row serves all that see it, and a channel's few weights are broadcast.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms.direct import fill_zero, grad_weight_fields, sum_parts
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
from convforge.program import Program, Stage

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

_PASSES = ("forward", "grad_input", "grad_weight")
_ALIGNMENT = 64
_INDEX_BYTES = 8
#: Output columns whose input is copied at a time, in vectors: the copy of a few rows stays in the L1 cache.
_PANEL_VECTORS = 8
# of outputs that the kernels sum up at a time, four rows of two
_BLOCK_VECTORS = 8
#: Rows of a block of outputs, a multiple of the kernels' four: the input rows at its edge are read again.
_LEAST_ROWS = 16
# enough items to share out among the cores of any machine, whatever their number
_LEAST_ITEMS = 64


def _refuses(problem: Problem, pass_: str) -> str | None:
    if not isinstance(problem, ConvProblem):
        return "it convolves, it does not pool"
    if problem.ndim != 2:
        return f"its kernels are 2-D, the problem is {problem.ndim}-D"
    if problem.c != problem.groups:
        return f"it takes one input channel a group, the problem has {problem.c // problem.groups}"
    return None


def _cost(problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Multiply-adds of whole vectors at half the peak, and every array once through the caches beyond L2."""
    assert isinstance(problem, ConvProblem)
    p, tile = problem, machine.tile(problem.dtype)
    macs = sum(
        r.n * r.groups * r.c * r.k * r.output[0] * -(-r.output[1] // tile.lanes) * tile.lanes * r.taps
        for r in correlations(p, "forward" if pass_ == "grad_weight" else pass_)
    )
    return 2 * macs / (0.5 * machine.peak(p.dtype)) + p.least_bytes(pass_) / (3 * machine.bandwidth) + _CALL_SECONDS


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
    for r, second in _paired(correlations(problem, pass_)):
        if r.taps == 0:
            stages.append(fill_zero(r))
            if second is not None:
                stages.append(fill_zero(second))
            continue
        block = _Block.of(r, second, tile, machine, problem.dtype, r.n * r.groups)
        stages.append(_stage(r, second, block))
        weights = r.k * r.c * r.kernel[0] * (r.kernel[1] + block.kw2) * block.itemsize
        buffer = block.rows * _STRIP_VECTORS * tile.lanes * block.itemsize
        scratch_bytes = max(scratch_bytes, block.table_bytes + buffer + _round_up(weights) + block.copy_bytes)
    return Program(dtype=problem.dtype, stages=stages, scratch_bytes=scratch_bytes)


def _paired(phases: list[Correlation]) -> list[tuple[Correlation, Correlation | None]]:
    """The phases of a row of a stride of 2 together: their outputs alternate, so that whole vectors can be stored.

    The first of a pair has taps, unless both have none.
    """
    if phases[0].out.steps[3] != 2 or phases[0].output[1] == 1 and len(phases) == phases[0].out.steps[2]:
        return [(each, None) for each in phases]
    return [(even, odd) for even, odd in zip(phases[::2], phases[1::2], strict=True)]


def _stage(r: Correlation, second: Correlation | None, block: _Block) -> Stage:
    args = {**input_fields(r), **weight_fields(r), **output_fields(r), **geometry(r)}
    args |= {"bias": bias_field(r), "w2": 0, "kw2": 0, "pw2": 0, "ow2": 0, "rows": block.rows, "columns": block.columns}
    if second is not None:
        args |= {
            "w2": second.weight.address, "kw2": block.kw2, "pw2": second.padding[1], "ow2": second.output[1],
            "out_w": 1,
        }  # fmt: skip
    return Stage("depthwise_forward", args, r.n * r.groups * -(-r.output[0] // block.rows))


def _grad_weight(p: ConvProblem, tile: Tile, machine: Machine) -> Program:
    (r,) = correlations(p, "forward")
    itemsize = np.dtype(p.dtype).itemsize
    columns, rows = _panel(r, tile, machine, itemsize, p.groups)
    units = p.n * -(-p.output[0] // rows)
    parts = min(units, -(-_LEAST_ITEMS // p.groups))
    stage = Stage(
        "depthwise_grad_weight",
        {**grad_weight_fields(p), "n": p.n, "g": p.groups, "c": 1, "k": r.k, "rows": rows, "columns": columns,
         "parts": parts},
        parts * p.groups,
    )  # fmt: skip
    return Program(
        dtype=p.dtype,
        stages=(stage, sum_parts(p, parts)),
        workspace_bytes=parts * p.weight_bytes,
        scratch_bytes=_tables(r) + r.k * r.taps * tile.lanes * itemsize + _copy_bytes(r, rows, columns, tile, itemsize),
        contiguous=frozenset({"out"}),
    )


def _panel(r: Correlation, tile: Tile, machine: Machine, itemsize: int, planes: int) -> tuple[int, int]:
    """Output columns copied at a time, and output rows of an item."""
    columns = min(_PANEL_VECTORS, -(-r.output[1] // tile.lanes)) * tile.lanes
    rows = r.output[0]
    # halve the rows until there are items to share out and the copy stays in half the L2 cache
    while rows > _LEAST_ROWS and (
        planes * -(-r.output[0] // rows) < _LEAST_ITEMS or _copy_bytes(r, rows, columns, tile, itemsize) > machine.l2 // 2
    ):
        rows = max(_LEAST_ROWS, -(-rows // 2))
    return columns, rows


def _tables(r: Correlation) -> int:
    """Bytes of the kernels' two tables of column offsets."""
    return _round_up(2 * r.kernel[1] * _INDEX_BYTES)


def _copy_bytes(r: Correlation, rows: int, columns: int, tile: Tile, itemsize: int) -> int:
    """Bytes of the copied input of a panel: each row has its phases one after the other, of whole vectors."""
    (kh, kw), (sh, sw), (dh, dw) = r.kernel, r.stride, r.dilation
    phases = min(sw, (kw - 1) * dw + 1)
    width = -(-(columns + (kw - 1) * dw // sw) // tile.lanes) * tile.lanes
    lines = (min(rows, r.output[0]) - 1) * sh + (kh - 1) * dh + 1
    return r.c * lines * phases * width * itemsize


def _round_up(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


POLICIES = (Policy("depthwise", _PASSES, _refuses, _cost, _error, _program),)
