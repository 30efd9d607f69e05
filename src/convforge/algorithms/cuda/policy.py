"""What every GPU algorithm's policy states; its loops are under ``kernels/cuda``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convforge.launch import DeviceProgram
    from convforge.problem import Problem
    from convforge.runtime.gpu import Gpu


@dataclass(frozen=True)
class DevicePolicy:
    """Refusals, modelled cost and error, and the launches of one algorithm on a GPU.

    Attributes
    ----------
    name, passes, kinds, refuses, error
        As of :class:`convforge.algorithms.policy.Policy`; the error of float16 is that of the float32 sum, before the
        final rounding.
    dtypes
        Storage that its kernels take.
    cost
        ``cost(problem, pass_, mode, gpu)``: modelled seconds on the device.
    program
        ``program(problem, pass_, gpu)``: the launches that do it.
    """

    name: str
    passes: tuple[str, ...]
    kinds: tuple[str, ...]
    dtypes: tuple[str, ...]
    refuses: Callable[[Problem, str], str | None]
    cost: Callable[[Problem, str, str, Gpu], float]
    error: Callable[[Problem, str], float]
    program: Callable[[Problem, str, Gpu], DeviceProgram]
