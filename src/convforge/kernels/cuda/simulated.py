"""The shim in plain Python, for CUDA's simulator: it checks what a GPU would not forgive."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from convforge.kernels.cuda.tile import WIDTH, Tile


def _memory(array: Any) -> Any:
    return array if isinstance(array, np.ndarray) else array._item._ary


def _wide(value: Any) -> Any:
    return value.astype(np.float32) if value.dtype == np.float16 else value


def _read(array: Any, at: int, count: int) -> Any:
    memory = _memory(array)
    if at < 0 or at + count > len(memory) or (count > 1 and at % count):
        raise IndexError(f"{count} elements at {at} of {len(memory)}")
    return _wide(memory[at : at + count])


def _write(array: Any, at: int, values: Any) -> None:
    memory, count = _memory(array), len(values)
    if at < 0 or at + count > len(memory) or (count > 1 and at % count):
        raise IndexError(f"{count} elements at {at} of {len(memory)}")
    memory[at : at + count] = values


def quotient(a: int, b: int) -> int:
    """``a // b`` of numbers that are not negative."""
    return a // b


def within(value: int, size: int) -> bool:
    """Whether ``0 <= value < size``."""
    return 0 <= value < size


def load(array: Any, at: int) -> Any:
    """The element at an index."""
    return _read(array, at, 1)[0]


def load_if(array: Any, at: int, wanted: bool) -> Any:
    """The element at an index; 0, and no access, where it is not wanted."""
    return _read(array, at, 1)[0] if wanted else _wide(_memory(array)[:0].dtype.type(0))


def store(array: Any, at: int, value: Any) -> None:
    """Write an element."""
    _write(array, at, [value])


def store4(array: Any, at: int, a: Any, b: Any, c: Any, d: Any) -> None:
    """Write four elements at once."""
    _write(array, at, [a, b, c, d])


def starts_aligned(array: Any) -> bool:
    """Whether four elements may be written at once."""
    return True


def zeros(count: int, dtype: str) -> Callable[[], Any]:
    """A function without arguments that gives ``count`` zeros."""
    return lambda: np.zeros(count, dtype)


@cache
def load_rows(count: int) -> Callable[..., Any]:
    """``f(array, at, step, row, rows, limit)``: ``count`` times four elements, each ``step`` on from the last.

    The i-th four are row ``row + i * rows``; at and beyond the row ``limit`` they are zeros, and nothing is read.
    """

    def load_rows(array: Any, at: int, step: int, row: int, rows: int, limit: int) -> Any:
        none = _wide(np.zeros(WIDTH, _memory(array).dtype))
        return np.concatenate(
            [_read(array, at + i * step, WIDTH) if row + i * rows < limit else none for i in range(count)]
        )

    return load_rows


@cache
def load_column(count: int) -> Callable[..., Any]:
    """The same for ``count`` single elements: ``f(array, at, step, wanted, row, rows, limit)``."""

    def load_column(array: Any, at: int, step: int, wanted: bool, row: int, rows: int, limit: int) -> Any:
        return np.array([load_if(array, at + i * step, wanted and row + i * rows < limit) for i in range(count)])

    return load_column


@cache
def store_rows(count: int) -> Callable[..., None]:
    """``f(array, at, step, values)``: what :func:`load_rows` loads goes ``step`` apart."""

    def store_rows(array: Any, at: int, step: int, values: Any) -> None:
        for i in range(count):
            _write(array, at + i * step, values[i * WIDTH : (i + 1) * WIDTH])

    return store_rows


@cache
def store_column(count: int, step: int) -> Callable[..., None]:
    """``f(array, at, values)``: ``count`` values, each ``step`` on from the last."""

    def store_column(array: Any, at: int, values: Any) -> None:
        for i in range(count):
            store(array, at + i * step, values[i])

    return store_column


@cache
def store_transposed(count: int, step: int, pitch: int) -> Callable[..., None]:
    """``f(array, at, values)``: of the i-th four values, the j-th goes to ``at + i * step + j * pitch``."""

    def store_transposed(array: Any, at: int, values: Any) -> None:
        for i in range(count):
            for j in range(WIDTH):
                store(array, at + i * step + j * pitch, values[i * WIDTH + j])

    return store_transposed


@cache
def multiply(tile: Tile) -> Callable[..., Any]:
    """``f(sums, a, a_at, b, b_at)``: ``sums`` plus what a thread multiplies of one step's panels.

    ``a`` holds ``tile.bk`` rows of ``tile.a_pitch`` elements, ``b`` of ``tile.b_pitch``; the thread's rows and
    columns are fours, ``tile.row_step`` and ``tile.column_step`` apart, from ``a_at`` and ``b_at`` on.
    """
    rows = np.concatenate([np.arange(WIDTH) + q * tile.row_step for q in range(tile.tm // WIDTH)])
    columns = np.concatenate([np.arange(WIDTH) + q * tile.column_step for q in range(tile.tn // WIDTH)])

    def multiply(sums: Any, a: Any, a_at: int, b: Any, b_at: int) -> Any:
        total = sums.reshape(tile.tm, tile.tn)
        with np.errstate(all="ignore"):
            for k in range(tile.bk):
                left, right = a[a_at + k * tile.a_pitch + rows], b[b_at + k * tile.b_pitch + columns]
                total = total + np.multiply.outer(left, right)
        return total.ravel()

    return multiply


def broadcast(value: float) -> float:
    """A constant of the transforms."""
    return value


def mul(factor: float, a: Any) -> Any:
    """``factor * a`` in the type of ``a``."""
    return type(a)(factor) * a


def add(a: Any, b: Any) -> Any:
    """``a + b``."""
    return a + b


def sub(a: Any, b: Any) -> Any:
    """``a - b``."""
    return a - b


def fma(factor: float, a: Any, b: Any) -> Any:
    """``factor * a + b``, rounded once on a GPU, in the type of ``a``."""
    return type(a)(factor) * a + b
