"""What this machine can do at most: multiply-adds between registers, and bytes copied."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from convforge import registry
from convforge.bench import bare, timing
from convforge.runtime.machine import machine

#: Rounds of the register tile in one call, about half a millisecond: as long as the calls it is compared with, or on a
#: busy machine the scheduler would interrupt it more often than them. On several threads it is longer, for their start.
_ROUNDS = 150_000
_ROUNDS_ON_THREADS = 1_000_000
#: Bytes of each array of a copy, beyond any last level of cache that one program gets.
_COPY_BYTES = 128 << 20

_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Ceiling:
    """Something that is limited by the machine alone, to be timed in the rounds of what is held against it.

    Attributes
    ----------
    run
        Does it once.
    amount
        Floating-point operations of one run: divided by its seconds, they are the ceiling.
    """

    run: Callable[[], object]
    amount: float


def fma_peak(dtype: str, backend: str, workers: int = 1) -> Ceiling:
    """The register tile's multiply-adds, nothing loaded or stored, on ``workers`` threads at once.

    Parameters
    ----------
    dtype
        "float32" or "float64".
    backend
        "cython" or "numba": whose ``peak`` kernel.
    workers
        Threads, each with registers of its own.

    Raises
    ------
    ImportError
        The backend is missing.
    """
    tile = machine().tile(dtype)
    elements = tile.rows * tile.columns
    registers = [bare.aligned(elements, dtype) for _ in range(workers)]
    depth = _ROUNDS if workers == 1 else _ROUNDS_ON_THREADS
    calls = [bare.bind(backend, "peak", dtype, {"out": out, "depth": depth}) for out in registers]

    def one(index: int) -> None:
        registers[index][...] = 0.5  # s = s / 2 + 1 / 2 goes to 1: no overflow, no denormal
        calls[index]()

    return Ceiling(_on_threads(one, list(range(workers))), 2.0 * elements * depth * workers)


@cache
def copy_bandwidth(workers: int = 1) -> float:
    """Bytes per second, read and written, of a copy that no cache holds, on ``workers`` threads; measured once."""
    source = np.ones(_COPY_BYTES // 8)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, workers), np.array_split(source, workers), strict=True))
    copy = _on_threads(lambda pair: np.copyto(*pair), parts)
    return 2.0 * source.nbytes / timing.interleave([copy], budget=0.3)[0].seconds


@cache
def peak_backend() -> str | None:
    """The backend whose ``peak`` kernel stands for the machine: the one that need not compile, if it is there."""
    return next((each for each in ("cython", "numba") if registry.backend_missing(each) is None), None)


def _on_threads(work: Callable[[_Part], object], parts: list[_Part]) -> Callable[[], object]:
    """A call that does all parts at once, one of them on the calling thread."""
    first, *others = parts
    if not others:
        return lambda: work(first)
    pool = ThreadPoolExecutor(len(others), thread_name_prefix="convforge-ceiling")

    def run() -> None:
        running = [pool.submit(work, part) for part in others]
        work(first)
        for each in running:
            each.result()

    return run
