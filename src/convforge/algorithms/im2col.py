"""Convolution as a matrix product over lowered input ("im2col") that is packed panel by panel, never built whole.

Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", 2006, lower
the whole input; here each item lowers ``depth`` rows of one register tile's columns at a time and sweeps the output
channels while they are in the first cache (Anderson et al., "Low-memory GEMM-based convolution algorithms", 2017).
"""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms.direct import fill_zero, grad_weight_fields, sum_parts
from convforge.algorithms.lowering import (
    Correlation,
    bias_field,
    correlations,
    geometry,
    input_fields,
    output_fields,
    weight_fields,
)
from convforge.algorithms.policy import Policy
from convforge.problem import ConvProblem
from convforge.program import Program, Stage, buffer

if TYPE_CHECKING:
    from convforge.problem import Problem
    from convforge.runtime.machine import Machine, Tile

#: Items that a stage is split into where it can be, whatever the number of threads.
_LEAST_ITEMS = 16
#: Fewest blocks of output channels that share one lowered panel: lowering a row costs about as much as two blocks.
_LEAST_BLOCKS = 8
#: Most pixels and rows of lowered input that the weight gradient takes at a time: with fewer, the sums over a tile's
#: lanes, and reading grad_output anew for each block of rows, take more than a tenth of the time.
_MOST_PIXELS = 1024
_MOST_COLUMNS = 144
_LEAST_COLUMNS = 12
#: Largest tile of dot products: rows of grad_output, rows of lowered input.
_DOT_ROWS = 6
_DOT_COLUMNS = 4
#: Bounds a chain of additions, and so the error, on every machine.
_MOST_DEPTH = 1024
_RUN_BYTES = 32
_ALIGNMENT = 64


def _refuses(problem: Problem, pass_: str) -> str | None:
    if not isinstance(problem, ConvProblem):
        return "it convolves, it does not pool"
    if problem.ndim != 2:
        return f"its kernels are 2-D, the problem is {problem.ndim}-D"
    return None


def _program(problem: Problem, pass_: str, tile: Tile, machine: Machine) -> Program:
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        return _grad_weight(problem, tile, machine)
    stages: list[Stage] = []
    prepare: list[Stage] = []
    packed_bytes = scratch_bytes = 0
    itemsize = problem.itemsize
    for r in correlations(problem, pass_):
        if r.taps == 0:
            stages.append(fill_zero(r))
            continue
        blocks = _blocks(r.k, tile.rows)
        packed = buffer("packed", packed_bytes)
        packed_bytes += _round_up(r.groups * blocks * tile.rows * r.c * r.taps * itemsize)
        prepare.append(
            Stage(
                "pack_weight",
                {**weight_fields(r), "packed": packed, "g": r.groups, "k": r.k, "c": r.c, "kh": r.kernel[0],
                 "kw": r.kernel[1]},
                r.groups * blocks,
            )
        )  # fmt: skip
        depth, splits = _depth(r, tile, itemsize, machine), _splits(r, tile)
        stages.append(
            Stage(
                "im2col_forward",
                {**input_fields(r), "packed": packed, "bias": bias_field(r), **output_fields(r), **geometry(r),
                 "depth": depth, "splits": splits},
                r.n * r.groups * splits * _blocks(r.pixels, tile.columns),
            )
        )  # fmt: skip
        rows = _blocks(blocks, splits) * tile.rows
        reals = (depth + rows) * tile.columns + tile.lanes
        scratch_bytes = max(scratch_bytes, tile.columns * _RUN_BYTES + reals * itemsize)
    return Program(
        dtype=problem.dtype, stages=stages, prepare=prepare, packed_bytes=packed_bytes, scratch_bytes=scratch_bytes
    )


def _depth(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> int:
    """Rows of a panel: equal shares of the taps that fill the first cache one and a half times.

    The tile reads a panel from the second cache without loss; longer panels go through the output less often.
    """
    total = r.c * r.taps
    most = max(1, min(_MOST_DEPTH, machine.l1 * 3 // 2 // (tile.columns * itemsize)))
    return _blocks(total, _blocks(total, most))


def _splits(r: Correlation, tile: Tile) -> int:
    """Ranges of output channels, each of which lowers the input anew: as few as give enough items."""
    blocks = _blocks(r.k, tile.rows)
    wanted = _blocks(_LEAST_ITEMS, max(1, r.n) * r.groups * _blocks(r.pixels, tile.columns))
    return max(1, min(wanted, blocks // _LEAST_BLOCKS))


def _grad_weight(p: ConvProblem, tile: Tile, machine: Machine) -> Program:
    c, k, taps = p.c // p.groups, p.k // p.groups, p.c // p.groups * prod(p.kernel)
    pixels = prod(p.output)
    panel = _round_up_to(_blocks(pixels, _blocks(pixels, _MOST_PIXELS)), tile.lanes)
    fitting = min(_MOST_COLUMNS, machine.l2 * 3 // 8 // (panel * p.itemsize))
    columns = min(taps, max(_LEAST_COLUMNS, fitting - fitting % _LEAST_COLUMNS))
    pairs = max(1, p.n) * _blocks(pixels, panel)
    items = p.groups * _blocks(taps, columns)
    parts = min(pairs, _blocks(_LEAST_ITEMS, items))
    stage = Stage(
        "im2col_grad_weight",
        {**grad_weight_fields(p), "n": p.n, "g": p.groups, "c": c, "k": k, "parts": parts, "columns": columns,
         "panel": panel},
        parts * items,
    )  # fmt: skip
    reals = (columns + _DOT_ROWS) * panel + tile.lanes
    return Program(
        dtype=p.dtype,
        stages=(stage, sum_parts(p, parts)),
        workspace_bytes=parts * p.weight_bytes,
        scratch_bytes=panel * _RUN_BYTES + reals * p.itemsize,
        contiguous=frozenset({"out"}),
    )


def _cost(problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Whole tiles near the peak, the lowering, and the weights' way through memory, one after the other."""
    assert isinstance(problem, ConvProblem)
    p, tile = problem, machine.tile(problem.dtype)
    flops = 0.0
    if pass_ == "grad_weight":
        k, taps, pixels = p.k // p.groups, p.c // p.groups * prod(p.kernel), prod(p.output)
        panels = _blocks(pixels, _MOST_PIXELS)
        steps = panels * (_blocks(_blocks(pixels, panels), tile.lanes) + _REDUCTION_STEPS)
        tiles = _round_up_to(k, _DOT_ROWS) * _round_up_to(taps, _DOT_COLUMNS)
        flops += 2 * tile.lanes * p.n * p.groups * (tiles * steps + _RUN_FMAS * taps * _runs(p.output, tile))
    else:
        for r in correlations(p, pass_):
            rows = _round_up_to(r.k, tile.rows) * _blocks(r.pixels, tile.lanes)
            lowering = _RUN_FMAS * _splits(r, tile) * _runs(r.output, tile)
            flops += 2 * tile.lanes * r.n * r.groups * r.c * r.taps * (rows + lowering)
    memory = p.weight_bytes / machine.bandwidth
    packing = p.weight_bytes * _PACK_SECONDS if mode == "functional" and pass_ != "grad_weight" else 0.0
    return flops / (_EFFICIENCY * machine.peak(p.dtype)) + memory + packing + _CALL_SECONDS


#: Measured: share of the peak that the tiles reach inside the kernels; what lowering one run of LANES pixels takes,
#: in fused multiply-adds of a vector; what summing a tile of dot products over its lanes takes, in steps of the tile.
_EFFICIENCY = 0.93
_RUN_FMAS = 14
_REDUCTION_STEPS = 8
#: Seconds a byte of the weight takes to pack, and a call.
_PACK_SECONDS = 1e-10
_CALL_SECONDS = 2e-6


def _runs(output: tuple[int, ...], tile: Tile) -> float:
    """Runs that cover one channel of output pixels: rows are cut at panels and at lanes."""
    return output[0] * _blocks(output[1], tile.lanes) + prod(output) / tile.columns


def _error(problem: Problem, pass_: str) -> float:
    """Rounding as a random walk along the longest chain of additions: measured 0.15 eps sqrt(length).

    A chain runs through a panel, then over the panels; a few outputs alone scatter by up to an eps more.
    """
    assert isinstance(problem, ConvProblem)
    p = problem
    if pass_ == "grad_weight":
        length, panel = p.n * prod(p.output), _MOST_PIXELS
    else:
        length, panel = (p.c if pass_ == "forward" else p.k) // p.groups * prod(p.kernel), _MOST_DEPTH
    chain = min(length, panel) + length / panel
    return float(np.finfo(p.dtype).eps) * (1 + 0.2 * sqrt(chain))


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _round_up(nbytes: int) -> int:
    return _round_up_to(nbytes, _ALIGNMENT)


def _round_up_to(count: int, size: int) -> int:
    return _blocks(count, size) * size


POLICIES = (Policy("im2col", ConvProblem.passes, _refuses, _cost, _error, _program),)
