"""One pass of one problem on fixed arrays: the calls that compete for it, and the oracle that judges them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convforge.algorithms import reference
from convforge.arrays import check_array
from convforge.operands import operand_shapes
from convforge.plan import Plan
from convforge.problem import ConvProblem, Problem
from convforge.registry import Algorithm
from convforge.runtime.device_executor import DeviceExecutor
from convforge.runtime.executor import OPERANDS

_SEED = 20

Arrays = Mapping[str, np.ndarray | None]


def operands(
    problem: Problem, x: np.ndarray | None = None, weight: np.ndarray | None = None
) -> dict[str, np.ndarray | None]:
    """The arrays that a problem's passes read, by name: those given, standard-normal numbers for the others.

    Raises
    ------
    TypeError, ValueError
        ``x`` or ``weight`` has another shape or dtype than the problem's, or is not finite; a pool has no weight.
    """
    rng = np.random.default_rng(_SEED)

    def normal(shape: tuple[int, ...]) -> np.ndarray:
        drawn = np.float64 if problem.dtype == "float64" else np.float32
        return rng.standard_normal(shape, drawn).astype(problem.dtype, copy=False)

    if x is not None:
        _check_given("x", x, problem.input_shape, problem.dtype)
    arrays: dict[str, np.ndarray | None] = {
        "x": normal(problem.input_shape) if x is None else x,
        "grad_output": normal(problem.output_shape),
    }
    if isinstance(problem, ConvProblem):
        if weight is not None:
            _check_given("weight", weight, problem.weight_shape, problem.dtype)
        arrays["weight"] = normal(problem.weight_shape) if weight is None else weight
        arrays["bias"] = normal(problem.bias_shape) if problem.bias else None
    elif weight is not None:
        raise ValueError(f"{problem} is a pool: it takes no weight")
    elif problem.kind == "max":
        arrays["indices"] = reference.run(problem, "forward", arrays)[1]
    return arrays


def _check_given(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: str) -> None:
    check_array(name, array, shape, dtype)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite to be compared, got NaN or infinity in it")


@dataclass(frozen=True)
class Entry:
    """An algorithm ready to run the trial's pass.

    Attributes
    ----------
    run
        One call, which writes into the trial's ``out``.
    workspace_bytes
        Bytes it takes beyond its arrays, at the present thread count.
    split
        On a GPU, a call that gives the seconds of its kernels and of its copies.
    """

    run: Callable[[], Any]
    workspace_bytes: int
    split: Callable[[], tuple[float, float]] | None = None


class Trial:
    """One pass of a problem on fixed arrays; every entry writes into the same ``out``.

    Parameters
    ----------
    problem, pass_
        What is computed.
    arrays
        As :func:`operands` gives them.
    absolute
        How errors are scaled: by the norm of the exact result, which suits standard-normal data, or by that of the
        result on the arrays' absolute values, which also suits data that cancels.
    """

    def __init__(self, problem: Problem, pass_: str, arrays: Arrays, *, absolute: bool = False) -> None:
        self.problem = problem
        self.pass_ = pass_
        self._arrays = arrays
        self._exact, self._indices = _oracle(problem, pass_, arrays)
        self._scale = _norm(self._scaling(absolute))
        self.out = np.empty(self._exact.shape, problem.dtype)

    def _scaling(self, absolute: bool) -> np.ndarray:
        # errors are stated before the bias, which may be as large as the sums
        without = {**self._arrays, "bias": None}
        if absolute:
            without = {
                name: array if array is None or name == "indices" else np.abs(array) for name, array in without.items()
            }
        elif self._arrays.get("bias") is None:
            return self._exact
        return _oracle(self.problem, self.pass_, without)[0]

    def enter(self, algorithm: Algorithm, mode: str) -> Entry:
        """Plan and bind ``algorithm``; in mode "prepared" its weight is packed here, in "functional" in every call."""
        plan = Plan(self.problem, (self.pass_,), algorithm.name, algorithm.backend, mode=mode)
        return Entry(self._call(plan, mode), plan.workspace_bytes, self._split(algorithm, mode))

    def _split(self, algorithm: Algorithm, mode: str) -> Callable[[], tuple[float, float]] | None:
        executor = algorithm.executor(self.problem, self.pass_)
        if not isinstance(executor, DeviceExecutor):
            return None
        shapes = operand_shapes(self.problem, self.pass_)
        given = {**self._arrays, "out": self.out}
        if self.pass_ == "forward" and "indices" in shapes:
            given["indices"] = np.empty(*shapes["indices"])
        weight = given.get("weight")
        packed = None if weight is None or "weight" not in shapes or mode != "prepared" else executor.pack(weight)
        operands = tuple(given.get(name) if name in shapes else None for name in OPERANDS)
        return lambda: executor.times(operands, packed)

    def error(self, entry: Entry) -> float:
        """Run ``entry`` once into an ``out`` full of NaN; its relative error, NaN where it left any.

        Infinity where a max pool's indices are not the oracle's.
        """
        self.out[...] = np.nan
        result = entry.run()
        if self._indices is not None and not np.array_equal(result[1], self._indices):
            return np.inf
        return self.distance(self.out)

    def distance(self, values: np.ndarray) -> float:
        """The relative error of a result of the pass, NaN where it holds any; infinity for another shape."""
        if values.shape != self._exact.shape:
            return np.inf
        distance = _norm(values - self._exact)
        return distance / self._scale if self._scale else distance

    def _call(self, plan: Plan, mode: str) -> Callable[[], Any]:
        x, grad_output, out = self._arrays["x"], self._arrays["grad_output"], self.out
        assert x is not None
        assert grad_output is not None
        if self.pass_ == "grad_weight":
            return lambda: plan.grad_weight(x, grad_output, out=out)
        if not isinstance(self.problem, ConvProblem):
            indices = self._arrays.get("indices")
            if self.pass_ == "forward":
                return lambda: plan(x, out=out)
            return lambda: plan.grad_input(grad_output, indices=indices, out=out)
        weight: Any = self._arrays["weight"]
        if mode == "prepared":
            weight = plan.prepare_weight(weight)
        bias = self._arrays["bias"]
        if self.pass_ == "forward":
            return lambda: plan(x, weight, bias, out=out)
        return lambda: plan.grad_input(grad_output, weight, out=out)


def _oracle(problem: Problem, pass_: str, arrays: Arrays) -> tuple[np.ndarray, np.ndarray | None]:
    """The exact result in float64, and a max pool's indices where the problem wants them."""
    result = reference.run(problem, pass_, arrays, dtype="float64")
    if isinstance(result, tuple):
        values, indices = result
        return values.astype(np.float64), indices if getattr(problem, "indices", False) else None
    exact: np.ndarray = result
    return exact, None


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.ravel()))
