"""The command line: ``convforge compare | bench | info | cache``. It parses arguments; the work is done elsewhere."""

from __future__ import annotations

import sys
from typing import Any

import click

from convforge.cli.bench import bench
from convforge.cli.cache import cache
from convforge.cli.compare import compare
from convforge.cli.info import info
from convforge.version import __version__


class _Group(click.Group):
    """A group whose complaints take one line, and that ends quietly on Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.BadParameter as error:
            raise click.exceptions.Exit(_complain(error.format_message())) from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(130) from None


def _complain(message: str) -> int:
    click.echo(f"Error: {message}", err=True)
    return 2


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="convforge")
def cli() -> None:
    """Convolution and pooling on a CPU: compare the algorithms, see what this machine can do."""


cli.add_command(compare)
cli.add_command(bench)
cli.add_command(info)
cli.add_command(cache)


def main() -> None:
    """Run the command line and exit; the console script's entry point."""
    for stream in (sys.stdout, sys.stderr):
        # a µ that the terminal's encoding lacks must not end the program
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    cli(prog_name="convforge")
