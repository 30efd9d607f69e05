"""Pooling on a GPU: a thread for each output, and for each pixel of a mean's gradient.

The gradient of maxima is added up from the indices by a block for each plane, in the order of the outputs: it does not
need to know the windows, and has no atomics.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms.cuda.policy import DevicePolicy
from convforge.algorithms.cuda.stages import (
    LAUNCH_SECONDS,
    memory_seconds,
    operand,
    pair,
    pixels_by_planes,
    refuses_3d,
    sums,
)
from convforge.launch import Argument, Buffer, DeviceProgram, Launch, Memory
from convforge.problem import PoolProblem, Problem

if TYPE_CHECKING:
    from convforge.runtime.gpu import Gpu

#: Outputs that a block adds at a time into a maximum's gradient; each is compared with all of them.
_SCATTERED = 64
_MOST_TAPS = 1 << 12


def _refuses(problem: Problem, pass_: str) -> str | None:
    if prod(problem.kernel) > _MOST_TAPS:
        return f"a window of {prod(problem.kernel)} pixels is more than {_MOST_TAPS}: a thread would go over all"
    return refuses_3d(problem)


def _cost(problem: Problem, pass_: str, mode: str, gpu: Gpu) -> float:
    assert isinstance(problem, PoolProblem)
    work = 16 * problem.flops(pass_) / gpu.peak("float32")
    return max(work, memory_seconds(problem, pass_, gpu.bandwidth)) + LAUNCH_SECONDS


def _error(problem: Problem, pass_: str) -> float:
    """Zero for maxima; the rounding of one chain of additions as a random walk, and of a division."""
    assert isinstance(problem, PoolProblem)
    p, eps = problem, float(np.finfo(sums(problem.dtype)).eps)
    if p.kind == "max" and pass_ == "forward":
        return 0.0
    if p.kind == "max":
        return eps * (1 + 0.4 * sqrt(prod(-(-k // s) for k, s in zip(p.kernel, p.stride, strict=True))))
    return eps * (1 + 0.5 * sqrt(prod(p.kernel)))


def _program(problem: Problem, pass_: str, gpu: Gpu) -> DeviceProgram:
    assert isinstance(problem, PoolProblem)
    if problem.kind == "max":
        return _max_forward(problem) if pass_ == "forward" else _max_backward(problem)
    return _avg(problem, pass_)


def _max_forward(p: PoolProblem) -> DeviceProgram:
    kernel, output, planes = pair(p.kernel, 1), pair(p.output, 1), p.n * p.c
    args = (
        *operand("x", p.ndim), *operand("out", p.ndim), Memory("indices"), planes, p.c, *pair(p.input, 1), *output,
        *pair(p.stride, 1), *_before(p), *pair(p.dilation, 1),
    )  # fmt: skip
    grid, block = pixels_by_planes(prod(output), planes)
    launch = Launch("pooling", "max_forward", (p.dtype, *kernel, p.indices), args, grid, block)
    return DeviceProgram(p.dtype, (launch,))


def _max_backward(p: PoolProblem) -> DeviceProgram:
    planes, size = p.n * p.c, pair(p.input, 1)
    rounded = p.dtype == "float16"
    into: tuple[Argument, ...] = operand("out", p.ndim)
    if rounded:
        into = (Memory("sums"), 0, p.c * prod(size), prod(size), size[1], 1)
    args = (
        *operand("grad_output", p.ndim), Memory("indices"), *into, *operand("out", p.ndim), p.c, *size,
        *pair(p.output, 1),
    )  # fmt: skip
    launch = Launch("pooling", "max_backward", (p.dtype, _SCATTERED), args, (planes, 1, 1), (_SCATTERED, 1, 1))
    workspace = {"sums": Buffer(sums(p.dtype), planes * prod(size))} if rounded else {}
    return DeviceProgram(p.dtype, (launch,), workspace=workspace)


def _avg(p: PoolProblem, pass_: str) -> DeviceProgram:
    kernel, output, size, planes = pair(p.kernel, 1), pair(p.output, 1), pair(p.input, 1), p.n * p.c
    window = (*pair(p.stride, 1), *_before(p), *_counted(p), p.divisor_override or 0)
    if pass_ == "forward":
        grid, block = pixels_by_planes(prod(output), planes)
        args = (*operand("x", p.ndim), *operand("out", p.ndim), planes, p.c, *size, *output, *window)
        launch = Launch("pooling", "avg_forward", (p.dtype, *kernel), args, grid, block)
    else:
        grid, block = pixels_by_planes(prod(size), planes)
        args = (
            *operand("grad_output", p.ndim), *operand("out", p.ndim), planes, p.c, *size, *output, *kernel, *window,
        )  # fmt: skip
        launch = Launch("pooling", "avg_backward", (p.dtype,), args, grid, block)
    return DeviceProgram(p.dtype, (launch,))


def _before(p: PoolProblem) -> tuple[int, int]:
    return pair(tuple(before for before, _ in p.padding), 0)


def _counted(p: PoolProblem) -> tuple[int, ...]:
    """First and end, of rows and of columns, of what a divisor counts: the padded input, or the input."""
    ends = [(-before, size + after) for size, (before, after) in zip(p.input, p.padding, strict=True)]
    if not p.count_include_pad:
        ends = [(0, size) for size in p.input]
    if p.ndim == 1:
        ends.insert(0, (0, 1))
    return tuple(end for axis in ends for end in axis)


POLICIES = (
    DevicePolicy(
        "direct", ("forward", "grad_input"), ("max", "avg"), ("float32", "float64", "float16"), _refuses, _cost,
        _error, _program,
    ),
)  # fmt: skip
