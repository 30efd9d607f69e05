"""The reference as an algorithm: the oracle, the last resort of the list, and the executor's face over NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from convforge.algorithms.policy import Policy
from convforge.kernels.numpy import reference
from convforge.problem import ConvProblem, Problem
from convforge.runtime.executor import OPERANDS, Operands
from convforge.runtime.machine import Machine, Tile


def run(problem: Problem, pass_: str, arrays: Mapping[str, np.ndarray | None], dtype: str | None = None) -> Any:
    """One pass by the reference, in the problem's dtype, or in float64 as the oracle (``dtype="float64"``).

    A max pool's forward pass gives (maxima, indices).
    """
    given: dict[str, Any] = dict(arrays)
    if isinstance(problem, ConvProblem):
        if pass_ == "forward":
            return reference.forward(problem, given["x"], given["weight"], given.get("bias"), dtype)
        if pass_ == "grad_input":
            return reference.grad_input(problem, given["weight"], given["grad_output"], dtype)
        return reference.grad_weight(problem, given["x"], given["grad_output"], dtype)
    if problem.kind == "max":
        if pass_ == "forward":
            return reference.max_pool(problem, given["x"])
        return reference.max_pool_backward(problem, given["grad_output"], given["indices"], dtype)
    if pass_ == "forward":
        return reference.avg_pool(problem, given["x"], dtype)
    return reference.avg_pool_backward(problem, given["grad_output"], dtype)


class ReferenceExecutor:
    """Runs one pass with the reference; nothing is packed, and NumPy's temporaries are not counted."""

    def __init__(self, problem: Problem, pass_: str) -> None:
        self._problem = problem
        self._pass = pass_

    def workspace_bytes(self, workers: int, *, prepared: bool) -> int:
        """No workspace of ours, whatever the workers."""
        del workers, prepared
        return 0

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """Nothing to pack."""
        del weight
        return np.empty(0, np.uint8)

    def plain(self, operands: Operands) -> bool:
        """False: NumPy takes any layout, after the checks in Python."""
        del operands
        return False

    def __call__(self, operands: Operands, packed: np.ndarray | None = None) -> None:
        """Run; the same as :meth:`call_with_copies`."""
        self.call_with_copies(operands, packed)

    def call_with_copies(self, operands: Operands, packed: np.ndarray | None = None) -> None:
        """Write the pass's result into ``out``, a max pool's indices into ``indices``."""
        del packed
        given: dict[str, Any] = dict(zip(OPERANDS, operands, strict=True))
        result = run(self._problem, self._pass, given)
        if isinstance(result, tuple):
            result, indices = result
            if given["indices"] is not None:
                given["indices"][...] = indices
        given["out"][...] = result


def _refuses(problem: Problem, pass_: str) -> None:
    return None


def _cost(problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    # measured at 0.1 to 2 GFLOP/s; a tenth of the least, so that any kernel is preferred
    return 1e-4 + problem.flops(pass_) / 1e7


def _error(problem: Problem, pass_: str) -> float:
    return float(np.finfo(problem.dtype).eps)


def _program(problem: Problem, pass_: str, tile: Tile, machine: Machine) -> NoReturn:
    raise AssertionError("the reference has no program: the registry runs it with a ReferenceExecutor")


_PASSES = ("forward", "grad_input", "grad_weight")
POLICIES = (Policy("reference", _PASSES, ("conv", "max", "avg"), _refuses, _cost, _error, _program),)
