"""Max pooling: maxima, with their indices where these have an address, and gradients added where the maxima were."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from convforge.kernels import abi
from convforge.kernels.numba.integers import ceiling
from convforge.kernels.numba.pooling_blocks import blocks
from convforge.kernels.numba.pooling_places import placed_columns, placed_rows
from convforge.kernels.numba.pooling_vectors import filling, row_vectors
from convforge.kernels.numba.pooling_windows import joined_columns, joined_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Target


def max_pool_forward(target: Target) -> Callable[..., None]:
    """Maxima, and their indices where these have an address."""
    v = target.v
    f: Any = abi.fields("max_pool_forward")
    up, fill, (block_of, advance) = ceiling(target), filling(target), blocks(target)
    rows_of, columns_of = joined_rows(target, False), joined_columns(target, False)
    rows_places, columns_places = placed_rows(target), placed_columns(target)

    def kernel(args, scratch, begin, end):
        channels, ih, iw, oh, ow, kh, kw = (
            args[f.c], args[f.ih], args[f.iw], args[f.oh], args[f.ow], args[f.kh], args[f.kw]
        )  # fmt: skip
        sh, sw, ph, pw, dh, dw = args[f.sh], args[f.sw], args[f.ph], args[f.pw], args[f.dh], args[f.dw]
        rows, columns, width, batch = args[f.rows], args[f.columns], args[f.width], args[f.batch]
        x_h, has_indices = args[f.x_h], args[f.indices] != 0
        spare_values = v.pointer(scratch)
        spare_places = v.advance(spare_values, width)
        values = v.advance(spare_places, width)
        places = v.advance(values, batch * width)
        known = -1
        b = block_of(begin, channels, oh, ow, rows, columns)
        for _ in range(begin, end):
            count = min(columns, ow - b.column)
            left = b.column * sw - pw
            low = max(0, -left)
            high = min(iw - left, (count - 1) * sw + (kw - 1) * dw + 1)
            if b.column != known:
                known = b.column
                fill(values, -inf, batch * width)
                if has_indices:
                    fill(places, inf, batch * width)
            x = v.advance(v.pointer(args[f.x]), b.image * args[f.x_n] + b.channel * args[f.x_c] + left + low)
            out = v.advance(v.pointer(args[f.out]), b.image * args[f.out_n] + b.channel * args[f.out_k] + b.column)
            indices = v.advance(
                v.pointer_int64(args[f.indices]), b.image * args[f.indices_n] + b.channel * args[f.indices_c] + b.column
            )
            bottom = min(b.row + rows, oh)
            for row in range(b.row, bottom, batch):
                for i in range(min(batch, bottom - row)):
                    top = (row + i) * sh - ph
                    first = 0 if top >= 0 else up(-top, dh)
                    last = kh if top + (kh - 1) * dh < ih else up(ih - top, dh)
                    source = v.advance(x, (top + first * dh) * x_h)
                    to = v.advance(values, i * width + low)
                    if has_indices:
                        rows_places(
                            last - first, source, dh * x_h, first * dh * iw, dh * iw, to,
                            v.advance(places, i * width + low), high - low,
                        )  # fmt: skip
                    else:
                        rows_of(last - first, source, dh * x_h, to, high - low)
                for i in range(min(batch, bottom - row)):
                    joined = v.advance(values, i * width)
                    target_row = v.advance(out, (row + i) * args[f.out_h])
                    if has_indices:
                        columns_places(
                            kw, dw, sw, joined, v.advance(places, i * width), spare_values, spare_places, target_row,
                            v.advance(indices, (row + i) * args[f.indices_h]), ((row + i) * sh - ph) * iw + left, count,
                        )  # fmt: skip
                    else:
                        columns_of(kw, dw, sw, joined, spare_values, target_row, count, joined, 1)
            b = advance(b, channels, oh, ow, rows, columns)

    return kernel


def max_pool_backward(target: Target) -> Callable[..., None]:
    """Gradients added where the maxima were."""
    v = target.v
    lanes = v.lanes
    f: Any = abi.fields("max_pool_backward")
    vector_of, _, store = row_vectors(target)

    def kernel(args, scratch, begin, end):
        channels, ih, iw, oh, ow, out_h = (
            args[f.c], args[f.ih], args[f.iw], args[f.oh], args[f.ow], args[f.out_h]
        )  # fmt: skip
        for item in range(begin, end):
            image, channel = item // channels, item % channels
            out = v.advance(v.pointer(args[f.out]), image * args[f.out_n] + channel * args[f.out_k])
            y = v.advance(v.pointer(args[f.y]), image * args[f.y_n] + channel * args[f.y_k])
            indices = v.advance(
                v.pointer_int64(args[f.indices]), image * args[f.indices_n] + channel * args[f.indices_c]
            )
            for i in range(ih):
                for j in range(0, iw, lanes):
                    store(v.advance(out, i * out_h), vector_of(j, iw), v.zero(), iw)
            for _ in range(oh):
                if out_h == iw:
                    for j in range(ow):
                        out[indices[j]] += y[j]
                else:
                    for j in range(ow):
                        out[indices[j] // iw * out_h + indices[j] % iw] += y[j]
                y = v.advance(y, args[f.y_h])
                indices = v.advance(indices, args[f.indices_h])

    return kernel
