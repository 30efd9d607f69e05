"""Arrays without a batch axis: given one on the way in, freed of it on the way out."""

from __future__ import annotations

from typing import Any

import numpy as np


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
    """``shape`` as a tuple with a batch axis; its sizes are checked where the problem is made.

    Raises
    ------
    TypeError, ValueError
        It is no tuple or list, or has neither ``ndim`` + 2 sizes nor ``ndim`` + 1.
    """
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"{name} must be a tuple of ints, got {shape!r} of type {type(shape).__name__}")
    if len(shape) == ndim + 2:
        return tuple(shape)
    if len(shape) == ndim + 1:
        return (1, *shape)
    raise ValueError(f"{name} must have {ndim + 2} sizes, or {ndim + 1} for one image; got {tuple(shape)}")


def batched_out(out: Any, single: bool) -> Any:
    """``out`` with a batch axis where the input is a single image; its checks come later."""
    return out[None] if single and isinstance(out, np.ndarray) else out


def unbatched(result: np.ndarray, single: bool, out: np.ndarray | None = None) -> np.ndarray:
    """``result`` without the batch axis of a single image; ``out`` itself where it was given."""
    if out is not None:
        return out
    return result[0] if single else result
