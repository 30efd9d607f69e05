"""One output pixel an image, as dot products of its taps with the weights of every output channel.

So it is with fully connected layers, squeeze-and-excitation and classifiers' heads. Weights, which are nearly all that
is read, are read once for several images, and as they lie: there is nothing to prepare. (With two to four pixels an
image, packed weights and outer products take two thirds of the time.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.algorithms.lowering import Correlation, bias_field, geometry, input_fields, output_fields
from convforge.algorithms.stages import ceil_div
from convforge.program import Program, Stage

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine

#: Images of an item and accumulators of the kernel.
_IMAGES = 4
_SUMS = 8
#: Fewest rows of weights that share lowered images.
_LEAST_ROWS = 32
#: What adding its accumulators up takes a tile, and lowering a tap, in fused multiply-adds of a vector.
_REDUCTION_FMAS = 32
_LOWERING_FMAS = 4


def fits(r: Correlation, itemsize: int, machine: Machine) -> bool:
    """Whether the kernel is made for this: an output pixel, and taps that stay in the second cache."""
    return r.pixels == 1 and _IMAGES * r.c * r.taps * itemsize <= machine.l2


def fmas(r: Correlation, lanes: int) -> float:
    """Fused multiply-adds of vectors that it takes for all images of a group, or would in their time."""
    taps = r.c * r.taps
    images = min(r.n, _IMAGES) if r.n != 3 else _IMAGES
    tiles = ceil_div(r.k, _SUMS // max(1, images)) * ceil_div(r.n, _IMAGES)
    return tiles * (ceil_div(taps, lanes) * _SUMS + _REDUCTION_FMAS) + _LOWERING_FMAS * r.n * taps


def program(r: Correlation, dtype: str, itemsize: int, least_items: int) -> Program:
    """The program of a correlation whose weights lie one output channel after the other."""
    parts = ceil_div(r.n, _IMAGES)
    splits = max(1, min(r.k // _LEAST_ROWS, ceil_div(least_items, max(1, parts * r.groups))))
    fields = {**input_fields(r), "w": r.weight.address, "bias": bias_field(r), **output_fields(r), **geometry(r)}
    return Program(
        dtype=dtype,
        stages=(Stage("im2col_dots", {**fields, "splits": splits}, r.groups * splits * parts),),
        scratch_bytes=(_IMAGES * r.c * r.taps + 16) * itemsize,
        contiguous=frozenset({"indices", "bias", "weight"}),
    )
