"""Depthwise convolution of small maps, with channels in the lanes.

Neither borders nor strides nor widths that fill no vector cost anything then, but each plane is transposed twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi
from convforge.kernels.numba.channels import transposing_in, transposing_out
from convforge.kernels.numba.generate import define

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target

#: Pixels of a tile at most: as many sums as hide the latency of a multiply-add.
_PIXELS = 8


def _pixels(target: Target, pixels: int, step: int | None) -> Inner:
    """Make ``pixels(step, kh, kw, x, row, column, weight, pitch, bias, to)``: the sums of some pixels side by side.

    ``row`` and ``column`` lie between taps, ``pitch`` between weights. Without a ``step`` here it is any.
    """
    v, lanes = target.v, target.lanes
    each = range(pixels)
    lines = ["def pixels(step, kh, kw, x, row, column, weight, pitch, bias, to):"]
    lines += [f"    s{t} = v.zero()" for t in each]
    lines += ["    for i in range(kh):", "        tap = v.advance(x, i * row)", "        for j in range(kw):"]
    lines += ["            scale = v.load(weight, 0)"]
    lines += [f"            s{t} = v.fma(scale, v.load(tap, {t * lanes} * {step or 'step'}), s{t})" for t in each]
    lines += ["            weight = v.advance(weight, pitch)", "            tap = v.advance(tap, column)"]
    lines += [f"    v.store(to, {t * lanes}, s{t} + bias)" for t in each]
    return target.call(define("pixels", lines, v=v))


def _sharing_pixels(target: Target, pixels: int, step: int, kw: int) -> Inner:
    """Make the same for ``kw`` neighbouring taps: what several pixels see is loaded once."""
    v, lanes = target.v, target.lanes
    each = range(pixels)
    lines = ["def pixels(step, kh, kw, x, row, column, weight, pitch, bias, to):"]
    lines += [f"    s{t} = v.zero()" for t in each]
    lines += ["    for i in range(kh):"]
    for j in range(kw):
        lines += [f"        w{j} = v.load(weight, 0)", "        weight = v.advance(weight, pitch)"]
    for place in range((pixels - 1) * step + kw):
        lines += [f"        seen = v.load(x, {place * lanes})"]
        lines += [f"        s{t} = v.fma(w{place - t * step}, seen, s{t})" for t in each if 0 <= place - t * step < kw]
    lines += ["        x = v.advance(x, row)"]
    lines += [f"    v.store(to, {t * lanes}, s{t} + bias)" for t in each]
    return target.call(define("pixels", lines, v=v))


def _pixels_of(target: Target, kw: int | None) -> Inner:
    """Make ``pixels_of(pixels, step, ...)``, which calls the others: whole tiles with the fewest tests.

    With ``kw`` steps are 1 or 2, and as many taps neighbours.
    """
    lines = ["def pixels_of(pixels, step, kh, kw, x, row, column, weight, pitch, bias, to):"]
    tiles: dict[str, Inner] = {}
    for name, test, step in (("dense", "step == 1", 1), ("apart", "step != 1", None)):
        lines += [f"    if {test}:"]
        for count in range(_PIXELS, 0, -1):
            if kw is None:
                tiles[f"{name}{count}"] = _pixels(target, count, step)
            else:
                tiles[f"{name}{count}"] = _sharing_pixels(target, count, step or 2, kw)
            lines += [f"        if pixels == {count}:"]
            lines += [f"            {name}{count}(step, kh, kw, x, row, column, weight, pitch, bias, to)"]
            lines += ["            return"]
    return target.call(define("pixels_of", lines, **tiles))


def depthwise_channels(target: Target) -> Callable[..., None]:
    """Some vectors of channels of an image."""
    return _channels(target, None)


def depthwise_channels_3(target: Target) -> Callable[..., None]:
    """The same of three neighbouring taps a row."""
    return _channels(target, 3)


def depthwise_channels_5(target: Target) -> Callable[..., None]:
    """The same of five."""
    return _channels(target, 5)


def depthwise_channels_7(target: Target) -> Callable[..., None]:
    """The same of seven: beside their weights 16 registers do not suffice for the sums."""
    return _channels(target, 7 if target.rows == 8 else None)


def _channels(target: Target, kw: int | None) -> Callable[..., None]:
    v, lanes, per_panel = target.v, target.lanes, target.vectors
    f = abi.fields("depthwise_channels")
    transpose_in, transpose_out = transposing_in(target), transposing_out(target)
    pixels_of = _pixels_of(target, kw)

    def kernel(args, scratch, begin, end):
        g, oh, ow, kh, kw = args[f.g], args[f.oh], args[f.ow], args[f.kh], args[f.kw]
        sh, sw, ph, pw, dh, dw = args[f.sh], args[f.sw], args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        vectors = (g + lanes - 1) // lanes
        panels = (vectors + per_panel - 1) // per_panel
        height, width = (oh - 1) * sh + (kh - 1) * dh + 1, (ow - 1) * sw + (kw - 1) * dw + 1
        # columns of the copy, which begins ph and pw before x, that are columns of x
        left = max(pw, 0)
        columns = min(width, args[f.iw] + pw) - left
        # tiles in equal shares: the first ones have a pixel more
        tiles = (ow + _PIXELS - 1) // _PIXELS
        fewest = ow // max(tiles, 1)
        longer = ow - fewest * tiles
        # scratch: copy[height][width][LANES], sums[oh][ow][LANES]
        copy = v.pointer(scratch)
        sums = v.advance(copy, height * width * lanes)
        for i in range(height * width):
            v.store(copy, i * lanes, v.zero())
        for item in range(begin, end):
            image, panel = item // panels, item % panels
            first, last = vectors * panel // panels, vectors * (panel + 1) // panels
            for vector in range(first, last):
                channel = vector * lanes
                channels = min(g - channel, lanes)
                x = v.advance(v.pointer(args[f.x]), image * args[f.x_n] + channel * args[f.x_c])
                for line in range(max(ph, 0), min(height, args[f.ih] + ph)):
                    transpose_in(
                        v.advance(x, (line - ph) * args[f.x_h] + left - pw), args[f.x_c], channels - 1, columns,
                        v.advance(copy, (line * width + left) * lanes),
                    )  # fmt: skip
                weight = v.advance(v.pointer(args[f.packed]), (first * kh * kw + vector - first) * lanes)
                bias = v.zero()
                if args[f.bias] != 0:
                    bias = v.load_partial(v.advance(v.pointer(args[f.bias]), channel), channels)
                for row in range(oh):
                    pixel = 0
                    for tile in range(tiles):
                        pixels = fewest + 1 if tile < longer else fewest
                        pixels_of(
                            pixels, sw, kh, kw,
                            v.advance(copy, (row * sh * width + pixel * sw) * lanes), dh * width * lanes, dw * lanes,
                            weight, (last - first) * lanes, bias, v.advance(sums, (row * ow + pixel) * lanes),
                        )  # fmt: skip
                        pixel += pixels
                out = v.advance(v.pointer(args[f.out]), image * args[f.out_n] + channel * args[f.out_k])
                if args[f.out_h] == ow or oh == 1:
                    transpose_out(sums, oh * ow, channels, out, args[f.out_k])
                else:
                    for row in range(oh):
                        to = v.advance(out, row * args[f.out_h])
                        transpose_out(v.advance(sums, row * ow * lanes), ow, channels, to, args[f.out_k])

    return kernel
