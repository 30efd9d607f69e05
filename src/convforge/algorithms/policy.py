"""What every algorithm's policy states; its loops are elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convforge.problem import Problem
    from convforge.program import Program
    from convforge.runtime.machine import Machine, Tile


@dataclass(frozen=True)
class Policy:
    """Refusals, modelled cost and error, and the program of one algorithm, whatever the backend.

    Attributes
    ----------
    name
        The user's word for it (``algorithm="im2col"``).
    passes
        The passes it implements.
    kinds
        The kinds of problem it is made for.
    refuses
        ``refuses(problem, pass_)`` is None, or the reason why it does not do this problem.
    cost
        ``cost(problem, pass_, mode, machine)``: modelled seconds on one thread; ``mode`` is "functional" (weights
        are prepared in every call) or "prepared". It may look at instruction set and caches, never at threads.
    error
        ``error(problem, pass_)``: the relative error norm(y - exact) / norm(exact) that it promises on
        standard-normal data, before bias, in the problem's dtype.
    program
        ``program(problem, pass_, tile, machine)``: the stages that do it, for a register tile.
    """

    name: str
    passes: tuple[str, ...]
    kinds: tuple[str, ...]
    refuses: Callable[[Problem, str], str | None]
    cost: Callable[[Problem, str, str, Machine], float]
    error: Callable[[Problem, str], float]
    program: Callable[[Problem, str, Tile, Machine], Program]
