"""Two reports side by side: which layers moved beyond the noise.

What is compared is the ratio to others in the same rounds, for a time alone says as much of the machine's other users:
the ratio to the best of the peers that were right in both runs, or to the machine's peak where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import geometric_mean

from convforge.bench.report.data import Case, Report, Score

#: A change smaller than this is not worth a line, however steady the clock.
_LEAST = 0.03


@dataclass(frozen=True)
class Move:
    """One of our entries on one layer, then and now.

    Attributes
    ----------
    case
        The layer, as it is now.
    contender
        Which of ours.
    yardstick
        What both ratios are to: a peer, or "peak".
    before, after
        Yardstick's time over ours.
    beyond_noise
        Whether the ranges that the quartiles allow lie apart.
    algorithms
        What ran then and now.
    """

    case: Case
    contender: str
    yardstick: str
    before: float
    after: float
    beyond_noise: bool
    algorithms: tuple[str | None, str | None]

    @property
    def change(self) -> float:
        """The ratio's growth: 1.1 is 10% faster than before."""
        return self.after / self.before


@dataclass(frozen=True)
class Movement:
    """All that can be compared.

    Attributes
    ----------
    moves
        Every layer that both have, the greatest loss first.
    gone, new
        Layers that only the older, only the newer report has; each with its threads.
    notes
        What else differs between the runs.
    """

    moves: tuple[Move, ...]
    gone: tuple[str, ...]
    new: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def mean(self) -> float | None:
        """Geometric mean of all changes."""
        return geometric_mean(each.change for each in self.moves) if self.moves else None


def movement(old: Report, new: Report) -> Movement:
    """What moved from ``old`` to ``new``.

    Raises
    ------
    ValueError
        They timed different things: the mode or the pass is not the same.
    """
    for what, before, after in (("mode", old.mode, new.mode), ("pass", old.pass_, new.pass_)):
        if before != after:
            raise ValueError(f"its {what} is {before}, and this run's is {after}: that is not the same work")
    then, now = _by_key(old), _by_key(new)
    moves = [move for key in now if key in then for move in _moves(then[key], now[key])]
    return Movement(
        tuple(sorted(moves, key=lambda each: each.change)),
        tuple(_label(key) for key in then if key not in now),
        tuple(_label(key) for key in now if key not in then),
        tuple(_notes(old, new)),
    )


def _by_key(report: Report) -> dict[tuple[str, str, int], Case]:
    return {(each.layer, each.problem, each.threads): each for each in report.cases}


def _label(key: tuple[str, str, int]) -> str:
    layer, problem, threads = key
    return f"{layer}{'' if problem == layer else ' ' + problem} on {threads}"


def _moves(then: Case, now: Case) -> Iterator[Move]:
    before = {each.name: each for each in then.ours if each.seconds is not None}
    for own in now.ours:
        if own.seconds is None or own.name not in before:
            continue
        common = {each.name for each in then.peers} & {each.name for each in now.peers}
        yardsticks = [next((each for each in case.peers if each.name in common), _peak(case)) for case in (then, now)]
        low, ratio, high = zip(*map(_range, yardsticks, (before[own.name], own)), strict=True)
        yield Move(
            case=now,
            contender=own.name,
            yardstick=yardsticks[1].name,
            before=ratio[0],
            after=ratio[1],
            beyond_noise=(low[1] > high[0] or high[1] < low[0]) and abs(ratio[1] / ratio[0] - 1) > _LEAST,
            algorithms=(before[own.name].algorithm, own.algorithm),
        )


def _peak(case: Case) -> Score:
    """The time that the layer would take at the machine's peak."""
    seconds = case.flops / (case.peak_flops or 1e9)
    return Score("peak", "peak", "peer", "ok", seconds=seconds, low=seconds, high=seconds)


def _range(yardstick: Score, own: Score) -> tuple[float, float, float]:
    """The least, the median and the greatest ratio that the quartiles allow."""
    assert yardstick.seconds
    assert yardstick.low
    assert yardstick.high
    assert own.seconds
    assert own.low
    assert own.high
    return yardstick.low / own.high, yardstick.seconds / own.seconds, yardstick.high / own.low


def _notes(old: Report, new: Report) -> Iterator[str]:
    for key in ("cpu", "isa", "cores"):
        before, after = old.host.get(key), new.host.get(key)
        if before != after:
            yield f"{key}: {before} then, {after} now"
    for name in sorted({*old.peers, *new.peers}):
        before, after = old.peers.get(name, "none"), new.peers.get(name, "none")
        if before != after:
            yield f"{name}: {before} then, {after} now"
