"""The public functions as calls without arguments, to be timed as a user makes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from convforge.bench.trial import Arrays
from convforge.ops import conv, pool
from convforge.problem import ConvProblem, PoolProblem, Problem


def call(problem: Problem, pass_: str, arrays: Arrays, backend: str = "auto") -> Callable[[], Any]:
    """A call of the function that does one pass of a 2-D problem, its result a new array every time.

    Parameters
    ----------
    problem, pass_
        What to do.
    arrays
        As :func:`convforge.bench.trial.operands` gives them.
    backend
        As the functions take it.
    """
    given: dict[str, Any] = dict(arrays)
    settings: dict[str, Any] = {"stride": _short(problem.stride), "padding": _padding(problem), "backend": backend}
    if isinstance(problem, ConvProblem):
        settings |= {"dilation": _short(problem.dilation), "groups": problem.groups}
        return _convolution(problem, pass_, given, settings)
    settings["ceil_mode"] = problem.ceil_mode
    return _max(problem, pass_, given, settings) if problem.kind == "max" else _average(problem, pass_, given, settings)


def _convolution(
    problem: ConvProblem, pass_: str, given: dict[str, np.ndarray], settings: dict[str, Any]
) -> Callable[[], Any]:
    if pass_ == "forward":
        return partial(conv.conv2d, given["x"], given["weight"], given["bias"], **settings)
    if pass_ == "grad_input":
        return partial(conv.conv2d_grad_input, problem.input_shape, given["weight"], given["grad_output"], **settings)
    return partial(conv.conv2d_grad_weight, given["x"], problem.weight_shape, given["grad_output"], **settings)


def _max(problem: PoolProblem, pass_: str, given: dict[str, np.ndarray], settings: dict[str, Any]) -> Callable[[], Any]:
    if pass_ != "forward":
        shape, backend = problem.input_shape, settings["backend"]
        return partial(pool.max_pool2d_backward, given["grad_output"], given["indices"], shape, backend=backend)
    settings |= {"dilation": _short(problem.dilation), "return_indices": problem.indices}
    return partial(pool.max_pool2d, given["x"], _short(problem.kernel), **settings)


def _average(
    problem: PoolProblem, pass_: str, given: dict[str, np.ndarray], settings: dict[str, Any]
) -> Callable[[], Any]:
    settings |= {"count_include_pad": problem.count_include_pad, "divisor_override": problem.divisor_override}
    kernel = _short(problem.kernel)
    if pass_ == "forward":
        return partial(pool.avg_pool2d, given["x"], kernel, **settings)
    return partial(pool.avg_pool2d_backward, given["grad_output"], problem.input_shape, kernel, **settings)


def _short(sizes: tuple[Any, ...]) -> Any:
    """As one writes it: a number where every axis has the same."""
    return sizes[0] if len(set(sizes)) == 1 else sizes


def _padding(problem: Problem) -> Any:
    before_and_after = problem.padding
    if any(before != after for before, after in before_and_after):
        return before_and_after
    return _short(tuple(before for before, _ in before_and_after))
