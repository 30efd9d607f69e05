"""Direct convolution: a thread sums a few outputs in registers, from the input in place; lanes are pixels of a row.

Numba widens sums of 32-bit integers to 64 bits, and lets negative indices count from an array's end: what is made an
``int32`` or ``uint32`` here spares registers and instructions, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from numba import cuda, float32, float64, int32, uint32


@cache
def correlate(dtype: str, kh: int, kw: int, sh: int, channels: int, rows: int, columns: int) -> Callable[..., None]:
    """A correlation of ``tall * kh`` by ``kw`` taps.

    Grid: x over pixels of a plane, y over planes (image, group, block of ``channels`` output channels). A thread owns
    ``rows`` output rows one below the other and ``columns`` pixels a block's width apart, of ``channels`` channels.
    Rows of the input that several of its outputs see are loaded once; that takes ``tall`` 1 and no dilation of rows.
    """
    real = float64 if dtype == "float64" else float32
    reach = (rows - 1) * sh + kh
    sums = channels * columns * rows
    loaded = columns * reach

    def kernel(
        x, x_start, x_n, x_c, x_h, x_w, weight, w_start, w_g, w_k, w_c, w_h, w_w, bias, has_bias,
        out, o_start, o_n, o_k, o_h, o_w, planes, groups, c, k, ih, iw, oh, ow, tall, stride, sw, ph, pw, dh, dw,
    ):  # fmt: skip
        acc = cuda.local.array(sums, real)
        column = cuda.local.array(loaded, real)
        width = cuda.blockDim.x * columns
        across = (ow + width - 1) // width
        down = cuda.blockIdx.x // across
        left = int32((cuda.blockIdx.x - down * across) * width + cuda.threadIdx.x)
        top = int32((down * cuda.blockDim.z + cuda.threadIdx.z) * rows)
        blocks = (k + channels - 1) // channels
        plane = int32(cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y)
        while plane < planes:
            image = int32(plane // (groups * blocks))
            group = int32((plane // blocks) % groups)
            first = int32((plane % blocks) * channels)
            for s in range(sums):
                acc[s] = real(0)
            for channel in range(c):
                x_at = int32(x_start + image * x_n + (group * c + channel) * x_c)
                w_at = int32(w_start + group * w_g + first * w_k + channel * w_c)
                for block in range(tall):
                    y0 = int32(top * stride - ph + block * kh * dh)
                    for j in range(kw):
                        for t in range(columns):
                            ix = int32((left + t * cuda.blockDim.x) * sw - pw + j * dw)
                            inside = ix >= 0 and ix < iw
                            for r in range(reach):
                                iy = int32(y0 + r * dh)
                                value = real(0)
                                if inside and iy >= 0 and iy < ih:
                                    value = real(x[uint32(x_at + iy * x_h + ix * x_w)])
                                column[t * reach + r] = value
                        for q in range(channels):
                            if channels == 1 or first + q < k:
                                for i in range(kh):
                                    tap = real(weight[uint32(w_at + q * w_k + (block * kh + i) * w_h + j * w_w)])
                                    for t in range(columns):
                                        for m in range(rows):
                                            s = (q * columns + t) * rows + m
                                            acc[s] += tap * column[t * reach + m * sh + i]
            for q in range(channels):
                if first + q < k:
                    start = real(0)
                    if has_bias:
                        start = real(bias[uint32(group * k + first + q)])
                    o_at = int32(o_start + image * o_n + (group * k + first + q) * o_k)
                    for t in range(columns):
                        for m in range(rows):
                            if top + m < oh and left + t * cuda.blockDim.x < ow:
                                total = acc[(q * columns + t) * rows + m] + start
                                out[uint32(o_at + (top + m) * o_h + (left + t * cuda.blockDim.x) * o_w)] = total
            plane = int32(plane + cuda.gridDim.y * cuda.blockDim.y)

    return kernel


@cache
def grad_weight(dtype: str, taps_h: int, taps_w: int, threads: int) -> Callable[..., None]:
    """Partial weight gradients: a block sums one part of the pixels for ``taps_h`` x ``taps_w`` taps of a filter.

    Grid: x over (output channel, input channel of its group, block of taps), y over parts. A part is a range of the
    output rows of all images; its sums are added over the threads in a fixed tree.
    """
    real = float64 if dtype == "float64" else float32
    taps = taps_h * taps_w
    kept = taps * threads

    def kernel(
        x, x_start, x_n, x_c, x_h, x_w, y, y_start, y_n, y_k, y_h, y_w, partial, n, c, k_group, count,
        ih, iw, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw,
    ):  # fmt: skip
        shared = cuda.shared.array(kept, real)
        acc = cuda.local.array(taps, real)
        thread = cuda.threadIdx.x
        across = (kw + taps_w - 1) // taps_w
        per_filter = across * ((kh + taps_h - 1) // taps_h)
        block = cuda.blockIdx.x % per_filter
        pair = cuda.blockIdx.x // per_filter
        channel = pair % c
        filter_ = pair // c
        i0 = int32((block // across) * taps_h)
        j0 = int32((block % across) * taps_w)
        x_at = int32(x_start + ((filter_ // k_group) * c + channel) * x_c)
        y_at = int32(y_start + filter_ * y_k)
        part, parts = cuda.blockIdx.y, cuda.gridDim.y
        # n * oh * parts may pass 32 bits
        begin = int32((n * oh // parts) * part + min(n * oh % parts, part))
        end = int32(begin + n * oh // parts + (1 if part < n * oh % parts else 0))
        for tap in range(taps):
            acc[tap] = real(0)
        for pixel in range(thread, (end - begin) * ow, threads):
            row = int32(begin + pixel // ow)
            ox = int32(pixel % ow)
            image = int32(row // oh)
            oy = int32(row % oh)
            value = real(y[uint32(y_at + image * y_n + oy * y_h + ox * y_w)])
            for i in range(taps_h):
                iy = int32(oy * sh - ph + (i0 + i) * dh)
                for j in range(taps_w):
                    ix = int32(ox * sw - pw + (j0 + j) * dw)
                    if iy >= 0 and iy < ih and ix >= 0 and ix < iw:
                        acc[i * taps_w + j] += value * real(x[uint32(x_at + image * x_n + iy * x_h + ix * x_w)])
        for tap in range(taps):
            shared[tap * threads + thread] = acc[tap]
        cuda.syncthreads()
        half = threads // 2
        while half > 0:
            if thread < half:
                for tap in range(taps):
                    shared[tap * threads + thread] += shared[tap * threads + thread + half]
            cuda.syncthreads()
            half //= 2
        for tap in range(thread, taps, threads):
            i = i0 + tap // taps_w
            j = j0 + tap % taps_w
            if i < kh and j < kw:
                partial[part * count + (pair * kh + i) * kw + j] = shared[tap * threads]

    return kernel


@cache
def sum_parts() -> Callable[..., None]:
    """One thread an element of the weight gradient: its parts, added in their order."""

    def kernel(partial, parts, count, out):
        index = cuda.grid(1)
        if index < count:
            total = partial[index]
            for part in range(1, parts):
                total += partial[part * count + index]
            out[index] = total

    return kernel


@cache
def grad_bias(dtype: str, threads: int) -> Callable[..., None]:
    """A block sums one channel's gradient over images and pixels, in float64. Grid: x over channels."""

    def kernel(y, y_start, y_n, y_k, y_h, y_w, out, n, oh, ow):
        shared = cuda.shared.array(threads, float64)
        thread = cuda.threadIdx.x
        y_at = y_start + cuda.blockIdx.x * y_k
        total = float64(0)
        for image in range(n):
            for pixel in range(thread, oh * ow, threads):
                total += float64(y[uint32(y_at + image * y_n + (pixel // ow) * y_h + (pixel % ow) * y_w)])
        shared[thread] = total
        cuda.syncthreads()
        half = threads // 2
        while half > 0:
            if thread < half:
                shared[thread] += shared[thread + half]
            cuda.syncthreads()
            half //= 2
        if thread == 0:
            out[cuda.blockIdx.x] = shared[0]

    return kernel
