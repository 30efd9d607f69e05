"""Winograd's refusals, modelled cost and error, and its programs: 3x3 kernels, stride 1, any groups."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms.lowering import (
    Correlation,
    bias_field,
    correlations,
    input_fields,
    output_fields,
    weight_fields,
)
from convforge.algorithms.stages import ALIGNMENT, ceil_div, refuses_all_but_2d, round_up
from convforge.problem import ConvProblem, Problem
from convforge.program import Program, Slot, Stage, View, buffer

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

TILES = (2, 4, 6)
PASSES = ("forward", "grad_input", "grad_weight")

#: Vectors of tiles in a block, at most: the kernels' tables have 32 entries, and one channel of a block, transformed
#: down its columns, should stay in the L1 cache.
_MOST_VECTORS = 16
#: Blocks that a correlation is cut into where each keeps two vectors, and items that one stage must have.
_LEAST_BLOCKS = 8
_FUSED_ITEMS = 4
#: Channels that an item of the first of two stages transforms.
_CHANNELS = 16


def refuses(problem: Problem, pass_: str) -> str | None:
    """Why Winograd does not do this pass of this problem, or None."""
    reason = refuses_all_but_2d(problem)
    if reason is not None or not isinstance(problem, ConvProblem):
        return reason
    for name, value, wanted in (
        ("kernel", problem.kernel, 3),
        ("stride", problem.stride, 1),
        ("dilation", problem.dilation, 1),
    ):
        if value != (wanted, wanted):
            return f"its tiles are made for a {name} of {wanted}x{wanted}, not {'x'.join(map(str, value))}"
    return None


@dataclass(frozen=True, slots=True)
class Blocking:
    """How a correlation is cut up.

    Attributes
    ----------
    blocks
        Blocks of tiles.
    k_block
        Output channels whose products are held at a time, a multiple of the register tile's rows.
    c_block
        Input channels transformed by one item of the first of two stages; 0 if one kernel does everything.
    """

    blocks: int
    k_block: int
    c_block: int


def blocking(m: int, r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> Blocking:
    """Small blocks whose transformed input and products stay in the L2 cache, or else two stages.

    Measured on 64 to 256 channels: from one panel to twice as many tiles a block makes 5% of difference while what is
    held fits the L2 cache. Two stages cost 20% there, but give work to all cores where there are few tiles, and read
    a weight that is larger than the L3 cache once.
    """
    vectors = ceil_div(_tile_count(m, r), tile.lanes)
    area = (m + 2) ** 2
    k_block = min(2 * tile.rows, round_up(r.k, tile.rows))
    held = area * (r.c + k_block) * tile.lanes * itemsize
    largest = max(tile.vectors, min(_MOST_VECTORS, machine.l2 * 3 // 4 // held))
    weight = area * r.c * round_up(r.k, tile.rows) * itemsize
    if weight > machine.l3 // 2:
        largest = _MOST_VECTORS
    blocks = max(ceil_div(vectors, largest), min(_LEAST_BLOCKS, vectors // 2))
    if blocks * r.groups >= _FUSED_ITEMS and weight <= machine.l3 // 2:
        return Blocking(blocks, k_block, 0)
    return Blocking(ceil_div(vectors, largest), k_block, _CHANNELS)


def program(m: int, problem: Problem, pass_: str, tile: Tile, machine: Machine) -> Program:
    """The stages of a pass with F(m, 3)."""
    assert isinstance(problem, ConvProblem)
    itemsize = np.dtype(problem.dtype).itemsize
    if pass_ == "grad_weight":
        return weight_gradient(m, problem, tile, _grad_blocks(m, problem, tile, itemsize))
    (r,) = correlations(problem, pass_)
    return correlate(m, r, problem.dtype, tile, blocking(m, r, tile, itemsize, machine))


def correlate(m: int, r: Correlation, dtype: str, tile: Tile, cut: Blocking) -> Program:
    """The program of one correlation, cut up as ``cut`` says."""
    itemsize = np.dtype(dtype).itemsize
    area, lanes = (m + 2) ** 2, tile.lanes
    vectors = ceil_div(ceil_div(_tile_count(m, r), lanes), cut.blocks)  # of the largest block
    u_bytes = r.groups * ceil_div(r.k, cut.k_block) * area * (cut.k_block * r.c + lanes) * itemsize
    v_step = area * (r.c * vectors + ceil_div(vectors, tile.vectors)) * lanes
    products = area * cut.k_block * vectors * lanes
    rows = _rows_elements(m, vectors, lanes, r.input[1])
    args: dict[str, Slot | int] = {
        **input_fields(r), **output_fields(r), "u": buffer("packed", 0), "w": buffer("packed", u_bytes),
        "bias": bias_field(r), "v": buffer("workspace", 0), "n": r.n, "g": r.groups, "c": r.c, "k": r.k,
        "ih": r.input[0], "iw": r.input[1], "oh": r.output[0], "ow": r.output[1], "ph": r.padding[0],
        "pw": r.padding[1], "blocks": cut.blocks, "v_step": v_step, "c_block": cut.c_block, "k_block": cut.k_block,
    }  # fmt: skip
    items = r.groups * cut.blocks
    stages: tuple[Stage, ...]
    if cut.c_block:
        stages = (
            Stage(f"winograd_f{m}_input", args, items * ceil_div(r.c, cut.c_block)),
            Stage(f"winograd_f{m}_output", args, items * ceil_div(r.k, cut.k_block)),
        )
    else:
        stages = (Stage(f"winograd_f{m}_forward", args, items),)
    weight = {
        **weight_fields(r), "u": args["u"], "raw": args["w"], "g": r.groups, "k": r.k, "c": r.c,
        "k_block": cut.k_block,
    }  # fmt: skip
    return Program(
        dtype=dtype,
        stages=stages,
        prepare=(Stage(f"winograd_f{m}_weight", weight, r.groups * ceil_div(r.k, tile.rows)),),
        packed_bytes=u_bytes + r.groups * round_up(r.k, tile.rows) * r.c * 9 * itemsize,
        workspace_bytes=items * v_step * itemsize if cut.c_block else 0,
        scratch_bytes=(products + rows + (0 if cut.c_block else v_step)) * itemsize + 9 * tile.rows * lanes * itemsize,
    )


def _grad_blocks(m: int, p: ConvProblem, tile: Tile, itemsize: int) -> int:
    """Blocks of tiles whose transforms take at most 16 MB."""
    per_vector = (m + 2) ** 2 * (p.c + p.k) * tile.lanes * itemsize
    vectors = ceil_div(_tile_count(m, correlations(p, "forward")[0]), tile.lanes)
    return ceil_div(vectors, max(1, min(_MOST_VECTORS, (16 << 20) // per_vector)))


def weight_gradient(m: int, p: ConvProblem, tile: Tile, blocks: int) -> Program:
    """The program of a weight gradient: transform, multiply and add up a block of tiles after another."""
    itemsize = np.dtype(p.dtype).itemsize
    area, lanes, c, k = (m + 2) ** 2, tile.lanes, p.c // p.groups, p.k // p.groups
    vectors = ceil_div(ceil_div(_tile_count(m, correlations(p, "forward")[0]), lanes), blocks)
    v_bytes = round_up(p.groups * area * (vectors * c + 1) * lanes * itemsize, ALIGNMENT)
    w_bytes = round_up(p.groups * area * (vectors * k + 1) * lanes * itemsize, ALIGNMENT)
    x, y, out = View.of("x", 4), View.of("grad_output", 4), View.of("out", 4)
    # the input transform's scratch, or the packed operands of the products
    scratch = max(
        _rows_elements(m, vectors, lanes, p.input[1] + p.output[1]),
        (round_up(k, tile.rows) + tile.columns) * vectors * lanes,
        9 * lanes,
    )
    args: dict[str, Slot | int] = {
        "x": x.address, "x_n": x.stride(0), "x_c": x.stride(1), "x_h": x.stride(2),
        "y": y.address, "y_n": y.stride(0), "y_k": y.stride(1), "y_h": y.stride(2),
        "v": buffer("workspace", 0), "w": buffer("workspace", v_bytes), "s": buffer("workspace", v_bytes + w_bytes),
        "out": out.address, "out_k": out.stride(0), "out_c": out.stride(1), "out_h": out.stride(2),
        "out_w": out.stride(3), "n": p.n, "g": p.groups, "c": c, "k": k, "ih": p.input[0], "iw": p.input[1],
        "oh": p.output[0], "ow": p.output[1], "ph": p.padding[0][0], "pw": p.padding[1][0], "blocks": blocks,
        "channels": _CHANNELS,
    }  # fmt: skip
    stages = []
    for block in range(blocks):
        here = {**args, "block": block}
        stages.append(Stage(f"winograd_f{m}_grad_transform", here, p.groups * ceil_div(c + k, _CHANNELS)))
        stages.append(Stage(f"winograd_f{m}_grad_multiply", here, p.groups * area))
    stages.append(Stage(f"winograd_f{m}_grad_weight", {**args, "block": 0}, p.k))
    return Program(
        dtype=p.dtype,
        stages=stages,
        workspace_bytes=v_bytes + w_bytes + p.groups * area * (c * k + lanes) * itemsize,
        scratch_bytes=scratch * itemsize,
    )


def _rows_elements(m: int, vectors: int, lanes: int, width: int) -> int:
    """Scratch of the input transform: a table of vectors, virtual rows, their ends, a mask, a row of zeros."""
    return 16 * vectors + ((m + 2) * (vectors * m + 2) + (2 * (m + 2) + 1) * vectors) * lanes + width


def cost(m: int, problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Products of whole vectors of tiles near the peak, transforms by the vector, transformed weights by the byte."""
    assert isinstance(problem, ConvProblem)
    p, tile, itemsize = problem, machine.tile(problem.dtype), np.dtype(problem.dtype).itemsize
    cycle = 4 * tile.lanes / machine.peak(p.dtype)
    area, channels = (m + 2) ** 2, p.c + p.k
    if pass_ == "grad_weight":
        (r,) = correlations(p, "forward")
        tiles, rows = _tile_count(m, r), round_up(r.k, tile.rows)
        multiply_adds = area * p.groups * rows * round_up(r.c, tile.lanes) * tiles / tile.lanes
        vectors = area * channels * ceil_div(tiles, tile.lanes)
        cycles = multiply_adds / (2 * _GEMM_SHARE) + vectors * (_TRANSFORM_CYCLES + _PACK_CYCLES)
        return cycles * cycle + area * p.k * r.c * itemsize * ceil_div(tiles, 256) / _CACHE_BANDWIDTH + _CALL_SECONDS
    (r,) = correlations(p, pass_)
    vectors = area * ceil_div(_tile_count(m, r), tile.lanes)
    cut = blocking(m, r, tile, itemsize, machine)
    multiply_adds = vectors * p.groups * r.c * round_up(r.k, tile.rows)
    weight = area * p.groups * r.c * r.k * itemsize
    cycles = multiply_adds / (2 * _GEMM_SHARE) + vectors * channels * _TRANSFORM_CYCLES
    seconds = cycles * cycle + weight * cut.blocks / _CACHE_BANDWIDTH + _CALL_SECONDS
    if weight > machine.l3 // 2:  # it is prefetched from memory meanwhile
        seconds = max(seconds, weight / machine.bandwidth)
    if mode == "functional":
        seconds += p.groups * r.c * r.k * area / tile.lanes * _WEIGHT_CYCLES * cycle
        seconds += max(0, weight - machine.l2) / machine.bandwidth
    return seconds


# Measured on one core: share of the peak that the products reach; cycles for a transformed vector of an input or
# output channel, for packing one, for a vector of a transformed weight; bytes/s of the last cache
_GEMM_SHARE = 0.9
_TRANSFORM_CYCLES = 6
_PACK_CYCLES = 4
_WEIGHT_CYCLES = 8
_CACHE_BANDWIDTH = 3e10
_CALL_SECONDS = 4e-6


def error(m: int, problem: Problem, pass_: str) -> float:
    """Rounding of the transforms, and of sums of 128 products and of such sums, as a random walk.

    Measured for 1 to 1024 channels, or tiles in a weight gradient up to 100000, in both dtypes: the mean is within 20%
    of eps * sqrt(a^2 + b^2 * length) with these a and b. It depends on the filter: among some hundred random ones the
    worst had 1.8 times as much with 260 outputs, 2.3 times with 64.
    """
    assert isinstance(problem, ConvProblem)
    p = problem
    if pass_ == "grad_weight":
        terms, outputs = _tile_count(m, correlations(p, "forward")[0]), p.k * p.c // p.groups * 9
    else:
        (r,) = correlations(p, pass_)
        terms, outputs = r.c, r.n * r.groups * r.k * r.pixels
    transforms, products = {2: (1.0, 0.25), 4: (3.5, 0.7), 6: (14.0, 3.2)}[m]
    length = min(terms, 128) + terms / 128
    scatter = 1.3 + 8 / sqrt(max(1, outputs))
    return float(scatter * np.finfo(p.dtype).eps * sqrt(transforms**2 + products**2 * length))


def _tile_count(m: int, r: Correlation) -> int:
    return r.n * ceil_div(r.output[0], m) * ceil_div(r.output[1], m)
