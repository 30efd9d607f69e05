"""The output transform of Winograd F(m, r) with tiles in the lanes, and what is done about non-finite outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convforge.kernels import codegen
from convforge.kernels.numba.generate import define, names, shuffles
from convforge.kernels.numba.winograd_blocks import Blocks, product_by

if TYPE_CHECKING:
    from convforge.kernels.abi import Filtering
    from convforge.kernels.numba.translate import Inner, Target


def repairing(target: Target, filtering: Filtering, f: Any) -> Inner:
    """Make ``repair(args, image, g, k, top, left, height, width, rows, pitch, step, bias)``.

    It computes outputs that are not finite again, by the definition: only those stay that the definition makes so. They
    are every dh-th from the row ``top`` on, and every dw-th from the column ``left``.
    """
    v, r, stride = target.v, filtering.r, filtering.stride

    @target.call
    def exact(args, image, g, k, top, left):
        """One output by the definition."""
        w = v.advance(v.pointer(args[f.w]), g * args[f.w_g] + k * args[f.w_k])
        x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + g * args[f.c] * args[f.x_c])
        total = v.zero()
        for _ in range(args[f.c]):
            for i in range(r):
                for j in range(r):
                    value = v.zero()  # padding times an infinite weight is NaN
                    row, column = top + i * args[f.dh], left + j * args[f.dw]
                    if 0 <= row < args[f.ih] and 0 <= column < args[f.iw]:
                        value = v.broadcast(x[row * args[f.x_h] + column])
                    factor = v.broadcast(w[i * args[f.w_h] + j * args[f.w_w]])
                    total = v.fma(value, factor, total)
            x = v.advance(x, args[f.x_c])
            w = v.advance(w, args[f.w_c])
        return v.extract(total, 0)

    @target.call
    def repair(args, image, g, k, top, left, height, width, rows, pitch, step, bias):
        for i in range(height):
            for j in range(width):
                at = i * pitch + j * step
                if rows[at] - rows[at] != 0:
                    row, column = top + i * args[f.dh], left + j * args[f.dw]
                    rows[at] = bias + exact(args, image, g, k, row * stride - args[f.ph], column * stride - args[f.pw])

    return repair


def output_transform(target: Target, filtering: Filtering, shape: Blocks) -> Inner:
    """Make ``transform_output(args, first, tiles, vectors, panels, g, first_k, products, rows)``: rows is scratch."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    f, place, panel_start = shape.f, shape.place, shape.panel_start
    m, alpha = filtering.m, filtering.alpha
    repair = repairing(target, filtering, f)

    lines = ["def tiles_output(p, step, rows, pitch):"]
    for j in range(alpha):
        loads = [f"v.load(p, {i * alpha + j} * step)" for i in range(alpha)]
        lines += [f"    {', '.join(f'h{i}_{j}' for i in range(m))} = product({', '.join(loads)})"]
    lines += ["    total = v.zero()"]
    for i in range(m):
        lines += [f"    {names('o', m)} = product({', '.join(f'h{i}_{j}' for j in range(alpha))})"]
        lines += [f"    total = total + o{j}" for j in range(m)]
        lines += [f"    {names('o', m)} = interleave({names('o', m)})"]
        lines += [f"    v.store(rows, {i} * pitch + {j * lanes}, o{j})" for j in range(m)]
    lines += ["    return total"]
    product = product_by(target, filtering, "output")
    interleave = shuffles(target, codegen.interleave(m, lanes), "interleave")
    # A^T both ways on a vector of tiles: m virtual rows; the sum of all is NaN or infinite if any output is
    tiles_output = target.call(define("tiles_output", lines, v=v, product=product, interleave=interleave))

    def transform_output(args, first, tiles, vectors, panels, g, first_k, products, rows):
        th, tw = (args[f.oh] + m - 1) // m, (args[f.ow] + m - 1) // m
        count = min(args[f.k_block], args[f.k] - first_k)
        padded = (count + tile_rows - 1) // tile_rows * tile_rows
        pitch = vectors * m * lanes
        biases = v.pointer(args[f.bias])
        first_image, first_row, first_column = place(args, first)
        for k in range(first_k, first_k + count):
            total = v.zero()
            start = 0
            for panel in range(panels):
                width = panel_start(vectors, panels, panel + 1) - start
                p = v.advance(products, alpha**2 * (padded * start + (k - first_k) * width) * lanes)
                for group in range(width):
                    total = total + tiles_output(
                        v.advance(p, group * lanes), width * lanes, v.advance(rows, (start + group) * m * lanes), pitch
                    )
                start += width
            sum_ = v.sum(total)
            shift = v.broadcast(biases[g * args[f.k] + k]) if args[f.bias] != 0 else v.zero()
            image, row, column = first_image, first_row, first_column
            done = 0
            while done < tiles:
                run = min(tw - column, tiles - done)
                height = min(m, args[f.oh] - row * m)
                columns = min(run * m, args[f.ow] - column * m)
                if sum_ - sum_ != 0:
                    repair(
                        args, image, g, k, row * m, column * m, height, columns, v.advance(rows, done * m), pitch, 1,
                        v.extract(v.zero(), 0),
                    )  # fmt: skip
                source = v.advance(rows, done * m)
                out = v.advance(
                    v.pointer(args[f.out]),
                    image * args[f.out_n] + (g * args[f.k] + k) * args[f.out_k] + row * m * args[f.out_h] + column * m,
                )
                for _ in range(height):
                    q = 0
                    while q + lanes <= columns:
                        v.store(out, q, v.load(source, q) + shift)
                        v.prefetch(out, q + args[f.out_k])
                        q += lanes
                    if q < columns and columns >= lanes:  # some once more, faster than a part of a vector
                        v.store(out, columns - lanes, v.load(source, columns - lanes) + shift)
                    elif q < columns:  # of scratch all lanes may be read
                        v.store_partial(v.advance(out, q), v.load(source, q) + shift, columns - q)
                    source = v.advance(source, pitch)
                    out = v.advance(out, args[f.out_h])
                done += run
                column = 0
                row += 1
                if row == th:
                    row = 0
                    image += 1

    return target.jit(transform_output)
