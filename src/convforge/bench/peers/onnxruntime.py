"""ONNX Runtime: a session of one node on the CPU provider.

Timed is ``run_with_iobinding`` with an input and an output that live in ONNX Runtime's own memory; weight and bias
are initializers, packed when the session is made. The input is NCHW: where the runtime prefers blocks of channels,
its reorders are part of the call, as they are at the borders of any model.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from convforge.bench.peers import Contender, Job, flat_padding, wants_prepared
from convforge.problem import ConvProblem, PoolProblem, Problem

_OPSET = 19
_IR_VERSION = 9


def version() -> str:
    return str(onnxruntime.__version__)


def pin(threads: int) -> None:
    del threads  # a session has a pool of its own


def refuses(job: Job) -> str | None:
    problem = job.problem
    if isinstance(problem, PoolProblem):
        if problem.divisor_override is not None:
            return "its average has no divisor of one's own"
        if problem.indices:
            return "its indices count over the whole array"
    return wants_prepared(job)


def contenders(job: Job) -> Iterator[Contender]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    model = _model(job).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    out = onnxruntime.OrtValue.ortvalue_from_shape_and_type(job.problem.output_shape, np.dtype(job.problem.dtype).type)
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(job.array("x")))
    binding.bind_ortvalue_output("out", out)
    yield Contender("onnxruntime", partial(session.run_with_iobinding, binding), lambda _: _read(out))


def _read(value: Any) -> np.ndarray:
    values: np.ndarray = value.numpy()
    return values


def _model(job: Job) -> Any:
    problem = job.problem
    kind = TensorProto.DOUBLE if problem.dtype == "float64" else TensorProto.FLOAT
    given = {name: job.arrays.get(name) for name in ("weight", "bias")}
    constants = {name: array for name, array in given.items() if array is not None}
    graph = helper.make_graph(
        [_node(problem, ["x", *constants])],
        "bench",
        [helper.make_tensor_value_info("x", kind, problem.input_shape)],
        [helper.make_tensor_value_info("out", kind, problem.output_shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _node(problem: Problem, inputs: list[str]) -> Any:
    before, after = flat_padding(problem)
    window: dict[str, Any] = {"kernel_shape": problem.kernel, "strides": problem.stride, "pads": before + after}
    if isinstance(problem, ConvProblem):
        return helper.make_node("Conv", inputs, ["out"], **window, dilations=problem.dilation, group=problem.groups)
    window["ceil_mode"] = int(problem.ceil_mode)
    if problem.kind == "max":
        return helper.make_node("MaxPool", inputs, ["out"], **window, dilations=problem.dilation)
    return helper.make_node("AveragePool", inputs, ["out"], **window, count_include_pad=int(problem.count_include_pad))
