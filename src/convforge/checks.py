"""Values turned into plain ints, tuples and names, or refused with an error that says what would be right."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

#: What a problem may compute in; float16 is storage, summed in float32, and for a GPU alone.
DTYPES = ("float32", "float64", "float16")

#: Sizes, strides, paddings and dilations stay below this, so that sums of a few of them never overflow 64 bits.
LIMIT = 1 << 40

Pairs = tuple[tuple[int, int], ...]


def integer(name: str, value: Any, minimum: int) -> int:
    """Return ``value`` as an int in ``minimum`` ... LIMIT; numpy integers pass, bools and floats do not."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an int, got the bool {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    if number > LIMIT:
        raise ValueError(f"{name} must be at most {LIMIT}, got {number}")
    return number


def flag(name: str, value: Any) -> bool:
    """Return ``value`` as a bool; nothing else passes for one."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r} of type {type(value).__name__}")
    return bool(value)


def per_axis(name: str, value: Any, ndim: int, minimum: int) -> tuple[int, ...]:
    """Return one int for each of ``ndim`` axes, from one int for all of them or a sequence of ``ndim`` ints."""
    entries = _entries(value)
    if entries is None:
        return (integer(name, value, minimum),) * ndim
    if len(entries) != ndim:
        raise ValueError(f"{name} must be an int or {_count(ndim, 'int')}, got {len(entries)} values: {value!r}")
    return tuple(integer(f"{name}[{axis}]", entry, minimum) for axis, entry in enumerate(entries))


def pairs(name: str, value: Any, ndim: int) -> Pairs:
    """Return one (before, after) pair for each axis, from an int, one int per axis or one pair per axis."""
    entries = _entries(value)
    if entries is None:
        return ((integer(name, value, 0),) * 2,) * ndim
    if len(entries) != ndim:
        example = ", ".join(["(1, 2)"] * ndim) + ("," if ndim == 1 else "")
        raise ValueError(
            f"{name} must be an int, {_count(ndim, 'int')} or {_count(ndim, '(before, after) pair')} "
            f"such as ({example}), got {len(entries)} values: {value!r}"
        )
    inner = [_entries(entry) for entry in entries]
    if all(entry is None for entry in inner):
        return tuple((before, before) for before in per_axis(name, value, ndim, 0))
    result = []
    for axis, (entry, pair) in enumerate(zip(entries, inner, strict=True)):
        if pair is None:
            raise TypeError(f"{name} must hold either ints or (before, after) pairs, not both, got {value!r}")
        if len(pair) != 2:
            raise ValueError(f"{name}[{axis}] must be a (before, after) pair, got {entry!r}")
        before, after = (integer(f"{name}[{axis}][{side}]", pair[side], 0) for side in (0, 1))
        result.append((before, after))
    return tuple(result)


def shape(name: str, value: Any) -> tuple[int, ...]:
    """Return an array's shape as a tuple of ints that are not negative."""
    entries = _entries(value)
    if entries is None:
        raise TypeError(f"{name} must be a shape, a tuple of ints, got {value!r} of type {type(value).__name__}")
    return tuple(integer(f"{name}[{axis}]", entry, 0) for axis, entry in enumerate(entries))


def dtype_name(value: Any) -> str:
    """Return the name of a dtype that convforge computes in."""
    try:
        name = np.dtype(value).name if value is not None else "None"
    except TypeError:
        name = repr(value)
    if name not in DTYPES:
        raise TypeError(wrong_dtype(name))
    return name


def wrong_dtype(name: str) -> str:
    """Say which dtypes would be right."""
    return (
        f"dtype must be float32 or float64, got {name}: cast the arrays, as in x.astype(np.float32); float16 is taken "
        "with backend='cuda'"
    )


def _entries(value: Any) -> tuple[Any, ...] | None:
    """Return the entries of a sequence, None for anything else."""
    if isinstance(value, np.ndarray):
        return tuple(value) if value.ndim else None
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(value)
    return None


def _count(ndim: int, what: str) -> str:
    return f"one {what} per axis ({ndim})"
