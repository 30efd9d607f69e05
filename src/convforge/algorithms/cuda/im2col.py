"""Convolution as an implicit product of matrices on a GPU: a block lowers the input where it multiplies.

Memory beyond the arrays: the packed weight, padded to whole tiles, and where blocks share a sum its parts.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms.cuda.policy import DevicePolicy
from convforge.algorithms.cuda.products import DEPTH, MOST_PRODUCTS, Cut, Shape, cut
from convforge.algorithms.cuda.stages import (
    LAUNCH_SECONDS,
    MOST_BLOCKS,
    memory_seconds,
    operand,
    pair,
    refuses_3d,
    sums,
    view_arguments,
)
from convforge.algorithms.lowering import Correlation, correlations
from convforge.algorithms.stages import ceil_div, round_up
from convforge.launch import Argument, Buffer, DeviceProgram, Launch, Memory, Present
from convforge.problem import ConvProblem, Problem
from convforge.program import View

if TYPE_CHECKING:
    from convforge.runtime.gpu import Gpu

#: Rows of lowered input that a table in shared memory has room for.
_TABLE_ROOM = 1024
#: Share of a weight gradient's columns by tap, padded to tiles of so many, below which a table is worth its tests of
#: each row for the border.
_TABLE_SHARE = 0.85
_COLUMNS = 32
#: Largest extent of a kernel that a table's entry holds.
_MOST_EXTENT = 1 << 15
_COPY_THREADS = 128


def _refuses(problem: Problem, pass_: str) -> str | None:
    if not isinstance(problem, ConvProblem):
        return "it convolves, it does not pool"
    if any((f - 1) * d >= _MOST_EXTENT for f, d in zip(problem.kernel, problem.dilation, strict=True)):
        return f"its tables hold kernels that span less than {_MOST_EXTENT} pixels"
    if problem.groups > MOST_BLOCKS:
        return f"its grids take at most {MOST_BLOCKS} groups, the problem has {problem.groups}"
    return refuses_3d(problem)


def _program(problem: Problem, pass_: str, gpu: Gpu) -> DeviceProgram:
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        return _grad_weight(problem)
    real = sums(problem.dtype)
    launches: list[Launch] = []
    prepare: list[Launch] = []
    packed: dict[str, Buffer] = {}
    workspace: dict[str, Buffer] = {}
    for number, r in enumerate(correlations(problem, pass_)):
        how = _How(r, problem.dtype)
        u = f"u{number}"
        k_pitch = round_up(r.k, how.cut.tile.bm)
        packed[u] = Buffer(real, max(1, r.groups * how.steps * DEPTH * k_pitch))
        if how.steps:
            prepare.append(_pack(r, u, how, k_pitch))
        if how.cut.parts == 1:
            launches.append(_correlate(r, u, how, real, None))
            continue
        partial = f"partial{number}"
        count = r.n * r.groups * r.k * r.pixels
        workspace[partial] = Buffer(real, how.cut.parts * count)
        launches.append(_correlate(r, u, how, real, partial))
        sizes = (r.groups * r.k, *pair(r.output, 1))
        launches.append(_sum_parts(real, partial, how.cut.parts, count, r.out, sizes, r.bias))
    return DeviceProgram(problem.dtype, launches, prepare, packed, workspace)


class _How:
    """How a correlation is done: its rows of lowered input, by table or by tap, and how it is cut."""

    def __init__(self, r: Correlation, dtype: str) -> None:
        by_tap, by_table = r.taps * ceil_div(r.c, DEPTH), ceil_div(r.taps * r.c, DEPTH)
        self.by_table = by_table < 0.95 * by_tap and by_table * DEPTH <= _TABLE_ROOM
        self.steps = by_table if self.by_table else by_tap
        self.shape = Shape(r.k, r.n * r.pixels, self.steps * DEPTH, r.groups)
        self.cut: Cut = cut(self.shape, dtype, self.steps)


def _correlate(r: Correlation, u: str, how: _How, real: str, partial: str | None) -> Launch:
    tile, steps = how.cut.tile, how.steps
    (ih, iw), (oh, ow), (kh, kw) = pair(r.input, 1), pair(r.output, 1), pair(r.kernel, 1)
    (sh, sw), (ph, pw), (dh, dw) = pair(r.stride, 1), pair(r.padding, 0), pair(r.dilation, 1)
    channels, pixels = r.groups * r.k, r.n * r.pixels
    out: tuple[Argument, ...] = (Memory(r.out.array), *view_arguments(r.out, len(r.output)), 0)
    bias: tuple[Argument, ...] = (Memory("bias"), Present("bias")) if r.bias else (Memory("weight"), 0)
    if partial is not None:
        out = (Memory(partial), 0, channels * r.pixels, r.pixels, ow, 1, r.n * channels * r.pixels)
        bias = (Memory("weight"), 0)
    k_blocks = ceil_div(r.k, tile.bm)
    config = (real, tile.bm, tile.bn, tile.bk, tile.tm, tile.tn, _TABLE_ROOM if how.by_table else 0)
    return Launch(
        "im2col", "forward", config,
        (Memory(r.x.array), *view_arguments(r.x, len(r.input)), Memory(u), *out, *bias, r.c, r.k, ih, iw, oh, ow,
         max(1, kh), max(1, kw), sh, sw, ph, pw, dh, dw, pixels, k_blocks, steps, ceil_div(steps, how.cut.parts)),
        (k_blocks * ceil_div(pixels, tile.bn), r.groups, how.cut.parts), (tile.threads, 1, 1),
    )  # fmt: skip


def _pack(r: Correlation, u: str, how: _How, k_pitch: int) -> Launch:
    rows = how.steps * DEPTH
    return Launch(
        "im2col", "pack", (DEPTH, how.by_table),
        (Memory("weight"), *view_arguments(r.weight, len(r.kernel)), Memory(u), r.k, r.c, *pair(r.kernel, 1), k_pitch,
         rows),
        (rows, ceil_div(k_pitch, _COPY_THREADS), r.groups), (_COPY_THREADS, 1, 1),
    )  # fmt: skip


def _sum_parts(
    real: str, partial: str, parts: int, count: int, out: View, sizes: tuple[int, int, int], bias: bool
) -> Launch:
    """The launch that adds up ``parts`` of ``count`` sums each; ``sizes`` are those of all axes but the first."""
    added: tuple[Argument, ...] = (Memory("bias"), Present("bias")) if bias else (Memory(partial), 0)
    return Launch(
        "im2col", "sum_parts", (real,),
        (Memory(partial), parts, count, Memory(out.array), *view_arguments(out, len(out.axes) - 2), *sizes, *added),
        (ceil_div(count, _COPY_THREADS), 1, 1), (_COPY_THREADS, 1, 1),
    )  # fmt: skip


def _gradient_cut(p: ConvProblem) -> tuple[Cut, int, bool]:
    """How a weight gradient is cut, its steps, and whether its columns are found by table."""
    steps, c, area = ceil_div(p.n * prod(p.output), DEPTH), p.c // p.groups, prod(p.kernel)
    by_table = round_up(c * area, _COLUMNS) < _TABLE_SHARE * area * round_up(c, _COLUMNS)
    columns, batch = (c * area, 1) if by_table else (c, area)
    return cut(Shape(p.k // p.groups, columns, steps * DEPTH, p.groups * batch), p.dtype, steps), steps, by_table


def _grad_weight(p: ConvProblem) -> DeviceProgram:
    real, (how, steps, by_table) = sums(p.dtype), _gradient_cut(p)
    tile, c, k = how.tile, p.c // p.groups, p.k // p.groups
    (ph, _), (pw, _) = ((0, 0), *p.padding) if p.ndim == 1 else p.padding
    area, count = prod(p.kernel), prod(p.weight_shape)
    blocks = ceil_div(c * area, tile.bn) if by_table else area * ceil_div(c, tile.bn)
    k_blocks = ceil_div(k, tile.bm)
    launch = Launch(
        "im2col", "grad_weight", (real, tile.bm, tile.bn, tile.bk, tile.tm, tile.tn, by_table),
        (*operand("x", p.ndim), *operand("grad_output", p.ndim), Memory("partial"), c, k, p.groups,
         *pair(p.input, 1), *pair(p.output, 1), *pair(p.kernel, 1), *pair(p.stride, 1), ph, pw,
         *pair(p.dilation, 1), p.n * prod(p.output), k_blocks, ceil_div(steps, how.parts)),
        (k_blocks * blocks, p.groups, how.parts), (tile.threads, 1, 1),
    )  # fmt: skip
    total = _sum_parts(real, "partial", how.parts, count, View.of("out", p.ndim + 2), (c, *pair(p.kernel, 1)), False)
    return DeviceProgram(p.dtype, (launch, total), workspace={"partial": Buffer(real, how.parts * count)})


def _cost(problem: Problem, pass_: str, mode: str, gpu: Gpu) -> float:
    """Tiles at the rate of their main loops, or the operands' way through memory, whichever takes longer."""
    assert isinstance(problem, ConvProblem)
    p = problem
    memory = memory_seconds(p, pass_, gpu.bandwidth)
    if pass_ == "grad_weight":
        return max(_gradient_cut(p)[0].seconds(gpu, p.dtype), memory) + 2 * LAUNCH_SECONDS
    seconds, launches = 0.0, 0
    for r in correlations(p, pass_):
        how = _How(r, p.dtype).cut
        seconds += how.seconds(gpu, p.dtype)
        launches += 1 + (how.parts > 1) + (mode == "functional")
    return max(seconds, memory) + launches * LAUNCH_SECONDS


def _error(problem: Problem, pass_: str) -> float:
    """Rounding as a random walk along the longest chain of additions, as for the CPU's im2col."""
    assert isinstance(problem, ConvProblem)
    p = problem
    if pass_ == "grad_weight":
        length = p.n * prod(p.output)
    else:
        length = (p.c if pass_ == "forward" else p.k) // p.groups * prod(p.kernel)
    chain = min(length, MOST_PRODUCTS) + length / MOST_PRODUCTS
    return float(np.finfo(sums(p.dtype)).eps) * (1 + 0.2 * sqrt(chain))


POLICIES = (
    DevicePolicy(
        "im2col", ConvProblem.passes, ("conv",), ("float32", "float64", "float16"), _refuses, _cost, _error, _program
    ),
)
