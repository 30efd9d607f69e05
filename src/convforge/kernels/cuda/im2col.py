"""Convolution as a product of matrices whose right operand, the lowered input, is built in shared memory only.

Chetlur et al., "cuDNN: Efficient primitives for deep learning", 2014, section 3: a block of threads computes a tile of
``bm`` output channels by ``bn`` output pixels of all images, and gathers ``bk`` rows of lowered input a step. A thread
gathers for one pixel, whose place in the input it finds once. What a row adds to that is found once as well:

* by tap, where ``table`` is 0: steps go tap by tap, and through blocks of ``bk`` channels within a tap, so that only
  the channel changes from step to step;
* by table, for few channels: rows go through the taps within a channel, and shared memory holds a table, with room for
  ``table`` rows, of their offsets in the input and their taps' places.

The weight is packed beforehand in the order of the steps, so that its panel is read four elements at a time, unmasked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from numba import cuda, int32

from convforge.kernels.cuda import gemm, shim
from convforge.kernels.cuda.shim import ALIGNMENT, load, load_if, quotient, store, within
from convforge.kernels.cuda.tile import WIDTH, Tile
from convforge.kernels.numba.generate import define

#: Threads of a block of the kernels that copy.
COPY_THREADS = 128
#: The place of a row beyond the last: below every image.
NOWHERE = int32(0x7FFF0000)


@cache
def forward(dtype: str, bm: int, bn: int, bk: int, tm: int, tn: int, table: int) -> Callable[..., None]:
    """A correlation. Grid: blocks of output channels (fastest) times blocks of pixels; groups; ranges of steps.

    Each range of steps writes an ``out`` of its own, ``out_part`` elements after the last. ``u`` is what :func:`pack`
    makes.
    """
    tile = Tile(bm, bn, bk, tm, tn)
    threads, a_size, b_size = tile.threads, bk * tile.a_pitch, bk * tile.b_pitch
    a_room, b_room, table_room = 2 * a_size, 2 * b_size, max(1, table)
    a_width, a_fours, a_rows = bm // WIDTH, bk * bm // (WIDTH * threads), threads * WIDTH // bm
    b_count, b_rows = bk * bn // threads, threads // bn
    a_pitch, b_pitch = tile.a_pitch, tile.b_pitch
    first_row, first_column, write = gemm.first_row(tile), gemm.first_column(tile), gemm.write_sums(tile)
    load_a, load_b, gather_b = shim.load_rows(a_fours), shim.load_column(b_count), _gather(b_count, b_rows)
    store_a, store_b = shim.store_rows(a_fours), shim.store_column(b_count, b_rows * b_pitch)
    multiply, zeros, real = shim.multiply(tile), shim.zeros(tm * tn, dtype), shim.TYPES[dtype]

    def kernel(
        x, x_at, x_n, x_c, x_h, x_w, u, out, out_at, out_n, out_k, out_h, out_w, out_part, bias, biased,
        c, k, ih, iw, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw, pixels, k_blocks, steps, steps_a_part,
    ):  # fmt: skip
        a_panel = cuda.shared.array(a_room, real, ALIGNMENT)
        b_panel = cuda.shared.array(b_room, real, ALIGNMENT)
        targets = cuda.shared.array(bn, int32, ALIGNMENT)
        offsets = cuda.shared.array(table_room, int32, ALIGNMENT)
        places = cuda.shared.array(table_room, int32, ALIGNMENT)
        thread, group, part = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        p_block = quotient(cuda.blockIdx.x, k_blocks)
        k_first = int32((cuda.blockIdx.x - p_block * k_blocks) * bm)

        column, row = thread % bn, thread // bn
        pixel = int32(p_block * bn + column)
        inside = pixel < pixels
        image = quotient(pixel, oh * ow)
        pixel = int32(pixel - image * oh * ow)
        oy = quotient(pixel, ow)
        ox = int32(pixel - oy * ow)
        if row == 0:
            target = int32(image * out_n + oy * out_h + ox * out_w)
            targets[column] = target if inside else int32(-1)
        iy, ix = int32(oy * sh - ph), int32(ox * sw - pw)
        height = ih if inside else int32(0)
        corner = int32(x_at + image * x_n + group * c * x_c + iy * x_h + ix * x_w)

        step, end = int32(part * steps_a_part), int32(min(steps, (part + 1) * steps_a_part))
        if table:
            r, s, channel = int32(0), int32(0), int32(0)
            entry = int32(thread)
            while entry < steps * bk:
                offsets[entry] = _offset(entry, kh * kw, kw, dh, dw, x_c, x_h, x_w)
                places[entry] = _place(entry, c * kh * kw, kh * kw, kw, dh, dw)
                entry = int32(entry + threads)
        else:
            steps_a_tap = quotient(c + bk - 1, bk)
            tap = quotient(step, steps_a_tap)
            channel = int32((step - tap * steps_a_tap) * bk + row)
            r = quotient(tap, kw)
            s = int32(tap - r * kw)
        seen = within(iy + r * dh, height) and within(ix + s * dw, iw)
        b_at = int32(corner + r * dh * x_h + s * dw * x_w + channel * x_c)
        k_pitch = int32(k_blocks * bm)
        a_row, a_column = thread // a_width, thread % a_width * WIDTH
        a_at = int32(((group * steps + step) * bk + a_row) * k_pitch + k_first + a_column)
        a_put, b_put = int32(a_row * a_pitch + a_column), int32(row * b_pitch + column)

        a_get, b_get = first_row(thread), first_column(thread)
        sums = zeros()
        half = int32(0)
        if table:
            cuda.syncthreads()
        if step < end:
            a = load_a(u, a_at, a_rows * k_pitch, 0, 0, 1)
            if table:
                b = gather_b(x, corner, iy, ix, height, iw, offsets, places, step * bk + row)
            else:
                b = load_b(x, b_at, b_rows * x_c, seen, channel, b_rows, c)
            store_a(a_panel, a_put, a_rows * a_pitch, a)
            store_b(b_panel, b_put, b)
        cuda.syncthreads()
        while step < end:
            step = int32(step + 1)
            if step < end:
                a_at = int32(a_at + bk * k_pitch)
                a = load_a(u, a_at, a_rows * k_pitch, 0, 0, 1)
                if table:
                    b = gather_b(x, corner, iy, ix, height, iw, offsets, places, step * bk + row)
                else:
                    b_at = int32(b_at + bk * x_c)
                    channel = int32(channel + bk)
                    if channel >= c + row:
                        channel = int32(row)
                        s = int32(s + 1)
                        if s == kw:
                            s = int32(0)
                            r = int32(r + 1)
                        seen = within(iy + r * dh, height) and within(ix + s * dw, iw)
                        b_at = int32(corner + r * dh * x_h + s * dw * x_w + row * x_c)
                    b = load_b(x, b_at, b_rows * x_c, seen, channel, b_rows, c)
            sums = multiply(sums, a_panel, half * a_size + a_get, b_panel, half * b_size + b_get)
            half = int32(1 - half)
            if step < end:
                store_a(a_panel, half * a_size + a_put, a_rows * a_pitch, a)
                store_b(b_panel, half * b_size + b_put, b)
            cuda.syncthreads()

        first = int32(k_first + a_get)
        at = int32(out_at + part * out_part + (group * k + first) * out_k)
        wide = shim.starts_aligned(out) and out_k & 3 == 0 and at & 3 == 0
        write(out, at, out_k, targets, b_get, k - first, wide, bias, group * k + first, biased, sums)

    kernel.min_blocks = tile.blocks  # type: ignore[attr-defined]
    return kernel


@shim.device
def _offset(entry, area, kw, dh, dw, x_c, x_h, x_w):
    """What row ``entry``, through ``area`` taps within a channel, adds to a pixel's first index."""
    channel = quotient(entry, area)
    tap = int32(entry - channel * area)
    r = quotient(tap, kw)
    return int32(channel * x_c + r * dh * x_h + (tap - r * kw) * dw * x_w)


@shim.device
def _place(entry, entries, area, kw, dh, dw):
    """What row ``entry`` adds to a pixel's row and column, in the upper and the lower half."""
    tap = int32(entry - quotient(entry, area) * area)
    r = quotient(tap, kw)
    return int32(r * dh << 16 | (tap - r * kw) * dw) if entry < entries else NOWHERE


@cache
def _gather(count: int, rows: int) -> Callable[..., Any]:
    """``f(x, corner, iy, ix, ih, iw, offsets, places, entry)``: rows ``entry``, ``entry + rows``... of one pixel."""
    lines = ["def gather(x, corner, iy, ix, ih, iw, offsets, places, entry):"]
    for i in range(count):
        lines += [
            f"    place = places[entry + {i * rows}]",
            "    seen = within(iy + (place >> 16), ih) and within(ix + (place & 0xFFFF), iw)",
            f"    v{i} = load_if(x, int32(corner + offsets[entry + {i * rows}]), seen)",
        ]
    lines.append(f"    return ({', '.join(f'v{i}' for i in range(count))},)")
    return shim.device(define("gather", lines, load_if=load_if, within=within, int32=int32))


@cache
def pack(bk: int, by_table: bool) -> Callable[..., None]:
    """The weight in the order of the steps, ``u[group][row][k_pitch]``, with zeros where a step or a block is not full.

    Grid: rows, blocks of output channels, groups.
    """

    def kernel(w, w_at, w_g, w_k, w_c, w_h, w_w, u, k, c, kh, kw, k_pitch, rows):
        column, row, group = cuda.blockIdx.y * COPY_THREADS + cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.z
        if by_table:
            channel = quotient(row, kh * kw)
            tap = int32(row - channel * kh * kw)
        else:
            width = int32(quotient(c + bk - 1, bk) * bk)
            tap = quotient(row, width)
            channel = int32(row - tap * width)
        r = quotient(tap, kw)
        s = int32(tap - r * kw)
        if column < k_pitch:
            at = int32(w_at + group * w_g + column * w_k + channel * w_c + r * w_h + s * w_w)
            store(u, (group * rows + row) * k_pitch + column, load_if(w, at, column < k and channel < c))

    return kernel


@cache
def grad_weight(dtype: str, bm: int, bn: int, bk: int, tm: int, tn: int, by_table: bool) -> Callable[..., None]:
    """Products of output gradients and lowered input, summed over pixels; ``bk`` pixels a step.

    A thread reads one pixel of both: eight threads side by side read eight pixels of a row, and write a column of the
    panels. A block's columns are channels of one tap, or by table any (c, kh, kw) in the weight's order. Grid: blocks
    of output channels (fastest) times blocks of columns (times taps); groups; ranges of steps, whose sums go to
    ``partial[part][k][c][kh][kw]``.
    """
    tile = Tile(bm, bn, bk, tm, tn, pad=4)
    threads, a_size, b_size = tile.threads, bk * tile.a_pitch, bk * tile.b_pitch
    rows, a_room, b_room, table_room = threads // bk, 2 * a_size, 2 * b_size, bn if by_table else 1
    a_count, b_count, a_pitch, b_pitch = bm // rows, bn // rows, tile.a_pitch, tile.b_pitch
    first_row, first_column, write = gemm.first_row(tile), gemm.first_column(tile), gemm.write_sums(tile)
    load_a, load_b, gather_b = shim.load_column(a_count), shim.load_column(b_count), _gather(b_count, rows)
    store_a, store_b = shim.store_column(a_count, rows), shim.store_column(b_count, rows)
    multiply, zeros, real = shim.multiply(tile), shim.zeros(tm * tn, dtype), shim.TYPES[dtype]

    def fetch(
        x, y, x_first, x_n, x_c, x_h, x_w, y_first, y_n, y_k, y_h, y_w, image, oy, ox, wanted, sh, sw, ph, pw,
        ih, iw, r, s, row, k, c, offsets, places,
    ):  # fmt: skip
        iy, ix = int32(oy * sh - ph), int32(ox * sw - pw)
        a = load_a(y, y_first + image * y_n + oy * y_h + ox * y_w, rows * y_k, wanted, row, rows, k)
        b_at = int32(x_first + image * x_n + oy * sh * x_h + ox * sw * x_w)
        if by_table:
            b = gather_b(x, b_at, iy, ix, ih if wanted else int32(0), iw, offsets, places, row)
        else:
            seen = wanted and within(iy + r, ih) and within(ix + s, iw)
            b = load_b(x, b_at, rows * x_c, seen, row, rows, c)
        return a, b

    fetch = shim.device(fetch)

    def kernel(
        x, x_at, x_n, x_c, x_h, x_w, y, y_at, y_n, y_k, y_h, y_w, partial,
        c, k, groups, ih, iw, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw, pixels, k_blocks, steps_a_part,
    ):  # fmt: skip
        a_panel = cuda.shared.array(a_room, real, ALIGNMENT)
        b_panel = cuda.shared.array(b_room, real, ALIGNMENT)
        targets = cuda.shared.array(bn, int32, ALIGNMENT)
        offsets = cuda.shared.array(table_room, int32, ALIGNMENT)
        places = cuda.shared.array(table_room, int32, ALIGNMENT)
        thread, group, part = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        c_block = quotient(cuda.blockIdx.x, k_blocks)
        k_first = int32((cuda.blockIdx.x - c_block * k_blocks) * bm)
        area, columns = int32(kh * kw), int32(c * kh * kw)
        lane, row = thread & (bk - 1), thread // bk
        entry = int32(thread)
        if by_table:
            r, s, c_first = int32(0), int32(0), int32(c_block * bn)
            while entry < bn:
                targets[entry] = int32(c_first + entry) if c_first + entry < columns else int32(-1)
                offsets[entry] = _offset(c_first + entry, area, kw, dh, dw, x_c, x_h, x_w)
                places[entry] = _place(c_first + entry, columns, area, kw, dh, dw)
                entry = int32(entry + threads)
            x_first = int32(x_at + group * c * x_c - ph * x_h - pw * x_w)
            cuda.syncthreads()
        else:
            blocks = quotient(c + bn - 1, bn)
            tap = quotient(c_block, blocks)
            c_first = int32((c_block - tap * blocks) * bn)
            while entry < bn:
                targets[entry] = int32((c_first + entry) * area + tap) if c_first + entry < c else int32(-1)
                entry = int32(entry + threads)
            r = quotient(tap, kw)
            s = int32(tap - r * kw)
            r, s = int32(r * dh), int32(s * dw)
            x_first = int32(x_at + (group * c + c_first + row) * x_c + (r - ph) * x_h + (s - pw) * x_w)

        pixel = int32(part * steps_a_part * bk + lane)
        last = int32(min(pixels, (part + 1) * steps_a_part * bk))
        steps = quotient(last - (pixel - lane) + bk - 1, bk)
        image = quotient(pixel, oh * ow)
        oy = quotient(pixel - image * oh * ow, ow)
        ox = int32(pixel - (image * oh + oy) * ow)
        # a step of bk pixels is so many images, rows and pixels
        images_a_step = quotient(bk, oh * ow)
        rows_a_step = quotient(bk - images_a_step * oh * ow, ow)
        pixels_a_step = int32(bk - (images_a_step * oh + rows_a_step) * ow)
        y_first = int32(y_at + (group * k + k_first + row) * y_k)
        a_put, b_put = int32(lane * a_pitch + row), int32(lane * b_pitch + row)
        a_get, b_get = first_row(thread), first_column(thread)

        sums = zeros()
        half, done = int32(0), int32(bk)
        left = int32(last - pixel)
        a, b = fetch(
            x, y, x_first, x_n, x_c, x_h, x_w, y_first, y_n, y_k, y_h, y_w, image, oy, ox, left > 0, sh, sw, ph, pw,
            ih, iw, r, s, row, k - k_first, c - c_first, offsets, places,
        )  # fmt: skip
        store_a(a_panel, a_put, a)
        store_b(b_panel, b_put, b)
        cuda.syncthreads()
        while steps > 0:
            steps = int32(steps - 1)
            if steps > 0:
                ox, oy, image = int32(ox + pixels_a_step), int32(oy + rows_a_step), int32(image + images_a_step)
                if ox >= ow:
                    ox, oy = int32(ox - ow), int32(oy + 1)
                if oy >= oh:
                    oy, image = int32(oy - oh), int32(image + 1)
                a, b = fetch(
                    x, y, x_first, x_n, x_c, x_h, x_w, y_first, y_n, y_k, y_h, y_w, image, oy, ox, done < left, sh, sw,
                    ph, pw, ih, iw, r, s, row, k - k_first, c - c_first, offsets, places,
                )  # fmt: skip
                done = int32(done + bk)
            sums = multiply(sums, a_panel, half * a_size + a_get, b_panel, half * b_size + b_get)
            half = int32(1 - half)
            if steps > 0:
                store_a(a_panel, half * a_size + a_put, a)
                store_b(b_panel, half * b_size + b_put, b)
            cuda.syncthreads()

        first = int32(k_first + a_get)
        at = int32(((part * groups + group) * k + first) * columns)
        wide = columns & 3 == 0
        write(partial, at, columns, targets, b_get, k - first, wide, partial, 0, False, sums)

    kernel.min_blocks = tile.blocks  # type: ignore[attr-defined]
    return kernel


@cache
def sum_parts(dtype: str) -> Callable[..., None]:
    """``out[a, b, c, d] = bias[b] + sum over parts``, always in the same order. Grid: blocks of elements."""
    zero = shim.TYPES[dtype](0)

    def kernel(partial, parts, count, out, out_at, out_a, out_b, out_c, out_d, size_b, size_c, size_d, bias, biased):
        at = cuda.blockIdx.x * COPY_THREADS + cuda.threadIdx.x
        if at < count:
            # four sums at a time wait for memory together
            s0, s1, s2, s3 = zero, zero, zero, zero
            part = int32(0)
            while part < parts:
                here = int32(part * count + at)
                s0 += load(partial, here)
                s1 += load_if(partial, here + count, part + 1 < parts)
                s2 += load_if(partial, here + 2 * count, part + 2 < parts)
                s3 += load_if(partial, here + 3 * count, part + 3 < parts)
                part = int32(part + 4)
            line = quotient(at, size_d)
            plane = quotient(line, size_c)
            block = quotient(plane, size_b)
            d, c, b = int32(at - line * size_d), int32(line - plane * size_c), int32(plane - block * size_b)
            value = (s0 + s1) + (s2 + s3) + load_if(bias, b, biased)
            store(out, int32(out_at + block * out_a + b * out_b + c * out_c + d * out_d), value)

    return kernel
