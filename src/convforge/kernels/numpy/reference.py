"""What is right: every pass in any number of dimensions, a tap at a time, with float64 sums.

Nothing is shared with the fast kernels. It serves as the oracle of tests and benchmarks, and as the last resort where
no kernel does a problem. Each function takes arrays of the problem's shapes and returns the problem's dtype, or
``dtype``: "float64" gives the sums before they are rounded.

Non-finite numbers follow IEEE arithmetic. The zeros of a convolution's padding take part in the sum, as they do in a
kernel that reads them from a padded row: an infinite weight gives NaN (0 * inf) where it meets the padding. Likewise
the gradient by the input counts outputs beyond the border as zeros that take part.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convforge.problem import ConvProblem, PoolProblem

Float = NDArray[np.floating]
Doubles = NDArray[np.float64]
Positions = list[NDArray[np.int64]]


def forward(
    problem: ConvProblem, x: Float, weight: Float, bias: Float | None = None, dtype: str | None = None
) -> Float:
    """Return the convolution of ``x`` with ``weight``, plus ``bias`` where it is given."""
    images, filters = _grouped(problem, x, axis=1), _grouped(problem, weight, axis=0)
    total = np.zeros((problem.n, problem.groups, problem.k // problem.groups, prod(problem.output)))
    with np.errstate(all="ignore"):
        for tap in np.ndindex(*problem.kernel):
            total += filters[(..., *tap)] @ _pixels(images, _reads(problem, tap))
        total = total.reshape(problem.output_shape)
        if bias is not None:
            total += np.asarray(bias, np.float64).reshape(-1, *[1] * problem.ndim)
    return _rounded(total, problem, dtype)


def grad_input(problem: ConvProblem, weight: Float, grad_output: Float, dtype: str | None = None) -> Float:
    """Return the gradient of a loss by x, given its gradient by the output."""
    filters, gradient = _grouped(problem, weight, axis=0), _grouped(problem, grad_output, axis=1)
    total = _grouped(problem, np.zeros(problem.input_shape), axis=1)
    with np.errstate(all="ignore"):
        for tap in np.ndindex(*problem.kernel):
            targets, outputs = _written_through(problem, tap)
            part = filters[(..., *tap)].swapaxes(1, 2) @ _pixels(gradient, outputs)
            total[_at(targets)] += part.reshape(*part.shape[:3], *map(len, targets))
    return _rounded(total.reshape(problem.input_shape), problem, dtype)


def grad_weight(problem: ConvProblem, x: Float, grad_output: Float, dtype: str | None = None) -> Float:
    """Return the gradient of a loss by the weight, summed over the batch, given its gradient by the output."""
    images, gradient = _grouped(problem, x, axis=1), _grouped(problem, grad_output, axis=1)
    groups, c, k = problem.groups, problem.c // problem.groups, problem.k // problem.groups
    rows = gradient.reshape(problem.n, groups, k, prod(problem.output)).transpose(1, 2, 0, 3).reshape(groups, k, -1)
    total = np.zeros((groups, k, c, *problem.kernel))
    with np.errstate(all="ignore"):
        for tap in np.ndindex(*problem.kernel):
            columns = _pixels(images, _reads(problem, tap)).transpose(1, 0, 3, 2).reshape(groups, -1, c)
            total[(..., *tap)] = rows @ columns
    return _rounded(total.reshape(problem.weight_shape), problem, dtype)


def max_pool(problem: PoolProblem, x: Float) -> tuple[Float, NDArray[np.int64]]:
    """Return each window's maximum, and its flat index within the channel's plane.

    The first of equal maxima is taken; NaN is greater than any number, and the first NaN is taken.
    """
    best = np.empty(problem.output_shape, problem.dtype)
    indices = np.full(problem.output_shape, -1)
    for tap in np.ndindex(*problem.kernel):
        reads = _reads(problem, tap)
        value, inside = _gathered(x, reads), reduce(np.logical_and.outer, _inside(problem.input, reads))
        at = np.ravel_multi_index(np.ix_(*_clipped(problem.input, reads)), problem.input)
        better = inside & ((indices < 0) | (value > best) | (np.isnan(value) & ~np.isnan(best)))
        np.copyto(best, value, where=better)
        np.copyto(indices, at, where=better)
    return best, indices


def max_pool_backward(
    problem: PoolProblem, grad_output: Float, indices: NDArray[np.integer], dtype: str | None = None
) -> Float:
    """Return the gradient by x: each output's gradient goes to the pixel that ``indices`` names."""
    planes, size = problem.n * problem.c, prod(problem.input)
    total = np.zeros((planes, size))
    with np.errstate(all="ignore"):
        outputs = prod(problem.output)
        plane = np.arange(planes)[:, None]
        np.add.at(total, (plane, indices.reshape(planes, outputs)), grad_output.reshape(planes, outputs))
    return _rounded(total.reshape(problem.input_shape), problem, dtype)


def avg_pool(problem: PoolProblem, x: Float, dtype: str | None = None) -> Float:
    """Return each window's sum over its divisor."""
    total = np.zeros(problem.output_shape)
    with np.errstate(all="ignore"):
        for tap in np.ndindex(*problem.kernel):
            total += _gathered(x, _reads(problem, tap))
        total /= divisors(problem)
    return _rounded(total, problem, dtype)


def avg_pool_backward(problem: PoolProblem, grad_output: Float, dtype: str | None = None) -> Float:
    """Return the gradient by x: each output's gradient over its divisor goes to every pixel of its window."""
    total = np.zeros(problem.input_shape)
    with np.errstate(all="ignore"):
        share = grad_output / divisors(problem)
        for tap in np.ndindex(*problem.kernel):
            reads = _reads(problem, tap)
            outputs = [np.flatnonzero(seen) for seen in _inside(problem.input, reads)]
            pixels = [at[output] for at, output in zip(reads, outputs, strict=True)]
            total[_at(pixels)] += share[_at(outputs)]
    return _rounded(total, problem, dtype)


def divisors(problem: PoolProblem) -> Doubles:
    """Return what each window's sum is divided by, in the output's spatial shape.

    A window is counted inside the padded input, or inside the input itself without ``count_include_pad``; what the
    last window of ``ceil_mode`` reaches beyond the padding never counts.
    """
    if problem.divisor_override is not None:
        return np.full(problem.output, float(problem.divisor_override))
    counts = []
    for size, out, window, stride, (before, after) in zip(
        problem.input, problem.output, problem.kernel, problem.stride, problem.padding, strict=True
    ):
        start = np.arange(out) * stride - before
        end = np.minimum(start + window, size + after)
        if not problem.count_include_pad:
            start, end = np.maximum(start, 0), np.minimum(end, size)
        counts.append((end - start).astype(np.float64))
    return reduce(np.multiply.outer, counts)


def _reads(problem: ConvProblem | PoolProblem, tap: tuple[int, ...]) -> Positions:
    """Per axis, the input position that each output reads through a tap; it may lie outside the input."""
    return [
        np.arange(out) * stride - before + t * dilation
        for out, stride, (before, _), t, dilation in zip(
            problem.output, problem.stride, problem.padding, tap, problem.dilation, strict=True
        )
    ]


def _written_through(problem: ConvProblem, tap: tuple[int, ...]) -> tuple[Positions, Positions]:
    """Per axis, the input positions that some output reads through a tap, and which output; it may lie outside."""
    targets, outputs = [], []
    for size, stride, (before, _), t, dilation in zip(
        problem.input, problem.stride, problem.padding, tap, problem.dilation, strict=True
    ):
        shift = t * dilation - before
        target = np.arange(shift % stride, size, stride)
        targets.append(target)
        outputs.append((target - shift) // stride)
    return targets, outputs


def _inside(sizes: Sequence[int], positions: Positions) -> list[NDArray[np.bool_]]:
    """Per axis, whether positions lie inside the image."""
    return [(at >= 0) & (at < size) for at, size in zip(positions, sizes, strict=True)]


def _clipped(sizes: Sequence[int], positions: Positions) -> Positions:
    return [np.clip(at, 0, size - 1) for at, size in zip(positions, sizes, strict=True)]


def _at(positions: Positions) -> tuple[Any, ...]:
    """Index of the grid that positions span on the last axes."""
    return (..., *np.ix_(*positions))


def _gathered(array: Float, positions: Positions) -> Float:
    """Return the values at positions of the last axes, 0 outside."""
    sizes = array.shape[array.ndim - len(positions) :]
    values = array[_at(_clipped(sizes, positions))]
    return np.where(reduce(np.logical_and.outer, _inside(sizes, positions)), values, 0)


def _pixels(array: Float, positions: Positions) -> Float:
    """Return the values at positions with the spatial axes flattened: (n, group, channel, pixel)."""
    return _gathered(array, positions).reshape(*array.shape[:3], prod(map(len, positions)))


def _grouped(problem: ConvProblem, array: Float, axis: int) -> Doubles:
    """Return ``array`` in float64 with its channel axis split into (group, channel)."""
    shape = array.shape
    split = (problem.groups, shape[axis] // problem.groups)
    return np.asarray(array, np.float64).reshape(*shape[:axis], *split, *shape[axis + 1 :])


def _rounded(total: Doubles, problem: ConvProblem | PoolProblem, dtype: str | None) -> Float:
    with np.errstate(all="ignore"):
        return total.astype(dtype or problem.dtype)
