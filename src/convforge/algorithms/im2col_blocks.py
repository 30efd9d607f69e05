"""What the products of im2col share: how deep a panel is, when it is no copy, stages that pack."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from convforge.algorithms.lowering import Correlation, weight_fields
from convforge.algorithms.stages import ceil_div, round_up
from convforge.program import Slot, Stage

if TYPE_CHECKING:
    from convforge.runtime.machine import Machine, Tile

#: Bounds a chain of additions, and so the error, on every machine.
MOST_DEPTH = 1024
#: Rows of a panel where the input is read in place.
_STREAMED_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Cut:
    """How a correlation is done.

    Attributes
    ----------
    pack, packed
        The stage that packs the weights, and as how many elements.
    stage
        The product.
    unprepared
        The same of weights as they lie, where that takes less than packing them first.
    scratch_bytes
        Of a worker.
    """

    pack: Stage
    packed: int
    stage: Stage
    unprepared: Stage | None
    scratch_bytes: int


def pack(kernel: str, r: Correlation, packed: Slot, blocks: int, **more: Slot | int) -> Stage:
    """The stage of a kernel that packs weights, in so many blocks a group; it may take ``more`` arguments."""
    fields: dict[str, Slot | int] = {
        "packed": packed, "g": r.groups, "k": r.k, "c": r.c, "kh": r.kernel[0], "kw": r.kernel[1], **more,
    }  # fmt: skip
    return Stage(kernel, {**weight_fields(r), **fields}, r.groups * blocks)


def plain(r: Correlation) -> bool:
    """Whether output pixels are input pixels, one after the other."""
    return r.taps * prod(r.stride) == 1 and not any(r.padding) and r.input == r.output


def streams(r: Correlation, tile: Tile) -> bool:
    """Whether panels of input serve one block of output channels: they need no copy."""
    return plain(r) and r.k <= tile.rows


def panel_depth(r: Correlation, tile: Tile, itemsize: int, machine: Machine) -> int:
    """Rows of a panel: equal shares of the taps that fill the first cache one and a half times.

    The tile reads a panel from the second cache without loss; longer panels go through the output less often. Where
    one block of output channels reads the input in place, few rows at a time: the CPU follows some sixteen streams from
    memory, and with 8 a 1x1 layer of 64 to 2 channels took a third of its time with 64.
    """
    if streams(r, tile):
        return min(r.c, _STREAMED_DEPTH)
    most = max(1, min(MOST_DEPTH, machine.l1 * 3 // 2 // (tile.columns * itemsize)))
    if r.taps <= most:
        return r.taps * ceil_div(r.c, ceil_div(r.c, most // r.taps))
    total = r.c * r.taps
    return ceil_div(total, ceil_div(total, most))


def stripe_of(r: Correlation, tile: Tile, rows: int, columns: int, *, phases: bool = True) -> int:
    """Elements of one channel of the padded input under ``rows`` x ``columns`` output pixels.

    Its columns are split by their phase within a stride, or left where they are.
    """
    (kh, kw), (sh, sw), (dh, dw) = r.kernel, r.stride, r.dilation
    read = (rows - 1) * sh + (kh - 1) * dh + 1 if kh > 1 else rows
    if not phases:
        return read * round_up((columns - 1) * sw + (kw - 1) * dw + 1, tile.lanes)
    return read * (sw if kw > 1 else 1) * round_up(columns + (kw - 1) * dw // sw, tile.lanes)


def runs(output: tuple[int, ...], tile: Tile) -> float:
    """Runs that cover one channel of output pixels: rows are cut at panels and at lanes."""
    return output[0] * ceil_div(output[1], tile.lanes) + prod(output) / tile.columns
