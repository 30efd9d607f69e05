"""Winograd's F(2x2, 3x3) and F(4x4, 3x3) on a GPU: transforms and products as launches of their own.

Memory beyond the arrays: the transformed weight, and transformed tiles and sums of as many tiles as take at most
:data:`_MOST_ELEMENTS` each. What a launch writes the next one reads back; even so F(4, 3) moves eleven times the bytes
of its arrays for a quarter of the multiplications, which pays where there are some 32 channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from convforge.algorithms.cuda.policy import DevicePolicy
from convforge.algorithms.cuda.products import DEPTH, MOST_PRODUCTS, Cut, Shape, cut
from convforge.algorithms.cuda.stages import LAUNCH_SECONDS, MOST_BLOCKS, memory_seconds, sums, view_arguments
from convforge.algorithms.lowering import Correlation, correlations
from convforge.algorithms.stages import ceil_div, round_up
from convforge.algorithms.winograd import policy as winograd
from convforge.kernels.abi import WINOGRAD
from convforge.kernels.cuda.tile import FUSED, FUSED_THREADS
from convforge.launch import Argument, Buffer, DeviceProgram, Launch, Memory, Present
from convforge.problem import ConvProblem, Problem
from convforge.program import View

if TYPE_CHECKING:
    from convforge.runtime.gpu import Gpu

TILES = (2, 4)
#: Threads of a block of the transforms, and channels that one of them goes through where there are many tiles.
_THREADS = 128
_CHANNELS = 4
#: What these kernels are made for, whatever m: 3x3 with a stride of 1.
_FAMILY = tuple(f for f in WINOGRAD if f.m == 2 and f.has_weight_gradient)
#: Most elements of the transformed tiles.
_MOST_ELEMENTS = 1 << 26
#: Share of the fused kernel's channels that must be of use, and fewest blocks of it that keep a device busy.
_FUSED_FILL = 0.7
_FUSED_BLOCKS = 128
#: Share of the peak that its main loop can reach: multiply-adds among its instructions, and two barriers a step.
_FUSED_SHARE = 0.7
#: Share of the bandwidth that the transforms reach.
_STREAM_SHARE = 0.8


def _refuses(problem: Problem, pass_: str) -> str | None:
    reason = winograd.refuses(_FAMILY, problem, pass_)
    if reason is not None or not isinstance(problem, ConvProblem):
        return reason
    if problem.dilation != (1, 1):
        return f"its tiles are made for a dilation of 1, not {'x'.join(map(str, problem.dilation))}"
    largest = max(problem.c, problem.k, 36 * problem.groups)
    if largest > MOST_BLOCKS:
        return f"its grids take at most {MOST_BLOCKS} channels and {MOST_BLOCKS // 36} groups"
    return None


@dataclass(frozen=True)
class _Tiles:
    """The tiles of all images, cut into chunks whose transforms fit into the workspace."""

    down: int
    across: int
    total: int
    chunk: int

    @classmethod
    def of(cls, m: int, r: Correlation, channels: int) -> _Tiles:
        down, across = ceil_div(r.output[0], m), ceil_div(r.output[1], m)
        total = r.n * down * across
        most = max(_THREADS, _MOST_ELEMENTS // ((m + 2) ** 2 * channels) // _THREADS * _THREADS)
        chunks = ceil_div(total, most)
        return cls(down, across, total, min(total, round_up(ceil_div(total, chunks), _THREADS)))

    @property
    def starts(self) -> range:
        return range(0, self.total, self.chunk)

    def count(self, first: int) -> int:
        """Tiles of the chunk that begins at ``first``."""
        return min(self.chunk, self.total - first)


def _program(m: int, problem: Problem, pass_: str, gpu: Gpu) -> DeviceProgram:
    assert isinstance(problem, ConvProblem)
    if pass_ == "grad_weight":
        return _grad_weight(m, problem)
    (r,) = correlations(problem, pass_)
    real, area = sums(problem.dtype), (m + 2) ** 2
    if _fuses(m, r, problem.dtype):
        return _fused(r, problem.dtype)
    tiles = _Tiles.of(m, r, r.groups * max(r.c, r.k))
    how = _forward_cut(r, tiles, area, problem.dtype)
    k_pitch, pitch = round_up(r.k, how.tile.bm), round_up(tiles.chunk, how.tile.bn)
    launches: list[Launch] = []
    for first in tiles.starts:
        count = tiles.count(first)
        launches += [
            _transform(m, False, r.x, r.groups * r.c, (*r.input, *r.padding), tiles, first, pitch),
            _multiply(
                False, real, how, ("u", "v", "s"), (r.k, count, r.c), (k_pitch, pitch, pitch), area * r.groups, 0
            ),
            _output(m, r, tiles, first, pitch),
        ]
    return DeviceProgram(
        problem.dtype,
        launches,
        (_weight(m, r, k_pitch),),
        {"u": Buffer(real, area * r.groups * r.c * k_pitch)},
        {"v": Buffer(real, area * r.groups * r.c * pitch), "s": Buffer(real, area * r.groups * r.k * pitch)},
    )


def _fuses(m: int, r: Correlation, dtype: str) -> bool:
    """Whether one launch does everything: its blocks are large, and hold 16 sums of a tile in float32."""
    if m != 2 or sums(dtype) != "float32":
        return False
    k_blocks, t_blocks = _fused_blocks(r)
    full = r.k >= _FUSED_FILL * k_blocks * FUSED.bn
    return full and k_blocks * t_blocks * r.groups >= _FUSED_BLOCKS


def _fused_blocks(r: Correlation) -> tuple[int, int]:
    """Blocks of output channels and of tiles."""
    tiles = r.n * ceil_div(r.output[0], 2) * ceil_div(r.output[1], 2)
    return ceil_div(r.k, FUSED.bn), ceil_div(tiles, FUSED.bm)


def _fused(r: Correlation, dtype: str) -> DeviceProgram:
    k_blocks, t_blocks = _fused_blocks(r)
    k_pitch, down, across = k_blocks * FUSED.bn, ceil_div(r.output[0], 2), ceil_div(r.output[1], 2)
    launch = Launch(
        "winograd_fused", "fused", ("float32",),
        (Memory(r.x.array), *view_arguments(r.x, 2), Memory("u"), Memory(r.out.array), *view_arguments(r.out, 2),
         *_bias(r), *r.output, down, across, r.n * down * across, Memory("weight"), *view_arguments(r.weight, 2), r.k,
         r.c, *r.input, *r.padding, k_blocks, k_pitch),
        (k_blocks * t_blocks, r.groups, 1), (FUSED_THREADS, 1, 1),
    )  # fmt: skip
    packed = {"u": Buffer("float32", 16 * r.groups * r.c * k_pitch)}
    return DeviceProgram(dtype, (launch,), (_weight(2, r, k_pitch),), packed)


def _bias(r: Correlation) -> tuple[Argument, ...]:
    return (Memory("bias"), Present("bias")) if r.bias else (Memory("weight"), 0)


def _forward_cut(r: Correlation, tiles: _Tiles, area: int, dtype: str) -> Cut:
    return cut(Shape(r.k, tiles.chunk, r.c, area * r.groups), dtype, ceil_div(r.c, DEPTH), most_parts=1)


def _weight(m: int, r: Correlation, k_pitch: int) -> Launch:
    return Launch(
        "winograd", "weight", (m,), (Memory("weight"), *view_arguments(r.weight, 2), Memory("u"), r.k, r.c, k_pitch),
        (ceil_div(r.k, _THREADS), r.c, r.groups), (_THREADS, 1, 1),
    )  # fmt: skip


def _transform(
    m: int, gradient: bool, x: View, channels: int, image: tuple[int, ...], tiles: _Tiles, first: int, pitch: int
) -> Launch:
    blocks = ceil_div(pitch, _THREADS)
    depth = _CHANNELS if blocks * channels >= 8192 else 1
    return Launch(
        "winograd", "transform", (m, gradient),
        (Memory(x.array), *view_arguments(x, 2), Memory("w" if gradient else "v"), channels, depth, *image, tiles.down,
         tiles.across, first, tiles.count(first), pitch),
        (blocks, ceil_div(channels, depth), 1), (_THREADS, 1, 1),
    )  # fmt: skip


def _multiply(
    by_rows: bool, real: str, how: Cut, names: tuple[str, str, str], sizes: tuple[int, int, int],
    pitches: tuple[int, int, int], batch: int, first_part: int,
) -> Launch:  # fmt: skip
    tile, (m, n, depth) = how.tile, sizes
    m_blocks = ceil_div(m, tile.bm)
    steps = ceil_div(ceil_div(depth, DEPTH), how.parts)
    return Launch(
        "winograd", "products", (real, tile.bm, tile.bn, tile.bk, tile.tm, tile.tn, by_rows),
        (*map(Memory, names), m, n, depth, *pitches, m_blocks, steps, first_part),
        (m_blocks * ceil_div(n, tile.bn), batch, how.parts), (tile.threads, 1, 1),
    )  # fmt: skip


def _output(m: int, r: Correlation, tiles: _Tiles, first: int, pitch: int) -> Launch:
    count = tiles.count(first)
    return Launch(
        "winograd", "output", (m,),
        (Memory("s"), pitch, Memory(r.out.array), *view_arguments(r.out, 2), *_bias(r), *r.output, tiles.down,
         tiles.across, first, count, Memory(r.x.array), *view_arguments(r.x, 2), Memory("weight"),
         *view_arguments(r.weight, 2), r.k, r.c, *r.input, *r.padding),
        (ceil_div(count, _THREADS), r.groups * r.k, 1), (_THREADS, 1, 1),
    )  # fmt: skip


def _gradient_cut(m: int, p: ConvProblem, tiles: _Tiles) -> Cut:
    shape = Shape(p.k // p.groups, p.c // p.groups, tiles.chunk, (m + 2) ** 2 * p.groups)
    return cut(shape, p.dtype, ceil_div(tiles.chunk, DEPTH))


def _grad_weight(m: int, p: ConvProblem) -> DeviceProgram:
    (r,) = correlations(p, "forward")
    real, batch, c, k = sums(p.dtype), (m + 2) ** 2 * p.groups, p.c // p.groups, p.k // p.groups
    tiles = _Tiles.of(m, r, max(p.c, p.k))
    how = _gradient_cut(m, p, tiles)
    pitch, c_pitch = round_up(tiles.chunk, DEPTH), round_up(c, how.tile.bn)
    y, out, parts = View.of("grad_output", 4), View.of("out", 4), how.parts * len(tiles.starts)
    launches = []
    for number, first in enumerate(tiles.starts):
        launches += [
            _transform(m, False, r.x, p.c, (*p.input, *r.padding), tiles, first, pitch),
            _transform(m, True, y, p.k, (*p.output, 0, 0), tiles, first, pitch),
            _multiply(
                True, real, how, ("w", "v", "s"), (k, c, tiles.count(first)), (pitch, pitch, c_pitch), batch,
                number * how.parts,
            ),
        ]  # fmt: skip
    last = Launch(
        "winograd", "grad_weight", (real, m),
        (Memory("s"), c_pitch, parts, Memory("out"), *view_arguments(out, 2), Memory("x"), *view_arguments(r.x, 2),
         Memory("grad_output"), *view_arguments(y, 2), p.n, k, c, *p.input, *p.output, *r.padding),
        (ceil_div(c, _THREADS), p.k, 1), (_THREADS, 1, 1),
    )  # fmt: skip
    workspace = {
        "v": Buffer(real, batch * c * pitch),
        "w": Buffer(real, batch * k * pitch),
        "s": Buffer(real, parts * batch * k * c_pitch),
    }
    return DeviceProgram(p.dtype, (*launches, last), workspace=workspace)


def _cost(m: int, problem: Problem, pass_: str, mode: str, gpu: Gpu) -> float:
    """Products at the rate of their main loops; each launch's way through memory, one after the other."""
    assert isinstance(problem, ConvProblem)
    p, area = problem, (m + 2) ** 2
    (r,) = correlations(p, "forward" if pass_ == "grad_weight" else pass_)
    if pass_ != "grad_weight" and _fuses(m, r, p.dtype):
        k_blocks, t_blocks = _fused_blocks(r)
        # a multiprocessor holds one block, and the last wave takes as long as any
        blocks = round_up(k_blocks * t_blocks * r.groups, gpu.multiprocessors)
        products = 16 * FUSED.bn * FUSED.bm * blocks * round_up(r.c, DEPTH)
        seconds = max(2 * products / (_FUSED_SHARE * gpu.peak(p.dtype)), memory_seconds(p, pass_, gpu.bandwidth))
        return seconds + LAUNCH_SECONDS + (mode == "functional") * _weight_seconds(m, p, gpu)
    channels = max(p.c, p.k) if pass_ == "grad_weight" else r.groups * max(r.c, r.k)
    tiles = _Tiles.of(m, r, channels)
    size = 8 if p.dtype == "float64" else 4
    transformed = 2 * area * (p.c + p.k) * tiles.total * size
    how = _gradient_cut(m, p, tiles) if pass_ == "grad_weight" else _forward_cut(r, tiles, area, p.dtype)
    chunks, each = len(tiles.starts), 4 if pass_ == "grad_weight" else 3
    seconds = chunks * (how.seconds(gpu, p.dtype) + each * LAUNCH_SECONDS)
    seconds += transformed / (_STREAM_SHARE * gpu.bandwidth) + memory_seconds(p, pass_, gpu.bandwidth)
    if pass_ == "grad_weight":
        sums_moved = 2 * chunks * how.parts * area * p.k * (p.c // p.groups) * size
        return seconds + sums_moved / (_STREAM_SHARE * gpu.bandwidth)
    return seconds + (mode == "functional") * _weight_seconds(m, p, gpu)


def _weight_seconds(m: int, p: ConvProblem, gpu: Gpu) -> float:
    """Seconds to transform the weight."""
    size = (m + 2) ** 2 * p.k * (p.c // p.groups) * (8 if p.dtype == "float64" else 4)
    return size / (_STREAM_SHARE * gpu.bandwidth) + LAUNCH_SECONDS


def _error(m: int, problem: Problem, pass_: str) -> float:
    """As on a CPU, with sums that are one chain of additions instead of chains of 128."""
    assert isinstance(problem, ConvProblem)
    p = problem
    if pass_ == "grad_weight":
        (r,) = correlations(p, "forward")
        length, outputs = r.n * ceil_div(r.output[0], m) * ceil_div(r.output[1], m), p.k * p.c // p.groups * 9
    else:
        (r,) = correlations(p, pass_)
        length, outputs = r.c, r.n * r.groups * r.k * r.pixels
    transforms, products = {2: (1.0, 0.25), 4: (3.5, 0.7)}[m]
    chain = min(length, MOST_PRODUCTS) + length / MOST_PRODUCTS
    scatter = 1.3 + 8 / sqrt(max(1, outputs))
    return float(scatter * np.finfo(sums(p.dtype)).eps * sqrt(transforms**2 + products**2 * chain))


POLICIES = tuple(
    DevicePolicy(
        f"winograd_f{m}", winograd.PASSES, ("conv",), ("float32", "float64", "float16"), _refuses, partial(_cost, m),
        partial(_error, m), partial(_program, m),
    )
    for m in TILES
)  # fmt: skip
