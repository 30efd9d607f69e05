"""Complaints of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click


class BadInput(click.ClickException):
    """What was asked for cannot be done; the command ends with code 2."""

    exit_code = 2


@contextmanager
def complaints(*kinds: type[Exception]) -> Iterator[None]:
    """Turn these exceptions into complaints."""
    try:
        yield
    except kinds as error:
        raise BadInput(" ".join(str(error).split())) from error
