"""Functions from generated source: loops over registers are written out, for vectors live in no array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def define(name: str, lines: list[str], **names: Any) -> Callable[..., Any]:
    """The function ``name`` that ``lines`` define; the source refers to ``names``."""
    exec("\n".join(lines), names)
    function: Callable[..., Any] = names[name]
    return function


def indented(levels: int, lines: list[str]) -> list[str]:
    """Source lines, further to the right."""
    return ["    " * levels + line for line in lines]
