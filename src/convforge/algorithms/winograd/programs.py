"""Winograd's programs: how a correlation is cut up, and the stages of kernels that do it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms.lowering import (
    Correlation,
    bias_field,
    correlations,
    input_fields,
    output_fields,
    phases,
    weight_fields,
)
from convforge.algorithms.stages import ALIGNMENT, ceil_div, even_items, round_up
from convforge.algorithms.winograd.lanes import (
    WHOLE,
    by_channels,
    pixel_elements,
    seconds,
    shorter,
    takes_channels,
    tile_count,
    tile_rows,
    trouble,
    vector_count,
)
from convforge.program import Program, Slot, Stage, View, buffer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convforge.kernels.abi import Filtering
    from convforge.problem import ConvProblem
    from convforge.runtime.machine import Machine, Tile

#: Vectors of tiles in a block, at most: the kernels' tables have 32 entries, and one channel of a block, transformed
#: down its columns, should stay in the L1 cache.
_MOST_VECTORS = 16
#: Blocks that a correlation is cut into where each keeps two vectors, items that one stage must have, and items of
#: the second of two stages.
_LEAST_BLOCKS = 8
_FUSED_ITEMS = 4
_LEAST_ITEMS = 8
#: Channels that an item of the first of two stages transforms: whole vectors of any instruction set.
_CHANNELS = 16
#: Blocks of the tile's rows that an item of the second takes at least.
_FEWEST_ROWS = 4
#: Phases of images and of outputs, or transformed images, that are in the workspace at a time, unless one image's are
#: more.
_PHASE_BYTES = 32 << 20
#: Channels whose taps the weight transform holds, and one more, since it stores whole vectors of taps.
_TAP_CHANNELS = 33


@dataclass(frozen=True, slots=True)
class Blocking:
    """How a correlation is cut up.

    Attributes
    ----------
    blocks
        Blocks of tiles.
    k_block
        Output channels whose products are held at a time, a multiple of the tile's group.
    c_block
        Input channels transformed by one item of the first of two stages, whole vectors where they are in the lanes; 0
        if one kernel does everything.
    by_channels
        Whether channels are in the lanes, not tiles.
    short
        Shorter tiles that end a column and a row, of blocks that are whole rows.
    """

    blocks: int
    k_block: int
    c_block: int
    by_channels: bool
    short: tuple[int, int] = WHOLE


def blocking(f: Filtering, r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> Blocking:
    """Small blocks whose transformed input and products stay in the L2 cache, or else two stages.

    Measured on 64 to 256 channels: from one panel to twice as many tiles a block makes 5% of difference while what is
    held fits the L2 cache. Where the weight comes from memory a block is large, but stays in the L3 cache. Two stages
    give work to all cores where there are few tiles. A dilated image is one block, with channels in the lanes.
    """
    vectors = vector_count(f, r, tile)
    if prod(r.dilation) > 1:
        return _two_stages(f, r, tile, itemsize, machine, vectors, True)
    area = f.alpha**2
    per_vector = area * tile.lanes * itemsize
    if area * r.c * round_up(r.k, tile.group) * itemsize > machine.l3 // 2:
        fitting = machine.l3 // 6 // (per_vector * r.c)
        blocks = 1
    else:
        fitting = machine.l2 * 3 // 4 // (per_vector * (r.c + 2 * tile.rows))
        blocks = min(_LEAST_BLOCKS, vectors // 2)
    largest = max(tile.vectors, min(_MOST_VECTORS, fitting))
    blocks = max(ceil_div(vectors, largest), blocks)
    blocks = min(vectors, even_items(blocks * r.groups, machine) // r.groups)
    fused = blocks * r.groups >= _FUSED_ITEMS
    # few channels make few items of two stages: then tiles are shared out among the cores
    items = r.groups * min(ceil_div(r.c, _CHANNELS), ceil_div(r.k, _FEWEST_ROWS * tile.rows))
    if not fused and items < machine.cores and vectors > 1:
        fused, blocks = True, max(blocks, min(ceil_div(machine.cores, r.groups), vectors))
    channels = by_channels(f, r, tile, blocks, itemsize, machine)
    if fused:
        cut = _blocked(f, r, tile, itemsize, machine, blocks, 1, 0, channels)
    else:
        cut = _two_stages(f, r, tile, itemsize, machine, largest, channels)
    return _shortened(f, r, tile, itemsize, machine, largest, cut)


def _shortened(
    f: Filtering, r: Correlation, tile: Tile, itemsize: int, machine: Machine, largest: int, cut: Blocking
) -> Blocking:
    """The same with shorter tiles at the end of columns and rows, if that takes less: fewer outputs are left out."""
    short = shorter(f, r)
    vectors = ceil_div(tile_count(f, r, short), tile.lanes)
    if short == WHOLE or not vectors or not takes_channels(tile, itemsize):
        return cut
    rows = r.n * tile_rows(f, r, short)
    blocks = max(ceil_div(vectors, largest), min(_LEAST_BLOCKS, vectors // 2))
    blocks = min(rows, even_items(blocks * r.groups, machine) // r.groups)
    tiles = _block_tiles(f, r, tile, blocks, short)
    if pixel_elements(f, r, tile, tiles, short) * itemsize > machine.l2 // 2:
        return cut
    less = seconds(f, r, tile, blocks, True, machine, short)
    less *= 1 if cut.by_channels else trouble(f, r, itemsize, machine)
    if less >= seconds(f, r, tile, cut.blocks, cut.by_channels, machine):
        return cut
    if blocks * r.groups >= _FUSED_ITEMS:
        return _blocked(f, r, tile, itemsize, machine, blocks, 1, 0, True, short)
    return _two_stages(f, r, tile, itemsize, machine, largest, True, short)


def unprepared(f: Filtering, r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> Blocking | None:
    """Two stages whose second transforms the weights of a block of output channels just before their products.

    None where it is better to transform them all first: they are few, or fewer than the transformed input. What is in
    the lanes is the same, and so are the bits.
    """
    per_channel = f.alpha**2 * r.c * itemsize
    tiles = vector_count(f, r, tile) * tile.lanes
    weight, transformed = per_channel * r.k, per_channel * tiles
    if weight < machine.l2:
        return None
    prepared = blocking(f, r, tile, itemsize, machine)
    if weight < machine.l3 // 8 and not prepared.c_block:
        return None
    largest = _MOST_VECTORS if prod(r.dilation) == 1 else tiles
    cut = _two_stages(f, r, tile, itemsize, machine, largest, prepared.by_channels, prepared.short)
    most = max(2 * tile.rows, machine.l3 // 4 // per_channel)  # whose transformed weights stay in the L3 cache
    if transformed > machine.l3 // 2:
        # the input comes from memory for each block of output channels; the weight, else, would go there and back
        if 2 * transformed > weight:
            return None
        most = max(most, tiles // 3)
    return replace(cut, k_block=min(cut.k_block, round_up(most, tile.group)))


def _two_stages(
    f: Filtering, r: Correlation, tile: Tile, itemsize: int, machine: Machine, largest: int, channels: bool,
    short: tuple[int, int] = WHOLE,
) -> Blocking:  # fmt: skip
    blocks = ceil_div(vector_count(f, r, tile), largest)
    if short != WHOLE:
        vectors, rows = ceil_div(tile_count(f, r, short), tile.lanes), r.n * tile_rows(f, r, short)
        blocks = min(rows, ceil_div(vectors, largest))
    items = ceil_div(_LEAST_ITEMS, blocks * r.groups)
    return _blocked(f, r, tile, itemsize, machine, blocks, items, _CHANNELS, channels, short)


def _blocked(
    f: Filtering, r: Correlation, tile: Tile, itemsize: int, machine: Machine, blocks: int, least_items: int,
    c_block: int, channels: bool, short: tuple[int, int] = WHOLE,
) -> Blocking:  # fmt: skip
    """So many blocks of tiles, and the blocks of output channels whose products join the input in the L2 cache.

    Where the input alone does not fit there, it is read anew for each block of output channels, products only once:
    half as many as input channels then move less (measured on 512 channels: twice as fast as with 8). A register tile
    of few rows is as wide as it can be where output channels are in its lanes: its sums would else wait for each other.
    """
    per_channel = f.alpha**2 * round_up(_block_tiles(f, r, tile, blocks, short), tile.lanes) * itemsize
    fitting = machine.l2 * 3 // 4 // per_channel - r.c
    most = ceil_div(r.k, _FEWEST_ROWS * tile.rows)
    parts = max(ceil_div(r.k, max(fitting, r.c // 2, 2 * tile.rows)), min(least_items, most))
    k_block = round_up(ceil_div(r.k, parts), tile.columns if channels and tile.rows == 4 else tile.group)
    return Blocking(blocks, min(k_block, round_up(r.k, tile.group)), c_block, channels, short)


def _block_tiles(f: Filtering, r: Correlation, tile: Tile, blocks: int, short: tuple[int, int]) -> int:
    """Tiles of the largest block; of an empty batch one."""
    if short != WHOLE:
        rows = r.n * tile_rows(f, r, short)
        return ceil_div(rows, blocks) * (tile_count(f, r, short) // rows)
    return min(max(1, tile_count(f, r)), ceil_div(vector_count(f, r, tile), blocks) * tile.lanes)


def plain(f: Filtering, r: Correlation, dtype: str, tile: Tile, machine: Machine) -> Program:
    """The program of a correlation without a dilation."""
    itemsize = np.dtype(dtype).itemsize
    cuts = blocking(f, r, tile, itemsize, machine), unprepared(f, r, tile, itemsize, machine)
    return _correlate(f, r, dtype, tile, *cuts, {**input_fields(r), **output_fields(r)}, 0)


def skips_phases(f: Filtering, r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> bool:
    """Whether a dilated correlation has channels in the lanes: then its pixels may be any columns apart."""
    image = replace(r, n=1)
    fits = _image_bytes(f, r, tile, itemsize) <= _PHASE_BYTES
    return fits and by_channels(f, image, tile, 1, itemsize, machine)


def _image_bytes(f: Filtering, r: Correlation, tile: Tile, itemsize: int) -> int:
    """Bytes of an image's transformed input with channels in the lanes."""
    return r.groups * _input_elements(f, r, tile.lanes, tile_count(f, replace(r, n=1))) * itemsize


def _input_elements(f: Filtering, r: Correlation, lanes: int, tiles: int) -> int:
    return f.alpha**2 * (tiles * (round_up(r.c, lanes) + lanes) + lanes)


def dilated(f: Filtering, r: Correlation, dtype: str, tile: Tile, machine: Machine) -> Program:
    """The program of a dilated correlation. A large batch is done in equal parts."""
    itemsize = np.dtype(dtype).itemsize
    if not skips_phases(f, r, tile, itemsize, machine):
        return _by_phases(f, r, dtype, tile, machine)
    size = _part(r, _image_bytes(f, r, tile, itemsize))
    first = replace(r, n=size)
    cuts = blocking(f, first, tile, itemsize, machine), unprepared(f, first, tile, itemsize, machine)
    program = _correlate(f, first, dtype, tile, *cuts, {**input_fields(r), **output_fields(r)}, 0)
    if size == r.n:
        return program
    parts = [replace(r, x=r.x.window(0, at), out=r.out.window(0, at)) for at in range(0, r.n, size)]
    stages = [
        replace(stage, args={**stage.args, **input_fields(part), **output_fields(part)})
        for part in parts
        for stage in program.stages
    ]
    return replace(program, stages=stages, unprepared=())


def _part(r: Correlation, image_bytes: int) -> int:
    """Images whose bytes may be in the workspace at a time, in equal parts of the batch."""
    sizes = [size for size in range(1, r.n + 1) if r.n % size == 0 and size * image_bytes <= _PHASE_BYTES]
    return max(sizes, default=1)


def phase_bytes(r: Correlation, itemsize: int) -> int:
    """Bytes of the phases of an image of a dilated correlation, and of its outputs."""
    image = phases(replace(r, n=1))
    return r.groups * image.n * (r.c * image.input[0] * image.input[1] + r.k * image.pixels) * itemsize


def _by_phases(f: Filtering, r: Correlation, dtype: str, tile: Tile, machine: Machine) -> Program:
    """The input goes to the workspace by phases, the outputs come from there."""
    itemsize, (dh, dw) = np.dtype(dtype).itemsize, r.dilation
    size = _part(r, phase_bytes(r, itemsize))
    whole, inside = r, phases(replace(r, n=size))
    c, k, (rows, columns) = r.groups * r.c, r.groups * r.k, inside.input
    out = round_up(inside.n * c * rows * columns * itemsize, ALIGNMENT)
    before = out + round_up(inside.n * k * inside.pixels * itemsize, ALIGNMENT)
    images: dict[str, Slot | int] = {
        "x": buffer("workspace", 0), "x_n": rows * columns, "x_c": inside.n * rows * columns, "x_h": columns,
        "out": buffer("workspace", out), "out_n": inside.pixels, "out_k": inside.n * inside.pixels,
        "out_h": inside.output[1], "out_w": 1,
    }  # fmt: skip
    cut = blocking(f, inside, tile, itemsize, machine)
    direct = unprepared(f, inside, tile, itemsize, machine) if size == r.n else None
    program = _correlate(f, inside, dtype, tile, cut, direct, images, before)
    stages: list[Stage] = []
    for first in range(0, r.n, size):
        part = replace(whole, x=r.x.window(0, first), out=r.out.window(0, first))
        split = {
            **input_fields(part), "phases": images["x"], "n": size, "ih": r.input[0], "iw": r.input[1],
            "ph": r.padding[0], "pw": r.padding[1], "dh": dh, "dw": dw, "rows": rows, "columns": columns,
        }  # fmt: skip
        join = {
            "phases": images["out"], **output_fields(part), "n": size, "oh": r.output[0], "ow": r.output[1],
            "dh": dh, "dw": dw, "rows": inside.output[0], "columns": inside.output[1],
        }  # fmt: skip
        around = Stage("split_phases", split, size * c), Stage("join_phases", join, size * k)
        stages += [around[0], *program.stages, around[1]]
    return replace(program, stages=stages, unprepared=(around[0], *program.unprepared, around[1]) if direct else ())


def _correlate(
    f: Filtering,
    r: Correlation,
    dtype: str,
    tile: Tile,
    cut: Blocking,
    unprepared: Blocking | None,
    images: Mapping[str, Slot | int],
    before: int,
) -> Program:
    """The program of one correlation, cut up as ``cut`` says, or as ``unprepared`` where weights are not prepared.

    ``images`` are the INPUT and OUTPUT fields; the workspace's first ``before`` bytes are left alone.
    """
    itemsize = np.dtype(dtype).itemsize
    u_elements = f.alpha**2 * (cut.k_block * r.c + tile.lanes)  # of a block of output channels
    args: dict[str, Slot | int] = {
        **images, **weight_fields(r), "u": buffer("packed", 0), "bias": bias_field(r),
        "v": buffer("workspace", before), "n": r.n, "g": r.groups, "c": r.c, "k": r.k,
        "ih": r.input[0], "iw": r.input[1], "oh": r.output[0], "ow": r.output[1], "ph": r.padding[0],
        "pw": r.padding[1], "dh": r.dilation[0], "dw": r.dilation[1], "short_h": cut.short[0], "short_w": cut.short[1],
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
        prepare=(Stage(f"winograd_{f.name}_weight", weight, r.groups * ceil_div(r.k, tile.group)),),
        unprepared=direct,
        packed_bytes=r.groups * ceil_div(r.k, cut.k_block) * u_elements * itemsize,
        workspace_bytes=before + workspace * itemsize,
        scratch_bytes=scratch * itemsize,
    )


def _stages(
    f: Filtering, r: Correlation, tile: Tile, cut: Blocking, shared: Mapping[str, Slot | int]
) -> tuple[tuple[Stage, ...], int, int]:
    """Stages, and elements of workspace and scratch; with 0 for "u" the weight is transformed in the second stage."""
    area, lanes = f.alpha**2, tile.lanes
    vectors = ceil_div(vector_count(f, r, tile), cut.blocks)  # of the largest block
    if cut.by_channels:
        tiles = _block_tiles(f, r, tile, cut.blocks, cut.short)
        v_step = _input_elements(f, r, lanes, tiles)
        held = area * (tiles * round_up(cut.k_block, lanes) + lanes)
        rows = pixel_elements(f, r, tile, tiles, cut.short)
    else:
        v_step = area * (r.c * vectors + ceil_div(vectors, tile.vectors)) * lanes
        held = area * cut.k_block * vectors * lanes
        rows = _rows_elements(f, vectors, lanes, r.input[1])
    taps = _TAP_CHANNELS * f.r**2 * tile.group
    scratch = max(held + rows, taps)
    args = {
        **shared, "blocks": cut.blocks, "v_step": v_step, "c_block": cut.c_block, "k_block": cut.k_block,
    }  # fmt: skip
    kernel = f"winograd_{f.name}_channels" if cut.by_channels else f"winograd_{f.name}"
    items = r.groups * cut.blocks
    if not cut.c_block:
        return (Stage(f"{kernel}_forward", args, items),), 0, scratch + v_step
    own = 0 if args["u"] else area * (cut.k_block * r.c + lanes)
    grain = 1 if args["u"] else cut.blocks
    stages = (
        Stage(f"{kernel}_input", args, items * ceil_div(r.c, cut.c_block)),
        Stage(f"{kernel}_output", args, items * ceil_div(r.k, cut.k_block), grain),
    )
    return stages, items * v_step, scratch + own


def _grad_blocks(f: Filtering, p: ConvProblem, tile: Tile, itemsize: int) -> int:
    """Blocks of tiles whose transforms take at most 16 MB."""
    per_vector = f.alpha**2 * (p.c + p.k) * tile.lanes * itemsize
    vectors = ceil_div(tile_count(f, correlations(p, "forward")[0]), tile.lanes)
    return ceil_div(vectors, max(1, min(_MOST_VECTORS, (16 << 20) // per_vector)))


def weight_gradient(f: Filtering, p: ConvProblem, tile: Tile) -> Program:
    """The program of a weight gradient: transform, multiply and add up a block of tiles after another."""
    itemsize = p.itemsize
    blocks = _grad_blocks(f, p, tile, itemsize)
    area, lanes, c, k = f.alpha**2, tile.lanes, p.c // p.groups, p.k // p.groups
    vectors = ceil_div(ceil_div(tile_count(f, correlations(p, "forward")[0]), lanes), blocks)
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
