"""Launches compiled: for the current device, for Numba's simulator, or to PTX for a device that is not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numba import cuda, types
from numba.np.numpy_support import from_dtype

from convforge.launch import DeviceProgram, Launch, Memory
from convforge.operands import Shapes
from convforge.runtime.gpu import simulated

Signature = tuple[str, ...]


def dtypes(program: DeviceProgram, shapes: Shapes) -> dict[str, str]:
    """The dtype of every array that the program's launches may name."""
    buffers = {name: each.dtype for name, each in {**program.packed, **program.workspace}.items()}
    return {**{name: dtype for name, (_, dtype) in shapes.items()}, **buffers}


def signature(launch: Launch, program: DeviceProgram, names: Mapping[str, str]) -> Signature:
    """What each argument is: the dtype of an array, then ``[]``; ``int32``; or the type of sums.

    An operand that the pass does not take has the program's dtype.
    """
    sums = "float64" if program.dtype == "float64" else "float32"
    return tuple(
        names.get(each.name, program.dtype) + "[]" if isinstance(each, Memory)
        else sums if isinstance(each, float) else "int32"
        for each in launch.args
    )  # fmt: skip


def function(launch: Launch) -> Callable[..., None]:
    """The Python function of a launch."""
    factory = getattr(import_module(f"convforge.kernels.cuda.{launch.module}"), launch.kernel)
    made: Callable[..., None] = factory(*launch.config)
    return made


def kernel(launch: Launch, argument_types: Signature, device: int) -> Any:
    """The launch's kernel for the current device, which has the number ``device``; compiled at first use."""
    return _kernel(function(launch), argument_types, prod(launch.block), device)


@cache
def _kernel(python: Callable[..., None], argument_types: Signature, threads: int, device: int) -> Any:
    del device  # a part of the key: a kernel is compiled for the device that is current
    if simulated():
        return cuda.jit(python)
    return cuda.jit(_numba_signature(argument_types), launch_bounds=_bounds(python, threads))(python)


def ptx(launch: Launch, argument_types: Signature, capabilities: Sequence[tuple[int, int]]) -> list[str]:
    """The launch's kernel in PTX for several compute capabilities, for ptxas to judge; it needs no driver.

    Numba's work on the Python function, most of the time, is the same for all of them and done once.
    """
    from numba.cuda import compiler  # the simulator has none

    python = function(launch)
    library, _ = compiler._compile_pyfunc_with_fixup(
        python, _numba_signature(argument_types), device=False, cc=capabilities[0], abi="numba",
        launch_bounds=_bounds(python, prod(launch.block)),
    )  # fmt: skip
    return [str(library.get_asm_str(cc=each)) for each in capabilities]


def _bounds(python: Callable[..., None], threads: int) -> tuple[int, int]:
    """Threads of a block, and blocks that a multiprocessor must hold: they limit a thread's registers."""
    return threads, getattr(python, "min_blocks", 1)


def _numba_signature(argument_types: Signature) -> Any:
    return types.void(*map(_numba_type, argument_types))


def _numba_type(name: str) -> Any:
    if name.endswith("[]"):
        return types.Array(from_dtype(np.dtype(name[:-2])), 1, "C")
    return from_dtype(np.dtype(name))
