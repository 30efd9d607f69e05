"""Device memory and streams through Numba; for its simulator, whose memory is the host's, the same over NumPy.

Only here do the device and the simulator differ.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np
from numba import cuda

from convforge.runtime.gpu import simulated


class SimulatedArray:
    """An array of NumPy's that passes for one on a device."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What NumPy says of it, in CUDA's words."""
        return {**self.array.__array_interface__, "version": 3}

    def __getitem__(self, key: Any) -> SimulatedArray:
        return SimulatedArray(self.array[key])


def numba_array(shape: tuple[int, ...], dtype: str, device: int) -> Any:
    """An uninitialised array of Numba's, on a device."""
    if simulated():
        return SimulatedArray(np.empty(shape, dtype))
    with cuda.gpus[device]:
        return cuda.device_array(shape, dtype)


@lru_cache(maxsize=1024)
def flat(address: int, count: int, dtype: str, device: int) -> Any:
    """``count`` elements from ``address`` on, as what kernels take; it keeps no memory alive."""
    if simulated():
        from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

        raw: Any = (ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(address)
        return FakeCUDAArray(np.frombuffer(raw, dtype))
    description = {
        "shape": (count,), "strides": None, "typestr": np.dtype(dtype).str, "data": (address, False), "version": 3,
    }  # fmt: skip
    with cuda.gpus[device]:
        return cuda.from_cuda_array_interface(description, sync=False)


@contextmanager
def activated(device: int) -> Iterator[None]:
    """Under it, this thread's CUDA calls go to ``device``."""
    with nullcontext() if simulated() else cuda.gpus[device]:
        yield


def stream(handle: int) -> Any:
    """Numba's object for a stream; 0 is the default stream."""
    return 0 if simulated() or handle == 0 else cuda.external_stream(handle)


def synchronize(handle: int) -> None:
    """Wait for all that was sent to a stream."""
    if not simulated():
        cuda.external_stream(handle).synchronize()


def wait_for(producer: int, consumer: int) -> None:
    """Let what follows on ``consumer`` wait, on the device, for what was sent to ``producer``."""
    if not simulated():
        event = cuda.event(timing=False)
        event.record(stream(producer))
        event.wait(stream(consumer))


class Stopwatch:
    """Marks on a stream, and the seconds between them on the device."""

    def __init__(self, handle: int = 0) -> None:
        self._stream = stream(handle)
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Set a mark behind what was sent so far."""
        if simulated():
            self._marks.append(perf_counter())
            return
        event = cuda.event()
        event.record(self._stream)
        self._marks.append(event)

    def seconds(self) -> list[float]:
        """Seconds from each mark to the next; waits for the last."""
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        if simulated():
            return [end - begin for begin, end in pairs]
        self._marks[-1].synchronize()
        return [cuda.event_elapsed_time(begin, end) * 1e-3 for begin, end in pairs]


def free_bytes(device: int) -> tuple[int, int]:
    """Free and all bytes of a device's memory."""
    with activated(device):
        free, total = cuda.current_context().get_memory_info()
    return int(min(free, 1 << 62)), int(min(total, 1 << 62))


def write(target: Any, source: np.ndarray) -> None:
    """Copy a NumPy array into one that :func:`numba_array` made, and wait for it."""
    if simulated():
        target.array[...] = source
    else:
        target.copy_to_device(np.ascontiguousarray(source))


def read(source: Any) -> np.ndarray:
    """A NumPy array of what :func:`numba_array` made holds."""
    return np.array(source.array if simulated() else source.copy_to_host())
