"""Runs a device program: binds the arrays of a call to its kernels' arguments, and sends the kernels to a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from convforge.device_arrays import DeviceArray, contiguous_strides, describe
from convforge.launch import Argument, Buffer, DeviceProgram, Launch, Memory, Present
from convforge.operands import Shapes
from convforge.program import Slot
from convforge.runtime.device_pool import allocate, pool
from convforge.runtime.executor import OPERANDS, Operands

#: Kernels index with 32 bits.
MOST_ELEMENTS = (1 << 31) - 1
_ALIGNMENT = 256
_THREADS = 256


@dataclass(frozen=True, eq=False, slots=True)
class DevicePacked:
    """A weight on a device, and what the program packs of it."""

    weight: DeviceArray
    memory: Any
    address: int

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.weight.nbytes + (0 if self.memory is None else describe("packed", self.memory).nbytes)


class DeviceExecutor:
    """A program bound to the current device's kernels, which are compiled at first use. Threads may share it.

    Parameters
    ----------
    program
        What to launch.
    shapes
        Shape and dtype of each operand of the pass, by name.
    """

    def __init__(self, program: DeviceProgram, shapes: Shapes) -> None:
        self.program = program
        self._shapes = shapes
        self._kernels: dict[tuple[int, int], Any] = {}

    @cached_property
    def _types(self) -> dict[str, str]:
        from convforge.kernels.cuda.compile import dtypes

        return dtypes(self.program, self._shapes)

    def workspace_bytes(self, workers: int, *, prepared: bool) -> int:
        """Bytes of device memory that a call takes beyond its arrays."""
        del workers
        packed = 0 if prepared else _extent(self.program.packed)
        return _extent(self.program.workspace) + packed

    # the face that plans know, for NumPy arrays

    def plain(self, operands: Operands) -> bool:
        """False: NumPy arrays are copied, after the checks in Python."""
        del operands
        return False

    def pack(self, weight: np.ndarray | DeviceArray, stream: int = 0, device: int = 0) -> DevicePacked:
        """A copy of ``weight`` on the device, and what the program packs of it."""
        from convforge.kernels.cuda.memory import activated

        with activated(device):
            held = _contiguous_array(weight.shape, weight.dtype, allocate(max(1, weight.nbytes), device), device)
            if isinstance(weight, DeviceArray):
                copy(weight, held, stream)
            else:
                _upload(weight, held, stream)
            extent = _extent(self.program.packed)
            memory = allocate(extent, device) if extent else None
            address = 0 if memory is None else describe("packed", memory).address
            found = {"weight": held}
            self._send(self.program.prepare, found, _addresses(self.program.packed, address), stream, device)
        return DevicePacked(held, memory, address)

    def __call__(self, operands: Operands, packed: DevicePacked | None = None) -> None:
        """Run; the same as :meth:`call_with_copies`."""
        self.call_with_copies(operands, packed)

    def call_with_copies(self, operands: Operands, packed: DevicePacked | None = None, stream: int = 0) -> None:
        """Copy NumPy arrays to the device, run, copy the results back and wait for them."""
        given = {name: array for name, array in zip(OPERANDS, operands, strict=True) if array is not None}
        if packed is not None:
            given.pop("weight", None)
        with self.resident(given, stream) as arrays:
            self.launch(arrays, packed, stream)
            self.download(arrays, given, stream)

    def times(self, operands: Operands, packed: DevicePacked | None = None, stream: int = 0) -> tuple[float, float]:
        """Seconds of the kernels, and of the copies there and back, of one call with NumPy arrays."""
        from convforge.kernels.cuda.memory import Stopwatch, activated

        given = {name: array for name, array in zip(OPERANDS, operands, strict=True) if array is not None}
        if packed is not None:
            given.pop("weight", None)
        with activated(0):
            watch = Stopwatch(stream)
            watch.mark()
            with self.resident(given, stream) as arrays:
                watch.mark()
                self.launch(arrays, packed, stream)
                watch.mark()
                self.download(arrays, given, stream)
                watch.mark()
            there, kernels, back = watch.seconds()
        return kernels, there + back

    @contextmanager
    def resident(self, given: Mapping[str, np.ndarray], stream: int = 0, device: int = 0) -> Iterator[Arrays]:
        """NumPy arrays on the device: its own memory for each, the inputs copied."""
        from convforge.kernels.cuda.memory import activated

        with ExitStack() as stack:
            stack.enter_context(activated(device))
            arrays = {}
            for name, array in given.items():
                address = stack.enter_context(pool.borrow(array.nbytes, device, stream))
                dtype = array.dtype.newbyteorder("=")
                arrays[name] = DeviceArray(
                    None, address, array.shape, contiguous_strides(array.shape), dtype, device
                )  # fmt: skip
                if name not in self._results(given):
                    _upload(array, arrays[name], stream)
            yield arrays

    def download(self, arrays: Arrays, given: Mapping[str, np.ndarray], stream: int = 0) -> None:
        """Copy the results back into NumPy arrays, and wait for them."""
        from convforge.kernels.cuda.memory import flat, synchronize

        for name in self._results(given):
            source, target = arrays[name], given[name]
            if source.size == 0:
                continue
            host = np.empty(source.shape, source.dtype)
            flat(source.address, source.size, source.dtype.name, source.device).copy_to_host(
                host.reshape(-1), stream=_numba_stream(stream)
            )
            synchronize(stream)
            target[...] = host

    def _results(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        """What the pass writes: a max pool's forward pass also the indices, which its gradient reads."""
        return ("out", "indices") if "indices" in given and "x" in given else ("out",)

    # arrays on the device

    def launch(self, arrays: Arrays, packed: DevicePacked | None = None, stream: int = 0) -> None:
        """Send the kernels to ``stream``; nothing waits for them."""
        from convforge.kernels.cuda.memory import activated, wait_for

        device = arrays["out"].device
        program = self.program
        with ExitStack() as stack:
            stack.enter_context(activated(device))
            for array in arrays.values():
                if array.stream is not None and array.stream != stream:
                    wait_for(array.stream, stream)
            found = dict(arrays)
            if packed is not None:
                found["weight"] = packed.weight
            usable = {name: stack.enter_context(self._usable(name, each, stream)) for name, each in found.items()}
            own = stack.enter_context(pool.borrow(_extent(program.workspace), device, stream))
            buffers = _addresses(program.workspace, own)
            if packed is not None:
                buffers |= _addresses(program.packed, packed.address)
            elif program.prepare:
                scratch = stack.enter_context(pool.borrow(_extent(program.packed), device, stream))
                buffers |= _addresses(program.packed, scratch)
                self._send(program.prepare, usable, buffers, stream, device)
            self._send(program.launches, usable, buffers, stream, device)
            for name in self._results(arrays):
                if usable[name] is not arrays[name]:
                    copy(usable[name], arrays[name], stream)

    @contextmanager
    def _usable(self, name: str, array: DeviceArray, stream: int) -> Iterator[DeviceArray]:
        """``array``, or a copy where the kernels cannot use it in place: a negative stride, or gaps."""
        span = array.span
        if sum(span) > MOST_ELEMENTS:
            raise ValueError(
                f"{name} reaches over {sum(span)} elements of memory, kernels index {MOST_ELEMENTS}: pass a "
                "contiguous copy"
            )
        if span[0] == 0 and (array.contiguous or name not in self.program.contiguous):
            yield array
            return
        with pool.borrow(array.nbytes, array.device, stream) as address:
            made = replace(array, owner=None, address=address, strides=contiguous_strides(array.shape), stream=None)
            if name not in self._results(self._shapes):
                copy(array, made, stream)
            yield made

    def _send(
        self, launches: Sequence[Launch], arrays: Arrays, buffers: Mapping[str, tuple[Buffer, int]], stream: int,
        device: int,
    ) -> None:  # fmt: skip
        for each in launches:
            kernel = self._kernel(each, device)
            values = [self._value(argument, arrays, buffers, device) for argument in each.args]
            _launch(kernel, each, values, stream)

    def _kernel(self, launch: Launch, device: int) -> Any:
        key = id(launch), device  # the program keeps its launches
        if key not in self._kernels:
            from convforge.kernels.cuda import compile as compiler

            signature = compiler.signature(launch, self.program, self._types)
            self._kernels[key] = compiler.kernel(launch, signature, device)
        return self._kernels[key]

    def _value(self, argument: Argument, arrays: Arrays, buffers: Mapping[str, tuple[Buffer, int]], device: int) -> Any:
        from convforge.kernels.cuda.memory import flat

        if isinstance(argument, Memory):
            if argument.name in buffers:
                buffer, address = buffers[argument.name]
                return flat(address, max(1, buffer.count), buffer.dtype, device)
            array = arrays.get(argument.name)
            if array is None:  # absent: any memory of the right type, never used
                dtype = self._types.get(argument.name, self.program.dtype)
                return flat(next(iter(arrays.values())).address, 1, dtype, device)
            return flat(array.address, max(1, array.span[1]), array.dtype.name, device)
        if isinstance(argument, Present):
            return int(argument.name in arrays)
        if isinstance(argument, Slot):
            return _linear(argument, arrays)
        return argument


Arrays = dict[str, DeviceArray]


def _linear(slot: Slot, arrays: Arrays) -> int:
    """A slot's value; an axis of one element is never stepped along, whatever stride it claims."""
    if slot.address:
        raise AssertionError(f"a kernel on a device takes no address: {slot}")
    if slot.array is None or slot.array not in arrays:
        return slot.constant
    array = arrays[slot.array]
    steps = zip(slot.coefficients, array.strides, array.shape, strict=False)
    return slot.constant + sum(factor * stride for factor, stride, size in steps if size > 1)


def copy(source: DeviceArray, target: DeviceArray, stream: int) -> None:
    """Copy between arrays of one shape, dtype and device, of any strides, on the device."""
    from convforge.kernels.cuda import compile as compiler
    from convforge.kernels.cuda.memory import flat

    if source.size == 0:
        return
    values: list[Any] = []
    for array in (source, target):
        before, after = array.span
        start = array.address - before * array.dtype.itemsize
        values += [flat(start, before + after, array.dtype.name, array.device), before]
        values += [0] * (5 - array.ndim)
        values += [stride if size > 1 else 0 for stride, size in zip(array.strides, array.shape, strict=True)]
    values += [1] * (5 - source.ndim) + list(source.shape)
    blocks = -(-source.size // _THREADS)
    launch = Launch("copy", "strided_copy", (), (), (blocks, 1, 1), (_THREADS, 1, 1))
    types = tuple(f"{source.dtype.name}[]" if index in (0, 7) else "int32" for index in range(len(values)))
    _launch(compiler.kernel(launch, types, source.device), launch, values, stream)


def _launch(kernel: Any, launch: Launch, values: Sequence[Any], stream: int) -> None:
    try:
        kernel[launch.grid, launch.block, _numba_stream(stream)](*values)
    except Exception as error:  # Numba's CudaAPIError and cuda.core's CUDAError, which the simulator lacks
        advice = next((advice for word, advice in _ADVICE.items() if word in str(error)), None)
        if advice is None:
            raise
        raise RuntimeError(f"{launch.module}.{launch.kernel} did not run: {advice} ({error})") from error


_ADVICE = {
    "UNSUPPORTED_PTX_VERSION": (
        "the driver is older than the CUDA toolkit that compiled the kernel; update the driver, or install "
        "convforge[cuda12]"
    ),
    "NO_BINARY_FOR_GPU": "the kernel was compiled for another GPU; update numba-cuda",
    "ILLEGAL_ADDRESS": (
        "an earlier kernel of this process read or wrote outside its arrays; run under compute-sanitizer to see which"
    ),
}


def _numba_stream(handle: int) -> Any:
    from convforge.kernels.cuda.memory import stream

    return stream(handle)


def _upload(source: np.ndarray, target: DeviceArray, stream: int) -> None:
    from convforge.kernels.cuda.memory import flat

    if source.size:
        host = np.ascontiguousarray(source, source.dtype.newbyteorder("=")).reshape(-1)
        memory = flat(target.address, target.size, target.dtype.name, target.device)
        memory.copy_to_device(host, stream=_numba_stream(stream))


def _contiguous_array(shape: Sequence[int], dtype: np.dtype, memory: Any, device: int) -> DeviceArray:
    address = describe("memory", memory).address
    return DeviceArray(memory, address, tuple(shape), contiguous_strides(shape), dtype.newbyteorder("="), device)


def _sizes(buffers: Mapping[str, Buffer]) -> Iterator[tuple[str, Buffer, int]]:
    for name, each in buffers.items():
        nbytes = each.count * np.dtype(each.dtype).itemsize
        yield name, each, -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _extent(buffers: Mapping[str, Buffer]) -> int:
    return sum(size for _, _, size in _sizes(buffers))


def _addresses(buffers: Mapping[str, Buffer], address: int) -> dict[str, tuple[Buffer, int]]:
    """Buffers one behind the other, from ``address`` on."""
    found = {}
    for name, each, size in _sizes(buffers):
        found[name] = (each, address)
        address += size
    return found
