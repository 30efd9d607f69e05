"""The warning, once in a process, that nothing but the slow reference does a problem."""

from __future__ import annotations

import inspect
import threading
import warnings

from convforge.errors import PerformanceWarning
from convforge.problem import Problem

_warned = threading.Event()


def warn_of_reference(problem: Problem) -> None:
    """Warn the caller of the package, unless that was done before."""
    if not _warned.is_set():
        _warned.set()
        warnings.warn(
            f"no fast kernel does {problem}: the slow NumPy reference is used (convforge.algorithms({str(problem)!r}) "
            "says why; this is said once)",
            PerformanceWarning,
            stacklevel=_callers_level(),
        )


def _callers_level() -> int:
    """The stack level, as seen from the function that asks, of the first frame outside the package."""
    level, frame = 1, inspect.currentframe()
    frame = frame.f_back if frame else None
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    return level
