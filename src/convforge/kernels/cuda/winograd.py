"""Winograd's F(m x m, 3 x 3) as four passes over memory: transforms of input and weight, products, inverse transform.

Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016. With alpha = m + 2 a tile of alpha x alpha
inputs gives m x m outputs, and each of the alpha^2 elements of the transformed tiles is a product of matrices of its
own over the channels. The transforms of :mod:`convforge.algorithms.winograd` are written out in registers; what they
write has the tiles side by side, so that both transforms and products read and write whole lines of memory.

The sums are finite only where the direct ones are; a thread that sees others computes its outputs directly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from numba import cuda, int32

from convforge.algorithms.winograd.transforms import transforms
from convforge.kernels.codegen import scales
from convforge.kernels.cuda import gemm, shim
from convforge.kernels.cuda import winograd_tiles as make
from convforge.kernels.cuda.shim import ALIGNMENT, load, load_if, quotient, store, within
from convforge.kernels.cuda.tile import WIDTH, Tile

#: Threads of a block of the transforms.
THREADS = 128


@cache
def weight(m: int) -> Callable[..., None]:
    """``u[point][group][c][k] = G w G^T``. Grid: blocks of k, c, groups."""
    transform, put = make.product(m, "weight"), make.put_points(m, scales(transforms(m, 3)))
    read = make.window(3)

    def kernel(w, w_at, w_g, w_k, w_c, w_h, w_w, u, k, c, k_pitch):
        column, channel, group = cuda.blockIdx.x * THREADS + cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        if column < k:
            at = int32(w_at + group * w_g + column * w_k + channel * w_c)
            values = transform(read(w, at, w_h, w_w, 0, 0, 3, 3))
            groups = cuda.gridDim.z
            put(u, int32((group * c + channel) * k_pitch + column), int32(groups * c * k_pitch), values)

    return kernel


@cache
def transform(m: int, gradient: bool) -> Callable[..., None]:
    """``v[point][channel][tile] = B^T d B`` of tiles of the input, or ``A d A^T`` of tiles of an output gradient.

    Zeros from the last tile on to ``pitch``. Grid: blocks of tiles, blocks of ``depth`` channels.
    """
    size = m if gradient else m + 2
    product, read, put = make.product(m, "grad_output" if gradient else "input"), make.window(size), make.put_points(m)

    def kernel(x, x_at, x_n, x_c, x_h, x_w, v, channels, depth, ih, iw, ph, pw, ty, tx, first, tiles, pitch):
        tile = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if tile < pitch:
            image = quotient(first + tile, ty * tx)
            rest = int32(first + tile - image * ty * tx)
            row = quotient(rest, tx)
            iy, ix = int32(row * m - ph), int32((rest - row * tx) * m - pw)
            height = ih if tile < tiles else int32(0)
            channel = int32(cuda.blockIdx.y * depth)
            last = int32(min(channels, channel + depth))
            while channel < last:
                at = int32(x_at + image * x_n + channel * x_c + iy * x_h + ix * x_w)
                values = product(read(x, at, x_h, x_w, iy, ix, height, iw))
                put(v, int32(channel * pitch + tile), int32(channels * pitch), values)
                channel = int32(channel + 1)

    return kernel


@cache
def products(dtype: str, bm: int, bn: int, bk: int, tm: int, tn: int, by_rows: bool) -> Callable[..., None]:
    """``out[part][b][i][j] = sum over d of left[b][d][i] * right[b][d][j]``, ``depth`` products a sum.

    Where ``by_rows`` holds, the operands are ``left[b][i][d]`` and ``right[b][j][d]``, with zeros from ``depth`` on to
    the pitch. The other pitches are whole tiles too; what lies there is never read into a sum that is used. Grid:
    blocks of i (fastest) times blocks of j; b; parts.
    """
    tile = Tile(bm, bn, bk, tm, tn, pad=4 if by_rows else 0)
    threads, a_size, b_size = tile.threads, bk * tile.a_pitch, bk * tile.b_pitch
    a_fours, b_fours = bk * bm // (WIDTH * threads), bk * bn // (WIDTH * threads)
    a_room, b_room, tile_a_pitch, tile_b_pitch = 2 * a_size, 2 * b_size, tile.a_pitch, tile.b_pitch
    first_row, first_column, write = gemm.first_row(tile), gemm.first_column(tile), gemm.write_block(tile)
    load_a, load_b = shim.load_rows(a_fours), shim.load_rows(b_fours)
    multiply, zeros, real = shim.multiply(tile), shim.zeros(tm * tn, dtype), shim.TYPES[dtype]
    if by_rows:
        # a thread reads four steps of a row
        a_rows = b_rows = threads * WIDTH // bk
        store_a = shim.store_transposed(a_fours, a_rows, tile_a_pitch)
        store_b = shim.store_transposed(b_fours, b_rows, tile_b_pitch)
        width_a = width_b = bk // WIDTH
    else:
        a_rows, b_rows = threads * WIDTH // bm, threads * WIDTH // bn
        store_a, store_b = _in_rows(a_fours, a_rows * tile_a_pitch), _in_rows(b_fours, b_rows * tile_b_pitch)
        width_a, width_b = bm // WIDTH, bn // WIDTH

    def kernel(left, right, out, m, n, depth, m_pitch, n_pitch, out_pitch, m_blocks, steps_a_part, first_part):
        a_panel = cuda.shared.array(a_room, real, ALIGNMENT)
        b_panel = cuda.shared.array(b_room, real, ALIGNMENT)
        thread, batch, part = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        n_block = quotient(cuda.blockIdx.x, m_blocks)
        m_first, n_first = int32((cuda.blockIdx.x - n_block * m_blocks) * bm), int32(n_block * bn)
        begin = int32(part * steps_a_part * bk)
        end = int32(min(depth, begin + steps_a_part * bk))
        a_row, b_row = int32(thread // width_a), int32(thread // width_b)
        a_four, b_four = int32(thread % width_a * WIDTH), int32(thread % width_b * WIDTH)
        if by_rows:
            a_at = int32((batch * m + m_first + a_row) * m_pitch + begin + a_four)
            b_at = int32((batch * n + n_first + b_row) * n_pitch + begin + b_four)
            a_next, b_next = int32(bk), int32(bk)
            a_put, b_put = int32(a_four * tile_a_pitch + a_row), int32(b_four * tile_b_pitch + b_row)
            a_line, b_line, a_end, b_end = int32(m_first + a_row), int32(n_first + b_row), int32(m), int32(n)
        else:
            a_at = int32((batch * depth + begin + a_row) * m_pitch + m_first + a_four)
            b_at = int32((batch * depth + begin + b_row) * n_pitch + n_first + b_four)
            a_next, b_next = int32(bk * m_pitch), int32(bk * n_pitch)
            a_put, b_put = int32(a_row * tile_a_pitch + a_four), int32(b_row * tile_b_pitch + b_four)
            a_line, b_line, a_end, b_end = int32(begin + a_row), int32(begin + b_row), int32(end), int32(end)
        a_get, b_get = first_row(thread), first_column(thread)
        sums = zeros()
        half = int32(0)
        if begin < end:
            a = load_a(left, a_at, a_rows * m_pitch, a_line, a_rows, a_end)
            b = load_b(right, b_at, b_rows * n_pitch, b_line, b_rows, b_end)
            store_a(a_panel, a_put, a)
            store_b(b_panel, b_put, b)
        cuda.syncthreads()
        while begin < end:
            begin = int32(begin + bk)
            if begin < end:
                a_at, b_at = int32(a_at + a_next), int32(b_at + b_next)
                if not by_rows:
                    a_line, b_line = int32(a_line + bk), int32(b_line + bk)
                a = load_a(left, a_at, a_rows * m_pitch, a_line, a_rows, a_end)
                b = load_b(right, b_at, b_rows * n_pitch, b_line, b_rows, b_end)
            sums = multiply(sums, a_panel, half * a_size + a_get, b_panel, half * b_size + b_get)
            half = int32(1 - half)
            if begin < end:
                store_a(a_panel, half * a_size + a_put, a)
                store_b(b_panel, half * b_size + b_put, b)
            cuda.syncthreads()
        first = int32(m_first + a_get)
        at = int32((((first_part + part) * cuda.gridDim.y + batch) * m + first) * out_pitch + n_first + b_get)
        write(out, at, out_pitch, m - first, sums)

    kernel.min_blocks = tile.blocks  # type: ignore[attr-defined]
    return kernel


@cache
def output(m: int) -> Callable[..., None]:
    """``out = A^T s A + bias`` of the sums ``s[point][channel][tile]``, m x m outputs a tile.

    Grid: blocks of tiles, output channels of all groups.
    """
    product, read, finish = make.product(m, "output"), make.strided((m + 2) ** 2), make.finish(m)

    def kernel(
        s, pitch, out, out_at, out_n, out_k, out_h, out_w, bias, biased, oh, ow, ty, tx, first, tiles,
        x, x_at, x_n, x_c, x_h, x_w, w, w_at, w_g, w_k, w_c, w_h, w_w, k, c, ih, iw, ph, pw,
    ):  # fmt: skip
        tile, channel = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x), cuda.blockIdx.y
        if tile < tiles:
            image = quotient(first + tile, ty * tx)
            rest = int32(first + tile - image * ty * tx)
            row = quotient(rest, tx)
            y, z = int32(row * m), int32((rest - row * tx) * m)
            values = product(read(s, int32(channel * pitch + tile), int32(cuda.gridDim.y * pitch)))
            group = quotient(channel, k)
            finish(
                values, out, int32(out_at + image * out_n + channel * out_k + y * out_h + z * out_w), out_h, out_w,
                oh - y, ow - z, load_if(bias, channel, biased), x, int32(x_at + image * x_n + group * c * x_c), x_c,
                x_h, x_w, w, int32(w_at + group * w_g + (channel - group * k) * w_k), w_c, w_h, w_w, c, ih, iw,
                int32(y - ph), int32(z - pw),
            )  # fmt: skip

    return kernel


@cache
def grad_weight(dtype: str, m: int) -> Callable[..., None]:
    """``out[k][c] = G^T s G`` of sums ``s[part][point][k][c]``, added up in the order of the parts.

    Grid: blocks of c, output channels of all groups.
    """
    area = (m + 2) ** 2
    product, scaled = make.product(m, "grad_weight"), make.scaled(scales(transforms(m, 3)))
    read, put, is_finite, zeros, added = (
        make.strided(area),
        make.put_tile(3),
        make.is_finite(9),
        shim.zeros(area, dtype),
        make.added(area),
    )
    zero = shim.TYPES[dtype](0)

    def kernel(
        s, pitch, parts, out, out_at, out_k, out_c, out_h, out_w, x, x_first, x_n, x_c, x_h, x_w,
        y, y_first, y_n, y_k, y_h, y_w, n, k, c, ih, iw, oh, ow, ph, pw,
    ):  # fmt: skip
        column, channel = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x), cuda.blockIdx.y
        if column < c:
            sums = zeros()
            step = int32(cuda.gridDim.y * pitch)
            part = int32(0)
            while part < parts:
                sums = added(sums, read(s, int32(part * area * step + channel * pitch + column), step))
                part = int32(part + 1)
            values = product(scaled(sums))
            at = int32(out_at + channel * out_k + column * out_c)
            put(out, at, out_h, out_w, 3, 3, False, zero, values)
            if not is_finite(values):
                x_at = int32(x_first + (quotient(channel, k) * c + column) * x_c)
                number = int32(0)
                while number < 9:
                    r = quotient(number, 3)
                    q = int32(number - 3 * r)
                    total = zero
                    entry = int32(0)
                    while entry < n * oh * ow:
                        image = quotient(entry, oh * ow)
                        row = quotient(entry - image * oh * ow, ow)
                        col = int32(entry - (image * oh + row) * ow)
                        iy, ix = int32(row + r - ph), int32(col + q - pw)
                        seen = within(iy, ih) and within(ix, iw)
                        pixel = load_if(x, int32(x_at + image * x_n + iy * x_h + ix * x_w), seen)
                        total += pixel * load(y, int32(y_first + channel * y_k + image * y_n + row * y_h + col * y_w))
                        entry = int32(entry + 1)
                    store(out, int32(at + r * out_h + q * out_w), total)
                    number = int32(number + 1)

    return kernel


def _in_rows(count: int, step: int) -> Callable[..., None]:
    put = shim.store_rows(count)

    def in_rows(array: Any, at: Any, values: Any) -> None:
        put(array, at, step, values)

    return shim.device(in_rows)
