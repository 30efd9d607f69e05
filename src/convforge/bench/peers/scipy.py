"""SciPy: filters of pictures.

Timed are ``ndimage.correlate`` (``correlate1d`` twice where the kernel is an outer product), written into an array
that is there, always on one thread and with float64 sums; and ``signal.oaconvolve``, FFTs of blocks in float32, for
kernels of 7x7 and more. A plane of the result is a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import scipy
from scipy import fft, ndimage, signal

from convforge.bench.peers import Contender, Job, filters
from convforge.problem import ConvProblem

#: Taps below which an FFT is far from competing.
_LEAST_TAPS = 49


def version() -> str:
    return str(scipy.__version__)


def pin(threads: int) -> None:
    del threads  # only its FFTs have workers, and they are told in each call


def refuses(job: Job) -> str | None:
    return filters.refuses(job)


def contenders(job: Job) -> Iterator[Contender]:
    assert isinstance(job.problem, ConvProblem)
    weight = job.array("weight")
    between = np.empty(job.problem.input, weight.dtype)
    yield _contender("scipy ndimage", job, [_correlate(kernel[0], between) for kernel in weight])
    if weight[0, 0].size >= _LEAST_TAPS:
        yield _contender("scipy oaconvolve", job, [_by_fft(kernel[0], job.threads) for kernel in weight])


def _contender(name: str, job: Job, filters_: list[Callable[..., Any]]) -> Contender:
    assert isinstance(job.problem, ConvProblem)
    x, out = job.array("x"), np.empty(job.problem.output_shape, job.problem.dtype)
    calls = [partial(filters_[k], x[n, c], out[n, k]) for n, c, k in filters.planes(job.problem)]

    def run() -> None:
        for call in calls:
            call()

    return Contender(name, run, lambda _: out)


def _correlate(kernel: np.ndarray, between: np.ndarray) -> Callable[..., Any]:
    pair = filters.factors(kernel)
    if pair is None:
        return lambda x, out: ndimage.correlate(x, kernel, output=out, mode="constant")
    column, row = pair

    def separately(x: np.ndarray, out: np.ndarray) -> None:
        ndimage.correlate1d(x, column, axis=0, output=between, mode="constant")
        ndimage.correlate1d(between, row, axis=1, output=out, mode="constant")

    return separately


def _by_fft(kernel: np.ndarray, workers: int) -> Callable[..., Any]:
    flipped = kernel[::-1, ::-1].copy()

    def convolve(x: np.ndarray, out: np.ndarray) -> None:
        with fft.set_workers(workers):
            out[...] = signal.oaconvolve(x, flipped, mode="same")

    return convolve
