"""Comparisons as one picture: a row of panels per pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convforge.bench import units
from convforge.bench.comparison import Comparison, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"cython": "#3b6ea5", "numba": "#d98c3f", "numpy": "#8c8c8c"}

#: The peak is drawn where it is at most so many times the fastest: else it would leave no room for the bars.
_NEAR = 5


def plot(comparisons: Sequence[Comparison], path: str) -> None:
    """Draw speed, error and workspace of every row that ran.

    Parameters
    ----------
    comparisons
        Each pass of each gets a row of panels.
    path
        The file to write; its suffix is one that matplotlib knows, such as ``.png`` or ``.svg``.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        The suffix is of no such kind, or no row ran.
    """
    check(path)
    figure_type = _figure_type()
    groups = [
        (comparison, [row for row in comparison.rows if row.pass_ == pass_ and row.status == "ok"])
        for comparison in comparisons
        for pass_ in dict.fromkeys(row.pass_ for row in comparison.rows)
    ]
    groups = [(comparison, rows) for comparison, rows in groups if rows]
    if not groups:
        raise ValueError("there is nothing to plot: no algorithm ran")
    heights = [1.2 + 0.28 * len(rows) for _, rows in groups]
    figure = figure_type(figsize=(11, sum(heights)), layout="constrained")
    grid = figure.subplots(len(groups), 3, squeeze=False, height_ratios=heights, width_ratios=(2.2, 1, 1))
    for panels, (comparison, rows) in zip(grid, groups, strict=True):
        _draw(panels, comparison, rows)
    figure.savefig(path, dpi=150)


def check(path: str) -> None:
    """Raise what :func:`plot` would raise about the library or the file's suffix."""
    supported = _figure_type()().canvas.get_supported_filetypes()
    if Path(path).suffix.lower().lstrip(".") not in supported:
        raise ValueError(f"a plot's file must end in one of .{', .'.join(sorted(supported))}, got {path!r}")


def _figure_type() -> type:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'convforge[plot]'") from error
    return Figure


def _draw(panels: Sequence[Axes], comparison: Comparison, rows: Sequence[Row]) -> None:
    speed, error, workspace = panels
    at = range(len(rows))
    colours = [_COLOURS.get(row.backend, "#5a8f5a") for row in rows]
    bars = speed.barh(at, [(row.flops_per_second or 0) / 1e9 for row in rows], color=colours)
    speed.bar_label(bars, [units.seconds(row.seconds or 0) for row in rows], padding=3, fontsize=7)
    fastest = max(row.flops_per_second or 0 for row in rows)
    if comparison.peak_flops and fastest * _NEAR > comparison.peak_flops:
        speed.axvline(comparison.peak_flops / 1e9, color="black", linewidth=1, linestyle="--", label="FMA peak")
        speed.legend(fontsize=7, loc="lower right")
    names = [f"{row.algorithm}/{row.backend}{' (auto)' if row.chosen else ''}" for row in rows]
    speed.set_yticks(at, names, fontsize=8)
    speed.margins(x=0.15)
    speed.set_title(f"{comparison.title} · {rows[0].pass_}", fontsize=9, loc="left")
    speed.set_xlabel("GFLOP/s (direct count)", fontsize=8)

    error.scatter([row.error or 0 for row in rows], at, color=colours, zorder=2)
    error.scatter([row.error_limit or 0 for row in rows], at, color="black", marker="|", label="stated")
    if any(row.error for row in rows):
        error.set_xscale("log")
    error.legend(fontsize=7)
    error.set_xlabel("relative error", fontsize=8)

    workspace.barh(at, [(row.workspace_bytes or 0) / 2**20 for row in rows], color=colours)
    workspace.set_xlabel("workspace, MiB", fontsize=8)
    for panel in panels:
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.tick_params(axis="x", labelsize=7)
        panel.grid(axis="x", alpha=0.3)
    for panel in (error, workspace):
        panel.set_yticks(at, [])
