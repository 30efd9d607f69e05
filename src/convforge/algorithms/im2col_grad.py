"""The gradient by the weight: dot products of grad_output with lowered input."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from convforge.algorithms.im2col_blocks import runs
from convforge.algorithms.stages import ceil_div, grad_weight_fields, round_up, sum_parts
from convforge.problem import ConvProblem
from convforge.program import Program, Stage

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

#: Partial sums where nothing else gives threads work: they order its additions.
_MOST_PARTS = 16
#: Most pixels and rows of lowered input at a time: with fewer, the sums over a tile's lanes, and reading grad_output
#: anew for each block of rows, take more than a tenth of the time.
MOST_PIXELS = 1024
_MOST_COLUMNS = 144
_LEAST_COLUMNS = 12
#: Largest tile of dot products: rows of grad_output, rows of lowered input.
_DOT_ROWS = 6
_DOT_COLUMNS = 4
#: Fields of a run of pixels in the kernel.
_RUN_INTEGERS = 4
#: Measured: what lowering one run of LANES pixels takes, in fused multiply-adds of a vector; what summing a tile over
#: its lanes takes, in steps of the tile.
_RUN_FMAS = 14
_REDUCTION_STEPS = 8


def program(p: ConvProblem, tile: Tile, machine: Machine) -> Program:
    """The program of the pass."""
    c, k, taps = p.c // p.groups, p.k // p.groups, p.c // p.groups * prod(p.kernel)
    pixels = prod(p.output)
    panel = round_up(ceil_div(pixels, ceil_div(pixels, MOST_PIXELS)), tile.lanes)
    fitting = min(_MOST_COLUMNS, machine.l2 * 3 // 8 // (panel * p.itemsize))
    columns = min(taps, max(_LEAST_COLUMNS, fitting - fitting % _LEAST_COLUMNS))
    pairs = max(1, p.n) * ceil_div(pixels, panel)
    items = p.groups * ceil_div(taps, columns)
    parts = min(pairs, ceil_div(_MOST_PARTS, items))
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
        scratch_bytes=8 * panel * _RUN_INTEGERS + reals * p.itemsize,
        contiguous=frozenset({"out"}),
    )


def fmas(p: ConvProblem, tile: Tile) -> float:
    """Fused multiply-adds of vectors that the pass takes, or would in its time."""
    k, taps, pixels = p.k // p.groups, p.c // p.groups * prod(p.kernel), prod(p.output)
    panels = ceil_div(pixels, MOST_PIXELS)
    steps = panels * (ceil_div(ceil_div(pixels, panels), tile.lanes) + _REDUCTION_STEPS)
    tiles = round_up(k, _DOT_ROWS) * round_up(taps, _DOT_COLUMNS)
    return p.n * p.groups * (tiles * steps + _RUN_FMAS * taps * runs(p.output, tile))
