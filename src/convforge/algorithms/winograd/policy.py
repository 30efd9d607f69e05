"""Winograd's refusals, modelled cost and error, and its programs: 3x3 kernels, stride 1, any groups."""

from __future__ import annotations

from dataclasses import dataclass
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
from convforge.problem import ConvProblem, Problem
from convforge.program import Program, Slot, Stage, View, buffer

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

TILES = (2, 4, 6)
PASSES = ("forward", "grad_input", "grad_weight")

_ALIGNMENT = 64
#: Vectors of tiles in a block, at most: the kernels' tables have 32 entries, and one channel of a block, transformed
#: down its columns, should stay in the L1 cache.
_MOST_VECTORS = 16


def refuses(problem: Problem, pass_: str) -> str | None:
    """Why Winograd does not do this pass of this problem, or None."""
    if not isinstance(problem, ConvProblem):
        return "it convolves, it does not pool"
    if problem.ndim != 2:
        return f"its kernels are 2-D, the problem is {problem.ndim}-D"
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
    """Blocks whose transformed input stays in the L2 cache where it can; two stages where blocks are few."""
    vectors = _blocks(_tile_count(m, r), tile.lanes)
    per_vector = (m + 2) ** 2 * r.c * tile.lanes * itemsize
    fitting = machine.l2 // 2 // per_vector
    wanted = max(tile.vectors, min(_MOST_VECTORS, fitting // tile.vectors * tile.vectors))
    blocks = _blocks(vectors, wanted)
    k_block = _round_up(min(r.k, 32), tile.rows)
    staged = blocks * r.groups < 8
    return Blocking(blocks, k_block, 16 if staged else 0)


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
    vectors = _blocks(_blocks(_tile_count(m, r), lanes), cut.blocks)  # of the largest block
    u_bytes = _round_up(r.groups * _round_up(r.k, tile.rows) * r.c * area * itemsize, _ALIGNMENT)
    v_step = area * (r.c * vectors + _blocks(vectors, tile.vectors)) * lanes
    products = area * cut.k_block * vectors * lanes
    rows = _rows_elements(m, vectors, lanes, r.input[1])
    args: dict[str, Slot | int] = {
        **input_fields(r), **output_fields(r), "u": buffer("packed", 0), "w": buffer("packed", u_bytes),
        "bias": bias_field(r), "v": buffer("workspace", 0), "n": r.n, "g": r.groups, "c": r.c, "k": r.k,
        "ih": r.input[0], "iw": r.input[1], "oh": r.output[0], "ow": r.output[1], "ph": r.padding[0],
        "pw": r.padding[1], "blocks": cut.blocks, "v_step": v_step, "c_block": cut.c_block, "k_block": cut.k_block,
    }  # fmt: skip
    items = r.groups * cut.blocks
    if cut.c_block:
        stages = (
            Stage(f"winograd_f{m}_input", args, items * _blocks(r.c, cut.c_block)),
            Stage(f"winograd_f{m}_output", args, items * _blocks(r.k, cut.k_block)),
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
        prepare=(Stage(f"winograd_f{m}_weight", weight, r.groups * _blocks(r.k, tile.rows)),),
        packed_bytes=u_bytes + r.groups * r.k * r.c * 9 * itemsize,
        workspace_bytes=items * v_step * itemsize if cut.c_block else 0,
        scratch_bytes=(products + rows + (0 if cut.c_block else v_step)) * itemsize + (9 * 32 * tile.rows) * itemsize,
    )


def _grad_blocks(m: int, p: ConvProblem, tile: Tile, itemsize: int) -> int:
    """Blocks of tiles whose transforms take at most 16 MB."""
    per_vector = (m + 2) ** 2 * (p.c + p.k) * tile.lanes * itemsize
    vectors = _blocks(_tile_count(m, correlations(p, "forward")[0]), tile.lanes)
    return _blocks(vectors, max(1, min(_MOST_VECTORS, (16 << 20) // per_vector)))


def weight_gradient(m: int, p: ConvProblem, tile: Tile, blocks: int) -> Program:
    """The program of a weight gradient: transform, multiply and add up a block of tiles after another."""
    itemsize = np.dtype(p.dtype).itemsize
    area, lanes, c, k = (m + 2) ** 2, tile.lanes, p.c // p.groups, p.k // p.groups
    vectors = _blocks(_blocks(_tile_count(m, correlations(p, "forward")[0]), lanes), blocks)
    v_bytes = _round_up(p.groups * area * (vectors * c + 1) * lanes * itemsize, _ALIGNMENT)
    w_bytes = _round_up(p.groups * area * (vectors * k + 1) * lanes * itemsize, _ALIGNMENT)
    x, y, out = View.of("x", 4), View.of("grad_output", 4), View.of("out", 4)
    channels = 8
    # the input transform's scratch, or the packed operands of the products
    scratch = max(
        _rows_elements(m, vectors, lanes, p.input[1] + p.output[1]),
        (_round_up(k, tile.rows) + tile.columns) * vectors * lanes,
    )
    args: dict[str, Slot | int] = {
        "x": x.address, "x_n": x.stride(0), "x_c": x.stride(1), "x_h": x.stride(2),
        "y": y.address, "y_n": y.stride(0), "y_k": y.stride(1), "y_h": y.stride(2),
        "v": buffer("workspace", 0), "w": buffer("workspace", v_bytes), "s": buffer("workspace", v_bytes + w_bytes),
        "out": out.address, "out_k": out.stride(0), "out_c": out.stride(1), "out_h": out.stride(2),
        "out_w": out.stride(3), "n": p.n, "g": p.groups, "c": c, "k": k, "ih": p.input[0], "iw": p.input[1],
        "oh": p.output[0], "ow": p.output[1], "ph": p.padding[0][0], "pw": p.padding[1][0], "blocks": blocks,
        "channels": channels,
    }  # fmt: skip
    stages = []
    for block in range(blocks):
        here = {**args, "block": block}
        stages.append(Stage(f"winograd_f{m}_grad_transform", here, p.groups * _blocks(c + k, channels)))
        stages.append(Stage(f"winograd_f{m}_grad_multiply", here, p.groups * area))
    stages.append(Stage(f"winograd_f{m}_grad_weight", {**args, "block": 0}, p.k))
    return Program(
        dtype=p.dtype,
        stages=stages,
        workspace_bytes=v_bytes + w_bytes + p.groups * area * c * k * itemsize,
        scratch_bytes=scratch * itemsize,
    )


def _rows_elements(m: int, vectors: int, lanes: int, width: int) -> int:
    """Scratch of the input transform: a table of vectors, virtual rows, their ends, a mask, a row of zeros."""
    return 16 * vectors + ((m + 2) * (vectors * m + 2) + (2 * (m + 2) + 1) * vectors) * lanes + width


def cost(m: int, problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Products of whole tiles at 80% of the peak, transforms at a fraction of it, weights streamed from memory."""
    assert isinstance(problem, ConvProblem)
    return problem.flops(pass_) / (2 * machine.peak(problem.dtype))


def error(m: int, problem: Problem, pass_: str) -> float:
    """Measured."""
    assert isinstance(problem, ConvProblem)
    return float(np.finfo(problem.dtype).eps) * {2: 4, 4: 20, 6: 60}[m]


def _tile_count(m: int, r: Correlation) -> int:
    return r.n * _blocks(r.output[0], m) * _blocks(r.output[1], m)


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _round_up(count: int, size: int) -> int:
    return _blocks(count, size) * size
