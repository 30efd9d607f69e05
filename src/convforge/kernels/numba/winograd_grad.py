"""Winograd's gradient by the weight of 3x3 kernels with a stride of 1 is F(3, m).

A tile of x times a tile of grad_output, transformed by A, is summed over all tiles before one inverse transform.
v[g][xi][c][tiles] and w[g][xi][k][tiles] hold one block: its panel is the block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convforge.algorithms.winograd.transforms import transforms
from convforge.kernels import abi, codegen
from convforge.kernels.numba.gemm import gemm_rows
from convforge.kernels.numba.generate import define, names, shuffles
from convforge.kernels.numba.winograd_blocks import DEPTH, Blocks, factories, product_by
from convforge.kernels.numba.winograd_input import input_transform

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.abi import Filtering
    from convforge.kernels.numba.translate import Inner, Target


def _grad_transform(filtering: Filtering, target: Target) -> Callable[..., None]:
    """Some channels of a block, of x or of grad_output."""
    v, lanes = target.v, target.lanes
    m, alpha, area = filtering.m, filtering.alpha, filtering.alpha**2
    shape = Blocks(target, filtering, "grad_transform")
    f, block, place, pitch_of = shape.f, shape.block, shape.place, shape.pitch
    transform_input = input_transform(target, filtering, shape)
    product = product_by(target, filtering, "grad_output")
    deinterleave = shuffles(target, codegen.deinterleave(m, lanes), "deinterleave")

    @target.jit
    def row_of(y, y_h, oh, row, zeros):
        return v.advance(y, row * y_h) if row < oh else zeros

    lines = ["def run_rows(y, next_channel, y_h, oh, ow, top, left, run, zeros, body, pitch):"]
    lines += [f"    r{i} = v.advance(row_of(y, y_h, oh, top + {i}, zeros), left)" for i in range(m)]
    lines += [f"    for q in range(0, run * {m}, {lanes}):"]
    windows = [f"v.load_partial(v.advance(r{i}, q), ow - left - q)" for i in range(m)]
    lines += [f"        {names('o', alpha)} = product({', '.join(windows)})"]
    lines += [f"        v.prefetch(r{i}, q + next_channel)" for i in range(m)]
    lines += [f"        v.store(body, {i} * pitch + q, o{i})" for i in range(alpha)]
    run_rows = target.jit(define("run_rows", lines, v=v, row_of=row_of, product=product))

    lines = ["def row_columns(vectors, body, to, step):"]
    lines += ["    for group in range(vectors):"]
    loads = [f"v.load(body, (group * {m} + {j}) * {lanes})" for j in range(m)]
    lines += [f"        {names('d', m)} = deinterleave({', '.join(loads)})"]
    lines += [f"        {names('o', alpha)} = product({names('d', m)})"]
    lines += [f"        v.store(to, {j} * step + group * {lanes}, o{j})" for j in range(alpha)]
    row_columns = target.jit(define("row_columns", lines, v=v, deinterleave=deinterleave, product=product))

    @target.call
    def transform_grad_output(args, first, tiles, vectors, y, to, step, body):
        th, tw = (args[f.oh] + m - 1) // m, (args[f.ow] + m - 1) // m
        image, row, column = place(args, first)
        pitch = pitch_of(vectors)
        zeros = v.advance(body, alpha * pitch)
        done = 0
        while done < tiles:
            run = min(tw - column, tiles - done)
            run_rows(
                v.advance(y, image * args[f.y_n]), args[f.y_k], args[f.y_h], args[f.oh], args[f.ow], row * m,
                column * m, run, zeros, v.advance(body, done * m), pitch,
            )  # fmt: skip
            done += run
            column = 0
            row += 1
            if row == th:
                row = 0
                image += 1
        for i in range(alpha):
            row_columns(vectors, v.advance(body, i * pitch), v.advance(to, i * alpha * step), step)

    def kernel(args, scratch, begin, end):
        first, tiles, vectors, _ = block(args, args[f.block])
        c, k = args[f.c], args[f.k]
        parts = (c + k + args[f.channels] - 1) // args[f.channels]
        step, step_y = (vectors * c + 1) * lanes, (vectors * k + 1) * lanes
        for item in range(begin, end):
            g, start = item // parts, item % parts * args[f.channels]
            last = min(start + args[f.channels], c + k)
            if start < c:
                to = args[f.v] + g * area * step * v.itemsize
                transform_input(args, first, tiles, vectors, 1, g, start, min(last, c), to, scratch)
            if last > c:
                body = v.pointer(scratch)
                for i in range(alpha * pitch_of(vectors) + args[f.ow]):
                    body[i] = 0
                for channel in range(max(start - c, 0), last - c):
                    y = v.advance(v.pointer(args[f.y]), (g * k + channel) * args[f.y_k])
                    to_y = v.advance(v.pointer(args[f.w]), g * area * step_y + channel * vectors * lanes)
                    transform_grad_output(args, first, tiles, vectors, y, to_y, step_y, body)

    return kernel


def _pack(target: Target, size: int) -> Inner:
    """Make ``pack(source, pitch, vectors, rows, to, width)``: to[tile][row] = source[row][tile].

    For ``size`` rows, zero past ``rows``; ``width`` is the pitch of ``to``, ``size`` itself unless that is the lanes.
    """
    v, lanes = target.v, target.lanes
    interleave = shuffles(target, codegen.interleave(size, lanes), "interleave")

    @target.jit
    def row(source, pitch, group, i, rows):
        return v.load(source, i * pitch + group * lanes) if i < rows else v.zero()

    lines = ["def pack(source, pitch, vectors, rows, to, width):"]
    lines += ["    for group in range(vectors):"]
    loads = [f"row(source, pitch, group, {i}, rows)" for i in range(size)]
    lines += [f"        {names('o', size)} = interleave({', '.join(loads)})"]
    for i in range(size):
        tile, rest = divmod(i * lanes, size)
        lines += [f"        v.store(to, (group * {lanes} + {tile}) * width + {rest}, o{i})"]
    return target.call(define("pack", lines, v=v, row=row, interleave=interleave))


def _grad_multiply(filtering: Filtering, target: Target) -> Callable[..., None]:
    """The sums of products over the tiles of a block, for one xi after another."""
    v, lanes, tile_rows, per_panel = target.v, target.lanes, target.rows, target.vectors
    shape = Blocks(target, filtering, "grad_multiply")
    f, block = shape.f, shape.block
    gemm, pack_rows, pack_lanes = gemm_rows(target), _pack(target, tile_rows), _pack(target, lanes)

    def kernel(args, scratch, begin, end):
        _, tiles, vectors, _ = block(args, args[f.block])
        parts = (tiles + DEPTH - 1) // DEPTH
        c, k, pitch = args[f.c], args[f.k], vectors * lanes
        groups = (c + lanes - 1) // lanes
        panels = (groups + per_panel - 1) // per_panel
        packed_y = v.pointer(scratch)
        packed_x = v.advance(packed_y, (k + tile_rows - 1) // tile_rows * tile_rows * pitch)
        for item in range(begin, end):
            s = v.advance(v.pointer(args[f.s]), item * (k * c + lanes))
            x = v.advance(v.pointer(args[f.v]), item * (pitch * c + lanes))
            y = v.advance(v.pointer(args[f.w]), item * (pitch * k + lanes))
            for row in range(0, k, tile_rows):
                pack_rows(
                    v.advance(y, row * pitch), pitch, vectors, k - row, v.advance(packed_y, row * pitch), tile_rows
                )
            for panel in range(panels):
                first = groups * panel // panels * lanes
                width = groups * (panel + 1) // panels * lanes - first
                for group in range(first, first + width, lanes):
                    to = v.advance(packed_x, group - first)
                    pack_lanes(v.advance(x, group * pitch), pitch, vectors, c - group, to, width)
                for part in range(parts):
                    tile = tiles * part // parts
                    depth = tiles * (part + 1) // parts - tile
                    for row in range(0, k, tile_rows):
                        gemm(
                            depth, v.advance(packed_y, row * pitch + tile * tile_rows), 0,
                            v.advance(packed_x, tile * width), width, v.advance(s, row * c + first), c, 0,
                            min(k - row, tile_rows), min(width, c - first), args[f.block] + part > 0,
                        )  # fmt: skip

    return kernel


def _grad_weight(filtering: Filtering, target: Target) -> Callable[..., None]:
    """The inverse transform of the sums."""
    v, lanes = target.v, target.lanes
    f: Any = abi.fields(f"winograd_{filtering.name}_grad_weight")
    alpha, area = filtering.alpha, filtering.alpha**2
    scales = codegen.scales(transforms(*filtering))

    lines = ["def inverse(s, step, n, taps):"]
    for j in range(alpha):
        for i in range(alpha):
            xi = i * alpha + j
            lines += [f"    d{i} = v.load_partial(v.advance(s, {xi} * step), n) * v.broadcast({scales[xi]!r})"]
        lines += [f"    {', '.join(f'h{i}_{j}' for i in range(3))} = product({names('d', alpha)})"]
    lines += ["    total = v.zero()"]
    for i in range(3):
        named = ", ".join(f"o{i * 3 + j}" for j in range(3))
        lines += [f"    {named} = product({', '.join(f'h{i}_{j}' for j in range(alpha))})"]
        lines += [f"    total = total + o{i * 3 + j}" for j in range(3)]
    lines += [f"    {names('o', 9)} = interleave({names('o', 9)})"]
    lines += [f"    v.store(taps, {i * lanes}, o{i})" for i in range(9)]
    lines += ["    return v.sum(total)"]
    product = product_by(target, filtering, "grad_weight")
    interleave = shuffles(target, codegen.interleave(9, lanes), "interleave")
    inverse = target.call(define("inverse", lines, v=v, product=product, interleave=interleave))

    @target.call
    def exact(args, g, k, c, i, j):
        """One element of the gradient by the definition."""
        total = v.zero()
        for image in range(args[f.n]):
            x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + (g * args[f.c] + c) * args[f.x_c])
            y = v.advance(v.pointer(args[f.y]), image * args[f.y_n] + (g * args[f.k] + k) * args[f.y_k])
            for row in range(args[f.oh]):
                for column in range(args[f.ow]):
                    top, left = row + i - args[f.ph], column + j - args[f.pw]
                    value = v.zero()
                    if 0 <= top < args[f.ih] and 0 <= left < args[f.iw]:
                        value = v.broadcast(x[top * args[f.x_h] + left])
                    total = v.fma(value, v.broadcast(y[row * args[f.y_h] + column]), total)
        return v.extract(total, 0)

    def kernel(args, scratch, begin, end):
        taps = v.pointer(scratch)
        contiguous = args[f.out_w] == 1 and args[f.out_h] == 3 and args[f.out_c] == 9
        step = args[f.k] * args[f.c] + lanes
        for item in range(begin, end):
            g, k = item // args[f.k], item % args[f.k]
            for c in range(0, args[f.c], lanes):
                count = min(lanes, args[f.c] - c)
                s = v.advance(v.pointer(args[f.s]), g * area * step + k * args[f.c] + c)
                out = v.advance(v.pointer(args[f.out]), item * args[f.out_k] + c * args[f.out_c])
                whole = contiguous and count == lanes
                total = inverse(s, step, count, out if whole else taps)
                if whole and total - total == 0:
                    continue
                source = out if whole else taps
                for lane in range(count):
                    for tap in range(9):
                        value = source[lane * 9 + tap]
                        if value - value != 0:
                            value = exact(args, g, k, c + lane, tap // 3, tap % 3)
                        out[lane * args[f.out_c] + tap // 3 * args[f.out_h] + tap % 3 * args[f.out_w]] = value

    return kernel


for _make, _stage in (
    (_grad_transform, "grad_transform"), (_grad_multiply, "grad_multiply"), (_grad_weight, "grad_weight"),
):  # fmt: skip
    globals().update(factories(_make, _stage, [each for each in abi.WINOGRAD if each.has_weight_gradient]))
