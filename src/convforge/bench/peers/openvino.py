"""OpenVINO: a compiled model of one operation on the CPU plugin.

Timed is ``InferRequest.infer`` between an input and an output tensor of OpenVINO's own, the result not copied out;
weight and bias are constants, packed when the model is compiled. ``INFERENCE_PRECISION_HINT`` is f32: by default the
plugin computes in bfloat16 where the processor can. Its threads are not pinned to cores: in a process with other
pools they would hold on to the cores that those want.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as operations

from convforge.bench.peers import Contender, Job, flat_padding, wants_prepared
from convforge.problem import ConvProblem, PoolProblem


def version() -> str:
    return str(openvino.get_version()).partition("-")[0]


def pin(threads: int) -> None:
    del threads  # a compiled model has its own


def refuses(job: Job) -> str | None:
    problem = job.problem
    if isinstance(problem, PoolProblem):
        if problem.divisor_override is not None:
            return "its average has no divisor of one's own"
        if problem.indices:
            return "its indices count over the whole array"
    return wants_prepared(job)


def contenders(job: Job) -> Iterator[Contender]:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": job.threads,
        "INFERENCE_PRECISION_HINT": job.problem.dtype.replace("float", "f"),
        "ENABLE_CPU_PINNING": False,
    }
    compiled = _core().compile_model(_model(job), "CPU", settings)
    request = compiled.create_infer_request()
    kind = openvino.Type(np.dtype(job.problem.dtype))
    x, out = (
        openvino.Tensor(kind, openvino.Shape(each)) for each in (job.problem.input_shape, job.problem.output_shape)
    )
    x.data[...] = job.array("x")
    request.set_input_tensor(x)
    request.set_output_tensor(out)
    yield Contender("openvino", partial(request.infer, share_outputs=True), lambda _: np.array(out.data))


@cache
def _core() -> Any:
    return openvino.Core()


def _model(job: Job) -> Any:
    x = operations.parameter(list(job.problem.input_shape), np.dtype(job.problem.dtype).type)
    problem = job.problem
    out = _convolution(job, problem, x) if isinstance(problem, ConvProblem) else _pool(problem, x)
    return openvino.Model([out], [x])


def _convolution(job: Job, problem: ConvProblem, x: Any) -> Any:
    weight, bias = job.array("weight"), job.arrays.get("bias")
    window = (list(problem.stride), *flat_padding(problem), list(problem.dilation))
    if problem.groups == 1:
        out = operations.convolution(x, operations.constant(weight), *window)
    else:
        grouped = weight.reshape(problem.groups, problem.k // problem.groups, *weight.shape[1:])
        out = operations.group_convolution(x, operations.constant(grouped), *window)
    if bias is None:
        return out
    return operations.add(out, operations.constant(bias.reshape(1, -1, *[1] * problem.ndim)))


def _pool(problem: PoolProblem, x: Any) -> Any:
    before, after = flat_padding(problem)
    rounding = "ceil_torch" if problem.ceil_mode else "floor"
    if problem.kind == "max":
        return operations.max_pool(
            x, list(problem.stride), list(problem.dilation), before, after, list(problem.kernel), rounding
        ).output(0)
    return operations.avg_pool(
        x, list(problem.stride), before, after, list(problem.kernel), not problem.count_include_pad, rounding
    )
