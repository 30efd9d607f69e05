"""The records of a report, and their form as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Self

from convforge.bench import neighbours

#: Changes when a reader of older files would go wrong.
FORMAT = 1
_ROLES = ("ours", "peer", "variant")
_STATUSES = ("ok", "failed", "refused")


@dataclass(frozen=True)
class Score:
    """One contender on one layer.

    Attributes
    ----------
    name, library
        The contender, such as "torch channels_last", and whose it is.
    role
        "ours", "peer", or "variant" for one of our algorithms that runs to be compared with what ``auto`` chose.
    status
        "ok"; "failed" if its result is wrong or it raised, and then it has no time; "refused" if it does no such job.
    reason
        Why it failed or refused, else None.
    algorithm
        Ours: the algorithm and backend that ran.
    seconds, low, high
        Median and quartiles of one call.
    rounds
        Samples behind them.
    error, error_limit
        norm(result - exact) / norm(exact), and what it may be.
    """

    name: str
    library: str
    role: str
    status: str
    reason: str | None = None
    algorithm: str | None = None
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    error: float | None = None
    error_limit: float | None = None


@dataclass(frozen=True)
class Case:
    """One layer on one count of threads.

    Attributes
    ----------
    layer, problem, family
        Its name, the problem's string, and the kind of layer.
    threads
        Threads that every contender used.
    flops, least_bytes
        Operations of the direct sum, and bytes that move if each operand is touched once.
    peak_flops
        Multiply-adds at their peak, in operations per second, measured in the same rounds; None without a compiled
        backend.
    copy_bandwidth
        Bytes per second, read and written, of a large copy.
    others
        Share of the machine's cores that other programs used while this was timed; None where nobody knows.
    scores
        Everyone's, ours first.
    """

    layer: str
    problem: str
    family: str
    threads: int
    flops: int
    least_bytes: int
    peak_flops: float | None
    copy_bandwidth: float
    others: float | None
    scores: tuple[Score, ...]

    @cached_property
    def ours(self) -> tuple[Score, ...]:
        """Our scores, one for each backend that was asked for."""
        return tuple(each for each in self.scores if each.role == "ours")

    @cached_property
    def peers(self) -> tuple[Score, ...]:
        """The scores of peers that were right, the fastest first."""
        right = [each for each in self.scores if each.role == "peer" and each.seconds is not None]
        return tuple(sorted(right, key=lambda each: each.seconds or 0.0))

    @property
    def best_peer(self) -> Score | None:
        """The fastest peer that was right."""
        return self.peers[0] if self.peers else None

    def ratio(self, score: Score) -> float | None:
        """The best peer's time over this score's: above 1 we are ahead. None where one of the two has no time."""
        best = self.best_peer
        if best is None or best.seconds is None or score.seconds is None:
            return None
        return best.seconds / score.seconds

    def regret(self, score: Score) -> float | None:
        """The time of what ``auto`` chose over that of the best variant, at least 1; None where none was timed."""
        variants = {each.name: each.seconds for each in self.scores if each.role == "variant" and each.seconds}
        chosen = variants.get(score.algorithm or "")
        return None if chosen is None else chosen / min(variants.values())

    def best_variant(self) -> Score | None:
        """The fastest of our algorithms, where they were timed."""
        variants = [each for each in self.scores if each.role == "variant" and each.seconds is not None]
        return min(variants, key=lambda each: each.seconds or 0.0, default=None)


@dataclass(frozen=True)
class Report:
    """What one run of the benchmark found.

    Attributes
    ----------
    mode, pass_
        What was timed.
    settings
        Tolerance, rounds and budget.
    host
        The machine and the versions.
    peers
        For each library its version, or None.
    missing
        For each library that is not there, why.
    cases
        By layer, then by threads.
    """

    mode: str
    pass_: str
    settings: Mapping[str, Any]
    host: Mapping[str, Any]
    peers: Mapping[str, str]
    missing: Mapping[str, str]
    cases: tuple[Case, ...]

    @property
    def ok(self) -> bool:
        """Whether all of ours kept to their error."""
        return all(score.status != "failed" for case in self.cases for score in case.scores if score.role != "peer")

    def on(self, threads: int) -> tuple[Case, ...]:
        """The cases of one count of threads."""
        return tuple(each for each in self.cases if each.threads == threads)

    @property
    def disturbed(self) -> tuple[Case, ...]:
        """The cases during which other programs used much of the machine."""
        return tuple(each for each in self.cases if (each.others or 0.0) > neighbours.MUCH)

    @property
    def threads(self) -> tuple[int, ...]:
        """The counts of threads, in order."""
        return tuple(sorted({each.threads for each in self.cases}))

    @property
    def contenders(self) -> tuple[str, ...]:
        """Names of our entries, in order."""
        return tuple(dict.fromkeys(score.name for case in self.cases for score in case.ours))

    def to_json(self) -> str:
        """Write a JSON document that :meth:`from_json` reads."""
        data = {"format": FORMAT, "kind": "convforge bench", **asdict(self)}
        data["pass"] = data.pop("pass_")
        return json.dumps(data, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The report that :meth:`to_json` wrote.

        Raises
        ------
        ValueError
            It is no such document; the message says why.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ValueError(f"it is no JSON: {error}") from None
        if not isinstance(data, dict) or data.pop("kind", None) != "convforge bench":
            raise ValueError('it is not what "convforge bench --json" writes')
        version = data.pop("format", None)
        if version != FORMAT:
            raise ValueError(f"its format is {version!r}, this version reads {FORMAT}")
        try:
            data["pass_"] = data.pop("pass")
            data["cases"] = tuple(_case(each) for each in data["cases"])
            return cls(**_known(cls, data))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is damaged: {type(error).__name__}: {error}") from None


def _case(data: dict[str, Any]) -> Case:
    scores = tuple(Score(**_known(Score, each)) for each in data["scores"])
    if any(each.role not in _ROLES or each.status not in _STATUSES for each in scores):
        raise TypeError("a score has an unknown role or status")
    times = [(each.seconds, each.low, each.high) for each in scores if each.seconds is not None]
    if not all(isinstance(value, float) and value > 0 for each in times for value in each):
        raise TypeError("a time is no positive number")
    return Case(**{**_known(Case, data), "scores": scores})


def _known(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    """Complain of what is missing or not known, before a constructor does in other words."""
    names = {each.name for each in fields(kind)}
    if set(data) != names:
        raise KeyError(f"{kind.__name__} with {', '.join(sorted(set(data) ^ names))}")
    return data
