"""What a GPU policy emits: grids of kernels over 1-D views of arrays that are bound at the call.

The twin of :mod:`convforge.program`: plain data that names kernels by module, factory and configuration. Strides and
starts are the same linear forms (:class:`~convforge.program.Slot`, :class:`~convforge.program.View`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from convforge.program import Slot, View

Dim3 = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Memory:
    """An array argument: all of an operand's memory, or a buffer of the program, as a contiguous 1-D array.

    Element 0 is the operand's first; no stride is negative by then. An operand that is absent binds to an array of one
    element that must not be used: see :class:`Present`.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Present:
    """An int32 argument: 1 where the operand is given, 0 where it is absent (no bias)."""

    name: str


#: What a kernel's argument may be. Slots and ints arrive as int32, floats in the type that the program computes in.
Argument = Memory | Present | Slot | int | float


def offset(view: View) -> Slot:
    """Index of a view's first element in its operand's memory."""
    return Slot(view.array, coefficients=view.starts)


@dataclass(frozen=True, slots=True)
class Launch:
    """One grid of one kernel.

    Attributes
    ----------
    module, kernel, config
        ``convforge.kernels.cuda.<module>.<kernel>(*config)`` makes the function that is compiled.
    args
        The kernel's arguments, in its order.
    grid, block
        Blocks and threads along x, y, z.
    """

    module: str
    kernel: str
    config: tuple[str | int | bool, ...]
    args: tuple[Argument, ...]
    grid: Dim3
    block: Dim3


@dataclass(frozen=True, slots=True)
class Buffer:
    """``count`` elements of device memory, uninitialised."""

    dtype: str
    count: int


@dataclass(frozen=True)
class DeviceProgram:
    """The launches of one pass, run in order on one stream.

    Attributes
    ----------
    launches
        What runs in every call.
    prepare
        Launches before those, which fill ``packed`` from ``weight``; skipped where prepared weights are given.
    packed, workspace
        Buffers by the names under which ``Memory`` finds them: kept with a prepared weight, or of the call alone.
    contiguous
        Operands that the launches need C-contiguous: the executor copies others. Those not named come with any strides
        that are not negative.
    """

    dtype: str
    launches: Sequence[Launch]
    prepare: Sequence[Launch] = ()
    packed: Mapping[str, Buffer] = field(default_factory=dict)
    workspace: Mapping[str, Buffer] = field(default_factory=dict)
    contiguous: frozenset[str] = frozenset({"indices", "bias"})
