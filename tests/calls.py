"""One way to make arrays for a problem, to run a pass with an algorithm, and to ask the oracle."""

import numpy as np

from convforge.algorithms import reference
from convforge.plan import Plan
from convforge.problem import ConvProblem


def arrays_for(problem, rng, integers=False):
    """Random operands by name; ``integers`` makes every sum exact in float32."""

    def draw(shape):
        if integers:
            return rng.integers(-4, 5, shape).astype(problem.dtype)
        return rng.standard_normal(shape).astype(problem.dtype)

    arrays = {"x": draw(problem.input_shape), "grad_output": draw(problem.output_shape)}
    if isinstance(problem, ConvProblem):
        arrays["weight"] = draw(problem.weight_shape)
        arrays["bias"] = draw((problem.k,)) if problem.bias else None
    elif problem.kind == "max":
        arrays["indices"] = reference.run(problem, "forward", {"x": arrays["x"]})[1]
    return arrays


def result_shape(problem, pass_):
    return {
        "forward": problem.output_shape,
        "grad_input": problem.input_shape,
        "grad_weight": getattr(problem, "weight_shape", None),
    }[pass_]


def poisoned_out(problem, pass_):
    return np.full(result_shape(problem, pass_), np.nan, problem.dtype)


def call(plan, pass_, arrays, out=None):
    """One pass of a plan on named arrays."""
    if pass_ == "grad_weight":
        return plan.grad_weight(arrays["x"], arrays["grad_output"], out=out)
    if isinstance(plan.problem, ConvProblem):
        if pass_ == "forward":
            return plan(arrays["x"], arrays["weight"], arrays["bias"], out=out)
        return plan.grad_input(arrays["grad_output"], arrays["weight"], out=out)
    if pass_ == "forward":
        return plan(arrays["x"], out=out)
    return plan.grad_input(arrays["grad_output"], indices=arrays.get("indices"), out=out)


def run(algorithm, problem, pass_, arrays, out=None):
    """One pass with one registered algorithm."""
    plan = Plan(problem, (pass_,), algorithm.name, algorithm.backend)
    return call(plan, pass_, arrays, poisoned_out(problem, pass_) if out is None else out)


def exact(problem, pass_, arrays):
    """The oracle's float64 answer, in the form that a plan gives."""
    answer = reference.run(problem, pass_, arrays, dtype="float64")
    return answer[0] if isinstance(answer, tuple) and not problem.indices else answer


def relative_error(y, expected):
    scale = np.linalg.norm(expected.ravel())
    difference = np.linalg.norm((y.astype(np.float64) - expected).ravel())
    return difference / scale if scale else difference
