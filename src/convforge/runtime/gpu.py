"""The GPUs of this machine, asked of NVIDIA's driver directly: no CUDA package is imported to learn that there is none.

Policies see a device as plain data, so that they run without one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

#: What the kernels are compiled and tested for.
LEAST_COMPUTE_CAPABILITY = (7, 5)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, as far as launches and costs depend on it.

    Attributes
    ----------
    name
        What NVIDIA calls it.
    compute_capability
        (major, minor).
    multiprocessors
        How many run blocks at once.
    clock
        Hertz.
    bandwidth
        Bytes per second between the device's memory and its multiprocessors.
    l2, memory
        Bytes.
    """

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    clock: float
    bandwidth: float
    l2: int
    memory: int

    def peak(self, dtype: str) -> float:
        """Floating-point operations per second, two to a multiply-add; float16 is summed in float32."""
        return 2.0 * self.multiprocessors * self.clock * _lanes(self.compute_capability, dtype)


def _lanes(compute_capability: tuple[int, int], dtype: str) -> int:
    """Multiply-adds a cycle of a multiprocessor, as the CUDA C++ programming guide tables them."""
    if dtype == "float64":
        return {(8, 0): 32, (9, 0): 64, (10, 0): 64}.get(compute_capability, 2)
    return 64 if compute_capability in ((7, 5), (8, 0)) else 128


#: An A100: stands in where there is no device, so that programs, tests and PTX do not depend on the machine.
TYPICAL = Gpu("simulated", (8, 0), 108, 1.41e9, 1.555e12, 40 << 20, 40 << 30)

#: Numbers of the driver's device attributes (cuda.h, CUdevice_attribute).
_CLOCK_KHZ, _MULTIPROCESSORS, _MEMORY_CLOCK_KHZ, _BUS_BITS, _L2_BYTES, _MAJOR, _MINOR = 13, 16, 36, 37, 38, 75, 76


class DriverError(RuntimeError):
    """The driver is there, and refuses to start; the message says what to do."""


def simulated() -> bool:
    """Whether Numba's simulator of CUDA stands in for a device."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def missing() -> str | None:
    """Why no GPU can be used here, or None: no driver, no GPU, or none that is recent enough."""
    if simulated():
        return None
    try:
        found = devices()
    except OSError as error:
        return f"there is no NVIDIA driver ({error}): install one, or run the container with --gpus all"
    except DriverError as error:
        return str(error)
    if not found:
        return (
            "the NVIDIA driver sees no GPU: check nvidia-smi, and CUDA_VISIBLE_DEVICES "
            f"({os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')})"
        )
    gpu = current()
    if gpu.compute_capability < LEAST_COMPUTE_CAPABILITY:
        return (
            f"{gpu.name} has compute capability {_dotted(gpu.compute_capability)}, the kernels need "
            f"{_dotted(LEAST_COMPUTE_CAPABILITY)} or later: choose another GPU with CUDA_VISIBLE_DEVICES"
        )
    return None


def visible() -> tuple[Gpu, ...]:
    """The GPUs that can be listed here: none where the driver is missing or does not start."""
    try:
        return () if simulated() else devices()
    except (OSError, DriverError):
        return ()


def current() -> Gpu:
    """The GPU that this thread's CUDA calls go to.

    Raises
    ------
    OSError, DriverError, IndexError
        :func:`missing` has a reason.
    """
    if simulated():
        return TYPICAL
    number = ctypes.c_int(0)
    library().cuCtxGetDevice(ctypes.byref(number))  # where no context is current, the first device is taken
    return devices()[number.value]


@cache
def devices() -> tuple[Gpu, ...]:
    """All GPUs that this process may use, in the driver's order.

    Raises
    ------
    OSError
        There is no driver.
    DriverError
        It does not start.
    """
    driver = library()
    status = driver.cuInit(0)
    if status == _NO_DEVICE:
        return ()
    if status:
        raise DriverError(_start_failed(driver, status))
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    return tuple(_describe(driver, number) for number in range(count.value))


@cache
def library() -> Any:
    """The driver's library; OSError where there is none."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


_NO_DEVICE = 100


def _start_failed(driver: Any, status: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(status, ctypes.byref(name))
    word = name.value.decode() if name.value else f"error {status}"
    return (
        f"the NVIDIA driver does not start ({word}): check nvidia-smi; after an update of the driver restart the "
        "machine; a process that was forked after CUDA was used cannot use it"
    )


def _describe(driver: Any, number: int) -> Gpu:
    device = ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), number)
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    memory = ctypes.c_size_t()
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)

    def attribute(which: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
        return value.value

    # drivers that no longer tell clocks answer 0: costs then compare algorithms on a typical device
    clock = 1e3 * attribute(_CLOCK_KHZ) or TYPICAL.clock
    bandwidth = 2e3 * attribute(_MEMORY_CLOCK_KHZ) * attribute(_BUS_BITS) / 8 or TYPICAL.bandwidth
    return Gpu(
        name.value.decode(errors="replace"),
        (attribute(_MAJOR), attribute(_MINOR)),
        attribute(_MULTIPROCESSORS),
        clock,
        bandwidth,
        attribute(_L2_BYTES),
        memory.value,
    )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
