"""Other libraries that do the same work: benchmarks hold convforge against them, nothing else uses them.

Each module here stands for one library and imports it at its top, so a module is imported when its library is wanted.
It offers the names of :class:`Peer`; its docstring says what is timed. All of them compute in float32 and on as many
threads as they are told, and get what a user of theirs would give them: arrays of their own, in the layout that they
like, made before the clock starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

import numpy as np

from convforge.problem import Problem

#: Where each library's module is; the order is that of reports.
PEERS: dict[str, str] = {
    name: f"convforge.bench.peers.{name}" for name in ("torch", "onnxruntime", "openvino", "ncnn", "opencv", "scipy")
}


@dataclass(frozen=True)
class Job:
    """What the contenders are to do.

    Attributes
    ----------
    problem, pass_
        One pass of one problem.
    mode
        "functional": a call gets the weight as an array; "prepared": the weight was packed before.
    threads
        How many threads to use, exactly.
    arrays
        The pass's operands by name, as :func:`convforge.bench.trial.operands` gives them.
    """

    problem: Problem
    pass_: str
    mode: str
    threads: int
    arrays: Mapping[str, np.ndarray | None]

    def array(self, name: str) -> np.ndarray:
        """An operand that the pass has."""
        found = self.arrays[name]
        assert found is not None
        return found


@dataclass(frozen=True)
class Contender:
    """One way of doing a job, ready to be timed.

    Attributes
    ----------
    name
        The library and the variant: "torch channels_last".
    run
        One call.
    read
        The result of a call in NumPy's layout, (n, k, *output) for a forward pass, given what ``run`` returned.
    """

    name: str
    run: Callable[[], object]
    read: Callable[[object], np.ndarray]


class Peer(Protocol):
    """What a module of this package offers."""

    def version(self) -> str:
        """The library's version."""

    def pin(self, threads: int) -> None:
        """Use this many threads from now on, where the library has such a setting."""

    def refuses(self, job: Job) -> str | None:
        """Why it does not do a job, or None."""

    def contenders(self, job: Job) -> Iterator[Contender]:
        """Its ways of doing a job that it does not refuse, each made when it is asked for."""


def load(name: str) -> Peer:
    """The library's module, with the library imported.

    Raises
    ------
    ImportError
        The library is missing; the message says how to get it.
    """
    try:
        return cast(Peer, import_module(PEERS[name]))
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'convforge[peers]'") from error


def wants_prepared(job: Job) -> str | None:
    """Why a library of sessions does not do a job, or None: its weights are packed once, its passes are forward."""
    if job.pass_ != "forward":
        return "it has no backward pass"
    return (
        "its weights are packed once for many calls: it is timed in mode prepared" if job.mode != "prepared" else None
    )


def flat_padding(problem: Problem) -> tuple[list[int], list[int]]:
    """Padding before and after each axis."""
    return [before for before, _ in problem.padding], [after for _, after in problem.padding]
