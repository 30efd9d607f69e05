"""What a comparison found: rows, and the forms they can be had in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One algorithm of one backend in one pass.

    Attributes
    ----------
    pass_, algorithm, backend
        What ran.
    status
        "ok"; "failed" if its error is beyond what it states, and then it has no time; "refused" if it does not do the
        problem.
    reason
        Why it failed or refused, else None.
    chosen
        Whether ``auto`` takes it.
    seconds, low, high
        Median and quartiles of one call.
    rounds
        Samples behind them.
    flops_per_second
        Operations of the direct sum per second: Winograd may pass the machine's peak.
    peak_share
        The same as a share of the measured peak of multiply-adds; None where no compiled backend can measure it.
    copy_share
        The least bytes that the pass moves, per second, as a share of the measured speed of copying.
    workspace_bytes
        What a call takes beyond its arrays, its weight not prepared.
    error, error_limit
        Measured, and what the algorithm states; with what rounding to float16 adds.
    kernel_seconds, copy_seconds
        Medians of what a call spends on the GPU, and on copies there and back; None on the CPU.
    """

    pass_: str
    algorithm: str
    backend: str
    status: str
    reason: str | None = None
    chosen: bool = False
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    flops_per_second: float | None = None
    peak_share: float | None = None
    copy_share: float | None = None
    workspace_bytes: int | None = None
    error: float | None = None
    error_limit: float | None = None
    kernel_seconds: float | None = None
    copy_seconds: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What :func:`convforge.compare` found; ``str()`` of it is a table.

    Attributes
    ----------
    problem
        The problem's string.
    title
        The problem as it was asked for: its string, a layer's name, a picture and a filter.
    dtype
        Its dtype.
    mode
        "prepared" or "functional".
    threads
        Threads that calls may use.
    tolerance
        The error within which ``auto`` chose.
    error_scale
        What errors are relative to: the norm of the "exact" result, or "absolute" for that of the result on the
        arrays' absolute values.
    peak_flops
        Measured peak of multiply-adds on these threads, in operations per second; None without a compiled backend.
    copy_bandwidth
        Measured bytes per second, read and written, of a large copy on these threads.
    host
        The machine and the versions.
    rows
        By pass, the fastest first; those that failed and those that refuse come last.
    """

    problem: str
    title: str
    dtype: str
    mode: str
    threads: int
    tolerance: float
    error_scale: str
    peak_flops: float | None
    copy_bandwidth: float
    host: dict[str, Any]
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether every algorithm that ran kept to the error that it states."""
        return all(row.status != "failed" for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain data; a row's pass goes by the key ``pass``."""
        data = asdict(self)
        data["rows"] = [{key.rstrip("_"): value for key, value in row.items()} for row in data["rows"]]
        return data

    def to_json(self) -> str:
        """:meth:`as_dict` as JSON."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

    def plot(self, path: str) -> None:
        """Draw speed, error and workspace of every row that ran into a file; its suffix says of which kind.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            matplotlib writes no such kind of file.
        """
        from convforge.bench.plot import plot

        plot([self], path)

    def __str__(self) -> str:
        """Return the table as plain text."""
        from convforge.bench.table import plain

        return plain(self)
