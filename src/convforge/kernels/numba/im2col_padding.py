"""What the taps that fall on padding add: nothing, unless a weight is not finite.

Products that leave padding out leave these out as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Target


def zero_products(target: Target) -> Callable[..., None]:
    """Sums of zero times the weights, for each tap."""
    v = target.v
    f = abi.fields("zero_products")

    def kernel(args, scratch, begin, end):
        k, kh, kw, w_h, w_w = args[f.k], args[f.kh], args[f.kw], args[f.w_h], args[f.w_w]
        zero = v.extract(v.zero(), 0)
        for item in range(begin, end):
            sums = v.advance(v.pointer(args[f.sums]), item * kh * kw)
            for i in range(kh * kw):
                sums[i] = zero
            rows = v.advance(v.pointer(args[f.w]), item // k * args[f.w_g] + item % k * args[f.w_k])
            for channel in range(args[f.c]):
                w = v.advance(rows, channel * args[f.w_c])
                for i in range(kh):
                    for j in range(kw):
                        sums[i * kw + j] += zero * w[i * w_h + j * w_w]

    return kernel


def add_padding(target: Target) -> Callable[..., None]:
    """These sums added to the outputs whose taps fall on padding."""
    v = target.v
    f = abi.fields("add_padding")

    def kernel(args, scratch, begin, end):
        channels, kh, kw = args[f.g] * args[f.k], args[f.kh], args[f.kw]
        ih, iw, sh, sw = args[f.ih], args[f.iw], args[f.sh], args[f.sw]
        for item in range(begin, end):
            channel = item % channels
            out = v.advance(v.pointer(args[f.out]), item // channels * args[f.out_n] + channel * args[f.out_k])
            for tap in range(kh * kw):
                added = v.pointer(args[f.sums])[channel * kh * kw + tap]
                if added == 0:
                    continue
                for oh in range(args[f.oh]):
                    row = oh * sh - args[f.ph] + tap // kw * args[f.dh]
                    for ow in range(args[f.ow]):
                        column = ow * sw - args[f.pw] + tap % kw * args[f.dw]
                        if row < 0 or row >= ih or column < 0 or column >= iw:
                            out[oh * args[f.out_h] + ow * args[f.out_w]] += added

    return kernel
