"""The public functions on arrays that are on a GPU: the same bodies, over what :mod:`convforge.device_arrays` makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from convforge.device_arrays import DeviceArray, describe, on_device

P = ParamSpec("P")
R = TypeVar("R")

#: Parameters that are arrays.
_ARRAYS = ("x", "weight", "bias", "grad_output", "indices", "out")


def takes_device_arrays(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of NumPy arrays take arrays on a GPU: ``backend="auto"`` then is "cuda".

    Its first parameter that is an array says where the work is done, and what kind of arrays the results are.
    """
    signature = inspect.signature(function)
    model, position = next((name, i) for i, name in enumerate(signature.parameters) if name in _ARRAYS)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[position] if len(args) > position else kwargs.get(model)
        if type(first) is np.ndarray or not on_device(first):
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs).arguments
        for name in _ARRAYS:
            if bound.get(name) is not None:
                bound[name] = describe(name, bound[name])
        if bound.get("backend", "auto") == "auto":
            bound["backend"] = "cuda"
        result = function(**bound)  # type: ignore[call-arg]
        return _theirs(result)  # type: ignore[no-any-return]

    return call


def _theirs(result: Any) -> Any:
    """A result, or each of several, as the user's library has it."""
    if isinstance(result, tuple):
        return tuple(map(_theirs, result))
    return result.owner if isinstance(result, DeviceArray) else result
