"""``convforge bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convforge.cli.errors import BadInput, complaints
from convforge.cli.files import check_output, write
from convforge.cli.progress import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convforge.bench.layers import Layer
    from convforge.bench.report import Case, Report
    from convforge.bench.suite_run import Run

_NO_PEER = "none"


@click.command()
@click.argument("suites", metavar="[SUITE]...", nargs=-1)
@click.option("--batch", type=click.IntRange(min=1), help="Images  [default: 1 in suites]")
@click.option("--random", "count", type=click.IntRange(min=1), help="Layers drawn from the space of real networks.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which random layers.")
@click.option("--pools", is_flag=True, help="The suites' pools too.")
@click.option(
    "--mode", type=click.Choice(["prepared", "functional"]), default="prepared", show_default=True,
    help="Weights prepared before, or plain function calls.",
)  # fmt: skip
@click.option(
    "--pass", "pass_", type=click.Choice(["forward", "grad_input", "grad_weight"]), default="forward",
    show_default=True, help="What to time.",
)  # fmt: skip
@click.option("--threads", metavar="1|all|N", multiple=True, help="Threads, several times too  [default: 1 and all]")
@click.option("--peer", "peers", metavar="NAME", multiple=True, help="Only torch, ncnn, ..., or none  [default: all]")
@click.option(
    "--backend", "backends", metavar="NAME", multiple=True, default=("auto",),
    help="A row for cython, numba; or cuda alone: the GPU against cuDNN through torch.",
)  # fmt: skip
@click.option("--regret", is_flag=True, help="Time every algorithm of ours, to see what auto missed.")
@click.option("--tolerance", type=float, help="Error within which auto chooses  [default: 1e-5; float64: 1e-13]")
@click.option(
    "--budget", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
    help="Seconds of timing per layer that may go into more than seven rounds.",
)  # fmt: skip
@click.option("--json", "json_path", metavar="FILE", callback=check_output, help="Write JSON; - is standard output.")
@click.option("--html", "html_path", metavar="FILE", callback=check_output, help="Write one page with charts.")
@click.option("--compare", "old_path", metavar="OLD.json", help="Show what moved beyond the noise since then.")
@click.option("--from", "saved_path", metavar="FILE.json", help="Run nothing: take a report that was written before.")
def bench(
    suites: tuple[str, ...],
    json_path: str | None,
    html_path: str | None,
    old_path: str | None,
    saved_path: str | None,
    **settings: Any,
) -> None:
    """Hold convforge against the libraries that do the same: who is right is timed, in the same rounds.

    SUITE is alexnet, vgg16, resnet50, mobilenetv2, ...: the message to a wrong name lists them; or all, or a layer
    such as resnet50:conv2_x, or a problem such as n1c64k64i56x56f3x3p1. A ratio is the best peer's time over ours.
    The peers are installed by: pip install 'convforge[peers]'. The exit code is 1 if a result of ours is wrong, and 2
    if the input is no good; Ctrl-C reports what is done.

    \b
    Examples:
      convforge bench resnet50 --json now.json --html now.html
      convforge bench vgg16 --batch 8 --threads all --peer torch --peer onnxruntime
      convforge bench --random 50 --seed 3 --regret
      convforge bench resnet50 --compare before.json
      convforge bench resnet50 vgg16 --batch 32 --backend cuda
      convforge bench --from now.json --compare before.json
    """  # noqa: D301 - click reads the \b
    old = None if old_path is None else _read(old_path)
    interrupted = False
    if "cuda" in settings["backends"]:
        if html_path or old_path or saved_path or len(settings["backends"]) > 1:
            raise BadInput("--backend cuda goes alone, and without --html, --compare and --from")
        _on_gpu(_layers(suites, settings, (1, 2)), settings, json_path)
        return
    if saved_path is None:
        run = _prepare(suites, settings)
        if old is not None and (old.mode, old.pass_) != (settings["mode"], settings["pass_"]):
            raise BadInput(f"{old_path!r} is {old.mode}, {old.pass_}: that is not the same work")
        report, interrupted = _measure(run)
    else:
        if suites or settings["count"]:
            raise BadInput("--from runs nothing: it goes without SUITE and --random")
        report = _read(saved_path)
    _show(report, old, old_path, quiet=json_path == "-")
    if json_path is not None:
        write(json_path, report.to_json())
    if html_path is not None:
        from convforge.bench.report.html import page

        write(html_path, page(report))
    if interrupted:
        raise KeyboardInterrupt
    if not report.ok:
        click.echo("a result of ours is wrong", err=True)
        raise click.exceptions.Exit(1)


def _prepare(suites: tuple[str, ...], settings: dict[str, Any]) -> Run:
    from convforge.bench.contest import Rules
    from convforge.bench.suite_run import prepare

    wanted = tuple(name for name in settings["peers"] if name != _NO_PEER) if settings["peers"] else None
    with complaints(ValueError, TypeError):
        rules = Rules(
            pass_=settings["pass_"],
            mode=settings["mode"],
            backends=tuple(dict.fromkeys(settings["backends"])),
            tolerance=settings["tolerance"],
            budget=settings["budget"],
            variants=settings["regret"],
        )
        return prepare(_layers(suites, settings), rules, _counts(settings["threads"]), wanted)


def _on_gpu(layers: list[Layer], settings: dict[str, Any], json_path: str | None) -> None:
    import json
    from dataclasses import asdict

    from convforge import registry
    from convforge.bench import device
    from convforge.runtime import gpu

    missing = registry.backend_missing("cuda")
    if missing is not None:
        raise BadInput(f"--backend cuda needs a GPU: {missing}")
    rows = []
    with Progress() as progress, complaints(RuntimeError, MemoryError, ValueError):
        peer, version = _gpu_peer(settings["peers"])
        found = device.run(layers, (settings["pass_"],), gpu.current(), peer, tolerance=settings["tolerance"])
        for row in found:
            rows.append(row)
            progress(row.layer, len(rows) / len(layers))
    if json_path != "-":
        click.echo(device.render(rows, gpu.current()))
        click.echo(f"peer: {version}")
    if json_path is not None:
        data = {"gpu": asdict(gpu.current()), "peer": version, "rows": [asdict(row) for row in rows]}
        write(json_path, json.dumps(data, indent=2))
    if any(row.reason is not None and row.reason.startswith("wrong") for row in rows):
        click.echo("a result of ours is wrong", err=True)
        raise click.exceptions.Exit(1)


def _gpu_peer(wanted: tuple[str, ...]) -> tuple[Any, str]:
    """Torch with CUDA, or nobody: then only our own times are taken."""
    from convforge.bench import device

    if wanted == (_NO_PEER,):
        return device.NoPeer(), "none"
    try:
        from convforge.bench.peers import cudnn
    except ImportError as error:
        return device.NoPeer(), f"none: {error}"
    reason = cudnn.missing()
    return (device.NoPeer(), f"none: {reason}") if reason else (cudnn.Cudnn(), cudnn.version())


def _layers(suites: tuple[str, ...], settings: dict[str, Any], dimensions: tuple[int, ...] = (2,)) -> list[Layer]:
    from convforge.bench import layers

    if not suites and not settings["count"]:
        raise BadInput("name a SUITE such as resnet50, or ask for --random layers")
    options = {"pools": settings["pools"], "dimensions": dimensions}
    found = [each for name in suites for each in layers.named(name, settings["batch"], **options)]
    if settings["count"]:
        found += layers.drawn(settings["count"], settings["seed"], settings["batch"])
    return layers.unique(found)


def _counts(words: tuple[str, ...]) -> list[int]:
    from convforge.runtime.threads import get_num_threads

    try:
        return [get_num_threads() if word == "all" else int(word) for word in words]
    except ValueError:
        raise BadInput(f"--threads takes a number or all, got {', '.join(words)}") from None


def _measure(run: Run) -> tuple[Report, bool]:
    """The run's report, and whether it was interrupted: what is done is not lost."""
    cases: list[Case] = []
    interrupted = False
    with Progress() as progress, complaints(RuntimeError, MemoryError):
        try:
            for case in run.cases(progress):
                cases.append(case)  # noqa: PERF402 - an interrupt must find them
        except KeyboardInterrupt:
            interrupted = True
            if not cases:
                raise
    return run.report(cases), interrupted


def _read(path: str) -> Report:
    from convforge.bench.report import Report

    try:
        return Report.from_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"{path!r} is no report: {error}") from error


def _show(report: Report, old: Report | None, old_path: str | None, *, quiet: bool) -> None:
    from convforge.bench.report import text
    from convforge.bench.report.movement import movement

    if not quiet:
        _print(text.render(report))
    if old is not None:
        try:
            moved = movement(old, report)
        except ValueError as error:
            raise BadInput(f"{old_path!r}: {error}") from error
        if not quiet:
            _print(text.render_movement(moved))


def _print(what: RenderableType) -> None:
    from rich.console import Console

    from convforge.bench.table import without_colours

    console = Console()
    if console.is_terminal:
        console.print(what)
    else:
        click.echo(without_colours(what))
