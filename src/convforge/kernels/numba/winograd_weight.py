"""The weight transform of Winograd F(m, 3): u[k block][xi][part of c][k / ROWS][c][ROWS]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convforge.algorithms.winograd import codegen
from convforge.algorithms.winograd.transforms import transforms
from convforge.kernels import abi
from convforge.kernels.numba.gemm import transposed
from convforge.kernels.numba.generate import define
from convforge.kernels.numba.winograd_blocks import DEPTH, factories, names, product_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target

#: Channels whose weights are transformed at a time.
_CHANNELS = 32


def _weight(m: int, target: Target) -> Callable[..., None]:
    """The transformed weights of some output channels."""
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    f: Any = abi.fields(f"winograd_f{m}_weight")
    area = (m + 2) ** 2
    weight_rows = weight_transform(target, m)

    def kernel(args, scratch, begin, end):
        c, k_block = args[f.c], args[f.k_block]
        blocks, k_blocks = (args[f.k] + tile_rows - 1) // tile_rows, (args[f.k] + k_block - 1) // k_block
        for item in range(begin, end):
            g, first = item // blocks, item % blocks * tile_rows
            number = first // k_block
            rows = (min(k_block, args[f.k] - number * k_block) + tile_rows - 1) // tile_rows
            w = v.advance(v.pointer(args[f.w]), g * args[f.w_g] + first * args[f.w_k])
            u = v.advance(v.pointer(args[f.u]), (g * k_blocks + number) * area * (k_block * c + lanes))
            weight_rows(
                w, args[f.w_k], args[f.w_c], args[f.w_h], args[f.w_w], c, args[f.k] - first,
                first % k_block // tile_rows, rows, u, v.pointer(scratch),
            )  # fmt: skip

    return kernel


def weight_transform(target: Target, m: int) -> Inner:
    """Make ``weight_rows(w, w_k, w_c, w_h, w_w, c, left, row, rows, u, taps)``.

    u of the ``row``-th ROWS of a block of output channels, whose first weight is at ``w``; it and those that follow
    are ``left``. Taps that lie side by side may run backward, from the last to the first.
    """
    v, lanes, tile_rows = target.v, target.lanes, target.rows
    alpha = m + 2
    fill_taps = _taps(target)

    def tap(number: str) -> str:
        """LANES elements of [c][ROWS] at taps, of one tap: LANES is twice ROWS, or divides it."""
        lower = f"v.load(taps, {number} * {tile_rows})"
        if lanes <= tile_rows:
            return lower
        return f"halves({lower}, v.load(taps, ({number} + 9) * {tile_rows} - {tile_rows}))"

    halves = v.shuffle(tuple(lane if lane < lanes // 2 else lane + lanes for lane in range(lanes)))
    scales = codegen.scales(transforms(m, 3))
    for whole in (True, False):
        lines = ["def elements(taps, backward, u, step, size):"]
        for j in range(3):
            loads = [tap(f"(8 - {i * 3 + j} if backward else {i * 3 + j})") for i in range(3)]
            lines += [f"    {', '.join(f'h{i}_{j}' for i in range(alpha))} = product({', '.join(loads)})"]
        for i in range(alpha):
            lines += [f"    {names('o', alpha)} = product({', '.join(f'h{i}_{j}' for j in range(3))})"]
            for j in range(alpha):
                scaled, at = f"o{j} * v.broadcast({scales[i * alpha + j]!r})", f"{i * alpha + j} * step"
                store = "store(u, {}, {})" if whole else "store_partial(v.advance(u, {}), {}, size)"
                lines += [f"    v.{store.format(at, scaled)}"]
        function = define("elements", lines, v=v, halves=halves, product=product_by(target, m, "weight"))
        if whole:
            whole_elements = target.call(function)
        else:
            rest_elements = target.call(function)

    def weight_rows(w, w_k, w_c, w_h, w_w, c, left, row, rows, u, taps):
        backward = w_w == -1 and w_h == -3
        step = rows * c * tile_rows + lanes
        parts = (c + DEPTH - 1) // DEPTH
        for i in range((_CHANNELS + 1) * 9 * tile_rows):
            taps[i] = 0  # past an odd number of channels
        for part in range(parts):
            start = c * part // parts
            stop = c * (part + 1) // parts
            for first in range(start, stop, _CHANNELS):
                channels = min(stop - first, _CHANNELS)
                fill_taps(v.advance(w, first * w_c), w_k, w_c, w_h, w_w, channels, left, taps)
                to = v.advance(u, (rows * start + row * (stop - start) + first - start) * tile_rows)
                size = channels * tile_rows
                for e in range(0, size, lanes):
                    source = v.advance(taps, e // tile_rows * 9 * tile_rows + e % tile_rows)
                    if e + lanes <= size:
                        whole_elements(source, backward, v.advance(to, e), step, size - e)
                    else:
                        rest_elements(source, backward, v.advance(to, e), step, size - e)

    return target.call(weight_rows)


def _taps(target: Target) -> Inner:
    """Make ``fill_taps(w, w_k, w_c, w_h, w_w, channels, rows, taps)``: taps[c][9][ROWS].

    Backward taps from the last to the first; rows past the edge repeat the last one.
    """
    v, lanes, tile_rows = target.v, target.lanes, target.rows

    lines = ["def side_by_side(w, w_k, w_c, channels, rows, taps):"]
    lines += [f"    w{r} = v.advance(w, min({r}, rows - 1) * w_k)" for r in range(tile_rows)]
    lines += ["    for c in range(channels):"]
    for done in range(0, 8, lanes):  # what is stored past the last tap is overwritten by the next channel
        for r in range(tile_rows):
            load = f"v.load(w{r}, {done})" if lanes <= 8 else f"v.load_partial(w{r}, 9)"
            lines += [f"        r{r} = {load}"]
        mixing, names = transposed([f"r{r}" for r in range(tile_rows)])
        lines += [f"        {line}" for line in mixing]
        lines += [f"        v.store(taps, {done * tile_rows + r * lanes}, {name})" for r, name in enumerate(names)]
    if lanes <= 8:
        lines += [f"        taps[{8 * tile_rows + r}] = w{r}[8]" for r in range(tile_rows)]
    lines += [f"        w{r} = v.advance(w{r}, w_c)" for r in range(tile_rows)]
    lines += [f"        taps = v.advance(taps, {9 * tile_rows})"]
    side_by_side = target.jit(define("side_by_side", lines, v=v))

    def fill_taps(w, w_k, w_c, w_h, w_w, channels, rows, taps):
        backward = w_w == -1 and w_h == -3
        if backward or (w_w == 1 and w_h == 3):
            side_by_side(v.advance(w, -8 if backward else 0), w_k, w_c, channels, rows, taps)
        else:
            for c in range(channels):
                for tap in range(9):
                    for r in range(tile_rows):
                        taps[(c * 9 + tap) * tile_rows + r] = w[
                            min(r, rows - 1) * w_k + c * w_c + tap // 3 * w_h + tap % 3 * w_w
                        ]

    return target.call(fill_taps)


winograd_f2_weight, winograd_f4_weight, winograd_f6_weight = factories(_weight, "weight")
