"""Pooling as two passes over each block of outputs: down the rows of the windows, then along their columns.

The vertical pass reads contiguous rows of the input; its result is one row in the cache, from which the horizontal pass
takes every window by shifted loads. A k x k window thus costs 2k operations on vectors, not k². The gradient of an
average is the same sum over the windows that a pixel is in; the gradient of a maximum is scattered by the indices.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms.policy import Policy
from convforge.algorithms.stages import ceil_div
from convforge.problem import PoolProblem, Problem
from convforge.program import Program, Slot, Stage, View

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

#: Elements of a row that are worked on at a time, and rows: with a maximum's places they half fill the L1 cache.
#: Several rows, because a load across two vectors that were just stored waits for them (a fifth of the time).
_ROW = 512
_BATCH = 4
#: Elements of the input in a block, and in a grain of blocks: some 10 µs of work.
_BLOCK = 1 << 15
_MAX_SCRATCH_BYTES = 1 << 28


def _refuses(problem: Problem, pass_: str) -> str | None:
    if not isinstance(problem, PoolProblem):
        return "not a pooling problem"
    if problem.ndim != 2:
        return f"its kernels are 2-D, the problem is {problem.ndim}-D"
    if _scratch_bytes(problem, pass_, lanes=16) > _MAX_SCRATCH_BYTES:
        return f"a row of windows of kernel_size {problem.kernel} takes more than {_MAX_SCRATCH_BYTES} bytes of scratch"
    exact = 1 << np.finfo(problem.dtype).nmant + 1
    if problem.indices and pass_ == "forward" and _reach(problem) > exact:
        return f"a window spans more than {exact} pixels of the plane, too many to be counted in {problem.dtype}"
    return None


def _reach(p: PoolProblem) -> int:
    """Flat distance from a window's first pixel to its last inside the plane."""
    rows = min((p.kernel[0] - 1) * p.dilation[0], p.input[0] + p.padding[0][0])
    return rows * p.input[1] + (p.kernel[1] - 1) * p.dilation[1]


def _cost(problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Traffic and the joins of elements; measured: one join of vectors takes a cycle, a scattered addition two."""
    assert isinstance(problem, PoolProblem)
    p = problem
    nbytes = p.least_bytes(pass_)
    seconds = _CALL_SECONDS + nbytes / (machine.bandwidth if nbytes > machine.l3 else 4 * machine.bandwidth)
    if p.kind == "max" and pass_ == "grad_input":
        return seconds + prod(p.output_shape) * 6e-10
    if pass_ == "forward":
        windows = p.output[0] * min(p.input[1], p.output[1] * p.stride[1])
        joins = p.n * p.c * windows * sum(min(k, i) for k, i in zip(p.kernel, p.input, strict=True))
        if p.indices:
            joins *= 3  # values and places are compared and selected
    else:
        # rows that see the same windows are summed once
        distinct = min(p.input[0], 2 * p.output[0] + 1)
        joins = p.n * p.c * distinct * p.input[1] * (ceil_div(p.kernel[0], p.stride[0]) + p.kernel[1])
    return seconds + joins / (0.25 * machine.peak(p.dtype))


_CALL_SECONDS = 2e-6


def _error(problem: Problem, pass_: str) -> float:
    """Zero for maxima; the rounding of a sum as a random walk down a column and along a row (measured: a third)."""
    assert isinstance(problem, PoolProblem)
    p = problem
    eps = float(np.finfo(p.dtype).eps)
    if p.kind == "avg":
        return eps * (1 + 0.5 * sqrt(sum(p.kernel)))
    if pass_ == "forward":
        return 0.0
    # the windows that share a pixel may all add up in it (measured: up to 0.22 eps sqrt(count))
    return eps * (1 + 0.4 * sqrt(prod(ceil_div(k, s) for k, s in zip(p.kernel, p.stride, strict=True))))


def _program(problem: Problem, pass_: str, tile: Tile, machine: Machine) -> Program:
    assert isinstance(problem, PoolProblem)
    p = problem
    if p.kind == "max" and pass_ == "grad_input":
        args: dict[str, Slot | int] = {
            **_fields("grad_output", ("y", "y_n", "y_k", "y_h")), **_INDICES, **_OUT,
            "c": p.c, "ih": p.input[0], "iw": p.input[1], "oh": p.output[0], "ow": p.output[1],
        }  # fmt: skip
        stage = Stage("max_pool_backward", args, p.n * p.c, max(1, _BLOCK // prod(p.input)))
        return _one_stage(p, stage, 0)
    (height, width), (columns, row) = _plane(p, pass_), _columns(p, pass_)
    rows = min(height, max(1, _BLOCK // row))
    args = {**_OUT, **_geometry(p), "rows": rows, "columns": columns, "width": _width(p, pass_, tile.lanes),
            "batch": _BATCH}  # fmt: skip
    if pass_ == "forward":
        args |= _fields("x", ("x", "x_n", "x_c", "x_h"))
    else:
        args |= _fields("grad_output", ("y", "y_n", "y_k", "y_h"))
    args |= _INDICES if p.kind == "max" else _divisor(p)
    stage = Stage(
        f"{p.kind}_pool_{'forward' if pass_ == 'forward' else 'backward'}",
        args,
        p.n * p.c * ceil_div(height, rows) * ceil_div(width, columns),
        max(1, _BLOCK // (rows * row)),
    )
    return _one_stage(p, stage, _scratch_bytes(p, pass_, tile.lanes))


def _one_stage(p: PoolProblem, stage: Stage, scratch_bytes: int) -> Program:
    return Program(
        dtype=p.dtype,
        stages=(stage,),
        scratch_bytes=scratch_bytes,
        unit_stride=frozenset({"x", "grad_output", "out", "indices"}),
    )


def _plane(p: PoolProblem, pass_: str) -> tuple[int, ...]:
    """Rows and columns of what the pass writes."""
    return p.output if pass_ == "forward" else p.input


def _columns(p: PoolProblem, pass_: str) -> tuple[int, int]:
    """Columns of a block of outputs, and the elements of input that one of its rows takes."""
    width = _plane(p, pass_)[1]
    if pass_ == "grad_input":
        return min(width, _ROW), min(width, _ROW)
    columns = min(width, max(1, _ROW // p.stride[1]))
    return columns, min(p.input[1], columns * p.stride[1]) * min(p.stride[0], p.input[0])


def _width(p: PoolProblem, pass_: str, lanes: int) -> int:
    """Elements of a row of scratch: the windows of a block's columns, and what whole vectors read beyond."""
    stride = p.stride[1] if pass_ == "forward" else 1
    extent = (_columns(p, pass_)[0] - 1) * stride + (p.kernel[1] - 1) * p.dilation[1] + 1
    return ceil_div(extent + 2 * lanes, lanes) * lanes


def _scratch_bytes(p: PoolProblem, pass_: str, lanes: int) -> int:
    return (2 + 2 * _BATCH) * _width(p, pass_, lanes) * p.itemsize


def _fields(array: str, names: tuple[str, ...]) -> dict[str, Slot | int]:
    """Address and strides of the first three axes of an array, under a kernel's names."""
    view = View.of(array, 4)
    return dict(zip(names, (view.address, *(view.stride(axis) for axis in range(3))), strict=True))


_OUT = _fields("out", ("out", "out_n", "out_k", "out_h"))
_INDICES = _fields("indices", ("indices", "indices_n", "indices_c", "indices_h"))


def _geometry(p: PoolProblem) -> dict[str, Slot | int]:
    sizes = {
        "i": p.input, "o": p.output, "k": p.kernel, "s": p.stride, "d": p.dilation,
        "p": tuple(before for before, _ in p.padding),
    }  # fmt: skip
    return {"c": p.c, **{f"{name}{axis}": size[i] for name, size in sizes.items() for i, axis in enumerate("hw")}}


def _divisor(p: PoolProblem) -> dict[str, Slot | int]:
    """What of a window counts: inside the padded input, or inside the input."""
    fields: dict[str, Slot | int] = {"divisor": p.divisor_override or 0}
    for axis, size, (before, after) in zip("hw", p.input, p.padding, strict=True):
        fields[f"{axis}_first"], fields[f"{axis}_end"] = (-before, size + after) if p.count_include_pad else (0, size)
    return fields


#: The same name as direct convolution: every output from its window, in place.
POLICIES = (Policy("direct", ("forward", "grad_input"), ("max", "avg"), _refuses, _cost, _error, _program),)
