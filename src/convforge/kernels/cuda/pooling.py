"""Pooling: a thread for each output, or for each pixel of a gradient; lanes are pixels of a row."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from numba import cuda, float32, float64, int32, uint32


@cache
def max_forward(dtype: str, kh: int, kw: int, indexed: bool) -> Callable[..., None]:
    """Maxima of windows: a NaN wins, then the first of equals. Grid: x over a plane's outputs, y over planes."""
    real = float64 if dtype == "float64" else float32

    def kernel(
        x, x_start, x_n, x_c, x_h, x_w, out, o_start, o_n, o_k, o_h, o_w, indices, planes, c, ih, iw, oh, ow,
        sh, sw, ph, pw, dh, dw,
    ):  # fmt: skip
        pixel = int32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
        plane = int32(cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y)
        oy = int32(pixel // ow)
        ox = int32(pixel - oy * ow)
        while plane < planes and oy < oh:
            image = int32(plane // c)
            channel = int32(plane - image * c)
            x_at = int32(x_start + image * x_n + channel * x_c)
            best = real(0)
            place = int32(-1)
            for i in range(kh):
                iy = int32(oy * sh - ph + i * dh)
                for j in range(kw):
                    ix = int32(ox * sw - pw + j * dw)
                    if iy >= 0 and iy < ih and ix >= 0 and ix < iw:
                        value = real(x[uint32(x_at + iy * x_h + ix * x_w)])
                        if place < 0 or value > best or (value != value and best == best):
                            best = value
                            place = int32(iy * iw + ix)
            out[o_start + image * o_n + channel * o_k + oy * o_h + ox * o_w] = best
            if indexed:
                indices[(plane * oh + oy) * ow + ox] = place
            plane = int32(plane + cuda.gridDim.y * cuda.blockDim.y)

    return kernel


@cache
def max_backward(dtype: str, threads: int) -> Callable[..., None]:
    """The gradient of maxima by their indices, whatever the windows were. Grid: x over planes.

    A block adds ``threads`` outputs at a time into its plane ``sums``: of those that share a place, the first adds
    all, in their order. No atomics, so the bits are always the same.
    """
    real = float64 if dtype == "float64" else float32
    rounded = dtype == "float16"

    def kernel(
        y, y_start, y_n, y_k, y_h, y_w, indices, sums, s_start, s_n, s_k, s_h, s_w,
        out, o_start, o_n, o_k, o_h, o_w, c, ih, iw, oh, ow,
    ):  # fmt: skip
        places = cuda.shared.array(threads, int32)
        values = cuda.shared.array(threads, real)
        thread = cuda.threadIdx.x
        plane = cuda.blockIdx.x
        image = int32(plane // c)
        channel = int32(plane - image * c)
        y_at = int32(y_start + image * y_n + channel * y_k)
        s_at = s_start + image * s_n + channel * s_k
        o_at = o_start + image * o_n + channel * o_k
        for pixel in range(thread, ih * iw, threads):
            sums[s_at + (pixel // iw) * s_h + (pixel % iw) * s_w] = real(0)
        for base in range(0, oh * ow, threads):
            output = base + thread
            place = int32(-1)
            value = real(0)
            if output < oh * ow:
                place = int32(indices[plane * oh * ow + output])
                value = real(y[y_at + (output // ow) * y_h + (output % ow) * y_w])
            places[thread] = place
            values[thread] = value
            cuda.syncthreads()
            total = real(0)
            first = place >= 0 and place < ih * iw
            for other in range(threads):
                if places[other] == place:
                    if other < thread:
                        first = False
                    else:
                        total += values[other]
            if first:
                sums[s_at + (place // iw) * s_h + (place % iw) * s_w] += total
            cuda.syncthreads()
        if rounded:
            for pixel in range(thread, ih * iw, threads):
                row = pixel // iw
                col = pixel % iw
                out[o_at + row * o_h + col * o_w] = sums[s_at + row * s_h + col * s_w]

    return kernel


@cache
def avg_forward(dtype: str, kh: int, kw: int) -> Callable[..., None]:
    """Means of windows. A pixel counts in the divisor from (h_first, w_first) to before (h_end, w_end)."""
    real = float64 if dtype == "float64" else float32

    def kernel(
        x, x_start, x_n, x_c, x_h, x_w, out, o_start, o_n, o_k, o_h, o_w, planes, c, ih, iw, oh, ow, sh, sw, ph, pw,
        h_first, h_end, w_first, w_end, divisor,
    ):  # fmt: skip
        pixel = int32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
        plane = int32(cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y)
        oy = int32(pixel // ow)
        ox = int32(pixel - oy * ow)
        y0 = int32(oy * sh - ph)
        x0 = int32(ox * sw - pw)
        count = int32(divisor)
        if count == 0:
            count = int32((min(y0 + kh, h_end) - max(y0, h_first)) * (min(x0 + kw, w_end) - max(x0, w_first)))
        while plane < planes and oy < oh:
            image = int32(plane // c)
            channel = int32(plane - image * c)
            x_at = int32(x_start + image * x_n + channel * x_c)
            total = real(0)
            for i in range(kh):
                for j in range(kw):
                    if y0 + i >= 0 and y0 + i < ih and x0 + j >= 0 and x0 + j < iw:
                        total += real(x[uint32(x_at + (y0 + i) * x_h + (x0 + j) * x_w)])
            out[o_start + image * o_n + channel * o_k + oy * o_h + ox * o_w] = total / real(count)
            plane = int32(plane + cuda.gridDim.y * cuda.blockDim.y)

    return kernel


@cache
def avg_backward(dtype: str) -> Callable[..., None]:
    """The gradient of means: each pixel gathers from the windows that it is in."""
    real = float64 if dtype == "float64" else float32

    def kernel(
        y, y_start, y_n, y_k, y_h, y_w, out, o_start, o_n, o_k, o_h, o_w, planes, c, ih, iw, oh, ow, kh, kw, sh, sw,
        ph, pw, h_first, h_end, w_first, w_end, divisor,
    ):  # fmt: skip
        pixel = int32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
        plane = int32(cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y)
        iy = int32(pixel // iw)
        ix = int32(pixel - iy * iw)
        # the first window that reaches the pixel; what is divided is never negative
        oy_first = (max(iy + ph - kh + 1, 0) + sh - 1) // sh
        ox_first = (max(ix + pw - kw + 1, 0) + sw - 1) // sw
        oy_end = min((iy + ph) // sh + 1, oh)
        ox_end = min((ix + pw) // sw + 1, ow)
        while plane < planes and iy < ih:
            image = int32(plane // c)
            channel = int32(plane - image * c)
            y_at = int32(y_start + image * y_n + channel * y_k)
            total = real(0)
            for oy in range(oy_first, oy_end):
                tall = min(oy * sh - ph + kh, h_end) - max(oy * sh - ph, h_first)
                for ox in range(ox_first, ox_end):
                    count = int32(divisor)
                    if count == 0:
                        count = tall * (min(ox * sw - pw + kw, w_end) - max(ox * sw - pw, w_first))
                    total += real(y[uint32(y_at + oy * y_h + ox * y_w)]) / real(count)
            out[o_start + image * o_n + channel * o_k + iy * o_h + ix * o_w] = total
            plane = int32(plane + cuda.gridDim.y * cuda.blockDim.y)

    return kernel
