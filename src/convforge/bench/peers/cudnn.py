"""cuDNN through torch, on the GPU: with float32 kept (TF32 off), and with TF32 for information."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from convforge.problem import ConvProblem, PoolProblem, Problem

Arrays = dict[str, Any]


def missing() -> str | None:
    return None if torch.cuda.is_available() else "torch has no CUDA here"


def version() -> str:
    return f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"


class Cudnn:
    """The peer of :mod:`convforge.bench.device`."""

    def __init__(self) -> None:
        torch.set_grad_enabled(False)
        torch.backends.cudnn.benchmark = True

    def place(self, array: np.ndarray) -> Any:
        return torch.from_numpy(array).cuda()

    def host(self, array: Any) -> np.ndarray:
        found: np.ndarray = array.cpu().numpy()
        return found

    def calls(self, problem: Problem, pass_: str) -> dict[str, Callable[[Arrays], Any]]:
        call = _call(problem, pass_)
        if call is None:
            return {}
        if problem.dtype != "float32" or not isinstance(problem, ConvProblem):
            return {"torch": call}
        return {"cuDNN": _with_tf32(call, False), "TF32": _with_tf32(call, True)}

    def exact(self, problem: Problem, pass_: str, arrays: Arrays) -> np.ndarray:
        call = _call(problem, pass_)
        if call is None:
            raise ValueError(f"torch has no uneven padding for {pass_} of {problem}")
        doubled = {name: array if name == "indices" else array.double() for name, array in arrays.items()}
        return self.host(call(doubled))


def _with_tf32(call: Callable[[Arrays], Any], allowed: bool) -> Callable[[Arrays], Any]:
    def run(arrays: Arrays) -> Any:
        torch.backends.cudnn.allow_tf32 = allowed
        return call(arrays)

    return run


def _call(problem: Problem, pass_: str) -> Callable[[Arrays], Any] | None:
    """A pass in torch, None where the padding is uneven."""
    if any(before != after for before, after in problem.padding):
        return None
    return _conv(problem, pass_) if isinstance(problem, ConvProblem) else _pool(problem, pass_)


def _conv(p: ConvProblem, pass_: str) -> Callable[[Arrays], Any]:
    padding = [before for before, _ in p.padding]
    if pass_ == "forward":
        conv = (functional.conv1d, functional.conv2d, functional.conv3d)[p.ndim - 1]
        return lambda a: conv(a["x"], a["weight"], a.get("bias"), p.stride, padding, p.dilation, p.groups)
    mask = [pass_ == "grad_input", pass_ == "grad_weight", False]

    def backward(a: Arrays) -> Any:
        x = a["x"]
        return torch.ops.aten.convolution_backward(
            a["grad_output"], x, a["weight"], None, p.stride, padding, p.dilation, False, [0] * p.ndim, p.groups, mask
        )[mask.index(True)]

    return backward


def _pool(p: PoolProblem, pass_: str) -> Callable[[Arrays], Any] | None:
    padding = [before for before, _ in p.padding]
    if p.ndim != 2:
        return None
    aten = torch.ops.aten
    counted = p.count_include_pad
    if p.kind == "avg":
        rest = (p.kernel, p.stride, padding, p.ceil_mode, counted, p.divisor_override)
        if pass_ == "forward":
            return lambda a: aten.avg_pool2d(a["x"], *rest)
        return lambda a: aten.avg_pool2d_backward(a["grad_output"], a["x"], *rest)
    window = (p.kernel, p.stride, padding, p.dilation, p.ceil_mode)
    if pass_ == "forward":
        return lambda a: aten.max_pool2d_with_indices(a["x"], *window)[0]
    return lambda a: aten.max_pool2d_with_indices_backward(a["grad_output"], a["x"], *window, a["indices"])
