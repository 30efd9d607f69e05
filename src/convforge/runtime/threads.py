"""How many threads a call uses, and the pool that runs stages where the compiled runner is missing."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from convforge.program import ARRAYS

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

try:
    from convforge.runtime import _native
except ImportError as error:
    _native = None  # type: ignore[assignment]
    native_missing: str | None = f"the compiled runner could not be imported ({error})"
else:
    native_missing = None

_default: int | None = None
_context: ContextVar[int | None] = ContextVar("convforge_num_threads", default=None)
_forked = False


def _after_fork() -> None:
    # threads do not survive a fork: the pool's workers stay with the parent (pool.h knows too), as do libgomp's
    global _forked
    _forked = True
    _pool.cache_clear()


os.register_at_fork(after_in_child=_after_fork)


def _check(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"num_threads must be an int, got {n!r} of type {type(n).__name__}")
    if n < 1:
        raise ValueError(f"num_threads must be at least 1, got {n}")
    return int(n)


def set_num_threads(n: int) -> None:
    """Set how many threads calls may use at most, in the whole process.

    Parameters
    ----------
    n
        At least 1. A call uses the least of ``n``, OpenMP's own maximum (``OMP_NUM_THREADS``, threadpoolctl), the
        cores in the affinity mask and the pieces of its work.

    Raises
    ------
    TypeError, ValueError
        ``n`` is not an integer, or is less than 1.
    """
    global _default
    _default = _check(n)


def get_num_threads() -> int:
    """The number of threads that a large call made here and now would use; 1 in a forked child."""
    if _forked:
        return 1
    limit: int = _native.thread_limit() if _native is not None else _affinity()
    wanted = _context.get() or _default
    return limit if wanted is None else min(wanted, limit)


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Context in which calls of this thread (or asyncio task) use at most ``n`` threads.

    Parameters
    ----------
    n
        At least 1; other limits hold as for :func:`set_num_threads`.

    Raises
    ------
    TypeError, ValueError
        ``n`` is not an integer, or is less than 1.
    """
    token = _context.set(_check(n))
    try:
        yield
    finally:
        _context.reset(token)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # 5 ms, and only needed without the compiled runner

    return ThreadPoolExecutor(max_workers=max(1, _affinity() - 1), thread_name_prefix="convforge")


_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


class PoolRunner:
    """The compiled ``Runner``'s stand-in without a compiler: binds with NumPy, runs on a pool of Python threads.

    A kernel called through ctypes runs without the GIL.
    """

    def __init__(self, slots: np.ndarray, stages: np.ndarray, expected: np.ndarray) -> None:
        del expected
        self._slots = slots
        self._stages = [(_KERNEL(kernel), first, items, grain) for kernel, first, items, grain in stages.tolist()]

    def plain(self, arrays: tuple[np.ndarray | None, ...]) -> bool:
        """False: every call takes the executor's checks in Python."""
        del arrays
        return False

    def run(
        self,
        arrays: tuple[np.ndarray | None, ...],
        first: int,
        end: int,
        scratch: int,
        scratch_bytes: int,
        threads: int,
    ) -> None:
        """Run the stages ``first`` to ``end``; the arguments are the compiled runner's."""
        args = self._bind(arrays)
        workspace = arrays[ARRAYS.index("workspace")]
        assert workspace is not None
        scratch += workspace.ctypes.data
        for kernel, first_arg, items, grain in self._stages[first:end]:
            address = args.ctypes.data + 8 * first_arg
            if threads == 1 or items <= grain:
                kernel(address, scratch, 0, items)
                continue
            work = _shared_range(kernel, address, items, grain)
            others = [scratch + i * scratch_bytes for i in range(1, min(threads, -(-items // grain)))]
            running = [_pool().submit(work, own) for own in others]
            work(scratch)
            for future in running:
                future.result()

    def _bind(self, arrays: tuple[np.ndarray | None, ...]) -> np.ndarray:
        table = self._slots
        values = table[:, 2].copy()
        for index, array in enumerate(arrays):
            rows = table[:, 0] == index
            if array is None:
                values[rows] = 0
                continue
            strides = np.zeros(table.shape[1] - 3, np.int64)
            strides[: array.ndim] = np.array(array.strides, np.int64) // array.itemsize
            values[rows] += table[rows, 3:] @ strides
            values[rows & (table[:, 1] == 1)] *= array.itemsize
            values[rows & (table[:, 1] == 1)] += array.ctypes.data
        return values


Runner = PoolRunner if _native is None else _native.Runner


def _shared_range(kernel: Callable[..., None], address: int, items: int, grain: int) -> Callable[[int], None]:
    """A worker that takes ``grain`` items at a time until none is left."""
    begins = iter(range(0, items, grain))
    lock = threading.Lock()

    def work(scratch: int) -> None:
        for _ in repeat(None):
            with lock:
                begin = next(begins, None)
            if begin is None:
                return
            kernel(address, scratch, begin, min(begin + grain, items))

    return work
