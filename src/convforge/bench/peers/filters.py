"""What the libraries of image filters share: the problems they do, and kernels that are an outer product."""

from __future__ import annotations

import numpy as np

from convforge.bench.peers import Job
from convforge.problem import ConvProblem

#: More channels than a picture has are no job for a library of pictures.
MOST_PLANES = 4


def refuses(job: Job) -> str | None:
    """Why a filter of pictures does not do a job, or None."""
    problem = job.problem
    if not isinstance(problem, ConvProblem) or job.pass_ != "forward" or problem.ndim != 2:
        return "it filters pictures"
    if problem.groups != problem.c or problem.k > MOST_PLANES or problem.bias:
        return f"it filters channels one by one, up to {MOST_PLANES} of them here, without a bias"
    if set(problem.stride) | set(problem.dilation) != {1}:
        return "it has neither stride nor dilation"
    if any(
        size % 2 == 0 or pair != (size // 2,) * 2 for size, pair in zip(problem.kernel, problem.padding, strict=True)
    ):
        return "it keeps the picture's size, with an odd kernel"
    return None


def planes(problem: ConvProblem) -> list[tuple[int, int, int]]:
    """(image, input channel, output channel) of each plane of the result."""
    per_channel = problem.k // problem.c
    return [(n, k // per_channel, k) for n in range(problem.n) for k in range(problem.k)]


def factors(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """A column and a row whose outer product the kernel is, in its dtype; None where there are none, or no need."""
    if 1 in kernel.shape:
        return None
    left, scales, right = np.linalg.svd(kernel.astype(np.float64))
    if scales[1] > 1e-6 * scales[0]:
        return None
    root = scales[0] ** 0.5
    return (left[:, 0] * root).astype(kernel.dtype), (right[0] * root).astype(kernel.dtype)
