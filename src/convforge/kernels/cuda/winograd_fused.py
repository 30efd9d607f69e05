"""Winograd's F(2 x 2, 3 x 3) in one launch: transformed tiles and their sums never leave a multiprocessor.

After Yan, Wang and Chu, "Optimizing batched Winograd convolution on GPUs", 2020. Sixteen sums for each 2 x 2 outputs
just fit into a multiprocessor's registers; F(4 x 4, 3 x 3), with 36 sums, has to go through memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from numba import cuda, int32

from convforge.kernels.cuda import gemm, shim
from convforge.kernels.cuda import winograd_tiles as make
from convforge.kernels.cuda.shim import ALIGNMENT, load_if, quotient, within
from convforge.kernels.cuda.tile import FUSED, WIDTH
from convforge.kernels.numba.generate import define


@cache
def fused(dtype: str) -> Callable[..., None]:
    """F(2x2, 3x3) in one launch: input and sums of a block's tiles are transformed in shared memory and registers.

    A thread transforms one tile of one channel a step, on its way from the device's memory into the panels ``v`` (16
    points x 8 channels x 32 tiles), beside which lie those of ``u`` (16 x 8 x 64). Each thread holds the sums of 8 x 8
    at two points; in the end these are exchanged through the same shared memory, 16 output channels at a time. Grid:
    blocks of output channels (fastest) times blocks of tiles; groups.
    """
    depth, width, height = FUSED.bk, FUSED.bm, FUSED.bn
    u_size, v_point, u_point = 16 * depth * height, depth * width, depth * height
    room, real = 16 * depth * (height + width), shim.TYPES[dtype]
    first_row, first_column, multiply = gemm.first_row(FUSED), gemm.first_column(FUSED), shim.multiply(FUSED)
    zeros, product, finish = shim.zeros(FUSED.tm * FUSED.tn, dtype), make.product(2, "output"), make.finish(2)
    transform, read, put_v = make.product(2, "input"), make.masked_window(4), shim.store_column(16, v_point)
    load_u, put_u = shim.load_rows(8), shim.store_rows(8)
    exchange0, exchange1, exchange2, exchange3 = (_exchange(part) for part in range(4))
    points = make.strided(16)

    def kernel(
        x, x_at, x_n, x_c, x_h, x_w, u, out, out_at, out_n, out_k, out_h, out_w, bias, biased, oh, ow, ty, tx, tiles,
        w, w_at, w_g, w_k, w_c, w_h, w_w, k, c, ih, iw, ph, pw, k_blocks, k_pitch,
    ):  # fmt: skip
        panel = cuda.shared.array(room, real, ALIGNMENT)
        thread, group = cuda.threadIdx.x, cuda.blockIdx.y
        t_block = quotient(cuda.blockIdx.x, k_blocks)
        k_first = int32((cuda.blockIdx.x - t_block * k_blocks) * height)
        lane, warp = int32(thread & 31), int32(thread >> 5)
        tile = int32(t_block * width + lane)
        image = quotient(tile, ty * tx)
        rest = int32(tile - image * ty * tx)
        row = quotient(rest, tx)
        y, z = int32(row * 2), int32((rest - row * tx) * 2)
        iy, ix = int32(y - ph), int32(z - pw)
        inside = tile < tiles
        mask = int32(0)
        for i in range(4):
            if inside and within(iy + i, ih):
                for j in range(4):
                    if within(ix + j, iw):
                        mask = int32(mask | 1 << 4 * i + j)
        image_at = int32(x_at + image * x_n + group * c * x_c)
        channel = warp
        x_next = int32(image_at + channel * x_c + iy * x_h + ix * x_w)
        line = int32(thread // 16 % depth)
        plane = int32(cuda.gridDim.y * c * k_pitch)
        u_next = int32((group * c + line) * k_pitch + k_first + thread % 16 * WIDTH + thread // 128 * plane)
        v_put, u_put = int32(u_size + channel * width + lane), int32(thread * WIDTH)
        v_get = int32(u_size + 2 * warp * v_point + first_row(lane))
        u_get = int32(2 * warp * u_point + first_column(lane))
        sums, others = zeros(), zeros()

        pixels = read(x, x_next, x_h, x_w, mask if channel < c else int32(0))
        weights = load_u(u, u_next, 2 * plane, line, 0, c)
        begin = int32(0)
        while begin < c:
            put_v(panel, v_put, transform(pixels))
            put_u(panel, u_put, 1024, weights)
            cuda.syncthreads()
            begin = int32(begin + depth)
            if begin < c:
                x_next, u_next = int32(x_next + depth * x_c), int32(u_next + depth * k_pitch)
                pixels = read(x, x_next, x_h, x_w, mask if begin + channel < c else int32(0))
                weights = load_u(u, u_next, 2 * plane, begin + line, 0, c)
            sums = multiply(sums, panel, v_get, panel, u_get)
            others = multiply(others, panel, v_get + v_point, panel, u_get + u_point)
            cuda.syncthreads()

        part = int32(0)
        while part < 4:
            at = int32(2 * warp * 512 + first_column(lane) // 2 * width + first_row(lane))
            if part == 0:
                exchange0(panel, at, sums, others)
            elif part == 1:
                exchange1(panel, at, sums, others)
            elif part == 2:
                exchange2(panel, at, sums, others)
            else:
                exchange3(panel, at, sums, others)
            cuda.syncthreads()
            number = warp
            while number < 16:
                inner = int32(k_first + part // 2 * 32 + number // 2 * 4 + part % 2 * 2 + number % 2)
                if inside and inner < k:
                    values = product(points(panel, int32(number * width + lane), 512))
                    outer = int32(group * k + inner)
                    finish(
                        values, out, int32(out_at + image * out_n + outer * out_k + y * out_h + z * out_w), out_h,
                        out_w, oh - y, ow - z, load_if(bias, outer, biased), x, image_at, x_c, x_h, x_w, w,
                        int32(w_at + group * w_g + inner * w_k), w_c, w_h, w_w, c, ih, iw, iy, ix,
                    )  # fmt: skip
                number = int32(number + 8)
            cuda.syncthreads()
            part = int32(part + 1)

    return kernel


def _exchange(part: int) -> Callable[..., None]:
    """``f(panel, at, sums, others)``: two of a thread's columns, of both points, as ``panel[point][column][tile]``."""
    lines = ["def exchange(panel, at, sums, others):"]
    for point, name in enumerate(("sums", "others")):
        for column in range(2):
            for four in range(FUSED.tm // WIDTH):
                of_thread = part // 2 * WIDTH + part % 2 * 2 + column
                values = [f"{name}[{(four * WIDTH + e) * FUSED.tn + of_thread}]" for e in range(WIDTH)]
                offset = point * 512 + column * FUSED.bm + four * FUSED.row_step
                lines.append(f"    store4(panel, at + {offset}, {', '.join(values)})")
    return shim.device(define("exchange", lines, store4=shim.store4))
