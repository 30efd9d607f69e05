"""Winograd F(m, r), forward: everything for a block of tiles at a time, and the same in two stages.

There are kernels with tiles in the lanes, and with channels.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from convforge.kernels.numba.winograd_blocks import Blocks, factories, pitches
from convforge.kernels.numba.winograd_channels import channels_input, channels_output
from convforge.kernels.numba.winograd_input import input_transform
from convforge.kernels.numba.winograd_output import output_transform
from convforge.kernels.numba.winograd_weight import weight_transform

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.abi import Filtering
    from convforge.kernels.numba.translate import Inner, Target


def _multiply(target: Target, filtering: Filtering, shape: Blocks, channels: bool) -> Inner:
    """Make ``multiply(args, tiles, vectors, first_k, u, x, to)``: the products of a block of output channels.

    ``u``, ``x`` and ``to`` are addresses.
    """
    f = shape.f
    area, by_channels = filtering.alpha**2, int(channels)
    products = target.kernel("winograd_products")

    @target.jit
    def multiply(args, tiles, vectors, first_k, u, x, to):
        k = min(args[f.k_block], args[f.k] - first_k)
        products((u, x, to, args[f.c], k, area, tiles, vectors, by_channels), 0, 0, area)

    return multiply


def _transform_input(target: Target, filtering: Filtering, shape: Blocks, channels: bool) -> Inner:
    """Make ``transform_input(args, first, tiles, vectors, panels, g, begin, end, to, scratch)``."""
    if not channels:
        return input_transform(target, filtering, shape)
    transform = channels_input(target, filtering, shape)

    @target.jit
    def transform_input(args, first, tiles, vectors, panels, g, begin, end, to, scratch):
        transform(args, first, tiles, g, begin, end, to, scratch)

    return transform_input


def _transform_output(target: Target, filtering: Filtering, shape: Blocks, channels: bool) -> Inner:
    """Make ``transform_output(args, first, tiles, vectors, panels, g, first_k, products, rest)``: rest is scratch."""
    if not channels:
        return output_transform(target, filtering, shape)
    transform = channels_output(target, filtering, shape)

    @target.jit
    def transform_output(args, first, tiles, vectors, panels, g, first_k, products, rest):
        transform(args, first, tiles, g, first_k, products, rest)

    return transform_output


def _sizes(target: Target, filtering: Filtering, shape: Blocks, channels: bool) -> tuple[Inner, Inner]:
    """Make ``input_bytes(args, tiles, vectors, panels)`` and ``product_bytes(args, tiles, vectors)`` of a block."""
    f, lanes = shape.f, target.lanes
    input_pitch, product_pitch = pitches(target)
    unit = filtering.alpha**2 * target.v.itemsize

    @target.jit
    def input_bytes(args, tiles, vectors, panels):
        if channels:
            return (tiles * input_pitch(args[f.c]) + lanes) * unit
        return (args[f.c] * vectors + panels) * lanes * unit

    @target.jit
    def product_bytes(args, tiles, vectors):
        if channels:
            return (tiles * product_pitch(args[f.k_block]) + lanes) * unit
        return args[f.k_block] * vectors * lanes * unit

    return input_bytes, product_bytes


def _forward(channels: bool, filtering: Filtering, target: Target) -> Callable[..., None]:
    """Everything for one block of tiles after another."""
    v = target.v
    shape = Blocks(target, filtering, "forward")
    f, block, weight_offset = shape.f, shape.block, shape.weight_offset
    transform_input = _transform_input(target, filtering, shape, channels)
    multiply = _multiply(target, filtering, shape, channels)
    transform_output = _transform_output(target, filtering, shape, channels)
    input_bytes, product_bytes = _sizes(target, filtering, shape, channels)

    def kernel(args, scratch, begin, end):
        for item in range(begin, end):
            g, number = item // args[f.blocks], item % args[f.blocks]
            first, tiles, vectors, panels = block(args, number)
            products = scratch + input_bytes(args, tiles, vectors, panels)
            rest = products + product_bytes(args, tiles, vectors)
            transform_input(args, first, tiles, vectors, panels, g, 0, args[f.c], scratch, rest)
            for k in range(0, args[f.k], args[f.k_block]):
                u = args[f.u] + weight_offset(args, g, k)
                multiply(args, tiles, vectors, k, u, scratch, products)
                transform_output(args, first, tiles, vectors, panels, g, k, v.pointer(products), v.pointer(rest))

    return kernel


def _input(channels: bool, filtering: Filtering, target: Target) -> Callable[..., None]:
    """The first of two stages: some channels of a block."""
    v = target.v
    shape = Blocks(target, filtering, "input")
    f, block = shape.f, shape.block
    transform_input = _transform_input(target, filtering, shape, channels)

    def kernel(args, scratch, begin, end):
        parts = (args[f.c] + args[f.c_block] - 1) // args[f.c_block]
        for item in range(begin, end):
            g, number, c = (
                item // (args[f.blocks] * parts),
                item // parts % args[f.blocks],
                item % parts * args[f.c_block],
            )
            first, tiles, vectors, panels = block(args, number)
            to = args[f.v] + (g * args[f.blocks] + number) * args[f.v_step] * v.itemsize
            last = min(c + args[f.c_block], args[f.c])
            transform_input(args, first, tiles, vectors, panels, g, c, last, to, scratch)

    return kernel


def _output(channels: bool, filtering: Filtering, target: Target) -> Callable[..., None]:
    """The second of two stages: some output channels of a block, of weights that are transformed here or before."""
    v, lanes, group = target.v, target.lanes, target.group
    area = filtering.alpha**2
    shape = Blocks(target, filtering, "output")
    f, block, weight_offset = shape.f, shape.block, shape.weight_offset
    weight_rows = weight_transform(target, filtering)
    multiply = _multiply(target, filtering, shape, channels)
    transform_output = _transform_output(target, filtering, shape, channels)
    _, product_bytes = _sizes(target, filtering, shape, channels)

    @target.call
    def transform_weight(args, g, first_k, u, taps):
        groups = (min(args[f.k_block], args[f.k] - first_k) + group - 1) // group
        for number in range(groups):
            k = first_k + number * group
            w = v.advance(v.pointer(args[f.w]), g * args[f.w_g] + k * args[f.w_k])
            weight_rows(
                w, args[f.w_k], args[f.w_c], args[f.w_h], args[f.w_w], args[f.c], args[f.k] - k, number, groups, u, taps
            )

    def kernel(args, scratch, begin, end):
        parts = (args[f.k] + args[f.k_block] - 1) // args[f.k_block]
        products = scratch
        if args[f.u] == 0:
            products += area * (args[f.k_block] * args[f.c] + lanes) * v.itemsize
        for item in range(begin, end):
            g, number = item // (args[f.blocks] * parts), item % args[f.blocks]
            k = item // args[f.blocks] % parts * args[f.k_block]
            if args[f.u] != 0:
                u = args[f.u] + weight_offset(args, g, k)
            else:
                u = scratch
                if item == begin or number == 0:
                    transform_weight(args, g, k, v.pointer(u), v.pointer(products))
            first, tiles, vectors, panels = block(args, number)
            x = args[f.v] + (g * args[f.blocks] + number) * args[f.v_step] * v.itemsize
            rest = products + product_bytes(args, tiles, vectors)
            multiply(args, tiles, vectors, k, u, x, products)
            transform_output(args, first, tiles, vectors, panels, g, k, v.pointer(products), v.pointer(rest))

    return kernel


for _stage, _make in (("forward", _forward), ("input", _input), ("output", _output)):
    globals().update(factories(partial(_make, False), _stage))
    globals().update(factories(partial(_make, True), f"channels_{_stage}"))
