"""Many ratios as a few: by kind of layer, by library, and what auto missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median

from convforge.bench.families import ALL, FAMILIES, POOLING, Family
from convforge.bench.report.data import Case, Score


@dataclass(frozen=True)
class Line:
    """The ratios best peer / ours of one family of layers.

    Attributes
    ----------
    family
        Which, with what is aimed at.
    count
        Layers that have a ratio.
    mean
        Their geometric mean.
    worst, worst_layer
        The least of them, and where.
    """

    family: Family
    count: int
    mean: float
    worst: float
    worst_layer: str


@dataclass(frozen=True)
class Regrets:
    """How far what ``auto`` chose is from the best variant: times over the best time.

    Attributes
    ----------
    count
        Layers where variants were timed.
    median
        Of their regrets.
    beyond
        Layers with more than :data:`MUCH`: the regret, the case and the variant that auto missed, the greatest first.
    """

    count: int
    median: float
    beyond: tuple[tuple[float, Case, Score], ...]


#: A regret worth a look.
MUCH = 1.15


def by_family(cases: Sequence[Case], contender: str) -> list[Line]:
    """A line for each family that has ratios, and one for all convolutions together."""
    ratios = [(case, ratio) for case, ratio in zip(cases, _ratios(cases, contender), strict=True) if ratio is not None]
    groups = [(family, [each for each in ratios if each[0].family == family.name]) for family in FAMILIES]
    groups.append((ALL, [each for each in ratios if each[0].family != POOLING]))
    return [_line(family, found) for family, found in groups if found]


def by_library(cases: Sequence[Case], contender: str) -> dict[str, dict[str, float]]:
    """Family by library: the geometric mean of the library's best time over ours, where it takes part."""
    found: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        own = _score(case, contender)
        best: dict[str, float] = {}
        for peer in case.peers:
            best.setdefault(peer.library, peer.seconds or 0.0)
        if own is None or own.seconds is None:
            continue
        for family in (case.family, *([] if case.family == POOLING else [ALL.name])):
            for library, seconds in best.items():
                found.setdefault(family, {}).setdefault(library, []).append(seconds / own.seconds)
    order = [each.name for each in (*FAMILIES, ALL) if each.name in found]
    return {family: {name: geometric_mean(ratios) for name, ratios in found[family].items()} for family in order}


def regrets(cases: Sequence[Case]) -> Regrets | None:
    """What ``auto`` missed; None where no variants were timed."""
    found = []
    for case in cases:
        own, best = _score(case, "convforge"), case.best_variant()
        regret = None if own is None else case.regret(own)
        if regret is not None and best is not None:
            found.append((regret, case, best))
    if not found:
        return None
    beyond = sorted((each for each in found if each[0] > MUCH), key=lambda each: -each[0])
    return Regrets(len(found), median(regret for regret, _, _ in found), tuple(beyond))


def _score(case: Case, contender: str) -> Score | None:
    return next((each for each in case.ours if each.name == contender), None)


def _ratios(cases: Sequence[Case], contender: str) -> list[float | None]:
    scores = [_score(case, contender) for case in cases]
    return [None if score is None else case.ratio(score) for case, score in zip(cases, scores, strict=True)]


def _line(family: Family, found: Sequence[tuple[Case, float]]) -> Line:
    case, worst = min(found, key=lambda each: each[1])
    return Line(family, len(found), geometric_mean(ratio for _, ratio in found), worst, case.layer)
