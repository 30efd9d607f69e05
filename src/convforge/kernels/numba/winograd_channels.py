"""The transforms of Winograd F(m, r) with channels in the lanes: what they read and write is transposed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels.numba.channels import transposing_in, transposing_out
from convforge.kernels.numba.generate import define, names
from convforge.kernels.numba.winograd_blocks import Blocks, pitches, product_by
from convforge.kernels.numba.winograd_output import repairing

if TYPE_CHECKING:
    from convforge.kernels.abi import Filtering
    from convforge.kernels.numba.translate import Inner, Target


def channels_input(target: Target, filtering: Filtering, shape: Blocks) -> Inner:
    """Make ``channels_input(args, first, tiles, g, begin, end, to, scratch)``: a group's channels, whole vectors."""
    v, lanes = target.v, target.lanes
    f, place, size = shape.f, shape.place, shape.size
    step, alpha = filtering.step, filtering.alpha
    transpose_in, (pitch_of, _) = transposing_in(target), pitches(target)
    product = product_by(target, filtering, "input")
    # B^T both ways on a tile, whose columns are so far apart
    rows = ", ".join(f"row{i}" for i in range(alpha))
    lines = [f"def tile_input({rows}, column, dilation, to, pitch):"]
    for j in range(alpha):
        loads = ", ".join(f"v.load(row{i}, (column + {j} * dilation) * {lanes})" for i in range(alpha))
        lines += [f"    {', '.join(f'h{i}_{j}' for i in range(alpha))} = product({loads})"]
    for i in range(alpha):
        lines += [f"    {names('o', alpha)} = product({', '.join(f'h{i}_{j}' for j in range(alpha))})"]
        lines += [f"    v.store(to, {i * alpha + j} * pitch, o{j})" for j in range(alpha)]
    tile_input = target.call(define("tile_input", lines, v=v, product=product))

    @target.jit
    def copied_row(copy, zeros, width, line, first, ph, ih):
        return v.advance(copy, (line - first) * width * lanes) if ph <= line < ih + ph else zeros

    lines = ["def run_input(copy, zeros, width, top, first, ph, ih, dh, dw, column, run, to, to_tile, to_xi):"]
    lines += [f"    row{i} = copied_row(copy, zeros, width, top + {i} * dh, first, ph, ih)" for i in range(alpha)]
    lines += ["    for i in range(run):"]
    lines += [f"        tile_input({rows}, column + i * {step} * dw, dw, v.advance(to, i * to_tile), to_xi)"]
    run_input = target.call(define("run_input", lines, v=v, tile_input=tile_input, copied_row=copied_row))

    def transform_input(args, first, tiles, g, begin, end, to, scratch):
        ih, iw, ph, pw, dh, dw = args[f.ih], args[f.iw], args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        th, tw = size(args)
        phases = dh * dw
        high = th if phases > 1 else min(th, (tiles - 2 + tw) // tw + 1)
        height, width = ((high - 1) * step + alpha) * dh, ((tw - 1) * step + alpha) * dw
        to_tile = pitch_of(args[f.c])
        to_xi = tiles * to_tile + lanes
        # columns of the copy, which begins ph and pw before x, that are columns of x
        left = max(pw, 0)
        columns = max(min(width, iw + pw) - left, 0)
        # [height][width][LANES]: of an image, from the block's first row of it on, or if it is dilated from its first
        copy = v.pointer(scratch)
        zeros = v.advance(copy, height * width * lanes)
        for i in range(width):
            v.store(zeros, i * lanes, v.zero())
        for line in range(height):
            for i in range(left):
                v.store(copy, (line * width + i) * lanes, v.zero())
            for i in range(left + columns, width):
                v.store(copy, (line * width + i) * lanes, v.zero())
        first_image, first_row, first_column = place(args, first)
        for channel in range(begin, end, lanes):
            image, row, column = first_image, first_row, first_column
            done, copied, start = 0, -1, 0
            while done < tiles:
                if image // phases != copied:
                    copied = image // phases
                    last = height
                    if phases == 1:
                        start = row * step
                        last = (min(th, row + (column + tiles - done + tw - 1) // tw) - 1) * step + alpha
                    x = v.advance(
                        v.pointer(args[f.x]), copied * args[f.x_n] + (g * args[f.c] + channel) * args[f.x_c] + left - pw
                    )
                    for line in range(max(start, ph), min(last, ih + ph)):
                        row_x = v.advance(x, (line - ph) * args[f.x_h])
                        row_to = v.advance(copy, ((line - start) * width + left) * lanes)
                        transpose_in(row_x, args[f.x_c], min(end - channel, lanes) - 1, columns, row_to)
                run = min(tw - column, tiles - done)
                run_input(
                    copy, zeros, width, row * step * dh + image % phases // dw, start, ph, ih, dh, dw,
                    column * step * dw + image % dw, run, v.advance(v.pointer(to), done * to_tile + channel), to_tile,
                    to_xi,
                )  # fmt: skip
                done += run
                column = 0
                row += 1
                if row == th:
                    row = 0
                    image += 1

    return target.jit(transform_input)


def channels_output(target: Target, filtering: Filtering, shape: Blocks) -> Inner:
    """Make ``channels_output(args, first, tiles, g, first_k, products, scratch)``."""
    v, lanes = target.v, target.lanes
    f, place, size = shape.f, shape.place, shape.size
    m, alpha = filtering.m, filtering.alpha
    transpose_out, (_, pitch_of) = transposing_out(target), pitches(target)
    repair = repairing(target, filtering, f)
    # A^T both ways on a tile; the sum of all is NaN or infinite if any output is without a bias
    lines = ["def tile_output(p, pitch, bias, height, columns, to, to_row, to_column):"]
    for j in range(alpha):
        loads = ", ".join(f"v.load(p, {i * alpha + j} * pitch)" for i in range(alpha))
        lines += [f"    {', '.join(f'h{i}_{j}' for i in range(m))} = product({loads})"]
    lines += ["    total = v.zero()"]
    for i in range(m):
        lines += [f"    if {i} < height:"]
        lines += [f"        {names('o', m)} = product({', '.join(f'h{i}_{j}' for j in range(alpha))})"]
        for j in range(m):
            lines += [f"        if {j} < columns:"]
            lines += [f"            total = total + o{j}"]
            lines += [f"            v.store(to, {i} * to_row + {j} * to_column, o{j} + bias)"]
    lines += ["    return total"]
    product = product_by(target, filtering, "output")
    tile_output = target.call(define("tile_output", lines, v=v, product=product))

    def transform_output(args, first, tiles, g, first_k, products, scratch):
        oh, ow, dh, dw, out_h, out_k = (
            args[f.oh], args[f.ow], args[f.dh], args[f.dw], args[f.out_h], args[f.out_k],
        )  # fmt: skip
        th, tw = size(args)
        phases = dh * dw
        count = min(args[f.k_block], args[f.k] - first_k)
        to_tile = pitch_of(count)
        to_xi = tiles * to_tile + lanes
        biases = v.pointer(args[f.bias])
        first_image, first_row, first_column = place(args, first)
        for k in range(first_k, first_k + count, lanes):
            channels = min(first_k + count - k, lanes)
            shift = v.zero()
            if args[f.bias] != 0:
                shift = v.load_partial(v.advance(biases, g * args[f.k] + k), channels)
            source = v.advance(products, k - first_k)
            image, row, column = first_image, first_row, first_column
            done = 0
            while done < tiles:
                whole = image // phases
                run = min(tw - column, tiles - done)
                # the first output, how many there are, dh and dw apart, and where: in a row of tiles, or a whole image
                top, left = row * m * dh + image % phases // dw, column * m * dw + image % dw
                height, columns = min((oh - top + dh - 1) // dh, m), min((ow - left + dw - 1) // dw, run * m)
                to_row = (columns if phases == 1 else ow) * lanes
                pixels = scratch if phases == 1 else v.advance(scratch, (top * ow + left) * lanes)
                total = v.zero()
                for t in range(run):
                    total = total + tile_output(
                        v.advance(source, (done + t) * to_tile), to_xi, shift, height, columns - t * m,
                        v.advance(pixels, t * m * dw * lanes), to_row * dh, dw * lanes,
                    )  # fmt: skip
                sum_ = v.sum(total)
                if sum_ - sum_ != 0:
                    for i in range(channels):
                        bias = biases[g * args[f.k] + k + i] if args[f.bias] != 0 else v.extract(v.zero(), 0)
                        repair(
                            args, whole, g, k + i, top, left, height, columns, v.advance(pixels, i), to_row * dh,
                            dw * lanes, bias,
                        )  # fmt: skip
                done += run
                column = 0
                row += 1
                if row == th:
                    row = 0
                    image += 1
                if phases > 1:
                    if image // phases == whole:
                        continue
                    top, left, height, columns = 0, 0, oh, ow
                out = v.advance(
                    v.pointer(args[f.out]),
                    whole * args[f.out_n] + (g * args[f.k] + k) * out_k + top * out_h + left,
                )
                if columns == out_h:
                    transpose_out(scratch, height * columns, channels, out, out_k)
                else:
                    for i in range(height):
                        to = v.advance(out, i * out_h)
                        transpose_out(v.advance(scratch, i * columns * lanes), columns, channels, to, out_k)

    return target.jit(transform_output)
