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

_NUMBERS = ("time", "GFLOP/s", "of peak", "of copy", "workspace", "error")


def render(comparison: Comparison) -> RenderableType:
    """Heading, table and footnotes, for a rich console."""
    return Group(
        Text(_heading(comparison), style="bold"), _table(comparison.rows), Text(_footnotes(comparison), style="dim")
    )


def plain(comparison: Comparison) -> str:
    """The same without colours, as wide as it needs to be."""
    console = Console(file=StringIO(), width=1000, color_system=None, legacy_windows=False)
    console.print(render(comparison))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("pass", "algorithm", "backend"):
        table.add_column(name, no_wrap=True)
    for name in _NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for pass_, of_pass in groupby(rows, key=lambda row: row.pass_):
        lines = _merged(list(of_pass))
        for index, (row, backends) in enumerate(lines):
            table.add_row(
                pass_ if index == 0 else "", row.algorithm, backends, *_numbers(row), _note(row),
                style=_style(row), end_section=index == len(lines) - 1,
            )  # fmt: skip
    return table


def _merged(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    """The rows of a pass with their backends; those that refuse for the same reason share a line."""
    merged: dict[object, tuple[Row, list[str]]] = {}
    for row in rows:
        key = (row.algorithm, row.reason) if row.status == "refused" else (row.algorithm, row.backend)
        merged.setdefault((row.status, key), (row, []))[1].append(row.backend)
    return [(row, ", ".join(backends)) for row, backends in merged.values()]


def _numbers(row: Row) -> list[str]:
    return [
        "" if row.seconds is None else units.seconds(row.seconds),
        "" if row.flops is None else f"{row.flops / 1e9:.1f}",
        "" if row.peak_share is None else f"{row.peak_share:.0%}",
        "" if row.copy_share is None else f"{row.copy_share:.0%}",
        "" if row.workspace_bytes is None else units.size(row.workspace_bytes),
        "" if row.error is None else f"{row.error:.1e}",
    ]


def _note(row: Row) -> str:
    notes = [f"{row.status}: {row.reason}"] if row.reason else []
    return "; ".join((["auto"] if row.chosen else []) + notes)


def _style(row: Row) -> str:
    if row.status == "ok":
        return "bold green" if row.chosen else ""
    return "red" if row.status == "failed" else "dim"


def _heading(comparison: Comparison) -> str:
    named = comparison.problem if comparison.title == comparison.problem else f"{comparison.title}: {comparison.problem}"
    peak = comparison.peak_flops
    parts = [
        f"{comparison.host['cpu']}, {comparison.host['isa']}",
        "1 thread" if comparison.threads == 1 else f"{comparison.threads} threads",
        f"peak {peak / 1e9:.0f} GFLOP/s {comparison.dtype}" if peak else "peak unknown: no compiled backend",
        f"copy {comparison.copy_bandwidth / 1e9:.1f} GB/s",
    ]
    return f"{named}\n{' · '.join(parts)}"


def _footnotes(comparison: Comparison) -> str:
    scale = "‖exact‖ on standard-normal data" if comparison.error_scale == "exact" else "‖result on absolute values‖"
    weight = "weights prepared" if comparison.mode == "prepared" else "weights packed in every call"
    return (
        f"time: median of interleaved rounds, {weight}; GFLOP/s counts the direct sum's operations\n"
        f"error: ‖result − exact‖ / {scale}; auto: what algorithm=\"auto\" takes at tolerance {comparison.tolerance:g}"
    )
