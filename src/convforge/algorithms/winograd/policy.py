"""Winograd's refusals, modelled cost and error: square kernels and strides, any groups.

A policy is for one size m of output tiles; the problem's kernel and stride pick the F(m, r) among the ``family`` of
those with this m, the first argument here.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms.lowering import correlations, phases
from convforge.algorithms.stages import ceil_div, refuses_all_but_2d, round_up
from convforge.algorithms.winograd import lanes, programs
from convforge.kernels.abi import WINOGRAD, Filtering
from convforge.problem import ConvProblem, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convforge.program import Program
    from convforge.runtime.machine import Machine, Tile

#: The F(m, r) that have kernels, by m.
FAMILIES = {m: tuple(f for f in WINOGRAD if f.m == m) for m in sorted({f.m for f in WINOGRAD})}
PASSES = ("forward", "grad_input", "grad_weight")
#: Bytes of phases and of transformed weights that a call may take if nobody asks for it.
_MOST_HELD = 48 << 20


def passes(family: Sequence[Filtering]) -> tuple[str, ...]:
    """What ``family`` does for some problem."""
    return PASSES if any(f.has_weight_gradient for f in family) else PASSES[:2]


def refuses(family: Sequence[Filtering], problem: Problem, pass_: str) -> str | None:
    """Why none of ``family`` does this pass of this problem, or None."""
    reason = refuses_all_but_2d(problem)
    if reason is not None or not isinstance(problem, ConvProblem):
        return reason
    f = next(_fitting(family, problem), None)
    if f is None:
        made = ", ".join(f"{f.r}x{f.r} with stride {f.stride}" for f in family)
        kernel, stride = ("x".join(map(str, sizes)) for sizes in (problem.kernel, problem.stride))
        return f"its tiles are made for kernels of {made}, not of {kernel} with stride {stride}"
    dilated = problem.dilation != (1, 1)
    if dilated and f.stride > 1:
        return "with a stride its tiles are made for a dilation of 1"
    if pass_ == "grad_input" and f.stride > 1:
        return "its gradient by the input is made for a stride of 1"
    if pass_ == "grad_weight" and (dilated or not f.has_weight_gradient):
        return "its gradient by the weight is made for 3x3 kernels with a stride and a dilation of 1"
    return None


def _fitting(family: Sequence[Filtering], p: ConvProblem) -> Iterator[Filtering]:
    """The F(m, r) of this kernel and stride, if there is one."""
    return (f for f in family if p.kernel == (f.r, f.r) and p.stride == (f.stride, f.stride))


def program(family: Sequence[Filtering], problem: Problem, pass_: str, tile: Tile, machine: Machine) -> Program:
    """The stages of a pass with F(m, r)."""
    assert isinstance(problem, ConvProblem)
    f = next(_fitting(family, problem))
    if pass_ == "grad_weight":
        return programs.weight_gradient(f, problem, tile)
    (r,) = correlations(problem, pass_)
    make = programs.plain if r.dilation == (1, 1) else programs.dilated
    return make(f, r, problem.dtype, tile, machine)


def cost(family: Sequence[Filtering], problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Products of whole vectors of tiles near the peak, transforms by the vector, transformed weights by the byte."""
    assert isinstance(problem, ConvProblem)
    f, p, tile, itemsize = next(_fitting(family, problem)), problem, machine.tile(problem.dtype), problem.itemsize
    area, channels = f.alpha**2, p.c + p.k
    if pass_ == "grad_weight":
        (r,) = correlations(p, "forward")
        tiles, rows = lanes.tile_count(f, r), round_up(r.k, tile.rows)
        multiply_adds = area * p.groups * rows * round_up(r.c, tile.lanes) * tiles / tile.lanes
        vectors = area * channels * ceil_div(tiles, tile.lanes)
        steps = multiply_adds / (2 * lanes.GEMM_SHARE) + vectors * (_TRANSFORM_STEPS + _PACK_STEPS)
        sums = area * p.k * r.c * itemsize * ceil_div(tiles, 256)
        return steps * machine.step + sums / _CACHE_BANDWIDTH + _CALL_SECONDS
    (whole,) = correlations(p, pass_)
    r = whole if programs.skips_phases(f, whole, tile, itemsize, machine) else phases(whole)
    cut, direct = programs.blocking(f, r, tile, itemsize, machine), None
    if mode == "functional":
        direct = programs.unprepared(f, r, tile, itemsize, machine)
        cut = direct or cut
    weight = area * r.groups * r.c * r.k * itemsize
    a_group = lanes.seconds(f, r, tile, cut.blocks, cut.by_channels, machine, cut.short)
    if r is not whole:
        held = programs.phase_bytes(whole, itemsize) + (weight if mode == "functional" and direct is None else 0)
        if held > _MOST_HELD:
            return inf
        a_group += lanes.phase_seconds(r, machine)
    if mode == "functional":
        steps = r.c * round_up(r.k, tile.group) * (area / tile.lanes * _WEIGHT_STEPS + _TAPS_STEPS)
        a_group += steps * machine.step
    seconds = r.groups * a_group + _CALL_SECONDS
    if weight > machine.l3 // 2 and direct is None:
        stream = weight / machine.bandwidth
        # a prepared weight is prefetched from memory meanwhile, another was written there before
        seconds = max(seconds, stream) if mode == "prepared" else seconds + 2 * stream
    elif weight > machine.l2:
        seconds = max(seconds, weight / _WEIGHT_BANDWIDTH)
        if mode == "prepared":  # it was not used just before, and starts cold
            seconds += weight * _COLD_SECONDS
    written = whole.n * whole.groups * whole.k * whole.pixels * itemsize
    return seconds + (written * _OUTPUT_SECONDS if written > machine.l2 else 0)


#: Measured on one core: steps (a machine's time of two multiply-adds) for a vector of a transformed weight, for the
#: taps of one; seconds for a call.
_WEIGHT_STEPS = 4
_TAPS_STEPS = 2.5
_CALL_SECONDS = 1.5e-6
#: Likewise, of the gradient by the weight: for a vector of a transform, for packing one; bytes/s of the last cache.
_TRANSFORM_STEPS = 6
_PACK_STEPS = 4
_CACHE_BANDWIDTH = 3e10
#: Bytes/s at which transformed weights are fetched from there meanwhile; seconds that one of them takes beside that
#: after other work, and one of an output that goes there.
_WEIGHT_BANDWIDTH = 4.5e10
_COLD_SECONDS = 1.4e-11
_OUTPUT_SECONDS = 3e-11


def error(family: Sequence[Filtering], problem: Problem, pass_: str) -> float:
    """Rounding of the transforms, and of sums of 128 products and of such sums, as a random walk.

    Measured for 1 to 1024 channels, or tiles in a weight gradient up to 100000, in both dtypes: the mean is within 20%
    of eps * sqrt(a^2 + b^2 * length) with these a and b. It depends on the filter: among some hundred random ones the
    worst had 1.8 times as much with 260 outputs, 2.3 times with 64.
    """
    assert isinstance(problem, ConvProblem)
    p, f = problem, next(_fitting(family, problem))
    if pass_ == "grad_weight":
        terms, outputs = lanes.tile_count(f, correlations(p, "forward")[0]), p.k * p.c // p.groups * 9
    else:
        (r,) = correlations(p, pass_)
        terms, outputs = r.c, r.n * r.groups * r.k * r.pixels
    transform, product = _ERRORS[f.name]
    length = min(terms, 128) + terms / 128
    scatter = 1.3 + 8 / sqrt(max(1, outputs))
    return float(scatter * np.finfo(p.dtype).eps * sqrt(transform**2 + product**2 * length))


#: a and b of the transforms' and the products' error.
_ERRORS = {
    "f2": (1.0, 0.25),
    "f3": (2.7, 0.62),
    "f4": (3.5, 0.75),
    "f6": (14.0, 3.2),
    "f4_5x5": (14.0, 3.2),
    "f2_s2": (1.0, 0.25),
    "f4_s2": (3.5, 0.75),
}
