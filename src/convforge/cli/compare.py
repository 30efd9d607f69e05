"""``convforge compare``."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from convforge.cli.errors import BadInput, complaints
from convforge.cli.files import check_output, write
from convforge.cli.progress import Progress

if TYPE_CHECKING:
    from convforge.bench.comparison import Comparison
    from convforge.problem import Problem


@click.command()
@click.argument("problems", metavar="[PROBLEM]...", nargs=-1)
@click.option("--image", metavar="FILE", help="Filter a picture: a file, sample:china or sample:flower.")
@click.option("--filter", "filter_name", metavar="NAME", help="The filter: sobel_x, laplacian, gaussian_5, ...")
@click.option("--pass", "passes", metavar="PASS", multiple=True, help="Only forward, grad_input or grad_weight.")
@click.option("--algorithm", "algorithms", metavar="NAME", multiple=True, help="Only this one, such as winograd.")
@click.option("--backend", "backends", metavar="NAME", multiple=True, help="Only numpy, numba or cython.")
@click.option("--threads", "num_threads", type=click.IntRange(min=1), help="Threads that a call may use at most.")
@click.option(
    "--mode", type=click.Choice(["prepared", "functional"]), default="prepared", show_default=True,
    help="Weights prepared before, or given as they are.",
)  # fmt: skip
@click.option("--tolerance", type=float, help="Error within which auto chooses  [default: 1e-5; float64: 1e-13]")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Samples of each at least.")
@click.option(
    "--budget", type=click.FloatRange(min=0, min_open=True), default=3.0, show_default=True,
    help="Seconds of timing per pass, about.",
)  # fmt: skip
@click.option("--json", "json_path", metavar="FILE", callback=check_output, help="Write JSON; - is standard output.")
@click.option("--plot", "plot_path", metavar="FILE", callback=check_output, help="Draw a picture, such as compare.png.")
def compare(
    problems: tuple[str, ...],
    image: str | None,
    filter_name: str | None,
    json_path: str | None,
    plot_path: str | None,
    **settings: Any,
) -> None:
    """Run every algorithm on a problem: its time, share of peak, memory and error, or why it refuses.

    PROBLEM is a string such as n1c64k64i56x56f3x3p1 (n images, c channels in, k channels out, i input size, f filter,
    p padding; also s stride, d dilation, g groups, :bias, :float64), a pool such as max:n1c64i112x112f3x3s2p1, or a
    layer such as resnet50:conv2_x. The message to a wrong name lists the right ones.

    --pass, --algorithm and --backend may be given several times. The exit code is 1 if an algorithm's error is beyond
    what it states, and 2 if the input is no good.

    \b
    Examples:
      convforge compare resnet50:conv2_x
      convforge compare --image photo.jpg --filter sobel_x --pass forward
      convforge compare n1c512k128i28x28f1x1 --threads 1 --json - --plot a.png
    """  # noqa: D301 - click wants the backspace itself
    jobs = _jobs(problems, image, filter_name, settings)
    if plot_path is not None:
        from convforge.bench.plot import check

        with complaints(ValueError, ImportError):
            check(plot_path)
    found: list[Comparison] = []
    for index, job in enumerate(jobs):
        with Progress() as progress, complaints(MemoryError):
            found.append(job(progress=partial(_overall, progress, index, len(jobs))))
        if json_path != "-":
            _show(found[-1], last=index == len(jobs) - 1)
    if json_path is not None:
        write(json_path, json.dumps({"comparisons": [each.as_dict() for each in found]}, indent=2, allow_nan=False))
    if plot_path is not None:
        from convforge.bench.plot import plot

        with complaints(OSError, ValueError):
            plot(found, plot_path)
    failed = sum(row.status == "failed" for each in found for row in each.rows)
    if failed:
        click.echo(f"{failed} failed: the error is beyond what the algorithm states", err=True)
        raise click.exceptions.Exit(1)


def _jobs(
    problems: tuple[str, ...], image: str | None, filter_name: str | None, settings: dict[str, Any]
) -> list[partial[Comparison]]:
    """Comparisons ready to run, everything about them checked."""
    from convforge import registry
    from convforge.bench.compare import check_settings, compare, select

    if (image is None) != (filter_name is None):
        raise BadInput("--image and --filter go together")
    if not problems and image is None:
        raise BadInput("name a PROBLEM, such as resnet50:conv2_x, or give --image and --filter")
    with complaints(ValueError, TypeError, ImportError, OSError):
        check_settings(**{name: settings[name] for name in ("tolerance", "mode", "rounds", "budget")})
        select(settings["algorithms"], settings["backends"])
        jobs = [partial(compare, _problem(text), title=text, **settings) for text in problems]
        if image is not None and filter_name is not None:
            from convforge.bench.pictures import filtered

            job = filtered(image, filter_name)
            jobs.append(partial(compare, job.problem, title=job.title, x=job.x, weight=job.weight, **settings))
        for each in jobs:
            problem = each.args[0]
            if problem.n == 0:
                raise BadInput(f"{problem} has no images: there is nothing to time")
            for pass_ in settings["passes"]:
                registry.check_pass(problem, pass_)
    return jobs


def _problem(text: str) -> Problem:
    from convforge import models, registry

    try:
        return registry.as_problem(text)
    except ValueError as error:
        if text.partition(":")[0] in models.suites():
            raise
        raise BadInput(f"{error}; a layer reads SUITE:LAYER, with the suites {', '.join(models.suites())}") from error


def _overall(progress: Progress, index: int, count: int, what: str, fraction: float) -> None:
    progress(what, (index + fraction) / count)


def _show(comparison: Comparison, *, last: bool) -> None:
    from rich.console import Console

    from convforge.bench.table import plain, render

    console = Console()
    if console.is_terminal:
        console.print(render(comparison, footnotes=last))
    else:
        click.echo(plain(comparison, footnotes=last))
    if not last:
        click.echo()
