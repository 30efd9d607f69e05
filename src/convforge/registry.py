"""The one list of algorithms, and the chooser that picks from it.

Dispatch, ``compare``, the tests and the benchmarks all read :data:`ALGORITHMS`. Its order only breaks ties; the
reference is last, so that every valid problem has an answer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod

import numpy as np

from convforge.algorithms import cuda as on_gpu
from convforge.algorithms import depthwise, direct, im2col, pooling, reference, winograd
from convforge.algorithms.cuda.policy import DevicePolicy
from convforge.algorithms.policy import Policy
from convforge.errors import UnsupportedProblem
from convforge.operands import operand_shapes
from convforge.problem import Problem
from convforge.runtime import gpu
from convforge.runtime.device_executor import MOST_ELEMENTS, DeviceExecutor
from convforge.runtime.executor import Executor
from convforge.runtime.machine import machine

#: Error that ``auto`` admits where no tolerance is given, by dtype: norm(y - exact) / norm(exact).
#: For float16, whose sums are taken in float32, the error before the final rounding.
DEFAULT_TOLERANCE = {"float32": 1e-5, "float64": 1e-13, "float16": 1e-5}

_COMPILED_BACKENDS = ("cython", "numba")
BACKENDS = ("numpy", "numba", "cython", "cuda")


@cache
def backend_missing(backend: str) -> str | None:
    """Why a backend cannot be used here, or None. It imports the backend."""
    if backend == "numpy":
        return None
    reason: str | None = importlib.import_module(f"convforge.kernels.{backend}").available()
    return reason


@dataclass(frozen=True)
class Algorithm:
    """One algorithm of one backend: its policy, bound to where its kernels are found."""

    policy: Policy | DevicePolicy
    backend: str

    @property
    def name(self) -> str:
        """The user's word for the algorithm."""
        return self.policy.name

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes it takes."""
        return self.policy.dtypes if isinstance(self.policy, DevicePolicy) else ("float32", "float64")

    def refuses(self, problem: Problem, pass_: str) -> str | None:
        """Why it does not do this pass of this problem, or None."""
        if problem.kind not in self.policy.kinds:
            return f"{self.name} is not made for {problem.kind} problems"
        if pass_ not in self.policy.passes:
            return f"{self.name} has no {pass_} pass"
        if problem.dtype not in self.dtypes:
            return f"its kernels take {', '.join(self.dtypes)}, the problem is {problem.dtype}"
        if isinstance(self.policy, DevicePolicy) and _largest(problem, pass_) > MOST_ELEMENTS:
            return f"an array of {_largest(problem, pass_)} elements is more than the {MOST_ELEMENTS} its kernels index"
        return self.policy.refuses(problem, pass_) or backend_missing(self.backend)

    def error(self, problem: Problem, pass_: str) -> float:
        """The relative error that it promises on standard-normal data, before bias."""
        return self.policy.error(problem, pass_)

    def cost(self, problem: Problem, pass_: str, mode: str) -> float:
        """Modelled seconds on one thread of this machine, or on its GPU; ``mode`` is "functional" or "prepared"."""
        if isinstance(self.policy, DevicePolicy):
            return self.policy.cost(problem, pass_, mode, gpu.current()) if problem.n else 0.0
        return self.policy.cost(problem, pass_, mode, machine())

    def executor(self, problem: Problem, pass_: str) -> Executor | DeviceExecutor | reference.ReferenceExecutor:
        """What runs this pass of this problem."""
        if isinstance(self.policy, DevicePolicy):
            launches = on_gpu.empty(problem, pass_) or self.policy.program(problem, pass_, gpu.current())
            return DeviceExecutor(launches, operand_shapes(problem, pass_))
        if self.backend == "numpy" or problem.n == 0:  # kernels need not know of empty batches
            return reference.ReferenceExecutor(problem, pass_)
        here = machine()
        program = self.policy.program(problem, pass_, here.tile(problem.dtype), here)
        seconds = self.policy.cost(problem, pass_, "prepared", here)
        return Executor(program, operand_shapes(problem, pass_), _lookup(self.backend), seconds)

    def __str__(self) -> str:
        return f"{self.name}/{self.backend}"


def _largest(problem: Problem, pass_: str) -> int:
    return max(prod(shape) for shape, _ in operand_shapes(problem, pass_).values())


@cache
def _lookup(backend: str) -> Callable[[str, str], int]:
    lookup: Callable[[str, str], int] = importlib.import_module(f"convforge.kernels.{backend}").lookup
    return lookup


_COMPILED = (*winograd.POLICIES, *depthwise.POLICIES, *im2col.POLICIES, *direct.POLICIES, *pooling.POLICIES)
ALGORITHMS: tuple[Algorithm, ...] = (
    *(Algorithm(policy, backend) for policy, backend in product(_COMPILED, _COMPILED_BACKENDS)),
    *(Algorithm(policy, "cuda") for policy in on_gpu.POLICIES),
    *(Algorithm(policy, "numpy") for policy in reference.POLICIES),
)


def algorithm_names() -> tuple[str, ...]:
    """Every word that ``algorithm=`` takes."""
    names = dict.fromkeys(algorithm.name for algorithm in ALGORITHMS)
    families = dict.fromkeys(name.partition("_")[0] for name in names if "_" in name)
    return ("auto", *families, *names)


def algorithms(problem: Problem | str, pass_: str = "forward") -> list[tuple[str, str, str | None]]:
    """Every algorithm registered for problems of its kind, with its answer to one pass of a problem.

    Parameters
    ----------
    problem
        A problem or its string.
    pass_
        "forward", "grad_input" or "grad_weight".

    Returns
    -------
    list of (algorithm, backend, reason)
        ``reason`` is None where it does the problem, else why it refuses.

    Raises
    ------
    ValueError
        The string is no problem, or a problem of this kind has no such pass.
    """
    problem = as_problem(problem)
    check_pass(problem, pass_)
    return [(each.name, each.backend, each.refuses(problem, pass_)) for each in registered(problem)]


def registered(problem: Problem) -> list[Algorithm]:
    """The algorithms made for problems of this kind, in the list's order."""
    return [each for each in ALGORITHMS if problem.kind in each.policy.kinds]


def as_problem(problem: Problem | str) -> Problem:
    """A problem as it is, or parsed from its string or a layer's name such as ``resnet50:conv2_x``."""
    if isinstance(problem, str):
        from convforge.models import layer, suites
        from convforge.problem import parse

        return layer(problem) if problem.partition(":")[0] in suites() else parse(problem)
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a ConvProblem, a PoolProblem or a string, got {type(problem).__name__}")
    return problem


def check_pass(problem: Problem, pass_: str) -> None:
    """Raise ValueError unless problems of this kind have the pass."""
    if pass_ not in problem.passes:
        raise ValueError(f"pass must be one of {', '.join(problem.passes)} for {problem}, got {pass_!r}")


def check_choice(algorithm: str, backend: str, tolerance: float | None) -> None:
    """Raise where a choice names no algorithm or backend, or its tolerance is no positive number."""
    for label, value, allowed in (
        ("algorithm", algorithm, algorithm_names()),
        ("backend", backend, ("auto", *BACKENDS)),
    ):
        if not isinstance(value, str):
            raise TypeError(f"{label} must be a string, got {value!r} of type {type(value).__name__}")
        if value not in allowed:
            raise ValueError(f"{label} must be one of {', '.join(allowed)}, got {value!r}")
    if tolerance is None:
        return
    if isinstance(tolerance, (bool, np.bool_)) or not isinstance(tolerance, (int, float, np.integer, np.floating)):
        raise TypeError(f"tolerance must be a number or None, got {tolerance!r} of type {type(tolerance).__name__}")
    if not 0 < tolerance < float("inf"):
        raise ValueError(f"tolerance must be a positive finite number, got {tolerance!r}")


@dataclass(frozen=True)
class Candidate:
    """One algorithm as the chooser saw it: refused for a reason, or with its modelled seconds."""

    algorithm: Algorithm
    reason: str | None
    cost: float


def candidates(
    problem: Problem, pass_: str, algorithm: str = "auto", backend: str = "auto", tolerance: float | None = None,
    mode: str = "functional",
) -> list[Candidate]:  # fmt: skip
    """Every algorithm that the choice names, in the list's order, with what speaks against it."""
    limit = tolerance if tolerance is not None else DEFAULT_TOLERANCE[problem.dtype]
    exact_name = any(each.name == algorithm for each in ALGORITHMS)
    result = []
    for each in registered(problem):
        if algorithm not in ("auto", each.name, each.name.partition("_")[0]) or backend not in ("auto", each.backend):
            continue
        if backend == "auto" and each.backend == "cuda":
            reason: str | None = "auto moves no arrays to a GPU: ask for backend='cuda', or give arrays that are there"
        else:
            reason = each.refuses(problem, pass_)
        # a name outweighs the default tolerance, not one that was asked for
        if reason is None and not (exact_name and tolerance is None) and each.name != "reference":
            error = each.error(problem, pass_)
            if error > limit:
                reason = f"its modelled error {error:.1e} is above the tolerance {limit:.1e}"
        result.append(Candidate(each, reason, each.cost(problem, pass_, mode) if reason is None else float("inf")))
    return result


def choose(
    problem: Problem, pass_: str, algorithm: str = "auto", backend: str = "auto", tolerance: float | None = None,
    mode: str = "functional",
) -> Algorithm:  # fmt: skip
    """The algorithm of least modelled cost among those that the choice names and that do the problem.

    Raises
    ------
    UnsupportedProblem
        All of those named refuse; the message says why.
    """
    named = candidates(problem, pass_, algorithm, backend, tolerance, mode)
    able = [each for each in named if each.reason is None]
    if not able:
        reasons = "; ".join(f"{each.algorithm}: {each.reason}" for each in named)
        reasons = reasons or f"none is registered for {problem.kind} problems"
        raise UnsupportedProblem(
            f"algorithm={algorithm!r} with backend={backend!r} does not do {pass_} of {problem}: {reasons}"
        )
    return min(able, key=lambda each: each.cost).algorithm
