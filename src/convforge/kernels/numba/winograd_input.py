"""The input transform of Winograd F(m, r) with tiles in the lanes: v[panel][xi][c][tiles]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import codegen
from convforge.kernels.numba.generate import define, names, shuffles
from convforge.kernels.numba.winograd_blocks import Blocks, product_by

if TYPE_CHECKING:
    from convforge.kernels.abi import Filtering
    from convforge.kernels.numba.translate import Inner, Target


def input_transform(target: Target, filtering: Filtering, shape: Blocks) -> Inner:
    """Make ``transform_input(args, first, tiles, vectors, panels, g, begin, end, to, scratch)``: a group's channels."""
    v, lanes = target.v, target.lanes
    f, place, panel_start, pitch_of = shape.f, shape.place, shape.panel_start, shape.pitch
    m, step, halo_size, alpha = filtering.m, filtering.step, filtering.halo, filtering.alpha

    @target.jit
    def input_row(x, x_h, ih, row, zeros):
        return v.advance(x, row * x_h) if 0 <= row < ih else zeros

    lines = ["def run_rows(x, next_channel, x_h, ih, iw, top, left, columns, zeros, body, pitch):"]
    lines += [f"    r{i} = v.advance(input_row(x, x_h, ih, top + {i}, zeros), left)" for i in range(alpha)]
    lines += [f"    for q in range(0, columns, {lanes}):"]
    lines += [f"        if left + q >= 0 and left + q + {lanes} <= iw:"]
    lines += [f"            d{i} = v.load(r{i}, q)" for i in range(alpha)]
    lines += [f"            v.prefetch(r{i}, q + next_channel)" for i in range(step)]
    lines += ["        else:"]
    lines += [f"            d{i} = v.load_window(v.advance(r{i}, q), -left - q, iw - left - q)" for i in range(alpha)]
    lines += [f"        {names('o', alpha)} = product({names('d', alpha)})"]
    lines += [f"        v.store(body, {i} * pitch + q, o{i})" for i in range(alpha)]
    product = product_by(target, filtering, "input")
    run_rows = target.jit(define("run_rows", lines, v=v, input_row=input_row, product=product))

    @target.call
    def rows(args, image, row, column, tiles, vectors, x, body, halo, zeros):
        """B^T down the columns of a channel: virtual rows to body, what follows the last tile of a run to halo."""
        th, tw = (args[f.oh] + m - 1) // m, (args[f.ow] + m - 1) // m
        # of the last tile of a row, where padding is all that it has in the halo
        last_halo = halo_size if tw * step - args[f.pw] < args[f.iw] else 0
        pitch = pitch_of(vectors)
        done = 0
        while done < tiles:
            run = min(tw - column, tiles - done)
            count = run * step + (last_halo if column + run == tw else halo_size)
            run_rows(
                v.advance(x, image * args[f.x_n]), args[f.x_c], args[f.x_h], args[f.ih], args[f.iw],
                row * step - args[f.ph], column * step - args[f.pw], count, zeros, v.advance(body, done * step), pitch,
            )  # fmt: skip
            done += run
            if count > run * step:
                for i in range(alpha):
                    for j in range(halo_size):
                        halo[(halo_size * i + j) * vectors * lanes + done - 1] = body[i * pitch + done * step + j]
            column = 0
            row += 1
            if row == th:
                row = 0
                image += 1

    body_vectors = [f"v.load(body, ((group + 1) * {step} + {j}) * {lanes})" for j in range(step)]
    lines = ["def row_columns(vectors, body, halo, keep, targets):"]
    lines += [f"    {names('n', step)} = deinterleave({', '.join(f'v.load(body, {j * lanes})' for j in range(step))})"]
    lines += ["    for group in range(vectors):"]
    lines += [f"        {names('d', step)} = {names('n', step)}"]
    lines += ["        if group + 1 < vectors:"]
    lines += [f"            {names('n', step)} = deinterleave({', '.join(body_vectors)})"]
    lines += [f"        inside = v.load(keep, group * {lanes}) > v.zero()"]
    for j in range(halo_size):
        others = f"v.load(halo, ({j} * vectors + group) * {lanes})"
        lines += [f"        d{step + j} = v.select(inside, v.following(d{j}, n{j}), {others})"]
    lines += [f"        {names('o', alpha)} = product({names('d', alpha)})"]
    lines += ["        to, step = v.pointer(targets[4 * group]), targets[4 * group + 1]"]
    lines += [f"        v.store(to, {j} * step, o{j})" for j in range(alpha)]
    lines += [f"        targets[4 * group] += {alpha} * step * {v.itemsize}"]
    deinterleave = shuffles(target, codegen.deinterleave(step, lanes), "deinterleave")
    row_columns = target.jit(define("row_columns", lines, v=v, product=product, deinterleave=deinterleave))

    @target.call
    def columns(vectors, body, halo, keep, targets):
        """B^T along the virtual rows of a channel, tiles into lanes; the targets become those of the next channel."""
        pitch = pitch_of(vectors)
        for _ in range(alpha):
            row_columns(vectors, body, halo, keep, targets)
            body = v.advance(body, pitch)
            halo = v.advance(halo, halo_size * vectors * lanes)
        for group in range(vectors):
            targets[4 * group] += targets[4 * group + 2]

    def transform_input(args, first, tiles, vectors, panels, g, begin, end, to, scratch):
        tw = (args[f.ow] + m - 1) // m
        # for each vector of tiles: where it goes, elements between one xi and the next, bytes from the last xi of a
        # channel to the first of the next one; one is idle
        targets = v.pointer_int64(scratch)
        body = v.pointer(scratch + 32 * vectors)
        halo = v.advance(body, alpha * pitch_of(vectors))
        zeros = v.advance(halo, halo_size * alpha * vectors * lanes)
        keep = v.advance(zeros, args[f.iw])
        # lanes past the last tile stay zero, not whatever was there: that could be slow to compute with
        for i in range(alpha * pitch_of(vectors) + halo_size * alpha * vectors * lanes + args[f.iw]):
            body[i] = 0
        for i in range(vectors * lanes):
            keep[i] = 0 if (first + i) % tw == tw - 1 or i == tiles - 1 else 1
        for panel in range(panels):
            start = panel_start(vectors, panels, panel)
            width = panel_start(vectors, panels, panel + 1) - start
            pitch = (width * args[f.c] + 1) * lanes
            for group in range(start, start + width):
                offset = alpha**2 * (args[f.c] * start + panel) + width * begin + group - start
                targets[4 * group] = to + offset * lanes * v.itemsize
                targets[4 * group + 1] = pitch
                targets[4 * group + 2] = (width * lanes - alpha**2 * pitch) * v.itemsize
        image, row, column = place(args, first)
        for channel in range(begin, end):
            x = v.advance(v.pointer(args[f.x]), (g * args[f.c] + channel) * args[f.x_c])
            rows(args, image, row, column, tiles, vectors, x, body, halo, zeros)
            columns(vectors, body, halo, keep, targets)

    return target.jit(transform_input)
