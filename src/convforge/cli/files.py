"""Output files: refused before the work, not after it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from convforge.cli.errors import BadInput


class OutputFile(click.ParamType):
    """A path that can be written, or ``-`` for standard output where ``dash`` allows it."""

    name = "file"

    def __init__(self, *, dash: bool = False) -> None:
        self._dash = dash

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the path."""
        path = Path(value)
        if self._dash and value == "-":
            return "-"
        if path.is_dir():
            self.fail(f"{value!r} is a directory", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"there is no directory {str(path.parent)!r}", param, ctx)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            self.fail(f"{value!r} cannot be written", param, ctx)
        return str(value)


def write(path: str, text: str) -> None:
    """Write ``text`` and a newline to a file, or to standard output for ``-``."""
    if path == "-":
        click.echo(text)
        return
    try:
        Path(path).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path!r} cannot be written: {error.strerror}") from error
