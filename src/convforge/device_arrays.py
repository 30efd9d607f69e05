"""Arrays in a GPU's memory, whoever made them: read through ``__cuda_array_interface__`` or DLPack, never copied.

Nothing here imports a CUDA package, except to make an array of the kind that a user's library has.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

#: DLPack's numbers of device types (DLDeviceType): CUDA, and CUDA's managed memory.
_DLPACK_CUDA = (2, 13)
#: DLPack's type codes (DLDataTypeCode) as NumPy's kinds.
_DLPACK_KINDS = {0: "i", 1: "u", 2: "f", 5: "c"}


@dataclass(frozen=True, eq=False, slots=True)
class DeviceArray:
    """A strided array in a device's memory.

    Attributes
    ----------
    owner
        The object that keeps the memory: what a user gave, or gets.
    address
        Of the first element.
    shape, strides
        Sizes, and steps in elements.
    dtype
        Of the elements, in the machine's byte order.
    device
        Number of the device.
    writeable
        False where its library says that it must not be written to.
    stream
        Stream that its maker's work on it was sent to, where that is told and this may not have been waited for.
    """

    owner: Any
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype
    device: int = 0
    writeable: bool = True
    stream: int | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.size * self.dtype.itemsize

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in C order without gaps."""
        expected = contiguous_strides(self.shape)
        return all(
            size < 2 or stride == wanted
            for size, stride, wanted in zip(self.shape, self.strides, expected, strict=True)
        )

    @property
    def span(self) -> tuple[int, int]:
        """Elements from the first in memory to ``address``, and from there to behind the last (both at least 0)."""
        if self.size == 0:
            return 0, 0
        reaches = [(size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)]
        return -sum(min(0, reach) for reach in reaches), 1 + sum(max(0, reach) for reach in reaches)

    def __getitem__(self, key: int | None) -> DeviceArray:
        """With None the array under a new first axis; with 0 its first entry along the first axis."""
        if key is None:
            return replace(self, shape=(1, *self.shape), strides=(0, *self.strides))
        assert key == 0
        return replace(self, owner=self.owner[0], shape=self.shape[1:], strides=self.strides[1:])


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a C-contiguous array."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def on_device(array: Any) -> bool:
    """Whether this is an array in a GPU's memory."""
    if isinstance(array, DeviceArray):
        return True
    if isinstance(array, np.ndarray) or array is None:
        return False
    # an attribute of a torch tensor may raise more than AttributeError: a tensor that requires a gradient does
    kind = getattr(array, "__dlpack_device__", None)
    if kind is not None and int(kind()[0]) in _DLPACK_CUDA:
        return True
    return hasattr(type(array), "__cuda_array_interface__") and _interface(array) is not None


def describe(name: str, array: Any) -> DeviceArray:
    """What kernels need to know of a user's device array.

    Parameters
    ----------
    name
        The user's word for it, for errors.
    array
        Anything with ``__cuda_array_interface__`` or DLPack whose memory is a GPU's.

    Raises
    ------
    TypeError
        It is none; it is masked, byte-swapped or of a dtype that NumPy lacks; or it requires a gradient.
    ValueError
        It is not aligned to its elements.
    """
    if isinstance(array, DeviceArray):
        return array
    if getattr(array, "requires_grad", False):
        raise TypeError(f"{name} requires a gradient, which convforge does not record: pass {name}.detach()")
    interface = _interface(array)
    found = _from_dlpack(name, array) if interface is None else _from_interface(name, array, interface)
    if found.address % found.dtype.itemsize:
        raise ValueError(f"{name} must be aligned to its {found.dtype.itemsize}-byte elements: pass a copy")
    return found


def _interface(array: Any) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] | None = getattr(array, "__cuda_array_interface__", None)
    except (RuntimeError, TypeError):  # what torch raises for dtypes and layouts that the interface lacks
        return None
    return found


def _from_interface(name: str, array: Any, interface: dict[str, Any]) -> DeviceArray:
    if interface.get("mask") is not None:
        raise TypeError(f"{name} is masked, which no kernel takes: fill it")
    dtype = np.dtype(interface["typestr"])
    if not dtype.isnative:
        raise TypeError(f"{name} must be in the machine's byte order, got {dtype.str}")
    shape = tuple(interface["shape"])
    address, read_only = interface["data"]
    return DeviceArray(
        array, int(address or 0), shape, _element_strides(name, shape, interface.get("strides"), dtype), dtype,
        _device_of(array), not read_only, _produced_on(interface.get("stream")),
    )  # fmt: skip


def _element_strides(
    name: str, shape: tuple[int, ...], strides: Sequence[int] | None, dtype: np.dtype
) -> tuple[int, ...]:
    if strides is None:
        return contiguous_strides(shape)
    if any(stride % dtype.itemsize for stride in strides):
        raise ValueError(
            f"{name} must have strides that are multiples of its {dtype.itemsize}-byte elements, got {tuple(strides)}"
        )
    return tuple(stride // dtype.itemsize for stride in strides)


def _produced_on(stream: int | None) -> int | None:
    """The interface's stream: 1 and 2 stand for the default streams; these and none need no wait from there."""
    return stream if stream is not None and stream > 2 else None


def _device_of(array: Any) -> int:
    if hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[1])
    memory = getattr(array, "gpu_data", None)  # Numba's
    context = getattr(memory, "context", None)
    return int(context.device.id) if context is not None else 0


class _DLTensor(ctypes.Structure):
    """The start of a DLManagedTensor, as dlpack.h lays it out."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _from_dlpack(name: str, array: Any) -> DeviceArray:
    kind = getattr(array, "__dlpack_device__", None)
    if kind is None or int(kind()[0]) not in _DLPACK_CUDA:
        raise TypeError(
            f"{name} must be in the GPU's memory like the other arrays of the call, got {type(array).__name__}: move "
            "it there, or all to the host"
        )
    # -1: the stream that will read it is not known yet, and its library orders its own work
    capsule = array.__dlpack__(stream=-1)
    tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    if tensor.code not in _DLPACK_KINDS or tensor.lanes != 1:
        raise TypeError(f"{name} must have a dtype that NumPy has too, got DLPack's type code {tensor.code}")
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = (
        tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else contiguous_strides(shape)
    )
    return DeviceArray(
        # the capsule's own destructor gives the memory back, as nobody consumes it
        _Kept(array, capsule), (tensor.data or 0) + tensor.byte_offset, shape, strides,
        np.dtype(f"{_DLPACK_KINDS[tensor.code]}{tensor.bits // 8}"), tensor.device_id,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Kept:
    array: Any
    capsule: Any


def library_of(array: DeviceArray) -> str:
    """The package whose arrays these are: "torch", "cupy" or "numba"; for others, results are Numba's."""
    owner = array.owner.array if isinstance(array.owner, _Kept) else array.owner
    package = type(owner).__module__.partition(".")[0]
    return package if package in ("torch", "cupy") else "numba"


def stream_of(array: DeviceArray) -> int:
    """The stream that the array's library would now send its work to; 0 is the default stream."""
    library = library_of(array)
    if library == "torch":
        import torch

        return int(torch.cuda.current_stream(array.device).cuda_stream)
    if library == "cupy":
        import cupy

        with cupy.cuda.Device(array.device):
            return int(cupy.cuda.get_current_stream().ptr)
    return array.stream or 0


def empty_like(array: DeviceArray, shape: tuple[int, ...], dtype: str, stream: int) -> DeviceArray:
    """An uninitialised array of the library and on the device of another, for use on ``stream``."""
    library = library_of(array)
    made: Any
    if library == "torch":
        import torch

        with _torch_stream(stream, array.device):
            made = torch.empty(shape, dtype=getattr(torch, dtype), device=f"cuda:{array.device}")
    elif library == "cupy":
        import cupy

        with cupy.cuda.Device(array.device), cupy.cuda.ExternalStream(stream):
            made = cupy.empty(shape, dtype)
    else:
        from convforge.kernels.cuda.memory import numba_array

        made = numba_array(shape, dtype, array.device)
    return describe("out", made)


def _torch_stream(stream: int, device: int) -> AbstractContextManager[Any]:
    """Under it, torch's allocator ties memory to the stream that will use it."""
    import torch

    # an ExternalStream of 0 would be a new one
    theirs = torch.cuda.ExternalStream(stream, device=device) if stream else torch.cuda.default_stream(device)
    context: AbstractContextManager[Any] = torch.cuda.stream(theirs)
    return context


def stream_handle(stream: Any) -> int:
    """The address of a user's stream.

    Parameters
    ----------
    stream
        An address, or a stream of torch, CuPy, Numba or anything with ``__cuda_stream__``.

    Raises
    ------
    TypeError
        It is none of these.
    """
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        return int(protocol()[1])
    for attribute in ("cuda_stream", "ptr", "handle"):  # torch's, CuPy's, Numba's of before the protocol
        handle = getattr(stream, attribute, None)
        if handle is not None:
            return int(getattr(handle, "value", handle) or 0)
    raise TypeError(
        f"stream must be a CUDA stream of torch, CuPy or Numba, or its address as an int, got {type(stream).__name__}"
    )
