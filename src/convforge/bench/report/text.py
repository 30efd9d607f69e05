"""Reports for a terminal: a table of layers for each count of threads, the summary, and what moved."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from convforge.bench import units
from convforge.bench.families import Family
from convforge.bench.neighbours import MUCH
from convforge.bench.report import summary
from convforge.bench.report.data import Case, Report, Score
from convforge.bench.report.movement import Move, Movement


def render(report: Report) -> RenderableType:
    """Heading, tables, failures, summary and footnotes, for a rich console."""
    parts: list[RenderableType] = []
    for threads in report.threads:
        cases = report.on(threads)
        parts += [Text(_heading(report, cases, threads), style="bold"), _layers(cases)]
        for contender in report.contenders:
            lines = summary.by_family(cases, contender)
            if lines:
                parts += [Text(f"best peer / {contender}, {_threads(threads)}", style="bold"), _families(lines, report)]
        parts += _regrets(cases)
    parts += [Text(line, style="red") for line in _failures(report)]
    warning = disturbance(report)
    if warning is not None:
        parts.append(Text(warning, style="yellow"))
    parts += [Text(f"missing: {name}: {reason}", style="yellow") for name, reason in report.missing.items()]
    parts.append(Text(_footnotes(report), style="dim"))
    return Group(*parts)


def render_movement(moved: Movement) -> RenderableType:
    """What moved beyond the noise, what is gone or new, and what else differs."""
    parts: list[RenderableType] = []
    beyond = [each for each in moved.moves if each.beyond_noise]
    mean = "" if moved.mean is None else f", {moved.mean:.3f} of the older ratios on the geometric mean"
    parts.append(Text(f"{len(beyond)} of {len(moved.moves)} moved beyond the noise{mean}", style="bold"))
    if beyond:
        table = _table(("layer", "threads", "ours", "against", "was", "is", "change", "algorithm"), {1, 4, 5, 6})
        for each in beyond:
            table.add_row(*_move(each), style="green" if each.change > 1 else "red")
        parts.append(table)
    for word, labels in (("only in the older", moved.gone), ("only in this", moved.new)):
        if labels:
            parts.append(Text(f"{word}: {', '.join(labels)}", style="dim"))
    parts += [Text(note, style="yellow") for note in moved.notes]
    return Group(*parts)


def _table(columns: Sequence[str], right: set[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index in right else "left", no_wrap=True)
    return table


def _layers(cases: Sequence[Case]) -> Table:
    columns = ("layer", "problem", "ours", "time", "GFLOP/s", "peak", "best peer", "time", "ratio", "error")
    table = _table(columns, {3, 4, 5, 7, 8, 9})
    for case in cases:
        for index, score in enumerate(case.ours):
            names = (case.layer, "" if case.problem == case.layer else case.problem) if index == 0 else ("", "")
            table.add_row(*names, *_row(case, score), style=_style(case, score))
    return table


def _row(case: Case, score: Score) -> list[str]:
    best, ratio = case.best_peer, case.ratio(score)
    name = score.algorithm or score.status
    if score.name != "convforge":
        name = f"{score.name.removeprefix('convforge ')}: {name}"
    speed = None if score.seconds is None else case.flops / score.seconds
    return [
        name if score.status == "ok" else f"{name} {score.status}",
        "" if score.seconds is None else units.seconds(score.seconds),
        "" if speed is None else units.three(speed / 1e9),
        "" if speed is None or case.peak_flops is None else f"{speed / case.peak_flops:.0%}",
        "" if best is None else best.name,
        "" if best is None or best.seconds is None else units.seconds(best.seconds),
        "" if ratio is None else f"{ratio:.2f}",
        "" if score.error is None else f"{score.error:.1e}",
    ]


def _style(case: Case, score: Score) -> str:
    if score.status == "failed":
        return "red"
    ratio = case.ratio(score)
    return "yellow" if ratio is not None and ratio < 1 else ""


def _families(lines: Sequence[summary.Line], report: Report) -> Table:
    table = _table(("layers", "count", "geometric mean", "worst", "", "aim"), {1, 2, 3, 5})
    for line in lines:
        aims = report.mode == "prepared" and report.pass_ == "forward"
        table.add_row(
            line.family.title, str(line.count), f"{line.mean:.2f}", f"{line.worst:.2f}", line.worst_layer,
            aim(line.family) if aims else "", style=_aimed(line) if aims else "",
        )  # fmt: skip
    return table


def aim(family: Family) -> str:
    """What is aimed at, in words."""
    return "" if family.mean is None else f"{family.mean:.2f}, worst {family.worst:.2f}"


def _aimed(line: summary.Line) -> str:
    mean, worst = line.family.mean, line.family.worst
    if mean is None or worst is None:
        return ""
    return "green" if line.mean >= mean and line.worst >= worst else "yellow"


def _regrets(cases: Sequence[Case]) -> list[RenderableType]:
    found = summary.regrets(cases)
    if found is None:
        return []
    parts: list[RenderableType] = [
        Text(f"regret, auto / best variant: median {found.median:.3f} of {found.count}", style="bold"),
    ]
    if found.beyond:
        table = _table(("layer", "problem", "auto", "best", "regret"), {4})
        for regret, case, best in found.beyond:
            table.add_row(case.layer, case.problem, case.ours[0].algorithm or "", best.name, f"{regret:.2f}")
        parts.append(table)
    return parts


def _move(move: Move) -> list[str]:
    before, after = move.algorithms
    return [
        move.case.layer, str(move.case.threads), move.contender, move.yardstick, f"{move.before:.2f}",
        f"{move.after:.2f}", f"{move.change - 1:+.0%}", str(after) if before == after else f"{before} -> {after}",
    ]  # fmt: skip


def _failures(report: Report) -> list[str]:
    return [
        f"failed: {case.layer} on {_threads(case.threads)}: {score.name}"
        f"{f' ({score.algorithm})' if score.algorithm else ''}: {score.reason}"
        for case in report.cases
        for score in case.scores
        if score.status == "failed"
    ]


def disturbance(report: Report) -> str | None:
    """A warning, where other programs ran meanwhile."""
    found = report.disturbed
    if not found:
        return None
    worst = max(found, key=lambda case: case.others or 0.0)
    return (
        f"disturbed: other programs used more than {MUCH:.0%} of the machine during {len(found)} of "
        f"{len(report.cases)} contests, {worst.others:.0%} during {worst.layer} on {_threads(worst.threads)}: "
        "don't trust these figures"
    )


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _heading(report: Report, cases: Sequence[Case], threads: int) -> str:
    peaks = [case.peak_flops for case in cases if case.peak_flops is not None]
    parts = [
        f"{report.host['cpu']} ({report.host['isa']})",
        _threads(threads),
        f"peak {min(peaks) / 1e9:.0f} to {max(peaks) / 1e9:.0f} GFLOP/s" if peaks else "peak unknown",
        f"copy {cases[0].copy_bandwidth / 1e9:.1f} GB/s",
    ]
    return f"{report.pass_}, {report.mode}: {', '.join(parts)}"


def _footnotes(report: Report) -> str:
    peers = ", ".join(f"{name} {version}" for name, version in report.peers.items()) or "none"
    weight = "weights packed before the call" if report.mode == "prepared" else "the public function, weights as arrays"
    return (
        f"time: median of interleaved rounds; ours: {weight}; ratio: best peer's time / ours\n"
        "GFLOP/s: operations of the direct sum; peak: their share of the multiply-add peak in the same rounds\n"
        "error: norm(result - exact) / norm(exact); only who is right is timed\n"
        f"peers: {peers}"
    )
