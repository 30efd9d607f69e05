"""PyTorch: functional calls, and convolutions by oneDNN on weights that it packed.

Timed are ``F.conv2d`` on contiguous (NCHW) and on channels_last tensors, without gradients being recorded; in mode
prepared also ``torch.ops.mkldnn._convolution_pointwise`` on a weight that ``_reorder_convolution_weight`` packed for
this very input: what ``torch.compile`` calls with ``freezing`` on, and faster than ``to_mkldnn`` or
``torch.jit.optimize_for_inference`` on nearly every layer. The result stays in the tensor's layout. torch has no
``out`` here: each call allocates it. An uneven padding is a call of ``F.pad`` more.

The gradients are ``aten.convolution_backward``, asked for the one gradient only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from convforge.bench.peers import Contender, Job, flat_padding
from convforge.problem import ConvProblem, PoolProblem

_FORMATS = {"torch": torch.contiguous_format, "torch channels_last": torch.channels_last}


def version() -> str:
    return str(torch.__version__)


@cache
def _float32_only() -> None:
    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("highest")
    if hasattr(torch.backends.mkldnn, "conv"):  # no bfloat16 inside oneDNN
        torch.backends.mkldnn.conv.fp32_precision = "ieee"


def pin(threads: int) -> None:
    _float32_only()
    torch.set_num_threads(threads)


def refuses(job: Job) -> str | None:
    problem = job.problem
    if isinstance(problem, ConvProblem):
        if job.pass_ != "forward" and _uneven(problem):
            return "its gradients take an even padding"
        return None
    if job.pass_ != "forward":
        return "the gradients of pools are not wired up"
    return "its pools take an even padding" if _uneven(problem) else None


def contenders(job: Job) -> Iterator[Contender]:
    problem = job.problem
    for name, layout in _FORMATS.items():
        if layout is torch.channels_last and problem.ndim != 2:
            continue
        x, weight, bias, gradient = (_tensor(job.arrays.get(each), layout) for each in _OPERANDS)
        if isinstance(problem, PoolProblem):
            yield Contender(name, partial(_pool(problem), x), _read)
        elif job.pass_ == "forward":
            yield Contender(name, _convolution(problem, x, weight, bias), _read)
            if job.mode == "prepared" and problem.ndim == 2 and not _uneven(problem):
                yield Contender(name.replace("torch", "torch packed"), _packed(problem, x, weight, bias), _read)
        else:
            yield Contender(name, _gradient(job, x, weight, gradient), lambda found: _read(_only(found)))


_OPERANDS = ("x", "weight", "bias", "grad_output")


def _tensor(array: np.ndarray | None, layout: Any) -> Any:
    """A tensor in memory of torch's own."""
    if array is None:
        return None
    tensor = torch.from_numpy(np.ascontiguousarray(array)).clone()
    return tensor.to(memory_format=layout) if array.ndim == 4 else tensor


def _read(found: Any) -> np.ndarray:
    values: np.ndarray = (found[0] if isinstance(found, tuple) else found).contiguous().numpy()
    return values


def _only(found: Any) -> Any:
    return next(each for each in found if each is not None)


def _uneven(problem: ConvProblem | PoolProblem) -> bool:
    before, after = flat_padding(problem)
    return before != after


def _convolution(problem: ConvProblem, x: Any, weight: Any, bias: Any) -> Callable[[], Any]:
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[problem.ndim - 1]
    before, after = flat_padding(problem)
    stride, dilation, groups = problem.stride, problem.dilation, problem.groups
    if before == after:
        return partial(function, x, weight, bias, stride, tuple(before), dilation, groups)
    # F.pad counts axes from the last
    pads = [each for pair in reversed(problem.padding) for each in pair]
    return lambda: function(functional.pad(x, pads), weight, bias, stride, 0, dilation, groups)


def _packed(problem: ConvProblem, x: Any, weight: Any, bias: Any) -> Callable[[], Any]:
    padding, stride, dilation = flat_padding(problem)[0], list(problem.stride), list(problem.dilation)
    packed = torch.ops.mkldnn._reorder_convolution_weight(
        weight, padding, stride, dilation, problem.groups, list(x.shape)
    )
    function = torch.ops.mkldnn._convolution_pointwise.default
    return partial(function, x, packed, bias, padding, stride, dilation, problem.groups, "none", [], "")


def _gradient(job: Job, x: Any, weight: Any, gradient: Any) -> Callable[[], Any]:
    problem = job.problem
    assert isinstance(problem, ConvProblem)
    mask = [job.pass_ == each for each in ("grad_input", "grad_weight", "grad_bias")]
    padding = flat_padding(problem)[0]
    return partial(
        torch.ops.aten.convolution_backward.default,
        gradient, x, weight, None, list(problem.stride), padding, list(problem.dilation),
        False, [0] * problem.ndim, problem.groups, mask,
    )  # fmt: skip


def _pool(problem: PoolProblem) -> Callable[[Any], Any]:
    window = {"kernel_size": problem.kernel, "stride": problem.stride, "padding": tuple(flat_padding(problem)[0])}
    if problem.kind == "max":
        functions = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
        more = {"dilation": problem.dilation, "ceil_mode": problem.ceil_mode, "return_indices": problem.indices}
    else:
        functions = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
        more = {"ceil_mode": problem.ceil_mode, "count_include_pad": problem.count_include_pad}
        if problem.divisor_override is not None:
            more["divisor_override"] = problem.divisor_override
    return partial(functions[problem.ndim - 1], **window, **more)
