"""Depthwise convolution: one input channel a group, as in MobileNet, and filters of one-channel images.

A group has too few channels for a matrix product. The lanes hold neighbouring output pixels instead, several output
rows are in flight so that an input row serves all that see it, and a channel's few weights are broadcast. On small maps
they hold channels, see :mod:`.depthwise_channels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms import depthwise_channels
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
from convforge.program import Program, Slot, Stage, buffer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convforge.runtime.machine import Machine, Tile

_PASSES = ("forward", "grad_input", "grad_weight")
#: Output columns whose input is copied at a time, in vectors, at least.
_PANEL_VECTORS = 8
#: Rows of the kernels' tiles at most: they read the input of as many.
_TILE_ROWS = 8
#: Rows of a block of outputs, a multiple of that: the input rows at its edge are read again.
_LEAST_ROWS = 16
#: Least size of a kernel that may take two passes.
_LEAST_FACTOR = 5
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
    p, tile = problem, machine.tile(problem.dtype)
    lanes = tile.lanes
    every = correlations(p, "forward" if pass_ == "grad_weight" else pass_)
    planes = p.n * p.groups
    if pass_ == "grad_weight":
        (r,) = every
        vectors = r.output[0] * -(-r.output[1] // lanes)
        each = r.taps / 2 / _DOT_EFFICIENCY + _VECTOR_STEPS * prod(r.stride)
        steps = planes * r.k * (vectors * each + _PLANE_STEPS)
    elif _takes_channels(every, tile, machine, p.itemsize):
        steps = planes * depthwise_channels.steps(every[0], lanes)
    else:
        steps = sum(planes * r.k * _pixels_steps(r, machine.isa, lanes) for r in every)
    return steps * machine.step + _CALL_SECONDS


#: Measured: share of the peak that the multiply-adds reach if all else is counted apart, likewise in the weight
#: gradient; steps (a machine's time of two multiply-adds) for one vector of outputs beside them, for each input row and
#: column that it steps over; steps for a plane, and both where masks spare the copies; seconds for a call.
_EFFICIENCY = 0.85
_DOT_EFFICIENCY = 0.5
_VECTOR_STEPS = 4
_PLANE_STEPS = 120
_STRIP_VECTOR_STEPS = 1.5
_STRIP_STEPS = 25
_CALL_SECONDS = 2e-6


def _error(problem: Problem, pass_: str) -> float:
    """Rounding of one chain of additions as a random walk, of one chain a lane and part for the weight gradient.

    Factors of a separable kernel differ from its weights by a few eps at most, which is counted for all that may be so.
    """
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        length = problem.n * prod(problem.output)
    else:
        length = prod(problem.kernel) * (1 if pass_ == "forward" else problem.k // problem.groups)
    factored = pass_ != "grad_weight" and min(problem.kernel) >= _LEAST_FACTOR
    return float(np.finfo(problem.dtype).eps) * (1 + 0.5 * sqrt(length) + (0.5 if factored else 0))


def _program(problem: Problem, pass_: str, tile: Tile, machine: Machine) -> Program:
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        return _grad_weight(problem, tile, machine)
    every = correlations(problem, pass_)
    if _takes_channels(every, tile, machine, problem.itemsize):
        return depthwise_channels.program(every[0], problem.dtype, problem.itemsize, tile)
    stages: list[Stage] = []
    prepare: list[Stage] = []
    packed_bytes = scratch_bytes = 0
    for r, second in _paired(problem, pass_):
        if r.taps == 0 and (second is None or second.taps == 0):
            stages += [fill_zero(each) for each in (r, second) if each is not None]
            continue
        block = _block(r, second, tile, machine, problem.itemsize, r.n * r.groups)
        factors = _may_be_separable(r, second)
        places = []
        for each in (r, second):
            places.append(buffer("packed", packed_bytes) if each is not None and each.taps else 0)
            if each is not None and each.taps:
                prepare.append(_pack(each, places[-1], factors))
                count = each.c * each.taps + (1 + sum(each.kernel) if factors else 0)
                packed_bytes += round_up(each.groups * each.k * count * problem.itemsize)
        stages.append(_stage(r, second, block, places, factors))
        scratch_bytes = max(scratch_bytes, block.table_bytes + block.copy_bytes)
    return Program(
        dtype=problem.dtype, stages=stages, prepare=prepare, packed_bytes=packed_bytes, scratch_bytes=scratch_bytes
    )  # fmt: skip


def _takes_channels(every: Sequence[Correlation], tile: Tile, machine: Machine, itemsize: int) -> bool:
    """Whether channels are better in the lanes than pixels."""
    if len(every) > 1 or not depthwise_channels.fits(every[0], tile, machine, itemsize):
        return False
    return depthwise_channels.steps(every[0], tile.lanes) < _pixels_steps(every[0], machine.isa, tile.lanes)


def _pixels_steps(r: Correlation, isa: str, lanes: int) -> float:
    """Modelled steps of a plane with pixels in the lanes."""
    vectors = r.output[0] * -(-r.output[1] // lanes)
    small = r.c == 1 and r.kernel == (3, 3) and r.dilation == (1, 1) and r.stride in ((1, 1), (2, 2))
    in_strips = isa == "avx512" and small
    vector, plane = (_STRIP_VECTOR_STEPS, _STRIP_STEPS) if in_strips else (_VECTOR_STEPS, _PLANE_STEPS)
    return vectors * r.c * (r.taps / 2 / _EFFICIENCY + vector * prod(r.stride)) + plane


def _pack(r: Correlation, place: Slot | int, factors: bool) -> Stage:
    args = {**weight_fields(r), "packed": place, "g": r.groups, "k": r.k, "c": r.c}
    args |= {"kh": r.kernel[0], "kw": r.kernel[1], "factors": int(factors)}
    return Stage("pack_depthwise", args, r.groups, grain=-(-r.groups // _LEAST_ITEMS))


def _may_be_separable(r: Correlation, second: Correlation | None) -> bool:
    """Whether two passes would take less than one, if the weight turned out to be an outer product."""
    unit = {*r.stride, *r.dilation, r.out.steps[-1], r.c} == {1}
    return second is None and unit and min(r.kernel) >= _LEAST_FACTOR


def _paired(problem: ConvProblem, pass_: str) -> list[tuple[Correlation, Correlation | None]]:
    """The correlations of a pass. The two phases of a row with a stride of 2 go together.

    Their outputs alternate, so that whole vectors can be stored.
    """
    every = correlations(problem, pass_)
    if pass_ == "forward" or problem.stride[1] != 2 or problem.input[1] == 1:
        return [(each, None) for each in every]
    return list(zip(every[::2], every[1::2], strict=True))


def _stage(
    r: Correlation, second: Correlation | None, block: _Block, packed: Sequence[Slot | int], factors: bool
) -> Stage:
    args = {
        **input_fields(r), "packed": packed[0], "packed2": packed[1], "bias": bias_field(r), **output_fields(r),
        **geometry(r), "kw2": 0, "pw2": 0, "ow2": 0, "factors": int(factors), "rows": block.rows,
        "columns": block.columns,
    }  # fmt: skip
    if second is not None:
        args |= {"kw2": second.kernel[1], "pw2": second.padding[1], "ow2": second.output[1], "out_w": 1}
    items = r.n * r.groups * -(-r.output[0] // block.rows)
    return Stage(_kernel(r, second), args, items, grain=-(-items // _LEAST_ITEMS))


def _kernel(r: Correlation, second: Correlation | None) -> str:
    """The kernels differ in what they are specialised for; one that compiles when it is first used compiles less."""
    step = _step(r)
    if second is not None or r.out.steps[-1] != 1:
        return "depthwise_pair"
    if r.kernel == (3, 3) and r.dilation[1] == 1 and step == r.stride[1] <= 2:
        return "depthwise_3x3" if step == 1 else "depthwise_strided_3x3"
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
        Of the kernels' tables of column offsets, and of a panel's copied input with rows of half-done sums.
    """

    rows: int
    columns: int
    table_bytes: int
    copy_bytes: int


def _block(
    r: Correlation, second: Correlation | None, tile: Tile, machine: Machine, itemsize: int, planes: int
) -> _Block:
    """Choose rows and columns for ``planes`` independent planes of outputs."""
    kw, kw2 = r.kernel[1], _kw(second)
    both = [each for each in (r, second) if each is not None and each.kernel[1]]
    before = max(each.padding[1] for each in both)
    reach = 1 + max(before - each.padding[1] + (each.kernel[1] - 1) * each.dilation[1] for each in both)
    apart = r.dilation[0] // gcd(r.stride[0], r.dilation[0])

    def copy_bytes(rows: int, columns: int) -> int:
        # the kernels' layout: each copied row has its phases one after the other, of whole vectors; tiles read beyond
        width = round_up(min(columns, r.output[1]) + (reach - 1) // r.stride[1], tile.lanes)
        lines = (round_up(rows, _TILE_ROWS * apart) - 1) * r.stride[0] + (r.kernel[0] - 1) * r.dilation[0] + 1
        row = r.c * min(r.stride[1], reach) * width
        return (lines * row + _TILE_ROWS * width + reach + 5 * tile.lanes) * itemsize

    rows, columns = r.output[0], round_up(r.output[1], tile.lanes)
    # until there are items to share out and the copy stays in the L1 cache
    while rows > _LEAST_ROWS and (
        planes * -(-r.output[0] // rows) < _LEAST_ITEMS or copy_bytes(rows, columns) > machine.l1
    ):
        rows = max(_LEAST_ROWS, round_up(-(-rows // 2), _TILE_ROWS))
    # whole rows come faster from memory than parts of them: it is enough if those of wide images stay in the L2 cache
    while columns > _PANEL_VECTORS * tile.lanes and copy_bytes(rows, columns) > machine.l2 // 2:
        columns = round_up(-(-columns // 2), tile.lanes)
    return _Block(rows, columns, round_up((kw + kw2) * INDEX_BYTES), copy_bytes(rows, columns))


def _kw(r: Correlation | None) -> int:
    return 0 if r is None else r.kernel[1]


POLICIES = (Policy("depthwise", _PASSES, ("conv",), _refuses, _cost, _error, _program),)
