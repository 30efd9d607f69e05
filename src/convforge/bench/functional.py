"""The public functions as calls without arguments, to be timed as a user calls them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from convforge.bench.trial import Arrays
from convforge.ops import conv, pool
from convforge.problem import ConvProblem, PoolProblem, Problem


def call(problem: Problem, pass_: str, arrays: Arrays, backend: str = "auto") -> Callable[[], np.ndarray]:
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
    if isinstance(problem, ConvProblem):
        return _convolution(problem, pass_, arrays, backend)
    return _pool(problem, pass_, arrays, backend)


def _convolution(problem: ConvProblem, pass_: str, arrays: Arrays, backend: str) -> Callable[[], np.ndarray]:
    x, weight, grad_output = arrays["x"], arrays["weight"], arrays["grad_output"]
    assert x is not None
    assert weight is not None
    assert grad_output is not None
    settings = {
        "stride": problem.stride, "padding": problem.padding, "dilation": problem.dilation, "groups": problem.groups,
        "backend": backend,
    }  # fmt: skip
    if pass_ == "forward":
        return partial(conv.conv2d, x, weight, arrays["bias"], **settings)  # type: ignore[arg-type]
    if pass_ == "grad_input":
        return partial(conv.conv2d_grad_input, x.shape, weight, grad_output, **settings)  # type: ignore[arg-type]
    return partial(conv.conv2d_grad_weight, x, weight.shape, grad_output, **settings)  # type: ignore[arg-type]


def _pool(problem: PoolProblem, pass_: str, arrays: Arrays, backend: str) -> Callable[[], np.ndarray]:
    ...
