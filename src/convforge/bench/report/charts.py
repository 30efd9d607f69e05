"""The three pictures of a report: ratio per layer, roofline, time against error."""

from __future__ import annotations

from collections.abc import Sequence

from convforge.bench import units
from convforge.bench.families import FAMILIES
from convforge.bench.report.data import Case, Score
from convforge.bench.report.svg import Drawing, LogAxis

_WIDTH = 900.0
_LABELS = 300.0
_ROW = 18.0
_HEIGHT = 420.0
_MARGIN = 60.0


def ratios(cases: Sequence[Case], contender: str) -> str:
    """A bar for each layer, by family: the best peer's time over ours, from 1 to the right where we are ahead."""
    order = {family.name: index for index, family in enumerate(FAMILIES)}
    found = [
        (case, score, ratio)
        for case in sorted(cases, key=lambda each: order.get(each.family, len(order)))
        for score in case.ours
        if score.name == contender and (ratio := case.ratio(score)) is not None
    ]
    families = list(dict.fromkeys(case.family for case, _, _ in found))
    height = _ROW * (len(found) + len(families)) + 40
    drawing = Drawing(_WIDTH, height, "best peer's time over ours, by layer")
    axis = LogAxis.around([0.5, 2.0, *(ratio for _, _, ratio in found)], _LABELS, _WIDTH - 60)
    for tick in axis.ticks():
        drawing.line(axis(tick), 0, axis(tick), height - 25, "one" if tick == 1 else "grid")
        drawing.text(axis(tick), height - 8, f"{tick:g}", "middle")
    y, family = 0.0, ""
    for case, score, ratio in found:
        if case.family != family:
            family = case.family
            drawing.text(4, y + 13, family, kind="strong")
            y += _ROW
        tip = f"{_named(case)}: {_spent(score)}; {_best(case)}; ratio {ratio:.2f}"
        drawing.text(_LABELS - 8, y + 13, case.layer, "end")
        drawing.bar(axis(1.0), axis(ratio), y + 2, _ROW - 5, "ahead" if ratio >= 1 else "behind", tip)
        drawing.text(max(axis(ratio), axis(1.0)) + 4, y + 13, f"{ratio:.2f}")
        y += _ROW
    return str(drawing)


def roofline(cases: Sequence[Case], contender: str) -> str:
    """Speed over operations per byte, ours and the best peer's, under the machine's two roofs."""
    points = [
        (case, score)
        for case in cases
        for score in (*_of(case, contender), *case.peers[:1])
        if score.seconds is not None
    ]
    left, right, top, bottom = _MARGIN, _WIDTH - 20, 15.0, _HEIGHT - 45
    drawing = Drawing(_WIDTH, _HEIGHT, "speed over operations per byte")
    peaks = [case.peak_flops for case in cases if case.peak_flops is not None]
    bandwidth = max((case.copy_bandwidth for case in cases), default=1.0)
    across = LogAxis.around([case.flops / case.least_bytes for case, _ in points], left, right)
    speeds = [case.flops / (score.seconds or 1.0) / 1e9 for case, score in points]
    up = LogAxis.around([*speeds, *(peak / 1e9 for peak in peaks)], bottom, top)
    _frame(drawing, across, up, "operations per byte that must move", "GFLOP/s (direct count)")
    if peaks:
        peak = max(peaks)
        ridge = min(max(peak / bandwidth, across.low), across.high)
        drawing.line(across(ridge), up(peak / 1e9), right, up(peak / 1e9), "roof")
        drawing.text(right, up(peak / 1e9) - 5, f"multiply-adds {peak / 1e9:.0f} GFLOP/s", "end")
        start = max(across.low, up.low * 1e9 / bandwidth)
        if start < ridge:
            end = min(peak, ridge * bandwidth) / 1e9
            drawing.line(across(start), up(start * bandwidth / 1e9), across(ridge), up(end), "roof")
            drawing.text(across(start) + 8, up(start * bandwidth / 1e9) + 12, f"copying {bandwidth / 1e9:.0f} GB/s")
    for (case, score), speed in zip(points, speeds, strict=True):
        tip = f"{_named(case)}: {score.name} {_spent(score)}, {speed:.0f} GFLOP/s"
        drawing.dot(across(case.flops / case.least_bytes), up(speed), score.library, tip)
    return str(drawing)


def time_against_error(cases: Sequence[Case], contender: str) -> str:
    """Everyone who was right: time over ours, and error."""
    points: list[tuple[Case, Score, float]] = []
    for case in cases:
        for own in _of(case, contender):
            points += [(case, own, 1.0)]
            points += [(case, each, (each.seconds or 0.0) / (own.seconds or 1.0)) for each in case.peers]
    points = [each for each in points if each[1].error]
    drawing = Drawing(_WIDTH, _HEIGHT, "time over ours against error")
    across = LogAxis.around([1.0, *(min(time, 20.0) for _, _, time in points)], _MARGIN, _WIDTH - 20)
    up = LogAxis.around([score.error or 1e-7 for _, score, _ in points], _HEIGHT - 45, 15.0, margin=1.5)
    _frame(drawing, across, up, "time / our time", "relative error")
    for case, score, time in points:
        tip = f"{_named(case)}: {score.name} {_spent(score)}, error {score.error:.1e}"
        drawing.dot(across(time), up(score.error or 1e-7), score.library, tip)
    return str(drawing)


def _frame(drawing: Drawing, across: LogAxis, up: LogAxis, below: str, beside: str) -> None:
    for tick in across.ticks():
        drawing.line(across(tick), up.start, across(tick), up.end, "grid")
        drawing.text(across(tick), up.start + 16, f"{tick:g}", "middle")
    for tick in up.ticks():
        drawing.line(across.start, up(tick), across.end, up(tick), "grid")
        drawing.text(across.start - 6, up(tick) + 4, f"{tick:g}", "end")
    drawing.text((across.start + across.end) / 2, up.start + 36, below, "middle")
    drawing.text(across.start + 6, up.end + 12, beside)


def _of(case: Case, contender: str) -> list[Score]:
    return [each for each in case.ours if each.name == contender and each.seconds is not None]


def _named(case: Case) -> str:
    return case.layer if case.layer == case.problem else f"{case.layer} ({case.problem})"


def _spent(score: Score) -> str:
    time = "" if score.seconds is None else units.seconds(score.seconds)
    return f"{score.algorithm} {time}" if score.algorithm else time


def _best(case: Case) -> str:
    best = case.best_peer
    return "no peer" if best is None else f"{best.name} {_spent(best)}"
