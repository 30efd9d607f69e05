"""What the policies share: refusals of what no kernel does yet, block counts, and stages of the common kernels."""

from __future__ import annotations

from math import gcd, prod
from typing import TYPE_CHECKING

from convforge.algorithms.lowering import Correlation, geometry, output_fields, weight_fields
from convforge.problem import ConvProblem, Problem
from convforge.program import Slot, Stage, View, buffer

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine

#: Bytes that buffers within a workspace are aligned to: a cache line, and the longest vector.
ALIGNMENT = 64
#: Bytes of an entry of the kernels' integer tables.
INDEX_BYTES = 8
#: Items for each core from which on it matters little that some cores do one more.
_MANY_ITEMS = 8


def ceil_div(count: int, size: int) -> int:
    """``count / size``, rounded up: blocks of ``size`` that cover ``count``."""
    return -(-count // size)


def round_up(count: int, size: int = ALIGNMENT) -> int:
    """The next multiple of ``size``; by default, bytes aligned for a buffer."""
    return ceil_div(count, size) * size


def least_items(machine: Machine) -> int:
    """Items that a stage is split into where it can be: some for each core, whatever the number of threads."""
    return max(4, 2 * machine.cores)


def even_items(count: int, machine: Machine) -> int:
    """So many items or, where they are few, some more: each core gets as many, and none waits for another's last."""
    return count if count >= _MANY_ITEMS * machine.cores else round_up(count, machine.cores)


def even_parts(count: int, machine: Machine) -> int:
    """Parts of each of so many items that have the same effect."""
    return 1 if count >= _MANY_ITEMS * machine.cores else machine.cores // gcd(count, machine.cores)


def refuses_all_but_2d(problem: Problem) -> str | None:
    """Why a 2-D convolution kernel does not do this problem, or None."""
    if not isinstance(problem, ConvProblem):
        return "it convolves, it does not pool"
    if problem.ndim != 2:
        return f"its kernels are 2-D, the problem is {problem.ndim}-D"
    return None


def grad_weight_fields(p: ConvProblem) -> dict[str, Slot | int]:
    """Arrays and geometry of a weight gradient whose partial sums start the workspace; channels and parts are left."""
    x, y = View.of("x", 4), View.of("grad_output", 4)
    return {
        "x": x.address, "x_n": x.stride(0), "x_c": x.stride(1), "x_h": x.stride(2),
        "y": y.address, "y_n": y.stride(0), "y_k": y.stride(1), "y_h": y.stride(2),
        "partial": buffer("workspace", 0),
        "ih": p.input[0], "iw": p.input[1], "oh": p.output[0], "ow": p.output[1],
        "kh": p.kernel[0], "kw": p.kernel[1], "sh": p.stride[0], "sw": p.stride[1],
        "ph": p.padding[0][0], "pw": p.padding[1][0], "dh": p.dilation[0], "dw": p.dilation[1],
    }  # fmt: skip


def sum_parts(p: ConvProblem, parts: int) -> Stage:
    """The stage that adds the partial weight gradients up."""
    count = prod(p.weight_shape)
    out = View.of("out", 4)
    return Stage(
        "sum_parts", {"partial": buffer("workspace", 0), "out": out.address, "parts": parts, "count": count},
        ceil_div(count, 1024),
    )  # fmt: skip


def fill_zero(r: Correlation) -> Stage:
    """The stage that writes an output which no tap reaches."""
    channels = r.groups * r.k
    return Stage(
        "fill_zero",
        {**output_fields(r), "n": r.n, "channels": channels, "oh": r.output[0], "ow": r.output[1]},
        r.n * channels,
    )


def zero_products(r: Correlation, sums: Slot) -> Stage:
    """The stage that finds what padding adds, tap by tap: zeros, but for weights that are not finite."""
    sizes: dict[str, Slot | int] = {"g": r.groups, "k": r.k, "c": r.c, "kh": r.kernel[0], "kw": r.kernel[1]}
    return Stage("zero_products", {**weight_fields(r), "sums": sums, **sizes}, r.groups * r.k)


def add_padding(r: Correlation, sums: Slot) -> Stage:
    """The stage that adds it, where products left padding out."""
    return Stage("add_padding", {"sums": sums, **output_fields(r), **geometry(r)}, r.n * r.groups * r.k)
