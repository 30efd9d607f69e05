"""Device memory that calls borrow: freeing it would wait for the device, so it is kept for the next call."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from convforge.device_arrays import describe

#: Bytes that are kept for later calls.
KEPT_BYTES = 512 << 20
#: Sizes are rounded up to this, for one buffer to serve calls of nearly the same size.
_GRAIN = 1 << 16
#: CUDA_ERROR_OUT_OF_MEMORY (cuda.h, CUresult)
_OUT_OF_MEMORY = 2


class Pool:
    """Buffers by device and stream.

    A buffer that comes back may still be in use by kernels on its stream: the next borrower on that stream queues
    behind them, and no other stream gets it.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._free: defaultdict[tuple[int, int, int], list[Any]] = defaultdict(list)
        self._bytes = 0
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, nbytes: int, device: int, stream: int) -> Iterator[int]:
        """The address of ``nbytes`` bytes, for kernels that are sent to ``stream`` meanwhile.

        Raises
        ------
        MemoryError
            The device's memory does not suffice; the message says what to do.
        """
        size = -(-nbytes // _GRAIN) * _GRAIN
        if size == 0:
            yield 0
            return
        key = (device, stream, size)
        with self._lock:
            memory = self._free[key].pop() if self._free[key] else None
            self._bytes -= 0 if memory is None else size
        if memory is None:
            memory = self._allocate(size, device)
        try:
            yield describe("workspace", memory).address
        finally:
            with self._lock:
                if self._bytes + size <= self._kept_bytes:
                    self._free[key].append(memory)
                    self._bytes += size

    def clear(self) -> None:
        """Give everything that is not borrowed back to the device."""
        with self._lock:
            self._free.clear()
            self._bytes = 0

    def _allocate(self, size: int, device: int) -> Any:
        try:
            return allocate(size, device)
        except MemoryError:
            self.clear()
            return allocate(size, device)


def allocate(nbytes: int, device: int) -> Any:
    """Uninitialised bytes of a device, as an array of Numba's.

    Raises
    ------
    MemoryError
        There are not so many left.
    """
    from convforge.kernels.cuda import memory

    try:
        return memory.numba_array((nbytes,), "uint8", device)
    except Exception as error:  # Numba's CudaAPIError, which its simulator lacks
        if getattr(error, "code", None) != _OUT_OF_MEMORY:
            raise
        free, total = memory.free_bytes(device)
        raise MemoryError(
            f"GPU {device} is out of memory: {nbytes} bytes were wanted, {free} of {total} are free; take a smaller "
            "batch or an algorithm with less workspace (convforge compare shows it), or free what other libraries "
            "keep (torch.cuda.empty_cache(), cupy.get_default_memory_pool().free_all_blocks())"
        ) from error


pool = Pool()
