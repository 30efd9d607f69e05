"""The only clock: medians over rounds in which every call takes its turn.

On a shared machine absolute times drift, so calls that are to be compared are timed in the same rounds: what slows a
round down slows all of them. Rounds start with another call each time, so that none always runs behind the same one.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

#: Rounds that a call gets at least, unless it alone would use up its share of the budget.
ROUNDS = 7
#: More rounds than this do not move a median.
_MOST_ROUNDS = 5 * ROUNDS
#: Seconds that one sample lasts at least; shorter calls are repeated within it, for the clock's sake.
_SAMPLE = 200e-6
_SLOW = 50e-3
#: A call shorter than this feels cold caches and sleeping threads, and the next two as well: 256 channels of 56x56 to
#: 64 took 1.39, 1.14 and 0.97 ms, later 0.95. Without this, who runs behind a contender that read the same arrays wins.
_SHORT = 5e-3
_LEAD_IN = 3

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """What the rounds of one call gave.

    Attributes
    ----------
    seconds
        Median of one call.
    low, high
        Quartiles.
    rounds
        Samples taken.
    """

    seconds: float
    low: float
    high: float
    rounds: int


def interleave(
    calls: Sequence[Call],
    *,
    rounds: int | Sequence[int] = ROUNDS,
    budget: float = 2.0,
    settle: Callable[[], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[Timing]:
    """Time calls in turns, after a warm-up.

    Parameters
    ----------
    calls
        Functions without arguments.
    rounds
        How often each is sampled at least; a call too slow for an equal share of the budget is sampled less, but once.
        A number for each call is kept to, whatever the budget.
    budget
        Seconds to spend in all, about. What is left after ``rounds`` goes into more rounds of those that have most.
    settle
        Called before each sample, to wait for what other calls left running; a fast call is then made three times
        untimed, so that its caches and threads are as in a loop of its own.
    progress
        Called with the finished fraction after each sample.

    Returns
    -------
    list of Timing
        In the order of ``calls``.
    """
    with _no_collection():
        once, pauses = [], []
        for call in calls:
            once.append(warm(call))
            pauses.append(0.0 if settle is None else _sample(settle, 1))
        counts = [_repeats(seconds) for seconds in once]
        leads = [0 if settle is None or seconds >= _SHORT else _LEAD_IN for seconds in once]
        costs = [
            (lead + count) * seconds + pause
            for lead, count, seconds, pause in zip(leads, counts, once, pauses, strict=True)
        ]
        wanted = _rounds(costs, rounds, budget)
        samples: list[list[float]] = [[] for _ in calls]
        total = sum(wanted)
        for done, index in enumerate(_turns(wanted), 1):
            if settle is not None:
                settle()
            for _ in range(leads[index]):
                calls[index]()
            samples[index].append(_sample(calls[index], counts[index]))
            if progress is not None:
                progress(done / total)
    return [_timing(each) for each in samples]


def repeats(call: Call) -> int:
    """How many calls make a sample that is long enough for the clock; warms the call up."""
    return _repeats(warm(call))


def _repeats(seconds: float) -> int:
    return max(1, math.ceil(_SAMPLE / max(seconds, 1e-9)))


def warm(call: Call) -> float:
    """Seconds of a call: the lesser of two after the first, which fills caches and pages; a slow call runs once."""
    first = _sample(call, 1)
    return first if first > _SLOW else min(_sample(call, 1), _sample(call, 1))


def _sample(call: Call, count: int) -> float:
    begin = perf_counter()
    for _ in range(count):
        call()
    return (perf_counter() - begin) / count


def _rounds(samples: Sequence[float], rounds: int | Sequence[int], budget: float) -> list[int]:
    """Rounds for each call, given the seconds of one sample of each."""
    share = budget / max(1, len(samples)) if isinstance(rounds, int) else math.inf
    least = [rounds] * len(samples) if isinstance(rounds, int) else rounds
    wanted = [
        each if each * seconds <= share else max(1, int(share / seconds))
        for each, seconds in zip(least, samples, strict=True)
    ]
    highest = max(least, default=0)
    fast = [seconds for seconds, count in zip(samples, wanted, strict=True) if count == highest]
    spent = sum(seconds * count for seconds, count in zip(samples, wanted, strict=True))
    extra = int(max(0.0, budget - spent) / max(sum(fast), 1e-9))
    most = max(highest, min(highest + extra, _MOST_ROUNDS))
    return [most if count == highest else count for count in wanted]


def _turns(wanted: Sequence[int]) -> Iterator[int]:
    """Indices of calls, round by round."""
    for turn in range(max(wanted, default=0)):
        present = [index for index, count in enumerate(wanted) if turn < count]
        start = turn % len(present)
        yield from present[start:] + present[:start]


def _timing(samples: list[float]) -> Timing:
    median = statistics.median(samples)
    if len(samples) == 1:
        return Timing(median, median, median, 1)
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(median, low, high, len(samples))


@contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
