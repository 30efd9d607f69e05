"""OpenCV: ``filter2D``, and ``sepFilter2D`` where the kernel is an outer product, with zeros around the picture.

Timed is one call for each plane of the result, written into an array that is there (``dst``). Where every channel of
a picture gets the same filter, also one call on the picture with its channels last, OpenCV's own layout. Filters that
OpenCV knows by name (``blur``, ``GaussianBlur``) are none of it: they do not take a kernel. A maximum over a window
is ``dilate``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np

from convforge.bench.peers import Contender, Job, filters
from convforge.problem import PoolProblem

_SAME_DEPTH = -1


def version() -> str:
    return str(cv2.__version__)


def pin(threads: int) -> None:
    cv2.setNumThreads(threads)


def refuses(job: Job) -> str | None:
    problem = job.problem
    return _no_dilation(problem) if isinstance(problem, PoolProblem) else filters.refuses(job)


def _no_dilation(problem: PoolProblem) -> str | None:
    same = all(
        size % 2 and pair == (size // 2,) * 2 for size, pair in zip(problem.kernel, problem.padding, strict=True)
    )
    plain = problem.kind == "max" and problem.ndim == 2 and not problem.indices and not problem.ceil_mode
    if plain and same and set(problem.stride) | set(problem.dilation) == {1} and problem.c <= filters.MOST_PLANES:
        return None
    return "it has maxima of a picture's size only"


def contenders(job: Job) -> Iterator[Contender]:
    problem = job.problem
    if isinstance(problem, PoolProblem):
        planes = [(n, c, c) for n in range(problem.n) for c in range(problem.c)]
        yield _planar("opencv dilate", job, planes, partial(_dilated, np.ones(problem.kernel, np.uint8)))
        return
    weight = job.array("weight")
    pairs = [filters.factors(each[0]) for each in weight]
    separable = [pair for pair in pairs if pair is not None]
    ways: dict[str, Callable[[int], Callable[..., Any]]] = {"filter2D": partial(_whole, weight)}
    if len(separable) == len(pairs):
        ways["sepFilter2D"] = partial(_separated, separable)
    alike = problem.k == problem.c > 1 and bool((weight == weight[0]).all())
    for name, way in ways.items():
        yield _planar(f"opencv {name}", job, filters.planes(problem), way)
        if alike:
            yield _interleaved(f"opencv {name} channels_last", job, way(0))


def _whole(weight: np.ndarray, k: int) -> Callable[..., Any]:
    kernel = weight[k, 0].copy()
    return lambda x, out: cv2.filter2D(x, _SAME_DEPTH, kernel, dst=out, borderType=cv2.BORDER_CONSTANT)


def _separated(pairs: list[tuple[np.ndarray, np.ndarray]], k: int) -> Callable[..., Any]:
    column, row = pairs[k]
    return lambda x, out: cv2.sepFilter2D(x, _SAME_DEPTH, row, column, dst=out, borderType=cv2.BORDER_CONSTANT)


def _dilated(window: np.ndarray, k: int) -> Callable[..., Any]:
    del k
    return lambda x, out: cv2.dilate(x, window, dst=out)


def _planar(
    name: str, job: Job, planes: list[tuple[int, int, int]], way: Callable[[int], Callable[..., Any]]
) -> Contender:
    x, out = job.array("x").copy(), np.zeros(job.problem.output_shape, job.problem.dtype)
    calls = [partial(way(k), x[n, c], out[n, k]) for n, c, k in planes]

    def run() -> None:
        for call in calls:
            call()

    return Contender(name, calls[0] if len(calls) == 1 else run, lambda _: out)


def _interleaved(name: str, job: Job, call: Callable[..., Any]) -> Contender:
    pictures = np.ascontiguousarray(np.moveaxis(job.array("x"), 1, -1))
    out = np.zeros_like(pictures)

    def run() -> None:
        for picture, result in zip(pictures, out, strict=True):
            call(picture, result)

    return Contender(name, run, lambda _: np.moveaxis(out, -1, 1))
