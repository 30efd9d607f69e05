"""ncnn: a net of one layer.

Timed are an extractor's making, ``input`` and ``extract``: its result is one image after the other, channels first,
in memory that the net's pool of blocks keeps. Several images are one ``Mat`` of ncnn's own batches. Weights are packed
or transformed when the net is loaded. The storages in float16, bfloat16 and int8, on by default, are off.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from tempfile import NamedTemporaryFile
from typing import Any

import ncnn
import numpy as np

from convforge.bench.peers import Contender, Job, wants_prepared
from convforge.problem import ConvProblem, PoolProblem, Problem

_MAGIC = 7767517
#: Marks weights stored as float32.
_FLOAT32 = struct.pack("<i", 0)
_INPUT, _OUTPUT = 0, 1


def version() -> str:
    return str(ncnn.__version__)


def pin(threads: int) -> None:
    del threads  # a net has a count of its own


def refuses(job: Job) -> str | None:
    problem = job.problem
    if problem.ndim != 2:
        return "it is wired up for images"
    if problem.dtype != "float32":
        return "it has no float64"
    if problem.n > 1 and not hasattr(ncnn.Mat, "batch"):
        return "this version takes one image at a time"
    if isinstance(problem, PoolProblem) and (
        problem.indices or problem.divisor_override or set(problem.dilation) != {1}
    ):
        return "its pools have no indices, dilation or divisor of one's own"
    return wants_prepared(job)


def contenders(job: Job) -> Iterator[Contender]:
    yield Contender("ncnn", _Net(job), partial(_read, job.problem.n))


class _Net:
    """A net and its image; to call it is to run it."""

    def __init__(self, job: Job) -> None:
        self._allocators = ncnn.PoolAllocator(), ncnn.PoolAllocator()
        self._net = net = ncnn.Net()
        for option in dir(net.opt):
            if option.startswith(("use_fp16", "use_bf16", "use_int8", "use_vulkan")):
                setattr(net.opt, option, False)
        net.opt.num_threads = job.threads
        net.opt.blob_allocator, net.opt.workspace_allocator = self._allocators
        lines = [str(_MAGIC), "2 2", "Input x 0 1 x", _layer(job.problem), ""]
        if net.load_param_mem("\n".join(lines)) != 0:
            raise RuntimeError(f"ncnn does not read {lines[3]!r}")
        with NamedTemporaryFile() as file:  # it loads weights from files alone
            file.write(_weights(job))
            file.flush()
            if net.load_model(file.name) != 0:
                raise RuntimeError("ncnn does not take the weights")
        self._images = _images(job.array("x"))

    def __call__(self) -> Any:
        extractor = self._net.create_extractor()
        extractor.input(_INPUT, self._images)
        return extractor.extract(_OUTPUT)

    def __del__(self) -> None:
        # it does not hold its allocators, and what it packed is theirs
        self._net.clear()
        del self._net


def _images(x: np.ndarray) -> Any:
    """The images in memory of ncnn's own, each channel aligned."""
    return (ncnn.Mat(np.ascontiguousarray(x[0])) if len(x) == 1 else ncnn.Mat(np.ascontiguousarray(x), 0)).clone()


def _read(count: int, found: Any) -> np.ndarray:
    status, mat = found
    if status != 0:
        raise RuntimeError(f"ncnn's extract gave {status}")
    return np.stack([np.array(mat if count == 1 else mat.batch(index)) for index in range(count)])


def _weights(job: Job) -> bytes:
    if not isinstance(job.problem, ConvProblem):
        return b""
    bias = job.arrays.get("bias")
    return _FLOAT32 + job.array("weight").tobytes() + (b"" if bias is None else bias.tobytes())


def _layer(problem: Problem) -> str:
    """The layer's line; a parameter's number is ncnn's, x before y."""
    (top, bottom), (left, right) = problem.padding
    (kh, kw), (sh, sw), (dh, dw) = problem.kernel, problem.stride, problem.dilation
    if isinstance(problem, ConvProblem):
        values = {
            0: problem.k, 1: kw, 11: kh, 2: dw, 12: dh, 3: sw, 13: sh, 4: left, 15: right, 14: top, 16: bottom,
            5: int(problem.bias), 6: problem.weight_bytes // problem.itemsize,
        }  # fmt: skip
        kind = "Convolution"
        if problem.groups > 1:
            kind = "ConvolutionDepthWise"
            values[7] = problem.groups
    else:
        values = {
            0: int(problem.kind == "avg"), 1: kw, 11: kh, 2: sw, 12: sh, 3: left, 14: right, 13: top, 15: bottom,
            5: 0 if problem.ceil_mode else 1, 6: int(problem.count_include_pad),
        }  # fmt: skip
        kind = "Pooling"
    return f"{kind} layer 1 1 x out {' '.join(f'{key}={value}' for key, value in values.items())}"
