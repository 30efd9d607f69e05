"""A dilation d parts an image into d phases an axis, each a smaller image that sees the kernel without a dilation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Target


def split_phases(target: Target) -> Callable[..., None]:
    """The phases of an image with its padding."""
    v = target.v
    f = abi.fields("split_phases")

    def kernel(args, scratch, begin, end):
        n, rows, columns = args[f.n], args[f.rows], args[f.columns]
        ih, iw, x_h, dh, dw = args[f.ih], args[f.iw], args[f.x_h], args[f.dh], args[f.dw]
        for item in range(begin, end):
            image, channel = item % n, item // n
            plane = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + channel * args[f.x_c])
            for phase in range(dh * dw):
                to = v.advance(v.pointer(args[f.phases]), (item * dh * dw + phase) * rows * columns)
                left = phase % dw - args[f.pw]
                # columns inside the image
                first = min(max((-left + dw - 1) // dw, 0), columns)
                last = max(min((iw - left + dw - 1) // dw, columns), first)
                for i in range(rows):
                    top = phase // dw - args[f.ph] + i * dh
                    for j in range(columns):
                        to[j] = 0
                    if 0 <= top < ih:
                        row = v.advance(plane, top * x_h)
                        for j in range(first, last):
                            to[j] = row[left + j * dw]
                    to = v.advance(to, columns)

    return kernel


def join_phases(target: Target) -> Callable[..., None]:
    """The image whose phases these are."""
    v = target.v
    f = abi.fields("join_phases")

    def kernel(args, scratch, begin, end):
        n, rows, columns = args[f.n], args[f.rows], args[f.columns]
        ow, dh, dw, out_w = args[f.ow], args[f.dh], args[f.dw], args[f.out_w]
        for item in range(begin, end):
            image, channel = item % n, item // n
            for row in range(args[f.oh]):
                out = v.advance(
                    v.pointer(args[f.out]), image * args[f.out_n] + channel * args[f.out_k] + row * args[f.out_h]
                )
                number = (item * dh + row % dh) * dw * rows + row // dh
                plane = v.advance(v.pointer(args[f.phases]), number * columns)
                for phase in range(dw):
                    source = v.advance(plane, phase * rows * columns)
                    for j in range((ow - phase + dw - 1) // dw):
                        out[(phase + j * dw) * out_w] = source[j]

    return kernel
