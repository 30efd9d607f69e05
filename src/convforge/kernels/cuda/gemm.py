"""What the products share: where a thread stands in its block, and how its sums leave.

A block of threads walks along the products of its sums in steps of ``tile.bk``. While one pair of panels is multiplied
from shared memory, the next one is on its way from the device's memory into registers; it is stored into the other half
of shared memory when the multiplication is done, so that one barrier a step suffices:

    load step 1 | multiply step 0 | store step 1 | barrier | load step 2 | multiply step 1 | ...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from convforge.kernels.cuda import shim
from convforge.kernels.cuda.tile import WARP_COLUMNS, WARP_ROWS, WIDTH, Tile
from convforge.kernels.numba.generate import define


@cache
def first_row(tile: Tile) -> Callable[..., Any]:
    """``f(thread)``: the first of a thread's rows in its block.

    Threads 0 and 1 of a warp, and likewise each pair, differ in their rows: the eight threads that shared memory serves
    at a time then read two fours of the left panel and four of the right one.
    """
    columns, height = tile.warp_columns, WARP_ROWS * tile.tm

    def first_row(thread: int) -> int:
        return (thread // 32) // columns * height + ((thread & 1) | (thread >> 3 & 2)) * WIDTH

    return shim.device(first_row)


@cache
def first_column(tile: Tile) -> Callable[..., Any]:
    """``f(thread)``: the first of a thread's columns in its block."""
    columns, width = tile.warp_columns, WARP_COLUMNS * tile.tn

    def first_column(thread: int) -> int:
        return (thread // 32) % columns * width + (thread >> 1 & 7) * WIDTH

    return shim.device(first_column)


@cache
def write_sums(tile: Tile) -> Callable[..., None]:
    """``f(out, at, out_row, targets, column, rows, wide, bias, bias_at, biased, sums)``: a thread's sums go to ``out``.

    Row r and column j of the block go to ``at + r * out_row + targets[j]``, nowhere if the target is negative or
    ``r >= rows``; ``at`` and ``bias_at`` are those of the thread's first row. Where ``wide`` holds, rows lie four
    elements apart, and four columns that lie side by side are written at once.
    """
    fours = range(tile.tn // WIDTH)
    lines = ["def write(out, at, out_row, targets, column, rows, wide, bias, bias_at, biased, sums):"]
    for q in fours:
        lines += [
            f"    t{q} = four(targets, column + {q * tile.column_step}, 0, 0, 0, 1)",
            f"    w{q} = wide and t{q}[0] & 3 == 0 and t{q}[1] - t{q}[0] == 1 and t{q}[2] - t{q}[0] == 2"
            f" and t{q}[3] - t{q}[0] == 3",
        ]
    for i in range(tile.tm):
        row = i // WIDTH * tile.row_step + i % WIDTH
        lines += [
            f"    if {row} < rows:",
            f"        here = at + {row} * out_row",
            f"        b = load_if(bias, bias_at + {row}, biased)",
        ]
        for q in fours:
            values = [f"sums[{i * tile.tn + q * WIDTH + e}] + b" for e in range(WIDTH)]
            lines += [
                f"        if w{q}:",
                f"            store4(out, here + t{q}[0], {', '.join(values)})",
                "        else:",
            ]
            for e, value in enumerate(values):
                lines += [f"            if t{q}[{e}] >= 0:", f"                store(out, here + t{q}[{e}], {value})"]
    return shim.device(
        define("write", lines, four=shim.load_rows(1), load_if=shim.load_if, store4=shim.store4, store=shim.store)
    )


@cache
def write_block(tile: Tile) -> Callable[..., None]:
    """``f(out, at, out_row, rows, sums)``: a thread's sums go to ``out``, whose rows hold whole tiles."""
    lines = ["def write(out, at, out_row, rows, sums):"]
    for i in range(tile.tm):
        row = i // WIDTH * tile.row_step + i % WIDTH
        lines.append(f"    if {row} < rows:")
        for q in range(tile.tn // WIDTH):
            values = ", ".join(f"sums[{i * tile.tn + q * WIDTH + e}]" for e in range(WIDTH))
            lines.append(f"        store4(out, at + {row} * out_row + {q * tile.column_step}, {values})")
    return shim.device(define("write", lines, store4=shim.store4))
