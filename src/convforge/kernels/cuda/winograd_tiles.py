"""Tiles of Winograd's F(m x m, 3 x 3) in a thread's registers: reading, transforming and writing them.

Each function here makes a subroutine of the kernels from generated source; a tile is a tuple, row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from numba import int32

from convforge.algorithms.winograd.transforms import Matrix, transforms
from convforge.kernels.codegen import products as matrices
from convforge.kernels.codegen import python_source, straight
from convforge.kernels.cuda import shim
from convforge.kernels.cuda.shim import load, load_if, quotient, store, within
from convforge.kernels.cuda.tile import WIDTH
from convforge.kernels.numba.generate import define


def masked_window(size: int) -> Callable[..., Any]:
    """``f(x, at, x_h, x_w, mask)``: a square of pixels, zero where its bit of ``mask`` is not set."""
    values = [
        f"load_if(x, int32(at + {i} * x_h + {j} * x_w), mask & {1 << size * i + j} != 0)"
        for i in range(size)
        for j in range(size)
    ]
    lines = ["def window(x, at, x_h, x_w, mask):", f"    return {_tuple(values)}"]
    return shim.device(define("window", lines, load_if=load_if, int32=int32))


@cache
def finish(m: int) -> Callable[..., None]:
    """A thread's m x m outputs, with bias: ``values``, or where one of them is not finite, direct sums.

    ``out_at`` and ``(iy, ix)`` are the tile's first output, and the first input that it reads; ``x_at`` and ``w_at``
    the first elements of the image's group and of the output channel.
    """
    put, all_finite, area = put_tile(m), is_finite(m * m), m * m

    def finish(
        values, out, out_at, out_h, out_w, rows, columns, bias, x, x_at, x_c, x_h, x_w, w, w_at, w_c, w_h, w_w,
        c, ih, iw, iy, ix,
    ):  # fmt: skip
        wide = m == WIDTH and shim.starts_aligned(out) and out_w == 1 and out_h & 3 == 0 and out_at & 3 == 0
        put(out, out_at, out_h, out_w, rows, columns, wide, bias, values)
        if not all_finite(values):
            number = int32(0)
            while number < area:
                i, j = int32(number // m), int32(number % m)
                if i < rows and j < columns:
                    total = load_if(x, 0, False)
                    entry = int32(0)
                    while entry < 9 * c:
                        channel = quotient(entry, 9)
                        r = quotient(entry - 9 * channel, 3)
                        s = int32(entry - 9 * channel - 3 * r)
                        py, px = int32(iy + i + r), int32(ix + j + s)
                        seen = within(py, ih) and within(px, iw)
                        pixel = load_if(x, int32(x_at + channel * x_c + py * x_h + px * x_w), seen)
                        total += pixel * load(w, int32(w_at + channel * w_c + r * w_h + s * w_w))
                        entry = int32(entry + 1)
                    store(out, int32(out_at + i * out_h + j * out_w), total + bias)
                number = int32(number + 1)

    return shim.device(finish)


@cache
def product(m: int, name: str) -> Callable[..., Any]:
    """``f(d)``: the tuple of ``M d M^T`` for a square matrix ``d`` as a tuple, row by row, and M of F(m, 3)."""
    matrix: Matrix = matrices(transforms(m, 3))[name]
    rows, columns = len(matrix), len(matrix[0])
    along = shim.device(define("along", python_source("along", straight(matrix)).splitlines(), v=shim))
    lines = ["def product(d):"]
    for j in range(columns):
        names = ", ".join(f"c{i}_{j}" for i in range(rows))
        lines.append(f"    {names} = along({', '.join(f'd[{i * columns + j}]' for i in range(columns))})")
    for i in range(rows):
        names = ", ".join(f"r{i}_{j}" for j in range(rows))
        lines.append(f"    {names} = along({', '.join(f'c{i}_{j}' for j in range(columns))})")
    lines.append(f"    return {_tuple([f'r{i}_{j}' for i in range(rows) for j in range(rows)])}")
    return shim.device(define("product", lines, along=along))


@cache
def window(size: int) -> Callable[..., Any]:
    """``f(x, at, x_h, x_w, iy, ix, ih, iw)``: a square of pixels whose first lies at (iy, ix), with zeros outside."""
    lines = ["def window(x, at, x_h, x_w, iy, ix, ih, iw):"]
    for i in range(size):
        lines += [f"    y{i} = within(iy + {i}, ih)", f"    x{i} = within(ix + {i}, iw)"]
    values = [f"load_if(x, int32(at + {i} * x_h + {j} * x_w), y{i} and x{j})" for i in range(size) for j in range(size)]
    return shim.device(
        define("window", [*lines, f"    return {_tuple(values)}"], load_if=load_if, within=shim.within, int32=int32)
    )


@cache
def strided(count: int) -> Callable[..., Any]:
    """``f(array, at, step)``: ``count`` elements, ``step`` apart."""
    values = _tuple([f"load(array, int32(at + {i} * step))" for i in range(count)])
    return shim.device(
        define("strided", ["def strided(array, at, step):", f"    return {values}"], load=load, int32=int32)
    )


def put_points(m: int, factors: list[float] | None = None) -> Callable[..., None]:
    """``f(array, at, step, values)``: a transformed tile, element by element ``step`` apart, times ``factors``."""
    lines = ["def put(array, at, step, values):"]
    for i in range((m + 2) ** 2):
        value = f"values[{i}]" if factors is None else f"mul({factors[i]!r}, values[{i}])"
        lines.append(f"    store(array, int32(at + {i} * step), {value})")
    return shim.device(define("put", lines, store=store, mul=shim.mul, int32=int32))


def put_tile(size: int) -> Callable[..., None]:
    """``f(out, at, out_h, out_w, rows, columns, wide, bias, values)``: a square of values plus ``bias``, cut off."""
    lines = ["def put(out, at, out_h, out_w, rows, columns, wide, bias, values):"]
    for i in range(size):
        row = [f"values[{i * size + j}] + bias" for j in range(size)]
        lines.append(f"    if {i} < rows:")
        indent = "        "
        if size == WIDTH:
            lines += [
                f"        if wide and {WIDTH} <= columns:",
                f"            store4(out, at + {i} * out_h, {', '.join(row)})",
            ]
            lines.append("        else:")
            indent = "            "
        for j, value in enumerate(row):
            lines += [
                f"{indent}if {j} < columns:",
                f"{indent}    store(out, int32(at + {i} * out_h + {j} * out_w), {value})",
            ]
    return shim.device(define("put", lines, store=store, store4=shim.store4, int32=int32))


def scaled(factors: list[float]) -> Callable[..., Any]:
    """``f(values)``: the values, each times its factor."""
    values = _tuple([f"mul({factor!r}, values[{i}])" for i, factor in enumerate(factors)])
    return shim.device(define("scaled", ["def scaled(values):", f"    return {values}"], mul=shim.mul))


def added(count: int) -> Callable[..., Any]:
    """``f(a, b)``: the sums of two tiles' elements."""
    values = _tuple([f"a[{i}] + b[{i}]" for i in range(count)])
    return shim.device(define("added", ["def added(a, b):", f"    return {values}"]))


def is_finite(count: int) -> Callable[..., Any]:
    """``f(values)``: whether all are finite. Zero times anything else is NaN, and so is its sum."""
    total = " + ".join(f"values[{i}] * zero" for i in range(count))
    lines = [
        "def is_finite(values):",
        "    zero = values[0] - values[0]",
        f"    total = {total}",
        "    return total == total",
    ]
    return shim.device(define("is_finite", lines))


def _tuple(values: list[str]) -> str:
    """A tuple's source. Numba takes at most thirty elements in one pair of parentheses."""
    return " + ".join(f"({', '.join(values[at : at + 16])},)" for at in range(0, len(values), 16))
