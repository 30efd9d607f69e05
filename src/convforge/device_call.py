"""One pass of a plan on arrays that are on a GPU: checked, sent to a stream, and not waited for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from convforge.algorithms.cuda.stages import view_arguments
from convforge.arrays import check_array
from convforge.device_arrays import DeviceArray, describe, empty_like, stream_handle, stream_of
from convforge.launch import DeviceProgram, Launch, Memory
from convforge.operands import Shapes
from convforge.problem import Problem
from convforge.program import View
from convforge.runtime.device_executor import DeviceExecutor, DevicePacked

_THREADS = 128


def run(
    problem: Problem,
    pass_: str,
    executor: DeviceExecutor,
    shapes: Shapes,
    given: Mapping[str, Any],
    packed: DevicePacked | None,
    stream: Any,
) -> dict[str, Any]:
    """The results of one pass by name: ``out``, and a max pool's new ``indices``.

    Parameters
    ----------
    problem, pass_, executor, shapes
        What the plan has for the pass.
    given
        The user's arrays by name, of which the first that is there says of which kind the results are; None for those
        that are absent. ``out`` is one of them.
    packed
        A prepared weight.
    stream
        The user's stream, or None for that on which the arrays' library now works.

    Returns
    -------
    dict of arrays
        As the user's library has them, or :class:`DeviceArray` if those were given.

    Raises
    ------
    TypeError, ValueError
        An array is not on the device, or of another dtype or shape than the problem's; ``out`` overlaps an input.
    """
    arrays = {name: describe(name, array) for name, array in given.items() if array is not None}
    model = next(array for name, array in arrays.items() if name != "out")
    _check(problem, pass_, arrays, shapes, packed)
    handle = stream_of(model) if stream is None else stream_handle(stream)
    made = [name for name in ("out", "indices") if name in shapes and name not in arrays]
    if pass_ != "forward" and "indices" in made:
        raise TypeError("indices must be the array that the forward pass returned, got None")
    for name in made:
        shape, dtype = shapes[name]
        arrays[name] = empty_like(model, shape, dtype, handle)
    executor.launch(arrays, packed, handle)
    plain = not any(isinstance(array, DeviceArray) for array in given.values())
    results = {name: arrays[name] for name in ("out", *made)}
    return {name: array.owner if plain else array for name, array in results.items()}


def snapshot(executors: Mapping[str, DeviceExecutor], array: Any, stream: Any) -> dict[str, DevicePacked]:
    """A weight packed for each pass; ``array`` may change afterwards, in the order of its stream."""
    weight = describe("weight", array)
    handle = stream_of(weight) if stream is None else stream_handle(stream)
    return {pass_: each.pack(weight, handle, weight.device) for pass_, each in executors.items()}


def bias_gradient(gradient: Any, stream: Any) -> Any:
    """Sums over images and pixels of a gradient of shape (n, k, oh, ow), in float64; on a GPU where it is there."""
    if not isinstance(gradient, DeviceArray):
        return gradient.sum(axis=(0, 2, 3), dtype=np.float64).astype(gradient.dtype.newbyteorder("="))
    n, k, oh, ow = gradient.shape
    handle = stream_of(gradient) if stream is None else stream_handle(stream)
    out = empty_like(gradient, (k,), gradient.dtype.name, handle)
    view = (Memory("grad_output"), *view_arguments(View.of("grad_output", 4), 2))
    config = (gradient.dtype.name, _THREADS)
    launch = Launch("direct", "grad_bias", config, (*view, Memory("out"), n, oh, ow), (k, 1, 1), (_THREADS, 1, 1))
    dtype = gradient.dtype.name
    shapes = {"grad_output": (gradient.shape, dtype), "out": (out.shape, dtype)}
    executor = DeviceExecutor(DeviceProgram(dtype, (launch,)), shapes)
    executor.launch({"grad_output": gradient, "out": out}, stream=handle)
    return out


def _check(
    problem: Problem, pass_: str, arrays: Mapping[str, DeviceArray], shapes: Shapes, packed: DevicePacked | None
) -> None:
    for name in arrays:
        if name not in shapes:
            raise ValueError(f"the {pass_} pass of {problem} takes no {name}")
    for name, (shape, dtype) in shapes.items():
        if name in arrays:
            check_array(name, arrays[name], shape, dtype)
        elif name not in ("out", "bias", "indices") and not (name == "weight" and packed is not None):
            raise TypeError(f"{name} must be an array on the GPU, got None")
    devices = {name: array.device for name, array in arrays.items()}
    if packed is not None:
        devices["the prepared weight"] = packed.weight.device
    if len(set(devices.values())) > 1:
        where = ", ".join(f"{name} on GPU {device}" for name, device in devices.items())
        raise ValueError(f"all arrays of a call must be on one GPU, got {where}")
    if "out" in arrays:
        _check_output(arrays)


def _check_output(arrays: Mapping[str, DeviceArray]) -> None:
    out = arrays["out"]
    if not out.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    if any(stride == 0 and size > 1 for stride, size in zip(out.strides, out.shape, strict=True)):
        raise ValueError(f"out must not repeat its memory, got strides of {out.strides} elements")
    for name, array in arrays.items():
        if name != "out" and _touch(out, array):
            raise ValueError(f"out must not overlap {name}: they share memory")


def _touch(a: DeviceArray, b: DeviceArray) -> bool:
    """Whether the memory that one reaches over meets the other's; arrays that interleave count as touching."""
    ranges = []
    for each in (a, b):
        before, after = each.span
        if before + after == 0:
            return False
        size = each.dtype.itemsize
        ranges.append((each.address - before * size, each.address + after * size))
    (a_begin, a_end), (b_begin, b_end) = ranges
    return a_begin < b_end and b_begin < a_end
