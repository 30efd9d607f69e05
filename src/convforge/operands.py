"""Which arrays a pass of a problem takes, of which shape and dtype."""

from __future__ import annotations

from convforge.problem import ConvProblem, Problem

Shapes = dict[str, tuple[tuple[int, ...], str]]


def operand_shapes(problem: Problem, pass_: str) -> Shapes:
    """Shape and dtype of every operand of a pass, its result (``out``, and a max pool's ``indices``) included."""
    x = (problem.input_shape, problem.dtype)
    y = (problem.output_shape, problem.dtype)
    if isinstance(problem, ConvProblem):
        weight = (problem.weight_shape, problem.dtype)
        if pass_ == "forward":
            return {"x": x, "weight": weight, "bias": ((problem.k,), problem.dtype), "out": y}
        if pass_ == "grad_input":
            return {"weight": weight, "grad_output": y, "out": x}
        return {"x": x, "grad_output": y, "out": weight}
    shapes = {"x": x, "out": y} if pass_ == "forward" else {"grad_output": y, "out": x}
    if problem.kind == "max" and (problem.indices or pass_ == "grad_input"):
        shapes["indices"] = (problem.output_shape, "int64")
    return shapes
