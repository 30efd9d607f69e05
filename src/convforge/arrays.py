"""Checks of the arrays of a call."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from convforge.device_arrays import DeviceArray, on_device
from convforge.problem import Problem

_ARRAYS = (np.ndarray, DeviceArray)  # a tuple: making their union takes half a microsecond


def check_type(name: str, array: Any) -> None:
    """Raise TypeError unless ``array`` is a plain NumPy array, or known to be on a GPU."""
    if not isinstance(array, _ARRAYS) or isinstance(array, np.ma.MaskedArray):
        if isinstance(array, np.ndarray):
            hint = "a masked array has no kernels: fill it"
        elif on_device(array):
            hint = "all arrays of a call are on one GPU, with backend='cuda' if it is a plan's, or in the host's memory"
        else:
            hint = "use numpy.asarray"
        raise TypeError(f"{name} must be a numpy.ndarray, got {type(array).__name__}; {hint}")


def check_types(**arrays: Any) -> None:
    """Raise TypeError unless every argument, given by its name, is a plain NumPy array."""
    for name, array in arrays.items():
        if type(array) is not np.ndarray:
            check_type(name, array)


_NAMES = {np.dtype(name).char: name for name in ("float32", "float64", "float16")}


def dtype_name(array: np.ndarray) -> str:
    """Name of an array's dtype; NumPy's own takes a microsecond."""
    return _NAMES.get(array.dtype.char) or array.dtype.name


def check_array(name: str, array: Any, shape: tuple[int, ...], dtype: str) -> None:
    """Raise TypeError or ValueError unless ``array`` is a NumPy array of this shape and dtype (either byte order)."""
    check_type(name, array)
    if array.dtype.name != dtype:
        raise TypeError(
            f"{name} must have dtype {dtype}, the call's, got {array.dtype}; cast it with {name}.astype({dtype!r})"
        )
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")


def check_output(out: Any, shape: tuple[int, ...], dtype: str, inputs: Mapping[str, np.ndarray | None]) -> None:
    """Raise TypeError or ValueError where ``out`` has another shape or dtype, is read-only, or overlaps an input."""
    check_array("out", out, shape, dtype)
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    for name, array in inputs.items():
        if isinstance(array, np.ndarray) and _overlap(out, array):
            raise ValueError(f"out must not overlap {name}: they share memory")


def check_indices(indices: Any, problem: Problem) -> None:
    """Raise unless ``indices`` are int64, of the output's shape, and inside the input's planes."""
    check_array("indices", indices, problem.output_shape, "int64")
    plane = prod(problem.input)
    if indices.size and (indices.min() < 0 or indices.max() >= plane):
        raise ValueError(
            f"indices must lie in [0, {plane}), the input's plane of {problem.input}; "
            f"got values from {indices.min()} to {indices.max()}"
        )


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # NumPy's stub lacks it
    except np.exceptions.TooHardError:
        return True
