"""Runs a program: checks arrays out and in, binds them to its kernels' arguments, and calls the kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from convforge.kernels import abi
from convforge.program import ARRAYS, Program, Slot, Stage
from convforge.runtime import threads

_COEFFICIENTS = 5
_ALIGNMENT = 64
#: What takes less on one thread gains little from a second one (measured: 2 µs a join).
_PARALLEL_SECONDS = 15e-6

#: The arrays of a call, in the order of ``program.ARRAYS`` without the two buffers; None where a pass has none.
Operands = tuple[np.ndarray | None, ...]
OPERANDS = ARRAYS[:6]


def allocate(nbytes: int) -> np.ndarray:
    """``nbytes`` uninitialised bytes, aligned to a cache line."""
    raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % _ALIGNMENT
    return raw[offset : offset + nbytes]


class Executor:
    """A program bound to one backend's kernels. Threads may share it: each call checks a workspace of its own out.

    Parameters
    ----------
    program
        What to run.
    shapes
        Shape and dtype of each operand of the pass, by name.
    lookup
        ``lookup(kernel, dtype)`` is the address of a compiled kernel.
    seconds
        What the pass is modelled to take on one thread: short ones run there.
    """

    def __init__(
        self,
        program: Program,
        shapes: Mapping[str, tuple[tuple[int, ...], str]],
        lookup: Callable[[str, str], int],
        seconds: float,
    ) -> None:
        self.program = program
        stages = (*program.prepare, *program.stages, *program.unprepared)
        self._runner = threads.Runner(
            *_tables(stages, lambda kernel: lookup(kernel, program.dtype)), _expected(program, shapes)
        )
        self._prepare_count = len(program.prepare)
        self._prepared = (self._prepare_count, self._prepare_count + len(program.stages))
        self._unprepared = (self._prepared[1], len(stages)) if program.unprepared else (0, self._prepared[1])
        self._parallel = seconds >= _PARALLEL_SECONDS and any(stage.items > stage.grain for stage in stages)
        self._scratch_bytes = _round_up(program.scratch_bytes)
        self._shared_bytes = _round_up(program.workspace_bytes)
        # of a call that brings no packed weights
        self._packed_bytes = 0 if program.unprepared else _round_up(program.packed_bytes)
        # each with what lies behind its shared part: the packed weights of a call that brings none
        self._workspaces: list[tuple[np.ndarray, np.ndarray]] = []

    def workspace_bytes(self, workers: int, *, prepared: bool) -> int:
        """Bytes that a call of ``workers`` threads takes beyond its arrays."""
        packed = 0 if prepared else self._packed_bytes
        return self._shared_bytes + packed + (workers if self._parallel else 1) * self._scratch_bytes

    def pack(self, weight: np.ndarray) -> np.ndarray:
        """The ``packed`` buffer for ``weight``, read-only."""
        packed = allocate(self.program.packed_bytes)
        self._run((None, weight, None, None, None, None), packed, 0, self._prepare_count)
        packed.flags.writeable = False
        return packed

    def plain(self, operands: Operands) -> bool:
        """Whether every operand that is there has the pass's shape and dtype, and a layout that needs no copy."""
        answer: bool = self._runner.plain(operands)
        return answer

    def __call__(self, operands: Operands, packed: np.ndarray | None = None) -> None:
        """Run the program on operands that are plain, writing into ``out``."""
        # unpacked here, not with a star in the call, which takes a fifth of a microsecond
        first, end = self._unprepared if packed is None else self._prepared
        self._run(operands, packed, first, end)

    def call_with_copies(self, operands: Operands, packed: np.ndarray | None = None) -> None:
        """Run the program on operands of any layout, alignment and byte order."""
        usable = tuple(
            None if array is None else self._usable(name, array) for name, array in zip(OPERANDS, operands, strict=True)
        )
        self(usable, packed)
        for name, array, used in zip(OPERANDS, operands, usable, strict=True):
            if name == "out" and array is not None and used is not None and used is not array:
                array[...] = used

    def _usable(self, name: str, array: np.ndarray) -> np.ndarray:
        """``array``, or a copy where the kernels cannot read it in place: its layout, alignment or byte order."""
        layout = _layout(self.program, name)
        if layout == _CONTIGUOUS:
            fits = array.flags.c_contiguous
        else:
            fits = layout == _ANY or array.shape[-1] == 1 or array.strides[-1] == array.itemsize
        if fits and array.flags.aligned and array.dtype.isnative and not any(s % array.itemsize for s in array.strides):
            return array
        return np.ascontiguousarray(array, array.dtype.newbyteorder("="))

    def _run(self, operands: Operands, packed: np.ndarray | None, first: int, end: int) -> None:
        workers = threads.get_num_threads() if self._parallel else 1
        scratch = self._shared_bytes if packed is not None else self._shared_bytes + self._packed_bytes
        needed = scratch + workers * self._scratch_bytes
        try:
            buffers = self._workspaces.pop()
        except IndexError:
            buffers = None
        if buffers is None or buffers[0].nbytes < needed:
            memory = allocate(needed)
            buffers = (memory, memory[self._shared_bytes :])
        used = buffers if packed is None else (buffers[0], packed)
        self._runner.run(operands + used, first, end, scratch, self._scratch_bytes, workers)
        self._workspaces.append(buffers)


_ANY, _UNIT_STRIDE, _CONTIGUOUS = range(3)


def _layout(program: Program, name: str) -> int:
    if name in program.contiguous:
        return _CONTIGUOUS
    return _UNIT_STRIDE if name in program.unit_stride else _ANY


def _expected(program: Program, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> np.ndarray:
    """What the compiled runner takes as it is: layout, type number, dimension and shape of each array."""
    table = np.full((len(ARRAYS), 3 + _COEFFICIENTS), -1, np.int64)
    for name, (shape, dtype) in shapes.items():
        row = table[ARRAYS.index(name)]
        row[:3] = _layout(program, name), np.dtype(dtype).num, len(shape)
        row[3 : 3 + len(shape)] = shape
    return table


def _round_up(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _tables(stages: tuple[Stage, ...], address: Callable[[str], int]) -> tuple[np.ndarray, np.ndarray]:
    """The stages as the runner's tables: slots (array, address, constant, coefficients) and stages."""
    slots: list[list[int]] = []
    rows = []
    for stage in stages:
        names = abi.SIGNATURES[stage.kernel]
        if set(names) != set(stage.args):
            wrong = sorted(set(names) ^ set(stage.args))
            raise AssertionError(f"the policy's arguments of {stage.kernel} differ from its signature in {wrong}")
        rows.append([address(stage.kernel), len(slots), stage.items, stage.grain])
        slots += [_row(stage.args[name]) for name in names]
    return np.array(slots, np.int64).reshape(-1, 3 + _COEFFICIENTS), np.array(rows, np.int64).reshape(-1, 4)


def _row(slot: Slot | int) -> list[int]:
    if isinstance(slot, int):
        return [-1, 0, slot, *[0] * _COEFFICIENTS]
    array = -1 if slot.array is None else ARRAYS.index(slot.array)
    padding = [0] * (_COEFFICIENTS - len(slot.coefficients))
    return [array, int(slot.address), slot.constant, *slot.coefficients, *padding]
