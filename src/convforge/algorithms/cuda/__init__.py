"""Policies of the algorithms that run on a GPU; importing them imports no CUDA."""

from __future__ import annotations

from convforge.algorithms.cuda import direct, im2col, pooling, winograd
from convforge.algorithms.cuda.policy import DevicePolicy
from convforge.launch import DeviceProgram, Launch, Memory
from convforge.problem import ConvProblem, Problem

POLICIES: tuple[DevicePolicy, ...] = (
    *direct.POLICIES,
    *im2col.POLICIES,
    *winograd.POLICIES,
    *pooling.POLICIES,
)
_THREADS = 256


def empty(problem: Problem, pass_: str) -> DeviceProgram | None:
    """What to launch for no images at all, of which kernels need not know; None where there are some."""
    if problem.n:
        return None
    if pass_ != "grad_weight":
        return DeviceProgram(problem.dtype, ())
    assert isinstance(problem, ConvProblem)
    count = problem.weight_bytes // problem.itemsize
    grid = (-(-count // _THREADS), 1, 1)
    launch = Launch("copy", "fill_zero", (), (Memory("out"), count), grid, (_THREADS, 1, 1))
    return DeviceProgram(problem.dtype, (launch,), contiguous=frozenset({"out"}))
