"""Depthwise convolution, and filters of one-channel images: output pixels in the lanes, weights broadcast.

Rows first: tiles of a few rows sweep over the columns of a panel, so that memory is read along its rows and the rows of
a tile stay in the L1 cache. Dilations of the rows are settled by taking outputs that are ``apart`` rows apart, whose
taps then meet at rows that are ``dh`` apart: from one such output to the next are ``step`` of those.

The input gradient of stride 2 is a pair of convolutions of the same input, whose outputs alternate along the rows:
what ends in 2 belongs to the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.depthwise_in_place import LONG_BYTES, in_planes, in_strips
from convforge.kernels.numba.depthwise_pack import packed_size
from convforge.kernels.numba.depthwise_panels import next_panels, preparing
from convforge.kernels.numba.depthwise_separable import separable
from convforge.kernels.numba.depthwise_tiles import NARROW_ROWS, Tiles, rolling, rolling_pairs
from convforge.kernels.numba.integers import ceiling
from convforge.kernels.numba.simd import mask_instructions, masked_loads

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target


# steps and rows of the kernels that are specialised for: where the rows have a step of 1, all
_ONE_BY_ONE = ((1, 1), (1, 2), (1, 3), (1, 5), (1, 7), (1, 4))


def depthwise_3x3(target: Target) -> Callable[..., None]:
    """3x3 kernels whose rows have a step of 1."""
    return _3x3(target, 1)


def depthwise_strided_3x3(target: Target) -> Callable[..., None]:
    """3x3 kernels whose rows have a step of 2."""
    return _3x3(target, 2)


def depthwise_forward(target: Target) -> Callable[..., None]:
    """Kernels of any size whose rows have a step of 1."""
    return _forward(target, rolling(target, _ONE_BY_ONE, any_way=False), may_be_separable=True)


def depthwise_strided(target: Target) -> Callable[..., None]:
    """Kernels of any size and step."""
    return _forward(target, rolling(target, ((2, 3), (2, 5), (2, 7))))


def depthwise_pair(target: Target) -> Callable[..., None]:
    """Pairs of convolutions, and outputs that do not lie side by side."""
    return _forward(target, rolling_pairs(target))


def _3x3(target: Target, step: int) -> Callable[..., None]:
    v, lanes = target.v, target.lanes
    f = abi.fields("depthwise_3x3")
    in_panels = _forward(target, rolling(target, ((step, 3),), any_way=False))
    if not mask_instructions(v):
        return in_panels
    cheap_masks = masked_loads(v)
    panels, planes = target.call(in_panels), target.call(in_planes(target, step))
    narrow = target.call(in_strips(target, step)) if cheap_masks else panels
    # strips walk down parts of long rows, which come slowly from memory
    long = LONG_BYTES // v.itemsize if cheap_masks else 0

    def kernel(args, scratch, begin, end):
        ow = args[f.ow]
        if args[f.c] * args[f.dh] != 1 or args[f.sh] != step or args[f.sw] != step or ow > args[f.columns]:
            panels(args, scratch, begin, end)
        # on narrower maps most tiles would lie at a border, where masks cost as much as a copy
        elif ow >= 3 * lanes and args[f.x_h] >= long:
            planes(args, scratch, begin, end)
        else:
            narrow(args, scratch, begin, end)

    return kernel


def _forward(target: Target, roll_rows: Inner, *, may_be_separable: bool = False) -> Callable[..., None]:
    """Blocks of output rows of one group, panels of their columns."""
    v = target.v
    lanes = v.lanes
    f = abi.fields("depthwise_forward")
    up, packed_elements = ceiling(target), packed_size(target)
    prepare, next_panel = preparing(target, f, True), next_panels(target)
    two_passes = separable(target, roll_rows) if may_be_separable else target.jit(lambda *_: None)
    halves = NARROW_ROWS if may_be_separable else 0

    @target.call
    def panel_rows(d, panel, rows, weight, weight2, out, out_h, out_w, ow2, bias):
        # All outputs of a panel of one channel; `out` is the panel's first.
        columns = panel.columns if ow2 == 0 else min(2 * panel.columns, d.ow + ow2 - 2 * panel.column)
        for phase in range(min(d.apart, rows)):
            out_row = d.apart * out_h
            tiles = Tiles(
                v.advance(panel.x, phase * d.sh * panel.row), d.dh * panel.row, panel.plane, d.step,
                up(rows - phase, d.apart), d.offsets, d.c, d.kh, d.kw, weight, d.kw2, weight2,
                v.advance(out, phase * out_h), out_row, out_w, columns, bias, ow2 > 0, out_row == columns,
            )  # fmt: skip
            roll_rows(tiles, panel.columns)

    def kernel(args, scratch, begin, end):
        g, c, k, kh, kw, ow2 = args[f.g], args[f.c], args[f.k], args[f.kh], args[f.kw], args[f.ow2]
        out_h, out_w = args[f.out_h], args[f.out_w]
        blocks = up(args[f.oh], args[f.rows])
        weights = packed_elements(c, kh, kw, args[f.factors])
        weights2 = packed_elements(c, kh, args[f.kw2], 0)
        d = prepare(args, scratch, 0, halves)
        for item in range(begin, end):
            top = item % blocks * args[f.rows]
            group = item // blocks % g
            image = item // blocks // g
            rows = min(args[f.rows], args[f.oh] - top)
            x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + group * c * args[f.x_c])
            end_column = 0
            while end_column < d.ow:
                # outputs of the last vector may be computed again
                panel = next_panel(d, x, top, rows, min(end_column, max(d.ow - lanes, 0)))
                end_column = panel.column + panel.columns
                for i in range(k):
                    channel = group * k + i
                    at = image * args[f.out_n] + channel * args[f.out_k] + top * out_h
                    out = v.advance(v.pointer(args[f.out]), at + panel.column * (out_w if ow2 == 0 else 2))
                    bias = v.pointer(args[f.bias])[channel] if args[f.bias] != 0 else v.extract(v.zero(), 0)
                    weight = v.advance(v.pointer(args[f.packed]), channel * weights)
                    weight2 = v.advance(v.pointer(args[f.packed2]), channel * weights2)
                    if may_be_separable and args[f.factors] != 0 and weight[kh * kw] != 0:
                        two_passes(d, panel, rows, v.advance(weight, kh * kw + 1), out, out_h, bias)
                    else:
                        panel_rows(d, panel, rows, weight, weight2, out, out_h, out_w, ow2, bias)

    return kernel
