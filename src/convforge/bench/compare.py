"""Every algorithm on one problem, timed in the same rounds and judged by the oracle in the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, isnan
from statistics import median

import numpy as np

from convforge import registry
from convforge.bench import ceilings, host, timing
from convforge.bench.comparison import Comparison, Row
from convforge.bench.trial import Entry, Trial, operands
from convforge.problem import Problem
from convforge.registry import Algorithm
from convforge.runtime import threads

MODES = ("prepared", "functional")

#: ``progress(what, fraction)`` is told what is going on and how much of the comparison is done.
Progress = Callable[[str, float], None]


def compare(
    problem: Problem | str,
    *,
    passes: Sequence[str] | None = None,
    algorithms: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    x: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    mode: str = "prepared",
    tolerance: float | None = None,
    num_threads: int | None = None,
    rounds: int = timing.ROUNDS,
    budget: float = 3.0,
    title: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run every algorithm that does a problem, and say how fast and how exact each is.

    Each runs first into an output full of NaN and is held against the float64 oracle; only those within the error
    that they state are timed, all in the same rounds, together with the machine's peak.

    Parameters
    ----------
    problem
        A problem, its string (``"n1c64k64i56x56f3x3p1"``) or a layer's name (``"resnet50:conv2_x"``).
    passes
        Some of "forward", "grad_input", "grad_weight"; all that the problem has by default.
    algorithms, backends
        Only these; all by default. "winograd" stands for all its tiles.
    x, weight
        Arrays to run on; standard-normal numbers by default. Errors are then relative to the result on absolute
        values, since a filter may cancel nearly everything.
    mode
        "prepared": a plan whose weight was packed before; "functional": given as it is in every call.
    tolerance
        The error within which ``auto`` chooses; it does not keep others from running.
    num_threads
        Threads that calls may use; as set for this thread by default.
    rounds
        Samples of each at least; slow ones get less, as :func:`convforge.bench.timing.interleave` says.
    budget
        Seconds of timing per pass, about.
    title
        How the comparison is headed; by the problem by default.
    progress
        Called as ``progress(what, fraction)``.

    Returns
    -------
    Comparison

    Raises
    ------
    TypeError, ValueError
        An argument is none of the above; the problem has no images; or no algorithm is left.

    Examples
    --------
    >>> import convforge as cf
    >>> found = cf.compare("n1c8k8i12f3p1", passes=["forward"], backends=["numpy"], budget=0.01)
    >>> [(row.algorithm, row.status) for row in found.rows]
    [('reference', 'ok')]
    """
    title = title or str(problem)
    problem = registry.as_problem(problem)
    if problem.n == 0:
        raise ValueError(f"problem must have at least one image to be timed, got {problem}")
    check_settings(tolerance, mode, rounds, budget)
    pass_names = _names("passes", passes) or problem.passes
    for each in pass_names:
        registry.check_pass(problem, each)
    records = select(_names("algorithms", algorithms), _names("backends", backends))
    arrays = operands(problem, x, weight)
    given = x is not None or weight is not None
    tell = progress or (lambda what, fraction: None)

    with threads.num_threads(threads.get_num_threads() if num_threads is None else num_threads):
        bandwidth = ceilings.copy_bandwidth(threads.get_num_threads())
        measure = _Measure(records, mode, tolerance, rounds, budget, bandwidth)
        rows: list[Row] = []
        peaks: list[float] = []
        for index, pass_ in enumerate(pass_names):
            tell_part = _part(tell, f"{title} {pass_}", index, len(pass_names))
            tell_part("oracle", 0)
            found, peak = measure.run(Trial(problem, pass_, arrays, absolute=given), tell_part)
            rows += found
            peaks += [] if peak is None else [peak]
        return Comparison(
            problem=str(problem),
            title=title,
            dtype=problem.dtype,
            mode=mode,
            threads=threads.get_num_threads(),
            tolerance=registry.DEFAULT_TOLERANCE[problem.dtype] if tolerance is None else tolerance,
            error_scale="absolute" if given else "exact",
            peak_flops=max(peaks, default=None),
            copy_bandwidth=bandwidth,
            host=host.describe(),
            rows=tuple(rows),
        )


def check_settings(tolerance: float | None, mode: str, rounds: int, budget: float) -> None:
    """Raise TypeError or ValueError unless these are settings of :func:`compare`."""
    registry.check_choice("auto", "auto", tolerance)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds must be an int of at least 1, got {rounds!r}")
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget < inf:
        raise ValueError(f"budget must be a positive finite number of seconds, got {budget!r}")


def select(names: Sequence[str] = (), backends: Sequence[str] = ()) -> list[Algorithm]:
    """The registered algorithms of these names (or families) and backends; none named is all.

    Raises
    ------
    ValueError
        A name is unknown, or nothing is left.
    """
    for name in names:
        registry.check_choice(name, "auto", None)
    for backend in backends:
        registry.check_choice("auto", backend, None)
    chosen = [
        each
        for each in registry.ALGORITHMS
        if (not names or {"auto", each.name, each.name.partition("_")[0]} & set(names))
        and (not backends or {"auto", each.backend} & set(backends))
    ]
    if not chosen:
        raise ValueError(f"no algorithm is registered as {', '.join(names)} with backend {', '.join(backends)}")
    return chosen


@dataclass(frozen=True)
class _Measure:
    """How the passes of one comparison are measured."""

    records: Sequence[Algorithm]
    mode: str
    tolerance: float | None
    rounds: int
    budget: float
    copy_bandwidth: float

    def run(self, trial: Trial, tell: Progress) -> tuple[list[Row], float | None]:
        """The rows of one pass, and the peak measured in its rounds."""
        backend = "cuda" if trial.problem.dtype == "float16" else "auto"  # the GPU's alone
        chosen = registry.choose(
            trial.problem, trial.pass_, backend=backend, tolerance=self.tolerance, mode=self.mode
        )  # fmt: skip
        done: list[Row] = []
        timed: list[tuple[Row, Entry]] = []
        refused: dict[tuple[str, str], Row] = {}
        for index, record in enumerate(self.records):
            tell(str(record), 0.5 * index / len(self.records))
            row = Row(trial.pass_, record.name, record.backend, "ok", chosen=record is chosen)
            reason = record.refuses(trial.problem, trial.pass_)
            if reason is not None:
                refused.setdefault((record.name, record.backend), replace(row, status="refused", reason=reason))
                continue
            entry = trial.enter(record, self.mode)
            row = _judged(row, trial, entry, record.error(trial.problem, trial.pass_) + rounding(trial.problem.dtype))
            if row.status == "ok":
                timed.append((row, entry))
            else:
                done.append(row)
        measured, peak = self._time(trial, timed, tell)
        # a name may stand for an algorithm of convolutions and one of pools: a refusal counts where neither ran
        ran = {(row.algorithm, row.backend) for row in measured + done}
        done += [row for key, row in refused.items() if key not in ran]
        rank = {"ok": 0, "failed": 1, "refused": 2}
        return sorted(measured + done, key=lambda row: (rank[row.status], row.seconds or inf)), peak

    def _time(self, trial: Trial, timed: list[tuple[Row, Entry]], tell: Progress) -> tuple[list[Row], float | None]:
        calls = [entry.run for _, entry in timed]
        backend = ceilings.peak_backend()
        if backend is not None:
            sums = "float64" if trial.problem.dtype == "float64" else "float32"
            peaking = ceilings.fma_peak(sums, backend, threads.get_num_threads())
            calls.append(peaking.run)
        timings = timing.interleave(
            calls, rounds=self.rounds, budget=self.budget, progress=lambda share: tell("timing", 0.5 + 0.5 * share)
        )
        peak = None if backend is None else peaking.amount / timings.pop().seconds
        operations = trial.problem.flops(trial.pass_)
        least_bytes = trial.problem.least_bytes(trial.pass_)
        return [
            replace(
                _split(row, entry, each.rounds),
                seconds=each.seconds,
                low=each.low,
                high=each.high,
                rounds=each.rounds,
                flops_per_second=operations / each.seconds,
                peak_share=None if peak is None else operations / each.seconds / peak,
                copy_share=least_bytes / each.seconds / self.copy_bandwidth,
            )
            for (row, entry), each in zip(timed, timings, strict=True)
        ], peak


def _split(row: Row, entry: Entry, rounds: int) -> Row:
    """The row with what a call spends on the GPU and on copies, where it runs there."""
    if entry.split is None:
        return row
    kernels, copies = zip(*(entry.split() for _ in range(rounds)), strict=True)
    return replace(row, kernel_seconds=median(kernels), copy_seconds=median(copies))


def _part(tell: Progress, what: str, index: int, count: int) -> Progress:
    """What tells of one of ``count`` parts."""
    return lambda step, fraction: tell(f"{what}: {step}", (index + fraction) / count)


def rounding(dtype: str) -> float:
    """What storing a result adds to an algorithm's error: sums for float16 are rounded to it at last."""
    return 2.0**-11 if dtype == "float16" else 0.0


def _judged(row: Row, trial: Trial, entry: Entry, limit: float) -> Row:
    """The row with its error; it fails where that is beyond ``limit``."""
    error = trial.error(entry)
    row = replace(row, error=error, error_limit=limit, workspace_bytes=entry.workspace_bytes)
    if error <= limit:
        return row
    if isfinite(error):
        return replace(row, status="failed", reason=f"its error {error:.1e} is beyond the {limit:.1e} that it states")
    wrong = "NaN in the output, or left unwritten" if isnan(error) else "infinity, or other indices than the oracle's"
    return replace(row, status="failed", reason=wrong, error=None)


def _names(label: str, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return ()
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"{label} must be a sequence of names or None, got {names!r}")
    return tuple(dict.fromkeys(names))
