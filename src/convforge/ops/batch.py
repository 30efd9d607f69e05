"""Arrays without a batch axis: given one on the way in, freed of it on the way out."""

from __future__ import annotations

from typing import Any

import numpy as np

from convforge import checks
from convforge.device_arrays import DeviceArray


def add_batch(name: str, array: np.ndarray, ndim: int) -> np.ndarray:
    """``array`` itself if it has a batch axis, else a view with one.

    Raises
    ------
    ValueError
        It has neither ``ndim`` + 2 axes nor ``ndim`` + 1.
    """
    if array.ndim == ndim + 2:
        return array
    if array.ndim == ndim + 1:
        return array[None]
    raise ValueError(
        f"{name} must have {ndim + 2} axes (n, channels, {ndim} spatial), or {ndim + 1} for one image; "
        f"got shape {array.shape}"
    )


def batched_shape(name: str, shape: Any, ndim: int) -> tuple[int, ...]:
    """``shape`` as a tuple of ints with a batch axis.

    Raises
    ------
    TypeError, ValueError
        It is no sequence of sizes, or has neither ``ndim`` + 2 of them nor ``ndim`` + 1.
    """
    sizes = checks.shape(name, shape)
    if len(sizes) == ndim + 2:
        return sizes
    if len(sizes) == ndim + 1:
        return (1, *sizes)
    raise ValueError(f"{name} must have {ndim + 2} sizes, or {ndim + 1} for one image; got {sizes}")


def batched_out(out: Any, single: bool) -> Any:
    """``out`` with a batch axis where the input is a single image; its checks come later."""
    return out[None] if single and isinstance(out, (np.ndarray, DeviceArray)) else out


def unbatched(result: np.ndarray, single: bool, out: np.ndarray | None = None) -> np.ndarray:
    """``result`` without the batch axis of a single image; ``out`` itself where it was given."""
    if out is not None:
        return out
    return result[0] if single else result
