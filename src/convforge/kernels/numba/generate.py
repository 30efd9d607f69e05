"""Functions from generated source: loops over registers are written out, for vectors live in no array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convforge.kernels import codegen

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target


def define(name: str, lines: list[str], **names: Any) -> Callable[..., Any]:
    """The function ``name`` that ``lines`` define; the source refers to ``names``."""
    exec("\n".join(lines), names)
    function: Callable[..., Any] = names[name]
    return function


def indented(levels: int, lines: list[str]) -> list[str]:
    """Source lines, further to the right."""
    return ["    " * levels + line for line in lines]


def shuffles(target: Target, program: codegen.Shuffles, name: str) -> Inner:
    """Shuffles as a function ``name``: vectors in, a tuple of vectors out."""
    indices = {f"i{number}": target.v.shuffle(step.indices) for number, step in enumerate(program.steps)}
    return target.jit(define(name, [codegen.python_source(name, program)], **indices))


def names(letter: str, count: int) -> str:
    """``a0, a1, a2`` for the letter a and 3."""
    return ", ".join(f"{letter}{i}" for i in range(count))
