"""The product of im2col where an image has one output pixel, as dot products.

Weights are read once for several images, and as they lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.gemm import lane_sums, pair_sums
from convforge.kernels.numba.generate import define

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target

#: Images at a time, and accumulators, of 8, 4 or 2 rows of weights.
IMAGES = 4
_SUMS = 8


def _dot_taps(target: Target, images: int) -> Inner:
    """Make ``dot_taps(taps, w, rows, x, pitch, totals)``.

    totals[row][images] = sum over tap of w[row][tap] * x[image * pitch + tap]; rows past the last one repeat it.
    """
    v = target.v
    lanes = v.lanes
    height, each = _SUMS // images, range(images)

    def step(load: str) -> list[str]:
        lines = [f"        x{j} = {load.format(f'x, {j} * pitch')}" for j in each]
        for i in range(height):
            lines += [f"        weight = {load.format(f'w{i}, 0')}"]
            lines += [f"        s{i * images + j} = v.fma(weight, x{j}, s{i * images + j})" for j in each]
        return lines

    lines = ["def dot_taps(taps, w, rows, x, pitch, totals):"]
    lines += [f"    w{i} = v.advance(w, min({i}, rows - 1) * taps)" for i in range(height)]
    lines += [f"    s{i} = v.zero()" for i in range(_SUMS)]
    lines += [f"    whole = taps - taps % {lanes}"]
    lines += [f"    for p in range(0, whole, {lanes}):"]
    lines += step("v.load(v.advance({}), p)")
    lines += ["    rest = taps - whole"]
    lines += ["    if rest > 0:"]
    lines += step("v.load_partial(v.advance(v.advance({}), whole), rest)")
    for first in range(0, _SUMS, lanes):
        gathered = [f"s{i}" if i < _SUMS else "v.zero()" for i in range(first, first + lanes)]
        lines += [f"    v.store(totals, {first}, {lane_sums(gathered)})"]
    return target.call(define("dot_taps", lines, v=v, pairs=pair_sums(target)))


def im2col_dots(target: Target) -> Callable[..., None]:
    """A row of taps for each image, and dot products with every row of weights."""
    v = target.v
    f = abi.fields("im2col_dots")
    one, two, four = (_dot_taps(target, images) for images in (1, 2, 4))

    @target.call
    def lower_image(x, x_c, x_h, c, kh, kw, dh, dw, ph, pw, ih, iw, lowered):
        # the taps of an image's output pixel, zeros where they see padding
        at = 0
        for channel in range(c):
            for i in range(kh):
                row = i * dh - ph
                for j in range(kw):
                    column = j * dw - pw
                    inside = 0 <= row < ih and 0 <= column < iw
                    lowered[at] = x[channel * x_c + row * x_h + column] if inside else 0
                    at += 1

    def kernel(args, scratch, begin, end):
        n, c, k, ih, iw = args[f.n], args[f.c], args[f.k], args[f.ih], args[f.iw]
        kh, kw, dh, dw, ph, pw = args[f.kh], args[f.kw], args[f.dh], args[f.dw], args[f.ph], args[f.pw]
        x_n, x_c, x_h, out_n, splits = args[f.x_n], args[f.x_c], args[f.x_h], args[f.out_n], args[f.splits]
        taps = c * kh * kw
        parts = (n + IMAGES - 1) // IMAGES
        # a kernel of the size of an image without gaps: its taps are what they read
        lies = ph == 0 and pw == 0 and kh == ih and kw == iw and (kh == 1 or dh == 1) and (kw == 1 or dw == 1)
        lies = lies and (ih == 1 or x_h == iw) and (c == 1 or x_c == kh * kw)
        # scratch: totals[of 8 sums, whole vectors], lowered[IMAGES][taps]
        totals = v.pointer(scratch)
        lowered = v.advance(totals, max(_SUMS, v.lanes))
        biases = v.pointer(args[f.bias])
        for item in range(begin, end):
            rest = item // parts
            first = (item - rest * parts) * IMAGES
            count = min(n - first, IMAGES)
            group = rest // splits
            split = rest - group * splits
            # places for 1, 2 or 4 images; those without one repeat the last
            places = 4 if count == 3 else count
            height = _SUMS // places
            x, pitch = v.advance(v.pointer(args[f.x]), first * x_n + group * c * x_c), x_n
            if not lies or places != count:
                for i in range(places):
                    lower_image(
                        v.advance(x, min(i, count - 1) * x_n), x_c, x_h, c, kh, kw, dh, dw, ph, pw, ih, iw,
                        v.advance(lowered, i * taps),
                    )  # fmt: skip
                x, pitch = lowered, taps
            last = k * (split + 1) // splits
            for row in range(k * split // splits, last, height):
                channel = group * k + row
                weights = v.advance(v.pointer(args[f.w]), channel * taps)
                if places == 1:
                    one(taps, weights, last - row, x, pitch, totals)
                elif places == 2:
                    two(taps, weights, last - row, x, pitch, totals)
                else:
                    four(taps, weights, last - row, x, pitch, totals)
                for i in range(min(height, last - row)):
                    to = v.advance(v.pointer(args[f.out]), first * out_n + (channel + i) * args[f.out_k])
                    for j in range(count):
                        total = totals[i * places + j]
                        if args[f.bias] != 0:
                            total += biases[channel + i]
                        to[j * out_n] = total

    return kernel
