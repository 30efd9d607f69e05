"""One layer, on one count of threads: everybody right is timed in the same rounds, beside the machine's peak."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from convforge import registry
from convforge.bench import ceilings, functional, neighbours, timing
from convforge.bench.families import family
from convforge.bench.layers import Layer
from convforge.bench.peers import Contender, Job, Peer
from convforge.bench.report import Case, Score
from convforge.bench.settling import settle
from convforge.bench.trial import Trial
from convforge.errors import UnsupportedProblem
from convforge.registry import Algorithm
from convforge.runtime import threads

#: The error within which a peer counts as right: float32, whatever it does to be fast. bfloat16 is a hundred times off.
PEER_TOLERANCE = 1e-4
#: A contender this much slower than the best peer decides nothing: it gets few rounds.
_HOPELESS = 3.0
_FEW_ROUNDS = 2

#: ``progress(what, fraction)`` of one contest.
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Rules:
    """What holds for every contest of a run.

    Attributes
    ----------
    pass_, mode
        What is timed: a pass, "functional" or "prepared".
    backends
        Which of ours take part: "auto" for what ``auto`` takes of all, and names of single backends.
    tolerance
        The error within which ours choose.
    rounds
        Samples of every contender that matters, at least.
    budget
        Seconds of timing after which no more rounds are added.
    variants
        Whether every registered algorithm takes part, to see what ``auto`` missed.
    """

    pass_: str = "forward"
    mode: str = "prepared"
    backends: tuple[str, ...] = ("auto",)
    tolerance: float | None = None
    rounds: int = timing.ROUNDS
    budget: float = 1.0
    variants: bool = False


@dataclass(frozen=True)
class _Entrant:
    """A contender with what its score says of it; without one where it does not come to the start."""

    score: Score
    contender: Contender | None = None


def hold(
    layer: Layer, trial: Trial, arrays: Mapping[str, np.ndarray | None], rules: Rules, peers: Mapping[str, Peer],
    workers: int, progress: Progress,
) -> Case:  # fmt: skip
    """Time one layer on ``workers`` threads.

    Parameters
    ----------
    layer, trial, arrays
        The layer, and the trial of the rules' pass of its problem on these arrays.
    rules
        How it is done.
    peers
        Libraries by name, each with its threads pinned already.
    workers
        Threads that everyone uses.
    progress
        Told of what is going on.
    """
    problem = layer.problem
    job = Job(problem, rules.pass_, rules.mode, workers, arrays)
    with threads.num_threads(workers):
        entrants = _ours(trial, arrays, rules)
        for name, peer in peers.items():
            progress(name, 0.0)
            entrants += _theirs(name, peer, job)
        entrants = [_judged(each, trial) for each in entrants]
        others = neighbours.watch()
        scores, peak = _time(entrants, problem.dtype, rules, workers, progress)
        share = others()
        return Case(
            layer=layer.name,
            problem=str(problem),
            family=family(problem),
            threads=workers,
            flops=problem.flops(rules.pass_),
            least_bytes=problem.least_bytes(rules.pass_),
            peak_flops=peak,
            copy_bandwidth=ceilings.copy_bandwidth(workers),
            others=share,
            scores=tuple(scores),
        )


def _ours(trial: Trial, arrays: Mapping[str, np.ndarray | None], rules: Rules) -> list[_Entrant]:
    found = []
    for backend in rules.backends:
        name = "convforge" if backend == "auto" else f"convforge {backend}"
        score = Score(name, "convforge", "ours", "ok")
        try:
            chosen = registry.choose(
                trial.problem, rules.pass_, backend=backend, tolerance=rules.tolerance, mode=rules.mode
            )
        except UnsupportedProblem as error:
            found.append(_Entrant(replace(score, status="refused", reason=str(error))))
            continue
        score = replace(score, algorithm=str(chosen), error_limit=chosen.error(trial.problem, rules.pass_))
        found.append(_entrant(score, partial(_own, trial, arrays, rules, chosen, backend, name)))
    if rules.variants:
        records = registry.candidates(trial.problem, rules.pass_, tolerance=rules.tolerance, mode=rules.mode)
        for record in (each.algorithm for each in records if each.reason is None):
            limit = record.error(trial.problem, rules.pass_)
            score = Score(str(record), "convforge", "variant", "ok", algorithm=str(record), error_limit=limit)
            found.append(_entrant(score, partial(_planned, trial, record, rules.mode, str(record))))
    return found


def _entrant(score: Score, make: Callable[[], Contender]) -> _Entrant:
    """A contender of ours; one that cannot even be made must not end a run of hours, but it shows, and fails it."""
    try:
        return _Entrant(score, make())
    except Exception as error:
        return _Entrant(replace(score, status="failed", reason=_said(error)))


def _own(
    trial: Trial, arrays: Mapping[str, np.ndarray | None], rules: Rules, chosen: Algorithm, backend: str, name: str
) -> Contender:
    if rules.mode == "prepared":
        return _planned(trial, chosen, rules.mode, name)
    # what the function runs is what was chosen: it asks the same chooser
    run = functional.call(trial.problem, rules.pass_, arrays, backend)
    return Contender(name, run, _values)


def _values(found: Any) -> np.ndarray:
    """A pass's result, without a max pool's indices."""
    values: np.ndarray = found[0] if isinstance(found, tuple) else found
    return values


def _planned(trial: Trial, record: Algorithm, mode: str, name: str) -> Contender:
    """A plan's call into the trial's ``out``, which is full of NaN when the call is judged."""
    return Contender(name, trial.enter(record, mode).run, lambda _: trial.out)


def _theirs(name: str, peer: Peer, job: Job) -> list[_Entrant]:
    """A library's contenders. Whatever goes wrong inside of it is its failure, and the others' race goes on."""
    reason = peer.refuses(job)
    if reason is not None:
        return [_Entrant(Score(name, name, "peer", "refused", reason=reason))]
    found = []
    try:
        for contender in peer.contenders(job):
            score = Score(contender.name, name, "peer", "ok", error_limit=PEER_TOLERANCE)
            found.append(_Entrant(score, contender))
    except Exception as error:
        found.append(_Entrant(Score(name, name, "peer", "failed", reason=_said(error))))
    return found


def _judged(entrant: _Entrant, trial: Trial) -> _Entrant:
    """The entrant with its error; out of the race where that is beyond its limit."""
    contender, limit = entrant.contender, entrant.score.error_limit
    if contender is None or limit is None:
        return entrant
    trial.out[...] = np.nan
    try:
        error = trial.distance(contender.read(contender.run()))
    except Exception as trouble:
        return _Entrant(replace(entrant.score, status="failed", reason=_said(trouble)))
    if error <= limit:
        return replace(entrant, score=replace(entrant.score, error=error))
    reason = f"its error is {error:.1e}, beyond {limit:.1e}"
    score = replace(entrant.score, status="failed", reason=reason, error=error if np.isfinite(error) else None)
    return _Entrant(score)


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _time(
    entrants: Sequence[_Entrant], dtype: str, rules: Rules, workers: int, progress: Progress
) -> tuple[list[Score], float | None]:
    """The scores in the entrants' order, and the peak of these rounds."""
    calls = [each.contender.run for each in entrants if each.contender is not None]
    rounds = _rounds([each for each in entrants if each.contender is not None], rules.rounds)
    backend = ceilings.peak_backend()
    if backend is not None:
        peaking = ceilings.fma_peak(dtype, backend, workers)
        calls.append(peaking.run)
        rounds.append(rules.rounds)
    timings = timing.interleave(
        calls, rounds=rounds, budget=rules.budget, settle=settle, progress=partial(progress, "timing")
    )
    peak = None if backend is None else peaking.amount / timings.pop().seconds
    taken = iter(timings)
    return [each.score if each.contender is None else _timed(each.score, next(taken)) for each in entrants], peak


def _rounds(entrants: Sequence[_Entrant], rounds: int) -> list[int]:
    seconds = [_estimate(each.contender.run) for each in entrants if each.contender is not None]
    peers = [spent for spent, each in zip(seconds, entrants, strict=True) if each.score.role == "peer"]
    limit = _HOPELESS * min(peers or seconds, default=0.0)
    return [
        rounds if each.score.role == "ours" or spent <= limit else min(rounds, _FEW_ROUNDS)
        for spent, each in zip(seconds, entrants, strict=True)
    ]


def _estimate(call: timing.Call) -> float:
    settle()
    return timing.warm(call)


def _timed(score: Score, found: timing.Timing) -> Score:
    return replace(score, seconds=found.seconds, low=found.low, high=found.high, rounds=found.rounds)
