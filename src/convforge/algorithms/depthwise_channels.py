"""Depthwise convolution with channels in the lanes: on small maps, whose rows fill few vectors of pixels.

Each plane is transposed into a padded copy and its outputs back; in between neither borders nor strides nor the width
of the map cost anything.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from convforge.algorithms.lowering import (
    Correlation,
    bias_field,
    geometry,
    input_fields,
    output_fields,
    weight_fields,
)
from convforge.algorithms.stages import ceil_div
from convforge.program import Program, Stage, buffer

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

#: Widest maps, in vectors: the rows of wider ones fill vectors of pixels well enough.
_MOST_VECTORS = 2
#: Pixels of a tile at most.
_TILE_PIXELS = 8
#: Measured: steps for a vector of a transposed square, and for a tile beside its multiply-adds.
_TRANSPOSE_STEPS = 3.3
_TILE_STEPS = 10


def fits(r: Correlation, tile: Tile, machine: Machine, itemsize: int) -> bool:
    """Whether the kernel is made for this: single channels, enough of them, small maps."""
    if r.k * r.c != 1 or r.taps * r.pixels == 0 or r.groups < tile.lanes:
        return False
    return r.output[1] <= _MOST_VECTORS * tile.lanes and prod(_span(r)) * tile.lanes * itemsize <= machine.l2 // 2


def steps(r: Correlation, lanes: int) -> float:
    """Modelled steps of a plane, a share of a vector of them."""
    rows, columns = (min(span, size) for span, size in zip(_span(r), r.input, strict=True))
    transposed = rows * ceil_div(columns, lanes) + ceil_div(r.pixels, lanes)
    tiles = r.output[0] * ceil_div(r.output[1], _TILE_PIXELS)
    vector = r.pixels * r.taps / 2 + transposed * _TRANSPOSE_STEPS * lanes + tiles * _TILE_STEPS
    return vector * ceil_div(r.groups, lanes) / r.groups


def program(r: Correlation, dtype: str, itemsize: int, tile: Tile) -> Program:
    """The program of one correlation."""
    vectors = ceil_div(r.groups, tile.lanes)
    panels = ceil_div(vectors, tile.vectors)
    packed, fields = buffer("packed", 0), weight_fields(r)
    # groups take the place of a matrix product's output channels
    weight = {**fields, "w_k": fields["w_g"], "packed": packed, "totals": 0, "g": 1, "k": r.groups, "c": 1}
    weight |= {"kh": r.kernel[0], "kw": r.kernel[1], "panels": panels}
    args = {**input_fields(r), "packed": packed, "bias": bias_field(r), **output_fields(r), **geometry(r)}
    return Program(
        dtype=dtype,
        stages=(Stage(_kernel(r), args, r.n * panels),),
        prepare=(Stage("pack_columns", weight, panels),),
        packed_bytes=vectors * tile.lanes * r.taps * itemsize,
        scratch_bytes=(prod(_span(r)) + r.pixels + tile.lanes) * tile.lanes * itemsize,
    )


def _span(r: Correlation) -> tuple[int, ...]:
    """Rows and columns of input under all outputs."""
    axes = zip(r.output, r.stride, r.kernel, r.dilation, strict=True)
    return tuple((size - 1) * stride + (taps - 1) * dilation + 1 for size, stride, taps, dilation in axes)


def _kernel(r: Correlation) -> str:
    """Neighbouring taps share what they load, in kernels that are specialised for how many there are."""
    columns = r.kernel[1]
    shared = columns in (3, 5, 7) and r.dilation[1] == 1 and r.stride[1] <= 2
    return f"depthwise_channels_{columns}" if shared else "depthwise_channels"
