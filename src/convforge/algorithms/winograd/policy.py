"""Winograd's refusals, modelled cost and error, and its programs: square kernels and strides, any groups.

A policy is for one size m of output tiles; the problem's kernel and stride pick the F(m, r) among the ``family`` of
those with this m, the first argument here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from convforge.kernels.abi import WINOGRAD, Filtering
from convforge.problem import ConvProblem, Problem
from convforge.program import Program, Slot, Stage, View, buffer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from convforge.runtime.machine import Machine, Tile

#: The F(m, r) that have kernels, by m.
FAMILIES = {m: tuple(f for f in WINOGRAD if f.m == m) for m in sorted({f.m for f in WINOGRAD})}
PASSES = ("forward", "grad_input", "grad_weight")

#: Vectors of tiles in a block, at most: the kernels' tables have 32 entries, and one channel of a block, transformed
#: down its columns, should stay in the L1 cache.
_MOST_VECTORS = 16
#: Blocks that a correlation is cut into where each keeps two vectors, items that one stage must have, and items of
#: the second of two stages.
_LEAST_BLOCKS = 8
_FUSED_ITEMS = 4
_LEAST_ITEMS = 8
#: Channels that an item of the first of two stages transforms.
_CHANNELS = 16
#: Channels whose taps the weight transform holds, and one more.
_TAP_CHANNELS = 33


def refuses(family: Sequence[Filtering], problem: Problem, pass_: str) -> str | None:
    """Why none of ``family`` does this pass of this problem, or None."""
    reason = refuses_all_but_2d(problem)
    if reason is not None or not isinstance(problem, ConvProblem):
        return reason
    if problem.dilation != (1, 1):
        return f"its tiles are made for a dilation of 1, not {'x'.join(map(str, problem.dilation))}"
    f = next(_fitting(family, problem), None)
    if f is None:
        made = ", ".join(f"{f.r}x{f.r} with stride {f.stride}" for f in family)
        kernel, stride = ("x".join(map(str, sizes)) for sizes in (problem.kernel, problem.stride))
        return f"its tiles are made for kernels of {made}, not of {kernel} with stride {stride}"
    if pass_ == "grad_input" and f.stride > 1:
        return "its gradient by the input is made for a stride of 1"
    if pass_ == "grad_weight" and not f.has_weight_gradient:
        return "its gradient by the weight is made for 3x3 kernels with a stride of 1"
    return None


def _fitting(family: Sequence[Filtering], p: ConvProblem) -> Iterator[Filtering]:
    """The F(m, r) of this kernel and stride, if there is one."""
    return (f for f in family if p.kernel == (f.r, f.r) and p.stride == (f.stride, f.stride))


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


def blocking(f: Filtering, r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> Blocking:
    """Small blocks whose transformed input and products stay in the L2 cache, or else two stages.

    Measured on 64 to 256 channels: from one panel to twice as many tiles a block makes 5% of difference while what is
    held fits the L2 cache. Where the weight comes from memory a block is large, but stays in the L3 cache. Two stages
    give work to all cores where there are few tiles.
    """
    vectors = _vector_count(f, r, tile)
    area = f.alpha**2
    per_vector = area * tile.lanes * itemsize
    if area * r.c * round_up(r.k, tile.rows) * itemsize > machine.l3 // 2:
        fitting = machine.l3 // 6 // (per_vector * r.c)
        blocks = 1
    else:
        fitting = machine.l2 * 3 // 4 // (per_vector * (r.c + 2 * tile.rows))
        blocks = min(_LEAST_BLOCKS, vectors // 2)
    largest = max(tile.vectors, min(_MOST_VECTORS, fitting))
    blocks = max(ceil_div(vectors, largest), blocks)
    if blocks * r.groups >= _FUSED_ITEMS:
        return Blocking(blocks, _k_block(f, r, tile, itemsize, machine, ceil_div(vectors, blocks), 1), 0)
    return _two_stages(f, r, tile, itemsize, machine, largest)


def unprepared(f: Filtering, r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> Blocking | None:
    """Two stages whose second transforms the weights of a block of output channels just before their products.

    None where it is better to transform them all first: they are few, or fewer than the transformed input.
    """
    per_channel = f.alpha**2 * r.c * itemsize
    tiles = _vector_count(f, r, tile) * tile.lanes
    weight, transformed = per_channel * r.k, per_channel * tiles
    if weight < machine.l2:
        return None
    if weight < machine.l3 // 8 and not blocking(f, r, tile, itemsize, machine).c_block:
        return None
    cut = _two_stages(f, r, tile, itemsize, machine, _MOST_VECTORS)
    most = max(2 * tile.rows, machine.l3 // 4 // per_channel)  # whose transformed weights stay in the L3 cache
    if transformed > machine.l3 // 2:
        # the input comes from memory for each block of output channels; the weight, else, would go there and back
        if 2 * transformed > weight:
            return None
        most = max(most, tiles // 3)
    return replace(cut, k_block=min(cut.k_block, round_up(most, tile.rows)))


def _two_stages(f: Filtering, r: Correlation, tile: Tile, itemsize: int, machine: Machine, largest: int) -> Blocking:
    vectors = _vector_count(f, r, tile)
    blocks = ceil_div(vectors, largest)
    items = ceil_div(_LEAST_ITEMS, blocks * r.groups)
    return Blocking(blocks, _k_block(f, r, tile, itemsize, machine, ceil_div(vectors, blocks), items), _CHANNELS)


def _k_block(
    f: Filtering, r: Correlation, tile: Tile, itemsize: int, machine: Machine, vectors: int, least_blocks: int
) -> int:
    """Output channels whose products join the transformed input in the L2 cache.

    Where the input alone does not fit there, it is read anew for each block of output channels, products only once:
    half as many as input channels then move less (measured on 512 channels: twice as fast as with 8).
    """
    per_channel = f.alpha**2 * vectors * tile.lanes * itemsize
    fitting = machine.l2 * 3 // 4 // per_channel - r.c
    blocks = max(ceil_div(r.k, max(fitting, r.c // 2, 2 * tile.rows)), min(least_blocks, ceil_div(r.k, 4 * tile.rows)))
    return round_up(ceil_div(r.k, blocks), tile.rows)


def program(family: Sequence[Filtering], problem: Problem, pass_: str, tile: Tile, machine: Machine) -> Program:
    """The stages of a pass with F(m, r)."""
    assert isinstance(problem, ConvProblem)
    itemsize, f = problem.itemsize, next(_fitting(family, problem))
    if pass_ == "grad_weight":
        return weight_gradient(f, problem, tile, _grad_blocks(f, problem, tile, itemsize))
    (r,) = correlations(problem, pass_)
    cuts = blocking(f, r, tile, itemsize, machine), unprepared(f, r, tile, itemsize, machine)
    return correlate(f, r, problem.dtype, tile, *cuts)


def correlate(
    f: Filtering, r: Correlation, dtype: str, tile: Tile, cut: Blocking, unprepared: Blocking | None
) -> Program:
    """The program of one correlation, cut up as ``cut`` says, or as ``unprepared`` where weights are not prepared."""
    itemsize = np.dtype(dtype).itemsize
    u_elements = f.alpha**2 * (cut.k_block * r.c + tile.lanes)  # of a block of output channels
    args: dict[str, Slot | int] = {
        **input_fields(r), **weight_fields(r), **output_fields(r), "u": buffer("packed", 0), "bias": bias_field(r),
        "v": buffer("workspace", 0), "n": r.n, "g": r.groups, "c": r.c, "k": r.k,
        "ih": r.input[0], "iw": r.input[1], "oh": r.output[0], "ow": r.output[1], "ph": r.padding[0],
        "pw": r.padding[1],
    }  # fmt: skip
    weight = {**weight_fields(r), "u": args["u"], "g": r.groups, "k": r.k, "c": r.c, "k_block": cut.k_block}
    stages, workspace, scratch = _stages(f, r, tile, cut, args)
    direct: tuple[Stage, ...] = ()
    if unprepared is not None:
        direct, more_workspace, more_scratch = _stages(f, r, tile, unprepared, {**args, "u": 0})
        workspace, scratch = max(workspace, more_workspace), max(scratch, more_scratch)
    return Program(
        dtype=dtype,
        stages=stages,
        prepare=(Stage(f"winograd_{f.name}_weight", weight, r.groups * ceil_div(r.k, tile.rows)),),
        unprepared=direct,
        packed_bytes=r.groups * ceil_div(r.k, cut.k_block) * u_elements * itemsize,
        workspace_bytes=workspace * itemsize,
        scratch_bytes=scratch * itemsize,
    )


def _stages(
    f: Filtering, r: Correlation, tile: Tile, cut: Blocking, shared: Mapping[str, Slot | int]
) -> tuple[tuple[Stage, ...], int, int]:
    """Stages, and elements of workspace and scratch; with 0 for "u" the weight is transformed in the second stage."""
    area, lanes = f.alpha**2, tile.lanes
    vectors = ceil_div(_vector_count(f, r, tile), cut.blocks)  # of the largest block
    v_step = area * (r.c * vectors + ceil_div(vectors, tile.vectors)) * lanes
    products = area * cut.k_block * vectors * lanes
    taps = _TAP_CHANNELS * f.r**2 * tile.rows
    scratch = max(products + _rows_elements(f, vectors, lanes, r.input[1]), taps)
    args = {**shared, "blocks": cut.blocks, "v_step": v_step, "c_block": cut.c_block, "k_block": cut.k_block}
    items = r.groups * cut.blocks
    if not cut.c_block:
        return (Stage(f"winograd_{f.name}_forward", args, items),), 0, scratch + v_step
    own = 0 if args["u"] else area * (cut.k_block * r.c + lanes)
    grain = 1 if args["u"] else cut.blocks
    stages = (
        Stage(f"winograd_{f.name}_input", args, items * ceil_div(r.c, cut.c_block)),
        Stage(f"winograd_{f.name}_output", args, items * ceil_div(r.k, cut.k_block), grain),
    )
    return stages, items * v_step, scratch + own


def _grad_blocks(f: Filtering, p: ConvProblem, tile: Tile, itemsize: int) -> int:
    """Blocks of tiles whose transforms take at most 16 MB."""
    per_vector = f.alpha**2 * (p.c + p.k) * tile.lanes * itemsize
    vectors = ceil_div(_tile_count(f, correlations(p, "forward")[0]), tile.lanes)
    return ceil_div(vectors, max(1, min(_MOST_VECTORS, (16 << 20) // per_vector)))


def weight_gradient(f: Filtering, p: ConvProblem, tile: Tile, blocks: int) -> Program:
    """The program of a weight gradient: transform, multiply and add up a block of tiles after another."""
    itemsize = np.dtype(p.dtype).itemsize
    area, lanes, c, k = f.alpha**2, tile.lanes, p.c // p.groups, p.k // p.groups
    vectors = ceil_div(ceil_div(_tile_count(f, correlations(p, "forward")[0]), lanes), blocks)
    v_bytes = round_up(p.groups * area * (vectors * c + 1) * lanes * itemsize, ALIGNMENT)
    w_bytes = round_up(p.groups * area * (vectors * k + 1) * lanes * itemsize, ALIGNMENT)
    x, y, out = View.of("x", 4), View.of("grad_output", 4), View.of("out", 4)
    # the input transform's scratch, or the packed operands of the products
    scratch = max(
        _rows_elements(f, vectors, lanes, p.input[1] + p.output[1]),
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
        stages.append(Stage(f"winograd_{f.name}_grad_transform", here, p.groups * ceil_div(c + k, _CHANNELS)))
        stages.append(Stage(f"winograd_{f.name}_grad_multiply", here, p.groups * area))
    stages.append(Stage(f"winograd_{f.name}_grad_weight", {**args, "block": 0}, p.k))
    return Program(
        dtype=p.dtype,
        stages=stages,
        workspace_bytes=v_bytes + w_bytes + p.groups * area * (c * k + lanes) * itemsize,
        scratch_bytes=scratch * itemsize,
    )


def _rows_elements(f: Filtering, vectors: int, lanes: int, width: int) -> int:
    """Scratch of the input transform: a table of vectors, virtual rows, their ends, a mask, a row of zeros."""
    row = vectors * f.step + 1 + ceil_div(f.halo, lanes)
    return 16 * vectors + (f.alpha * row + (f.halo * f.alpha + 1) * vectors) * lanes + width


def cost(family: Sequence[Filtering], problem: Problem, pass_: str, mode: str, machine: Machine) -> float:
    """Products of whole vectors of tiles near the peak, transforms by the vector, transformed weights by the byte."""
    assert isinstance(problem, ConvProblem)
    f, p, tile, itemsize = next(_fitting(family, problem)), problem, machine.tile(problem.dtype), problem.itemsize
    cycle = 4 * tile.lanes / machine.peak(p.dtype)
    area, channels = f.alpha**2, p.c + p.k
    if pass_ == "grad_weight":
        (r,) = correlations(p, "forward")
        tiles, rows = _tile_count(f, r), round_up(r.k, tile.rows)
        multiply_adds = area * p.groups * rows * round_up(r.c, tile.lanes) * tiles / tile.lanes
        vectors = area * channels * ceil_div(tiles, tile.lanes)
        cycles = multiply_adds / (2 * _GEMM_SHARE) + vectors * (_TRANSFORM_CYCLES + _PACK_CYCLES)
        return cycles * cycle + area * p.k * r.c * itemsize * ceil_div(tiles, 256) / _CACHE_BANDWIDTH + _CALL_SECONDS
    (r,) = correlations(p, pass_)
    cut, direct = blocking(f, r, tile, itemsize, machine), None
    if mode == "functional":
        direct = unprepared(f, r, tile, itemsize, machine)
        cut = direct or cut
    rows, columns = r.output
    vectors = _vector_count(f, r, tile)
    panels = cut.blocks * ceil_div(ceil_div(vectors, cut.blocks), tile.vectors)
    row_blocks = ceil_div(r.k, tile.rows)
    steps = r.c * row_blocks * max(vectors * tile.rows / 2, panels * _FMA_LATENCY)
    runs = ceil_div(rows, f.m) * f.alpha * ceil_div(ceil_div(columns, f.m) * f.step + f.halo, tile.lanes)
    cycles = area * (steps / _GEMM_SHARE + vectors * (r.c + r.k) * _TILE_CYCLES[f.name])
    cycles += r.n * (runs * r.c + rows * ceil_div(columns, tile.lanes) * r.k) * _ROW_CYCLES
    if mode == "functional":
        cycles += r.c * row_blocks * tile.rows * (area / tile.lanes * _WEIGHT_CYCLES + _TAPS_CYCLES)
    seconds = r.groups * (cycles * cycle + cut.blocks * _BLOCK_SECONDS) + _CALL_SECONDS
    weight = area * r.groups * r.c * r.k * itemsize
    if weight > machine.l3 // 2 and direct is None:
        stream = weight / machine.bandwidth
        # a prepared weight is prefetched from memory meanwhile, another was written there before
        seconds = max(seconds, stream) if mode == "prepared" else seconds + 2 * stream
    return seconds


#: Measured on one core: share of the peak that the products reach; cycles that a fused multiply-add takes; cycles for a
#: vector of a channel's transformed input, for a vector of a row of input or output, for a vector of a transformed
#: weight, for the taps of one; seconds for a block of tiles and for a call.
_GEMM_SHARE = 0.87
_FMA_LATENCY = 4
_TILE_CYCLES = {"f2": 1.5, "f4": 2.0, "f6": 3.4, "f4_5x5": 4.0, "f2_s2": 1.0, "f4_s2": 2.0}
_ROW_CYCLES = 11
_WEIGHT_CYCLES = 4
_TAPS_CYCLES = 2.5
_BLOCK_SECONDS = 6e-7
_CALL_SECONDS = 1.5e-6
#: Likewise, of the gradient by the weight: for a vector of a transform, for packing one; bytes/s of the last cache.
_TRANSFORM_CYCLES = 6
_PACK_CYCLES = 4
_CACHE_BANDWIDTH = 3e10


def error(family: Sequence[Filtering], problem: Problem, pass_: str) -> float:
    """Rounding of the transforms, and of sums of 128 products and of such sums, as a random walk.

    Measured for 1 to 1024 channels, or tiles in a weight gradient up to 100000, in both dtypes: the mean is within 20%
    of eps * sqrt(a^2 + b^2 * length) with these a and b. It depends on the filter: among some hundred random ones the
    worst had 1.8 times as much with 260 outputs, 2.3 times with 64.
    """
    assert isinstance(problem, ConvProblem)
    p, f = problem, next(_fitting(family, problem))
    if pass_ == "grad_weight":
        terms, outputs = _tile_count(f, correlations(p, "forward")[0]), p.k * p.c // p.groups * 9
    else:
        (r,) = correlations(p, pass_)
        terms, outputs = r.c, r.n * r.groups * r.k * r.pixels
    transforms, products = _ERRORS[f.name]
    length = min(terms, 128) + terms / 128
    scatter = 1.3 + 8 / sqrt(max(1, outputs))
    return float(scatter * np.finfo(p.dtype).eps * sqrt(transforms**2 + products**2 * length))


#: a and b of the transforms' and the products' error.
_ERRORS = {
    "f2": (1.0, 0.25),
    "f4": (3.5, 0.75),
    "f6": (14.0, 3.2),
    "f4_5x5": (14.0, 3.2),
    "f2_s2": (1.0, 0.25),
    "f4_s2": (3.5, 0.75),
}


def _vector_count(f: Filtering, r: Correlation, tile: Tile) -> int:
    """Vectors of tiles; an empty batch counts as one."""
    return max(1, ceil_div(_tile_count(f, r), tile.lanes))


def _tile_count(f: Filtering, r: Correlation) -> int:
    return r.n * ceil_div(r.output[0], f.m) * ceil_div(r.output[1], f.m)
