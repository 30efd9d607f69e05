"""The one table of results: for a terminal with colours, and as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from itertools import groupby

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from convforge.bench import units
from convforge.bench.comparison import Comparison, Row

_WIDE = 1000


def render(comparison: Comparison, *, footnotes: bool = True) -> RenderableType:
    """Heading, table, refusals and footnotes, for a rich console; 80 columns hold the table."""
    ran = [row for row in comparison.rows if row.status != "refused"]
    parts: list[RenderableType] = [Text(_heading(comparison), style="bold")]
    if ran:
        parts.append(_table(ran))
    parts += [
        Text(f"{row.status}: {row.pass_} {row.algorithm}/{row.backend}: {row.reason}", style="red")
        for row in ran
        if row.reason
    ]
    parts += [
        Text(
            f"{row.pass_} {row.algorithm}/{row.backend}: {units.seconds(row.kernel_seconds)} on the GPU, "
            f"{units.seconds(row.copy_seconds)} of copies there and back"
        )
        for row in ran
        if row.kernel_seconds is not None and row.copy_seconds is not None
    ]
    parts += [Text(line, style="dim") for line in _refusals(comparison.rows)]
    if footnotes:
        blank = [] if isinstance(parts[-1], Table) else [Text()]  # a table ends with a blank line of its own
        parts += [*blank, Text(_footnotes(comparison), style="dim")]
    return Group(*parts)


def plain(comparison: Comparison, *, footnotes: bool = True) -> str:
    """The same without colours, lines as long as they need to be."""
    return without_colours(render(comparison, footnotes=footnotes))


def without_colours(what: RenderableType) -> str:
    """Anything that rich prints as plain text, lines as long as they need to be."""
    file = StringIO()
    console = Console(file=file, width=_WIDE, color_system=None, legacy_windows=False)
    console.print(what)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("algorithm", "backend"):
        table.add_column(name, no_wrap=True)
    for name in ("time", "GFLOP/s", "peak", "copy", "workspace", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for pass_, of_pass in groupby(rows, key=lambda row: row.pass_):
        table.add_row(pass_, style="bold")
        for row in of_pass:
            note = " ".join([*(["auto"] if row.chosen else []), *(["failed"] if row.status == "failed" else [])])
            table.add_row(f"  {row.algorithm}", row.backend, *_numbers(row), note, style=_style(row))
    return table


def _numbers(row: Row) -> list[str]:
    return [
        "" if row.seconds is None else units.seconds(row.seconds),
        "" if row.flops_per_second is None else units.three(row.flops_per_second / 1e9),
        "" if row.peak_share is None else f"{row.peak_share:.0%}",
        "" if row.copy_share is None else f"{row.copy_share:.0%}",
        "" if row.workspace_bytes is None else units.size(row.workspace_bytes),
        "" if row.error is None else f"{row.error:.1e}",
    ]


def _style(row: Row) -> str:
    if row.status == "failed":
        return "red"
    return "green" if row.chosen else ""


def _refusals(rows: Sequence[Row]) -> list[str]:
    """A line for each algorithm and reason, with the backends and passes that it concerns."""
    passes = dict.fromkeys(row.pass_ for row in rows)
    merged: dict[tuple[str, str | None], tuple[dict[str, None], dict[str, None]]] = {}
    for row in rows:
        if row.status == "refused":
            backends, refused = merged.setdefault((row.algorithm, row.reason), ({}, {}))
            backends[row.backend] = None
            refused[row.pass_] = None
    return [
        f"refused: {'' if len(refused) == len(passes) else ', '.join(refused) + ' '}"
        f"{algorithm} ({', '.join(backends)}): {reason}"
        for (algorithm, reason), (backends, refused) in merged.items()
    ]


def _heading(comparison: Comparison) -> str:
    named = comparison.problem
    if comparison.title != named:
        named = f"{comparison.title}  {named}"
    peak = comparison.peak_flops
    parts = [
        f"{comparison.host['cpu']} ({comparison.host['isa']})",
        "1 thread" if comparison.threads == 1 else f"{comparison.threads} threads",
        f"peak {peak / 1e9:.0f} GFLOP/s {comparison.dtype}" if peak else "peak unknown: no compiled backend",
        f"copy {comparison.copy_bandwidth / 1e9:.1f} GB/s",
    ]
    return f"{named}\n{', '.join(parts)}"


def _footnotes(comparison: Comparison) -> str:
    weight = "weights prepared" if comparison.mode == "prepared" else "weights not prepared"
    if comparison.error_scale == "exact":
        error = "norm(result - exact) / norm(exact) on standard-normal data"
    else:
        error = "norm(result - exact) / norm(exact result on absolute values)"
    return (
        f"time: median of interleaved rounds, {weight}\n"
        "GFLOP/s: operations of the direct sum, whatever the algorithm\n"
        "peak, copy: share of the measured multiply-add peak and copy bandwidth\n"
        f"error: {error}\n"
        f'auto: what algorithm="auto" takes at tolerance {comparison.tolerance:g}'
    )
