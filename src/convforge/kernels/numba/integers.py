"""Whole numbers: rounding and bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


def ceiling(target: Target) -> Inner:
    """Make ``ceiling(a, b)``: a / b rounded up, for any a and b > 0."""
    return target.jit(lambda a, b: -(-a // b))


def clamp(target: Target) -> Inner:
    """Make ``clamp(value, low, high)``."""
    return target.jit(lambda value, low, high: min(max(value, low), high))
