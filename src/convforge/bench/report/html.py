"""A report as one page that needs nothing else: tables, and charts as inline SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from convforge.bench import units
from convforge.bench.families import ALL, FAMILIES
from convforge.bench.report import charts, summary
from convforge.bench.report.data import Case, Report, Score
from convforge.bench.report.text import aim, disturbance

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --dim: #66707a; --line: #d5dade; --paper: #fff;
  --convforge: #1f77d0; --torch: #e4572e; --onnxruntime: #7b4fb5; --openvino: #1a936f; --ncnn: #c98a00;
  --opencv: #d1495b; --scipy: #7a7a7a; --ahead: #2a9d5c; --behind: #d1495b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --dim: #98a2ab; --line: #3a4249; --paper: #15191d; } }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; } th.name, td.name { text-align: left; }
.wide { overflow-x: auto; } .dim { color: var(--dim); } .good { color: var(--ahead); }
.bad, .failed { color: var(--behind); }
svg { max-width: 100%; height: auto; display: block; margin: .6rem 0 1.4rem; }
svg text { font-size: 11px; fill: var(--ink); } svg text.strong { font-weight: 600; }
svg .grid { stroke: var(--line); } svg .one { stroke: var(--ink); } svg .roof { stroke: var(--ink); stroke-width: 2; }
svg .ahead { fill: var(--ahead); } svg .behind { fill: var(--behind); } svg circle { fill-opacity: .8; }
"""
_LIBRARIES = ("convforge", "torch", "onnxruntime", "openvino", "ncnn", "opencv", "scipy")
_TITLE = "convforge bench"


def page(report: Report) -> str:
    """The report as an HTML document."""
    colours = "".join(f".{name} {{ fill: var(--{name}); color: var(--{name}); }}\n" for name in _LIBRARIES)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_TITLE}</title><style>{_STYLE}{colours}</style></head><body>",
            f"<h1>{_TITLE}: {escape(report.pass_)}, {escape(report.mode)}</h1>",
            *_about(report),
            *(part for threads in report.threads for part in _section(report, threads)),
            "</body></html>",
        ]
    )


def _about(report: Report) -> Iterator[str]:
    host = {key: escape(str(value)) for key, value in report.host.items()}
    versions = [(key, host.get(key, "unknown")) for key in ("convforge", "numpy", "python")]
    versions += [(escape(name), escape(version)) for name, version in report.peers.items()]
    yield f"<p>{host.get('cpu')}, instruction set {host.get('isa')}, {host.get('cores')} cores, {host.get('system')};"
    yield ", ".join(f"{name} {version}" for name, version in versions) + "</p>"
    warning = disturbance(report)
    if warning is not None:
        yield f"<p class=failed>{escape(warning)}</p>"
    for name, reason in report.missing.items():
        yield f"<p class=failed>missing: {escape(name)}: {escape(reason)}</p>"
    ours = (
        "Ours is a plan with its weight prepared, writing into an array that is there; the others' sessions and packed "
        "weights are made before the clock starts too."
        if report.mode == "prepared"
        else "Ours is the public function on plain arrays; the weight is not prepared."
    )
    yield (
        f"<p class=dim>{ours} A time is the median of interleaved rounds in which all contenders of a layer take "
        "turns, on the same count of threads, in float32; a ratio is the best peer's time over ours. Every result was "
        "held against a float64 oracle in the same run: who is wrong has no time. GFLOP/s count the operations of the "
        "direct sum, so Winograd may pass the machine's peak of multiply-adds, which was timed in the same rounds.</p>"
    )


def _section(report: Report, threads: int) -> Iterator[str]:
    cases = report.on(threads)
    yield f"<h2>{'1 thread' if threads == 1 else f'{threads} threads'}</h2>"
    for contender in report.contenders:
        lines = summary.by_family(cases, contender)
        if len(report.contenders) > 1:
            yield f"<h3>{escape(contender)}</h3>"
        if lines:
            yield from _families(lines, aims=report.mode == "prepared" and report.pass_ == "forward")
            yield from _libraries(summary.by_library(cases, contender))
            yield "<h3>Best peer's time / ours</h3>"
            yield charts.ratios(cases, contender)
        yield "<h3>Roofline</h3>"
        yield _legend(cases)
        yield charts.roofline(cases, contender)
        yield "<h3>Time against error</h3>"
        yield charts.time_against_error(cases, contender)
    yield from _regrets(cases)
    yield "<h3>Layers</h3>"
    yield from _layers(cases)


def _families(lines: Sequence[summary.Line], *, aims: bool) -> Iterator[str]:
    rows = []
    for line in lines:
        mean, worst = (line.family.mean, line.family.worst) if aims else (None, None)
        rows.append(
            _row(
                _name(line.family.title), _cell(str(line.count)), _cell(f"{line.mean:.2f}", _verdict(line.mean, mean)),
                _cell(f"{line.worst:.2f}", _verdict(line.worst, worst)), _name(line.worst_layer),
                _name(aim(line.family) if aims else ""),
            )
        )  # fmt: skip
    yield _table(("layers", "count", "geometric mean", "worst", "", "aim" if aims else ""), rows, {0, 4, 5})


def _verdict(value: float, aim_: float | None) -> str:
    return "" if aim_ is None else "good" if value >= aim_ else "bad"


def _libraries(found: dict[str, dict[str, float]]) -> Iterator[str]:
    titles = {family.name: family.title for family in (*FAMILIES, ALL)}
    libraries = [name for name in _LIBRARIES if any(name in ratios for ratios in found.values())]
    libraries += sorted({name for ratios in found.values() for name in ratios} - set(libraries))
    rows = [
        _row(_name(titles[family]), *(_cell(f"{ratios[name]:.2f}" if name in ratios else "") for name in libraries))
        for family, ratios in found.items()
    ]
    yield "<p>Each library's best time over ours, geometric mean of the layers that it does:</p>"
    yield _table(("layers", *libraries), rows, {0})


def _regrets(cases: Sequence[Case]) -> Iterator[str]:
    found = summary.regrets(cases)
    if found is None:
        return
    yield "<h3>Regret</h3>"
    yield f"<p>auto's time over the best variant's: median {found.median:.3f} of {found.count} layers.</p>"
    rows = [
        _row(_name(case.layer), _name(case.problem), _name(case.ours[0].algorithm or ""), _name(best.name),
             _cell(f"{regret:.2f}"))
        for regret, case, best in found.beyond
    ]  # fmt: skip
    if rows:
        yield _table(("layer", "problem", "auto", "best", "regret"), rows, {0, 1, 2, 3})


def _layers(cases: Sequence[Case]) -> Iterator[str]:
    peers = list(dict.fromkeys(score.name for case in cases for score in case.scores if score.role == "peer"))
    peers = [name for name in peers if any(_peer(case, name) is not None for case in cases)]
    rows = [
        _row(
            *((_name(case.layer), _name(case.problem)) if index == 0 else (_name(""), _name(""))),
            *_own(case, score),
            *(_theirs(case, _peer(case, name)) for name in peers),
        )
        for case in cases
        for index, score in enumerate(case.ours)
    ]
    columns = ("layer", "problem", "ours", "time", "GFLOP/s", "peak", "copy", "error", "ratio", *peers)
    yield f"<div class=wide>{_table(columns, rows, {0, 1, 2})}</div>"


def _own(case: Case, score: Score) -> list[str]:
    if score.seconds is None:
        return [_name(f"{score.algorithm or score.name} {score.status}: {score.reason}", "failed"), *[_cell("")] * 6]
    speed, ratio = case.flops / score.seconds, case.ratio(score)
    return [
        _name(f"{score.name.removeprefix('convforge')} {score.algorithm}".strip()),
        _cell(units.seconds(score.seconds)),
        _cell(units.three(speed / 1e9)),
        _cell("" if case.peak_flops is None else f"{speed / case.peak_flops:.0%}"),
        _cell(f"{case.least_bytes / score.seconds / case.copy_bandwidth:.0%}"),
        _cell(f"{score.error:.1e}"),
        _cell("" if ratio is None else f"{ratio:.2f}", _verdict(ratio or 0.0, 1.0)),
    ]


def _peer(case: Case, name: str) -> Score | None:
    return next((each for each in case.scores if each.name == name and each.status != "refused"), None)


def _theirs(case: Case, score: Score | None) -> str:
    if score is None:
        return _cell("")
    if score.seconds is None:
        return f'<td class=failed title="{escape(score.reason or "")}">failed</td>'
    words = units.seconds(score.seconds)
    tip = f"error {score.error:.1e}, {score.rounds} rounds"
    return f'<td title="{tip}">{f"<b>{words}</b>" if score is case.best_peer else words}</td>'


def _legend(cases: Sequence[Case]) -> str:
    libraries = dict.fromkeys(score.library for case in cases for score in case.scores if score.seconds is not None)
    return "<p>" + " ".join(f'<b class="{escape(name)}">● {escape(name)}</b>' for name in libraries) + "</p>"


def _table(columns: Sequence[str], rows: Sequence[str], names: set[int]) -> str:
    heads = "".join(
        f"<th{' class=name' if index in names else ''}>{escape(each)}</th>" for index, each in enumerate(columns)
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>\n" + "\n".join(rows) + "\n</tbody></table>"


def _row(*cells: str) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _cell(words: str, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(words)}</td>' if kind else f"<td>{escape(words)}</td>"


def _name(words: str, kind: str = "") -> str:
    return _cell(words, f"name {kind}".strip())
