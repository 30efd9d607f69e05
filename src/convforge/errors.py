"""What convforge raises and warns beside ``ValueError`` and ``TypeError``, which mean an invalid argument."""

from __future__ import annotations


class UnsupportedProblem(NotImplementedError):  # noqa: N818 - a refusal, not a mistake
    """A valid problem that the algorithm or backend asked for by name does not do; the message says why."""


class PerformanceWarning(UserWarning):
    """The call is right but slow: nothing better than the NumPy reference does this problem."""
