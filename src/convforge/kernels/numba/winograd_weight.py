"""The weight transform of Winograd F(m, r): u[k block][xi][part of c][k / GROUP][c][GROUP]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convforge.algorithms.winograd.transforms import transforms
from convforge.kernels import abi, codegen
from convforge.kernels.numba.gemm import transposed
from convforge.kernels.numba.generate import define, names
from convforge.kernels.numba.winograd_blocks import DEPTH, factories, product_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.abi import Filtering
    from convforge.kernels.numba.translate import Inner, Target

#: Channels whose weights are transformed at a time.
_CHANNELS = 32


def _weight(filtering: Filtering, target: Target) -> Callable[..., None]:
    """The transformed weights of some output channels."""
    v, lanes, group = target.v, target.lanes, target.group
    f: Any = abi.fields(f"winograd_{filtering.name}_weight")
    area = filtering.alpha**2
    weight_rows = weight_transform(target, filtering)

    def kernel(args, scratch, begin, end):
        c, k_block = args[f.c], args[f.k_block]
        blocks, k_blocks = (args[f.k] + group - 1) // group, (args[f.k] + k_block - 1) // k_block
        for item in range(begin, end):
            g, first = item // blocks, item % blocks * group
            number = first // k_block
            groups = (min(k_block, args[f.k] - number * k_block) + group - 1) // group
            w = v.advance(v.pointer(args[f.w]), g * args[f.w_g] + first * args[f.w_k])
            u = v.advance(v.pointer(args[f.u]), (g * k_blocks + number) * area * (k_block * c + lanes))
            weight_rows(
                w, args[f.w_k], args[f.w_c], args[f.w_h], args[f.w_w], c, args[f.k] - first,
                first % k_block // group, groups, u, v.pointer(scratch),
            )  # fmt: skip

    return kernel


def weight_transform(target: Target, filtering: Filtering) -> Inner:
    """Make ``weight_rows(w, w_k, w_c, w_h, w_w, c, left, number, groups, u, taps)``.

    u of the ``number``-th GROUP of a block of output channels, whose first weight is at ``w``; it and those that follow
    are ``left``. Taps that lie side by side may run backward, from the last to the first.
    """
    v, lanes, group = target.v, target.lanes, target.group
    r, alpha = filtering.r, filtering.alpha
    count = r * r
    fill_taps = _taps(target, r)
    scales = codegen.scales(transforms(*filtering))
    lines = ["def channel(taps, backward, u, step):"]
    for j in range(r):
        taps = [f"({count - 1 - i * r - j} if backward else {i * r + j}) * {group}" for i in range(r)]
        loads = ", ".join(f"v.load(taps, {tap})" for tap in taps)
        lines += [f"    {', '.join(f'h{i}_{j}' for i in range(alpha))} = product({loads})"]
    for i in range(alpha):
        lines += [f"    {names('o', alpha)} = product({', '.join(f'h{i}_{j}' for j in range(r))})"]
        for j in range(alpha):
            xi = i * alpha + j
            lines += [f"    v.store(u, {xi} * step, o{j} * v.broadcast({scales[xi]!r}))"]
    product = product_by(target, filtering, "weight")
    channel = target.call(define("channel", lines, v=v, product=product))

    def weight_rows(w, w_k, w_c, w_h, w_w, c, left, number, groups, u, taps):
        backward = w_w == -1 and w_h == -r
        step = groups * c * group + lanes
        parts = (c + DEPTH - 1) // DEPTH
        for part in range(parts):
            start = c * part // parts
            stop = c * (part + 1) // parts
            for first in range(start, stop, _CHANNELS):
                channels = min(stop - first, _CHANNELS)
                fill_taps(v.advance(w, first * w_c), w_k, w_c, w_h, w_w, channels, left, taps)
                to = v.advance(u, (groups * start + number * (stop - start) + first - start) * group)
                for i in range(channels):
                    for lane in range(0, group, lanes):
                        source = v.advance(taps, i * count * group + lane)
                        channel(source, backward, v.advance(to, i * group + lane), step)

    return target.call(weight_rows)


def _taps(target: Target, side: int) -> Inner:
    """Make ``fill_taps(w, w_k, w_c, w_h, w_w, channels, rows, taps)``: taps[c][side^2][GROUP].

    Backward taps from the last to the first; channels past the edge repeat the last one.
    """
    v, lanes, group, count = target.v, target.lanes, target.group, side * side

    lines = ["def side_by_side(w, w_k, w_c, channels, rows, taps):"]
    lines += [f"    w{r} = v.advance(w, min({r}, rows - 1) * w_k)" for r in range(group)]
    lines += ["    for c in range(channels):"]
    for done in range(0, count - 1, lanes):  # what is stored past the last tap is overwritten by the next channel
        for r in range(group):
            load = f"v.load(w{r}, {done})"
            if done + lanes > count:
                load = f"v.load_partial(v.advance(w{r}, {done}), {count - done})"
            lines += [f"        r{r} = {load}"]
        mixing, names, functions = transposed(target, [f"r{r}" for r in range(group)])
        lines += [f"        {line}" for line in mixing]
        lines += [f"        v.store(taps, {done * group + r * lanes}, {name})" for r, name in enumerate(names)]
    if count % lanes == 1:
        lines += [f"        taps[{(count - 1) * group + r}] = w{r}[{count - 1}]" for r in range(group)]
    lines += [f"        w{r} = v.advance(w{r}, w_c)" for r in range(group)]
    lines += [f"        taps = v.advance(taps, {count * group})"]
    side_by_side = target.jit(define("side_by_side", lines, v=v, **functions))

    def fill_taps(w, w_k, w_c, w_h, w_w, channels, rows, taps):
        backward = w_w == -1 and w_h == -side
        if backward or (w_w == 1 and w_h == side):
            side_by_side(v.advance(w, -(count - 1) if backward else 0), w_k, w_c, channels, rows, taps)
        else:
            for c in range(channels):
                for tap in range(count):
                    for r in range(group):
                        taps[(c * count + tap) * group + r] = w[
                            min(r, rows - 1) * w_k + c * w_c + tap // side * w_h + tap % side * w_w
                        ]

    return target.call(fill_taps)


globals().update(factories(_weight, "weight"))
