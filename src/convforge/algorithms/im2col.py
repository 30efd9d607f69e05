"""Convolution as a matrix product over lowered input ("im2col") that is packed panel by panel, never built whole.

Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", 2006, lower
the whole input; here each item lowers ``depth`` rows of one register tile's columns at a time and sweeps the output
channels while they are in the first cache (Anderson et al., "Low-memory GEMM-based convolution algorithms", 2017).

Memory beyond the arrays: a worker takes at most one and a quarter times the second cache (of a mebibyte, where that is
smaller), the packed weight at most a tile's rows times the weight (a group with one output channel fills a block of
them) and a number for each tap of an output channel, and the partial sums of a weight gradient at most sixteen times
the weight.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms import im2col_dots, im2col_grad, im2col_panels, im2col_pixels
from convforge.algorithms.im2col_blocks import MOST_DEPTH, streams
from convforge.algorithms.lowering import Correlation, by_taps, correlations, inside
from convforge.algorithms.policy import Policy
from convforge.algorithms.stages import add_padding, fill_zero, least_items, refuses_all_but_2d, round_up, zero_products
from convforge.problem import ConvProblem
from convforge.program import Program, Stage, buffer

if TYPE_CHECKING:
    from convforge.problem import Problem
    from convforge.runtime.machine import Machine, Tile

#: Share of a correlation's time that its parts without padding may take, and bytes by which their packed weights may
#: be more.
_PART_SHARE = 0.85
_MORE_PACKED = 32 << 20
#: Measured: share of the peak that the tiles reach inside the kernels; how much faster weights come from the last cache
#: than from memory; seconds a byte of output takes, a byte of the weight to pack, the share of it where an item packs
#: what it uses; seconds of a call.
_EFFICIENCY = 0.93
_CACHED = 3
_OUTPUT_SECONDS = 1.2e-11
_PACK_SECONDS = 8e-11
_NEAR_PACKING = 0.5
_CALL_SECONDS = 2e-6


def _refuses(problem: Problem, pass_: str) -> str | None:
    return refuses_all_but_2d(problem)


def _program(problem: Problem, pass_: str, tile: Tile, machine: Machine) -> Program:
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        return im2col_grad.program(problem, tile, machine)
    stages: list[Stage] = []
    prepare: list[Stage] = []
    unprepared: Stage | None = None
    packed_bytes = scratch_bytes = 0
    itemsize = problem.itemsize
    cuts = _cuts(problem, pass_, tile, machine)
    every = [part for _, parts in cuts for part in parts]
    if _in_dots(problem, pass_, every, machine):
        return im2col_dots.program(every[0], problem.dtype, itemsize, least_items(machine))
    for whole, parts in cuts:
        for r in parts:
            if r.taps == 0:
                stages.append(fill_zero(r))
                continue
            product = im2col_pixels if _prefers_pixels(r, tile, itemsize, machine) else im2col_panels
            cut = product.cut(r, tile, itemsize, machine, buffer("packed", packed_bytes))
            prepare.append(cut.pack)
            stages.append(cut.stage)
            unprepared = cut.unprepared
            packed_bytes += round_up(cut.packed * itemsize)
            scratch_bytes = max(scratch_bytes, cut.scratch_bytes)
        if parts != [whole]:
            sums = buffer("packed", packed_bytes)
            prepare.append(zero_products(whole, sums))
            stages.append(add_padding(whole, sums))
            packed_bytes += round_up(whole.groups * whole.k * whole.taps * itemsize)
    program = Program(
        dtype=problem.dtype, stages=stages, prepare=prepare, packed_bytes=packed_bytes, scratch_bytes=scratch_bytes
    )
    if unprepared is None or not _reads_rows(problem, pass_, every):
        return program
    return replace(program, unprepared=(unprepared,), contiguous=program.contiguous | {"weight"})


def _reads_rows(problem: ConvProblem, pass_: str, every: list[Correlation]) -> bool:
    """Whether an output channel's weights are taken in the order in which they lie."""
    return pass_ == "forward" and len(every) == 1 and every[0].kernel == problem.kernel


def _in_dots(problem: ConvProblem, pass_: str, every: list[Correlation], machine: Machine) -> bool:
    """Whether it is done as dot products."""
    return _reads_rows(problem, pass_, every) and im2col_dots.fits(every[0], problem.itemsize, machine)


def _correlations(problem: ConvProblem, pass_: str, tile: Tile, machine: Machine) -> list[Correlation]:
    """All that makes up a pass."""
    return [part for _, parts in _cuts(problem, pass_, tile, machine) for part in parts]


def _cuts(
    problem: ConvProblem, pass_: str, tile: Tile, machine: Machine
) -> list[tuple[Correlation, list[Correlation]]]:
    """The correlations of a pass, each with the parts that it is done in: those that leave out much padding that way.

    Padding is zeros that take part in the sums, which shows where a weight is not finite: that is then added.
    """
    result, itemsize = [], problem.itemsize
    most_packed = min(tile.rows * problem.weight_bytes, problem.weight_bytes + _MORE_PACKED)
    for r in correlations(problem, pass_):
        best, least = [r], _PART_SHARE * _flops(r, tile, itemsize, machine)
        for parts in (inside(r), by_taps(r)) if r.taps > 1 else ():
            packed = sum(part.taps for part in parts) * r.groups * round_up(r.k, tile.lanes) * r.c * itemsize
            flops = sum(_flops(part, tile, itemsize, machine) for part in parts)
            if packed <= most_packed and flops < least:
                best, least = parts, flops
        result.append((r, best))
    return result


def _prefers_pixels(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> bool:
    """Whether channels in the lanes take less: they leave fewer lanes idle on a small map.

    They may not pad the weights more than blocks of the tile's rows would, and they do not add to an output.
    """
    padded = round_up(r.k, tile.lanes) > tile.rows * r.k
    if padded or streams(r, tile) or r.accumulate:
        return False
    return im2col_pixels.fmas(r, tile, itemsize, machine) < im2col_panels.fmas(r, tile, itemsize, machine)


def _cost(problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Whole tiles near the peak, the lowering, and the weights' way through memory, one after the other."""
    assert isinstance(problem, ConvProblem)
    p, tile = problem, machine.tile(problem.dtype)
    flops, packed, packings = 0.0, float(p.weight_bytes), 0.0
    if pass_ == "grad_weight":
        flops += 2 * tile.lanes * im2col_grad.fmas(p, tile)
    else:
        every = _correlations(p, pass_, tile, machine)
        if _in_dots(p, pass_, every, machine):
            flops += 2 * tile.lanes * p.groups * im2col_dots.fmas(every[0], tile.lanes)
        else:
            flops += sum(_flops(r, tile, p.itemsize, machine) for r in every)
        packed *= max(1, sum(r.taps for r in every) / prod(p.kernel))
        if mode == "functional":
            packings = _packings(p, pass_, every, tile, machine)
    memory = packed / (machine.bandwidth * (_CACHED if packed < machine.l3 // 2 else 1))
    if pass_ != "grad_weight":
        written = p.k * prod(p.output) if pass_ == "forward" else p.c * prod(p.input)
        memory += _OUTPUT_SECONDS * p.n * written * p.itemsize
    packing = packings * packed * _PACK_SECONDS
    return flops / (_EFFICIENCY * machine.peak(p.dtype)) + memory + packing + _CALL_SECONDS


def _packings(p: ConvProblem, pass_: str, every: list[Correlation], tile: Tile, machine: Machine) -> float:
    """How often a call packs its weights: never, or by the items that use them, or in a stage of its own."""
    if _in_dots(p, pass_, every, machine):
        return 0
    if not _reads_rows(p, pass_, every):
        return 1
    if not _prefers_pixels(every[0], tile, p.itemsize, machine):
        return 0
    times = p.n * im2col_pixels.least_shares(every[0], tile, p.itemsize, machine)
    return times * _NEAR_PACKING if times <= im2col_pixels.MOST_PACKINGS else 1


def _flops(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> float:
    """Operations that take as long as all that a correlation does; none for zeros, which are only written."""
    if r.taps == 0:
        return 0
    in_pixels = _prefers_pixels(r, tile, itemsize, machine)
    products = (
        im2col_pixels.fmas(r, tile, itemsize, machine) if in_pixels else im2col_panels.fmas(r, tile, itemsize, machine)
    )
    return 2 * tile.lanes * r.n * r.groups * products


def _error(problem: Problem, pass_: str) -> float:
    """Rounding as a random walk along the longest chain of additions: measured 0.15 eps sqrt(length).

    A chain runs through a panel, then over the panels; a few outputs alone scatter by up to an eps more.
    """
    assert isinstance(problem, ConvProblem)
    p = problem
    if pass_ == "grad_weight":
        length, panel = p.n * prod(p.output), im2col_grad.MOST_PIXELS
    else:
        length, panel = (p.c if pass_ == "forward" else p.k) // p.groups * prod(p.kernel), MOST_DEPTH
    chain = min(length, panel) + length / panel
    return float(np.finfo(p.dtype).eps) * (1 + 0.2 * sqrt(chain))


POLICIES = (Policy("im2col", ConvProblem.passes, ("conv",), _refuses, _cost, _error, _program),)
