"""Direct convolution on a GPU: for depthwise and other problems of few channels, whose speed is that of the memory.

A thread sums a few outputs in registers; the input is read in place, by neighbouring lanes from neighbouring pixels.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms.cuda.policy import DevicePolicy
from convforge.algorithms.cuda.stages import (
    LAUNCH_SECONDS,
    MOST_BLOCKS,
    memory_seconds,
    operand,
    pair,
    refuses_3d,
    sum_parts,
    sums,
    view_arguments,
)
from convforge.algorithms.lowering import Correlation, correlations
from convforge.launch import Buffer, DeviceProgram, Launch, Memory, Present
from convforge.problem import ConvProblem, Problem

if TYPE_CHECKING:
    from convforge.runtime.gpu import Gpu

#: Filters of more rows are summed a row at a time.
_MOST_ROWS = 8
_THREADS = 128
#: Taps whose gradients a thread of the weight gradient keeps in registers.
_MOST_TAPS = 25
#: Blocks that fill any device a few times over, whatever its size: the parts of a sum must not depend on it.
_BLOCKS = 4096
#: Pixels that a part has at least: fewer would not pay for adding its sums up.
_PART_PIXELS = 1024
#: Share of the peak that its sums reach: loads and bounds are beside them.
_EFFICIENCY = 0.2


def _refuses(problem: Problem, pass_: str) -> str | None:
    return refuses_3d(problem)


def _cost(problem: Problem, pass_: str, mode: str, gpu: Gpu) -> float:
    assert isinstance(problem, ConvProblem)
    launches = len(correlations(problem, pass_)) if pass_ != "grad_weight" else 2
    work = problem.flops(pass_) / (_EFFICIENCY * gpu.peak(problem.dtype))
    return max(work, memory_seconds(problem, pass_, gpu.bandwidth)) + launches * LAUNCH_SECONDS


def _program(problem: Problem, pass_: str, gpu: Gpu) -> DeviceProgram:
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        return _grad_weight(problem)
    launches = [_correlate(problem, r) for r in correlations(problem, pass_)]
    return DeviceProgram(problem.dtype, launches)


def _correlate(p: ConvProblem, r: Correlation) -> Launch:
    kernel = pair(r.kernel, 1) if r.taps else (1, 1)
    stride, dilation, output = pair(r.stride, 1), pair(r.dilation, 1), pair(r.output, 1)
    whole = kernel[0] <= _MOST_ROWS
    channels = 4 if r.k > 2 else 1
    rows = min(2 if channels > 1 else 4, output[0]) if whole and dilation[0] == 1 else 1
    columns = 4 if rows == 1 and channels == 1 and output[1] >= 4 * _THREADS else 1
    wide = next((size for size in (8, 16, 32, 64) if size * columns >= output[1]), _THREADS)
    deep = min(_THREADS // wide, -(-output[0] // rows))
    deep = 1 << (deep.bit_length() - 1)
    planes = r.n * r.groups * -(-r.k // channels)
    tall = min(_THREADS // (wide * deep), planes)
    config = (p.dtype, kernel[0] if whole else 1, kernel[1], stride[0] if rows > 1 else 1, channels, rows, columns)
    args = (
        Memory(r.x.array), *view_arguments(r.x, p.ndim), Memory("weight"), *view_arguments(r.weight, p.ndim),
        Memory("bias"), Present("bias") if r.bias else 0, Memory("out"), *view_arguments(r.out, p.ndim),
        planes, r.groups, r.c if r.taps else 0, r.k, *pair(r.input, 1), *output, 1 if whole else kernel[0], *stride,
        *pair(r.padding, 0), *dilation,
    )  # fmt: skip
    blocks = -(-output[1] // (wide * columns)) * -(-output[0] // (deep * rows))
    grid = (blocks, min(-(-planes // tall), MOST_BLOCKS), 1)
    return Launch("direct", "correlate", config, args, grid, (wide, tall, deep))


def _grad_weight(p: ConvProblem) -> DeviceProgram:
    kernel, output = pair(p.kernel, 1), pair(p.output, 1)
    taps = kernel if prod(kernel) <= _MOST_TAPS else (1, min(kernel[1], _MOST_ROWS))
    pairs = p.k * (p.c // p.groups)
    blocks = pairs * -(-kernel[0] // taps[0]) * -(-kernel[1] // taps[1])
    rows = p.n * output[0]
    parts = min(rows, -(-_BLOCKS // blocks), -(-rows * output[1] // _PART_PIXELS), MOST_BLOCKS)
    pixels = -(-rows // parts) * output[1]
    threads = next((size for size in (32, 64) if size >= pixels), _THREADS)
    count = prod(p.weight_shape)
    args = (
        *operand("x", p.ndim), *operand("grad_output", p.ndim), Memory("partial"), p.n, p.c // p.groups,
        p.k // p.groups, count, *pair(p.input, 1), *output, *kernel, *pair(p.stride, 1),
        *pair(tuple(before for before, _ in p.padding), 0), *pair(p.dilation, 1),
    )  # fmt: skip
    launch = Launch("direct", "grad_weight", (p.dtype, *taps, threads), args, (blocks, parts, 1), (threads, 1, 1))
    return DeviceProgram(
        p.dtype,
        (launch, sum_parts(p, parts)),
        workspace={"partial": Buffer(sums(p.dtype), parts * count)},
        contiguous=frozenset({"out"}),
    )


def _error(problem: Problem, pass_: str) -> float:
    """Rounding of one chain of additions as a random walk, as on the CPU; a weight gradient's chains are shorter."""
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        length = problem.n * prod(problem.output)
    else:
        length = (problem.c if pass_ == "forward" else problem.k) // problem.groups * prod(problem.kernel)
    return float(np.finfo(sums(problem.dtype)).eps) * (1 + 0.5 * sqrt(length))


POLICIES = (
    DevicePolicy(
        "direct", ("forward", "grad_input", "grad_weight"), ("conv",), ("float32", "float64", "float16"), _refuses,
        _cost, _error, _program,
    ),
)  # fmt: skip
