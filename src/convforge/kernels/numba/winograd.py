"""Winograd F(m, r), forward: everything for a block of tiles at a time, and the same in two stages.

There are kernels with tiles in the lanes, and with channels.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.generate import define
from convforge.kernels.numba.winograd_blocks import Blocks, factories, pitches
from convforge.kernels.numba.winograd_channels import channels_input, channels_output
from convforge.kernels.numba.winograd_input import input_transform
from convforge.kernels.numba.winograd_output import output_transform

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.abi import Filtering
    from convforge.kernels.numba.translate import Inner, Target


def _multiply(target: Target, filtering: Filtering, shape: Blocks, channels: bool) -> Inner:
    """Make ``multiply(args, first, tiles, vectors, first_k, u, x, to)``: the products of a block of output channels.

    ``u``, ``x`` and ``to`` are addresses.
    """
    f, size, shorter, rows_of = shape.f, shape.size, shape.shorter, shape.rows_of
    area, by_channels = filtering.alpha**2, int(channels)
    kept = filtering.short + filtering.halo if filtering.short else filtering.alpha
    products = target.kernel("winograd_products")

    @target.jit
    def multiply(args, first, tiles, vectors, first_k, u, x, to):
        k = min(args[f.k_block], args[f.k] - first_k)
        (_, tw), (short_h, short_w) = size(args), shorter(args)
        before, middle, after = 0, tiles, 0
        if short_h + short_w > 0:
            whole, low, _, _ = rows_of(args, first, tiles, 0)
            before, middle, after = low * (tw - short_w), whole * (tw - short_w), whole * short_w
        products((u, x, to, args[f.c], k, area, tiles, vectors, by_channels, kept, before, middle, after), 0, 0, area)

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
    """Everything for one block of tiles after another: the kernels of both stages, which are compiled by themselves."""
    kind = f"winograd_{filtering.name}_channels" if channels else f"winograd_{filtering.name}"
    shape = Blocks(target, filtering, "forward")
    f, block = shape.f, shape.block
    input_bytes, _ = _sizes(target, filtering, shape, channels)
    # the block's transformed input is the only one, and of all channels
    told = {"v": "v", "v_step": "0", "c_block": f"args[{f.c}]"}
    names = abi.SIGNATURES[f"{kind}_forward"]
    fields = ", ".join(told.get(name, f"args[{i}]") for i, name in enumerate(names))
    stage = "def stage(args, v, scratch, item):\n    kernel(({fields}), scratch, item, item + 1)"
    read, write = (
        target.jit(define("stage", [stage.format(fields=fields)], kernel=target.kernel(f"{kind}_{name}")))
        for name in ("input", "output")
    )

    def kernel(args, scratch, begin, end):
        blocks, parts = args[f.blocks], (args[f.k] + args[f.k_block] - 1) // args[f.k_block]
        for item in range(begin, end):
            _, tiles, vectors, panels = block(args, item % blocks)
            rest = scratch + input_bytes(args, tiles, vectors, panels)
            read(args, scratch, rest, item)
            for part in range(parts):
                write(args, scratch, rest, (item // blocks * parts + part) * blocks + item % blocks)

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
    weights = target.kernel(f"winograd_{filtering.name}_weight")
    multiply = _multiply(target, filtering, shape, channels)
    transform_output = _transform_output(target, filtering, shape, channels)
    _, product_bytes = _sizes(target, filtering, shape, channels)

    @target.jit
    def transform_weight(args, g, first_k, u, taps):
        groups = (args[f.k] + group - 1) // group
        first = g * groups + first_k // group
        weights(
            (
                args[f.w], args[f.w_g], args[f.w_k], args[f.w_c], args[f.w_h], args[f.w_w],
                u - weight_offset(args, g, first_k), args[f.g], args[f.k], args[f.c], args[f.k_block],
            ),
            taps, first, first + (min(args[f.k_block], args[f.k] - first_k) + group - 1) // group,
        )  # fmt: skip

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
                    transform_weight(args, g, k, u, products)
            first, tiles, vectors, panels = block(args, number)
            x = args[f.v] + (g * args[f.blocks] + number) * args[f.v_step] * v.itemsize
            rest = products + product_bytes(args, tiles, vectors)
            multiply(args, first, tiles, vectors, k, u, x, products)
            transform_output(args, first, tiles, vectors, panels, g, k, v.pointer(products), v.pointer(rest))

    return kernel


for _stage, _make in (("forward", _forward), ("input", _input), ("output", _output)):
    globals().update(factories(partial(_make, False), _stage))
    globals().update(factories(partial(_make, True), f"channels_{_stage}"))
