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


def _sides(filtering: Filtering, short: bool) -> tuple[int, list[int]]:
    """The m of whole or of shorter tiles, and where their products stand among those of whole ones."""
    if not short:
        return filtering.m, list(range(filtering.alpha))
    return filtering.short, [*range(filtering.short + filtering.halo - 1), filtering.alpha - 1]


def _kinds(filtering: Filtering) -> list[tuple[bool, bool]]:
    """Whether tiles are short, in height and in width."""
    sizes = (False, True) if filtering.short else (False,)
    return [(down, across) for down in sizes for across in sizes]


def _kind_name(down: bool, across: bool) -> str:
    return f"{'low' if down else 'high'}_{'narrow' if across else 'wide'}"


def _run_input(target: Target, filtering: Filtering, down: bool, across: bool) -> Inner:
    """Make ``run(copy, zeros, width, top, first, ph, ih, dh, dw, column, run, to, to_tile, to_xi, half)``.

    So many tiles of a row of the copied input, from a column on; half a tile is scratch.
    """
    v, lanes, alpha = target.v, target.lanes, filtering.alpha
    (_, high), (m, wide) = _sides(filtering, down), _sides(filtering, across)
    # B^T both ways on a tile, whose columns are so far apart; half a tile is more than the registers hold
    rows = ", ".join(f"row{i}" for i in range(len(high)))
    lines = [f"def tile_input({rows}, column, dilation, to, pitch, half):"]
    lines += [f"    for j in range({len(wide)}):"]
    loads = ", ".join(f"v.load(row{i}, (column + j * dilation) * {lanes})" for i in range(len(high)))
    lines += [f"        {names('o', len(high))} = product_down({loads})"]
    lines += [f"        v.store(half, ({i * alpha} + j) * {lanes}, o{i})" for i in range(len(high))]
    lines += [f"    for i in range({len(high)}):"]
    loads = ", ".join(f"v.load(half, (i * {alpha} + {j}) * {lanes})" for j in range(len(wide)))
    lines += [f"        {names('o', len(wide))} = product_across({loads})"]
    lines += [f"        at = (i if i < {len(high) - 1} else {alpha - 1}) * {alpha}"]
    lines += [f"        v.store(to, (at + {place}) * pitch, o{j})" for j, place in enumerate(wide)]
    products = {
        "product_down": product_by(target, filtering, "input", short=down),
        "product_across": product_by(target, filtering, "input", short=across),
    }
    tile_input = target.call(define("tile_input", lines, v=v, **products))

    @target.jit
    def copied_row(copy, zeros, width, line, first, ph, ih):
        return v.advance(copy, (line - first) * width * lanes) if ph <= line < ih + ph else zeros

    lines = ["def run_input(copy, zeros, width, top, first, ph, ih, dh, dw, column, run, to, to_tile, to_xi, half):"]
    lines += [f"    row{i} = copied_row(copy, zeros, width, top + {i} * dh, first, ph, ih)" for i in range(len(high))]
    step = filtering.stride * m
    lines += ["    for i in range(run):"]
    lines += [f"        tile_input({rows}, column + i * {step} * dw, dw, v.advance(to, i * to_tile), to_xi, half)"]
    return target.call(define("run_input", lines, v=v, tile_input=tile_input, copied_row=copied_row))


def channels_input(target: Target, filtering: Filtering, shape: Blocks) -> Inner:
    """Make ``channels_input(args, first, tiles, g, begin, end, to, scratch)``: a group's channels, whole vectors."""
    v, lanes = target.v, target.lanes
    f, place, size = shape.f, shape.place, shape.size
    before, number_of = shape.before, shape.number_of
    step, alpha, stride = filtering.step, filtering.alpha, filtering.stride
    transpose_in, (pitch_of, _) = transposing_in(target), pitches(target)
    runs = {_kind_name(*kind): _run_input(target, filtering, *kind) for kind in _kinds(filtering)}
    run_input = runs["high_wide"]
    arguments = "copy, zeros, width, top, start, ph, ih, dh, dw, column, run, to, to_tile, to_xi, half"
    lines = [f"def short_run(down, across, {arguments}):"]
    for down, across in _kinds(filtering):
        lines += [f"    if down == {down} and across == {across}:"]
        lines += [f"        {_kind_name(down, across)}({arguments})"]
    short_run = target.jit(define("short_run", lines, **runs))

    def transform_input(args, first, tiles, g, begin, end, to, scratch):
        ih, iw, ph, pw, dh, dw = args[f.ih], args[f.iw], args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        th, tw = size(args)
        phases = dh * dw
        short_h, short_w = args[f.short_h], args[f.short_w]
        mixed = short_h + short_w > 0
        whole_h, whole_w = th - short_h, tw - short_w
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
        half = v.advance(zeros, width * lanes)
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
                        start = before(row, whole_h) * stride
                        last = min(th, row + (column + tiles - done + tw - 1) // tw) - 1
                        last = before(last, whole_h) * stride + alpha
                    x = v.advance(
                        v.pointer(args[f.x]), copied * args[f.x_n] + (g * args[f.c] + channel) * args[f.x_c] + left - pw
                    )
                    for line in range(max(start, ph), min(last, ih + ph)):
                        row_x = v.advance(x, (line - ph) * args[f.x_h])
                        row_to = v.advance(copy, ((line - start) * width + left) * lanes)
                        transpose_in(row_x, args[f.x_c], min(end - channel, lanes) - 1, columns, row_to)
                run = min(tw - column, tiles - done)
                top = before(row, whole_h) * stride * dh + image % phases // dw
                side = before(column, whole_w) * stride * dw + image % dw
                v_to = v.advance(v.pointer(to), channel)
                if not mixed:
                    run_input(
                        copy, zeros, width, top, start, ph, ih, dh, dw, side, run, v.advance(v_to, done * to_tile),
                        to_tile, to_xi, half,
                    )  # fmt: skip
                else:
                    at = number_of(args, first, tiles, image * th + row, 0)
                    short_run(
                        row >= whole_h, False, copy, zeros, width, top, start, ph, ih, dh, dw, side, whole_w,
                        v.advance(v_to, at * to_tile), to_tile, to_xi, half,
                    )  # fmt: skip
                    at = number_of(args, first, tiles, image * th + row, whole_w)
                    short_run(
                        row >= whole_h, True, copy, zeros, width, top, start, ph, ih, dh, dw, whole_w * step, short_w,
                        v.advance(v_to, at * to_tile), to_tile, to_xi, half,
                    )  # fmt: skip
                done += run
                column = 0
                row += 1
                if row == th:
                    row = 0
                    image += 1

    return target.jit(transform_input)


def _row_output(target: Target, filtering: Filtering, down: bool, across: bool) -> Inner:
    """Make ``row(p, to_tile, pitch, bias, tiles, height, columns, to, to_row, to_column, half)``: outputs, and a total.

    That is NaN or infinite if any output is without its bias.
    """
    v, lanes, alpha = target.v, target.lanes, filtering.alpha
    (m_down, high), (m_across, wide) = _sides(filtering, down), _sides(filtering, across)
    lines = ["def tile_output(p, pitch, bias, height, columns, to, to_row, to_column, half):"]
    lines += [f"    for j in range({len(wide)}):"]
    lines += [f"        column = v.advance(p, (j if j < {len(wide) - 1} else {alpha - 1}) * pitch)"]
    loads = ", ".join(f"v.load(column, {place * alpha} * pitch)" for place in high)
    lines += [f"        {names('o', m_down)} = product_down({loads})"]
    lines += [f"        v.store(half, ({i * alpha} + j) * {lanes}, o{i})" for i in range(m_down)]
    lines += ["    total = v.zero()"]
    lines += [f"    for i in range(min(height, {m_down})):"]
    loads = ", ".join(f"v.load(half, (i * {alpha} + {j}) * {lanes})" for j in range(len(wide)))
    lines += [f"        {names('o', m_across)} = product_across({loads})"]
    for j in range(m_across):
        lines += [f"        if {j} < columns:"]
        lines += [f"            total = total + o{j}"]
        lines += [f"            v.store(to, i * to_row + {j} * to_column, o{j} + bias)"]
    lines += ["    return total"]
    products = {
        "product_down": product_by(target, filtering, "output", short=down),
        "product_across": product_by(target, filtering, "output", short=across),
    }
    tile_output = target.call(define("tile_output", lines, v=v, **products))

    @target.call
    def row_output(p, to_tile, pitch, bias, tiles, height, columns, to, to_row, to_column, half):
        total = v.zero()
        for t in range(tiles):
            total = total + tile_output(
                v.advance(p, t * to_tile), pitch, bias, height, columns - t * m_across,
                v.advance(to, t * m_across * to_column), to_row, to_column, half,
            )  # fmt: skip
        return total

    return row_output


def channels_output(target: Target, filtering: Filtering, shape: Blocks) -> Inner:
    """Make ``channels_output(args, first, tiles, g, first_k, products, scratch)``."""
    v, lanes = target.v, target.lanes
    f, place, size = shape.f, shape.place, shape.size
    before, number_of = shape.before, shape.number_of
    m, alpha = filtering.m, filtering.alpha
    transpose_out, (_, pitch_of) = transposing_out(target), pitches(target)
    repair = repairing(target, filtering, f)
    rows = {_kind_name(*kind): _row_output(target, filtering, *kind) for kind in _kinds(filtering)}
    row_output = rows["high_wide"]
    arguments = "p, to_tile, pitch, bias, tiles, height, columns, to, to_row, to_column, half"
    lines = [f"def short_row(down, across, {arguments}):"]
    for down, across in _kinds(filtering):
        lines += [f"    if down == {down} and across == {across}:"]
        lines += [f"        return {_kind_name(down, across)}({arguments})"]
    lines += ["    return v.zero()"]
    short_row = target.jit(define("short_row", lines, v=v, **rows))

    def transform_output(args, first, tiles, g, first_k, products, scratch):
        oh, ow, dh, dw, out_h, out_k = (
            args[f.oh], args[f.ow], args[f.dh], args[f.dw], args[f.out_h], args[f.out_k],
        )  # fmt: skip
        th, tw = size(args)
        phases = dh * dw
        short_h, short_w = args[f.short_h], args[f.short_w]
        mixed = short_h + short_w > 0
        whole_h, whole_w = th - short_h, tw - short_w
        count = min(args[f.k_block], args[f.k] - first_k)
        to_tile = pitch_of(count)
        to_xi = tiles * to_tile + lanes
        half, pixels_of = scratch, v.advance(scratch, alpha**2 * lanes)
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
                top = before(row, whole_h) * dh + image % phases // dw
                left = before(column, whole_w) * dw + image % dw
                height = min((oh - top + dh - 1) // dh, before(row + 1, whole_h) - before(row, whole_h))
                columns = before(column + run, whole_w) - before(column, whole_w)
                columns = min((ow - left + dw - 1) // dw, columns)
                to_row = (columns if phases == 1 else ow) * lanes
                pixels = pixels_of if phases == 1 else v.advance(pixels_of, (top * ow + left) * lanes)
                if not mixed:
                    total = row_output(
                        v.advance(source, done * to_tile), to_tile, to_xi, shift, run, height, columns, pixels,
                        to_row * dh, dw * lanes, half,
                    )  # fmt: skip
                else:
                    at = number_of(args, first, tiles, image * th + row, 0)
                    total = short_row(
                        row >= whole_h, False, v.advance(source, at * to_tile), to_tile, to_xi, shift, whole_w, height,
                        columns, pixels, to_row * dh, dw * lanes, half,
                    )  # fmt: skip
                    at = number_of(args, first, tiles, image * th + row, whole_w)
                    total = total + short_row(
                        row >= whole_h, True, v.advance(source, at * to_tile), to_tile, to_xi, shift, short_w, height,
                        columns - whole_w * m, v.advance(pixels, whole_w * m * lanes), to_row * dh, dw * lanes, half,
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
                    transpose_out(pixels_of, height * columns, channels, out, out_k)
                else:
                    for i in range(height):
                        to = v.advance(out, i * out_h)
                        transpose_out(v.advance(pixels_of, i * columns * lanes), columns, channels, to, out_k)

    return target.jit(transform_output)
