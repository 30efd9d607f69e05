"""What an algorithm's policy emits: stages of kernel calls over views of arrays that are bound at the call.

A :class:`Program` is plain data. It names kernels, never addresses, so it pickles and serves every backend.
The executor (:mod:`convforge.runtime.executor`) fills each stage's argument slots from the arrays of a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Arrays a slot may refer to, in the executor's order. ``workspace`` and ``packed`` are byte buffers.
ARRAYS = ("x", "weight", "bias", "out", "grad_output", "indices", "workspace", "packed")


@dataclass(frozen=True, slots=True)
class Slot:
    """One 64-bit kernel argument as a linear form of one array's address and strides.

    The value is ``constant`` where ``array`` is None. Else, with strides in elements, it is
    ``address + itemsize * (constant + sum(coefficients * strides))`` if ``address`` is set, and
    ``constant + sum(coefficients * strides)`` if not. An array that is absent (no bias) binds to 0.
    """

    array: str | None
    constant: int = 0
    address: bool = False
    coefficients: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """A strided window on an array of a call; start and strides are known only when the array is.

    ``axes[i]`` is the array's axis that the view's axis ``i`` walks, by ``steps[i]``; ``starts`` is indexed
    by the array's own axes.
    """

    array: str
    axes: tuple[int, ...]
    steps: tuple[int, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, array: str, ndim: int) -> View:
        """The whole of ``array``, which has ``ndim`` axes."""
        return cls(array, tuple(range(ndim)), (1,) * ndim, (0,) * ndim)

    def window(self, axis: int, start: int, step: int = 1) -> View:
        """The view from ``start`` (in steps of this view's axis) on, walking by ``step``, which may be negative."""
        origin = self.axes[axis]
        starts = list(self.starts)
        starts[origin] += start * self.steps[axis]
        steps = list(self.steps)
        steps[axis] *= step
        return View(self.array, self.axes, tuple(steps), tuple(starts))

    def transpose(self, *order: int) -> View:
        """The view with its axes in another order."""
        return View(self.array, tuple(self.axes[i] for i in order), tuple(self.steps[i] for i in order), self.starts)

    @property
    def address(self) -> Slot:
        """Address of the view's first element."""
        return Slot(self.array, address=True, coefficients=self.starts)

    def stride(self, axis: int, times: int = 1) -> Slot:
        """Element stride of one of the view's axes, ``times`` over (a block of that many elements)."""
        coefficients = [0] * len(self.starts)
        coefficients[self.axes[axis]] = self.steps[axis] * times
        return Slot(self.array, coefficients=tuple(coefficients))


def buffer(name: str, offset: int) -> Slot:
    """Address ``offset`` bytes into the ``workspace`` or the ``packed`` weights (their elements are bytes)."""
    return Slot(name, constant=offset, address=True)


@dataclass(frozen=True, slots=True)
class Stage:
    """One parallel loop: ``kernel(args, scratch, begin, end)`` over ``range(items)``, ``grain`` items at a time."""

    kernel: str
    args: Mapping[str, Slot | int]
    items: int
    grain: int = 1


@dataclass(frozen=True)
class Program:
    """The stages of one pass, run in order with a barrier between them.

    ``prepare`` writes the ``packed`` buffer from ``weight``; it is skipped where prepared weights are given. Where they
    are not and there is an ``unprepared``, that runs instead of both, without a ``packed`` buffer.
    ``scratch_bytes`` belong to each worker, ``workspace_bytes`` to the call. The arrays in ``unit_stride`` are
    handed over with a last axis of unit stride, those in ``contiguous`` C-contiguous: the executor copies those that
    are not so.
    """

    dtype: str
    stages: Sequence[Stage]
    prepare: Sequence[Stage] = ()
    unprepared: Sequence[Stage] = ()
    packed_bytes: int = 0
    workspace_bytes: int = 0
    scratch_bytes: int = 0
    unit_stride: frozenset[str] = frozenset({"x", "grad_output", "out"})
    contiguous: frozenset[str] = frozenset({"indices", "bias"})
