"""One kernel on its own, called through its C signature."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from importlib import import_module

import numpy as np

from convforge.kernels import abi

_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_ALIGNMENT = 64


def bind(
    backend: str, kernel: str, dtype: str, arguments: Mapping[str, np.ndarray | int], items: int = 1
) -> Callable[[], None]:
    """A call of ``kernel`` without the GIL, on one thread and without scratch.

    Parameters
    ----------
    backend
        "cython" or "numba".
    kernel, dtype
        Which one; Numba compiles it here.
    arguments
        A value for each field of the kernel's signature; an array stands for its address and is kept alive.
    items
        How many items of its stage it does.

    Raises
    ------
    ImportError
        The backend is missing.
    """
    function = _SIGNATURE(import_module(f"convforge.kernels.{backend}").lookup(kernel, dtype))
    values = [arguments[name] for name in abi.SIGNATURES[kernel]]
    table = np.array([each.ctypes.data if isinstance(each, np.ndarray) else each for each in values], np.int64)
    address = table.ctypes.data

    def call(keep: object = (values, table)) -> None:
        del keep
        function(address, None, 0, items)

    return call


def aligned(count: int, dtype: str) -> np.ndarray:
    """``count`` zeros that start on a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(count * itemsize + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + count * itemsize].view(dtype)
