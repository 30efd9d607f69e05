"""Output files: refused before the work, not after it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from convforge.cli.errors import BadInput


def check_output(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Callback of an option that names an output file; ``-`` is standard output, where that is read as such."""
    if value is None or value == "-":
        return value
    path = Path(value)
    trouble = None
    if path.is_dir():
        trouble = f"{value!r} is a directory"
    elif not path.parent.is_dir():
        trouble = f"there is no directory {str(path.parent)!r}"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        trouble = f"{value!r} cannot be written"
    if trouble is not None:
        raise click.BadParameter(trouble, ctx, parameter)
    return value


def write(path: str, text: str) -> None:
    """Write ``text`` and a newline to a file, or to standard output for ``-``."""
    if path == "-":
        click.echo(text)
        return
    try:
        Path(path).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path!r} cannot be written: {error.strerror}") from error
