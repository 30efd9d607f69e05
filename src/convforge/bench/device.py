"""``convforge bench --backend cuda``: plans on device arrays against cuDNN through torch, timed by events.

Every call takes the next of several sets of arrays, which together outgrow the second-level cache: a network's layers
do not find their operands there either. What is timed is right: its result is held against torch's in float64, or
the reference's where there is no torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import Any, Protocol

import numpy as np

from convforge import registry
from convforge.algorithms import reference
from convforge.bench import compare
from convforge.bench.layers import Layer
from convforge.bench.trial import operands
from convforge.errors import UnsupportedProblem
from convforge.plan import Plan
from convforge.problem import ConvProblem, Problem
from convforge.runtime.gpu import Gpu

#: The sets of arrays take this many times the second-level cache.
_CACHES = 2
_MOST_SETS = 64
ROUNDS = 11
#: Seconds that the calls of one sample last at least, so that the host's launches are not what is timed.
_SAMPLE = 2e-3
_MOST_REPEATS = 50

Arrays = dict[str, Any]


class Peer(Protocol):
    """A library that does the same on the same device."""

    def place(self, array: np.ndarray) -> Any:
        """A copy of a NumPy array on the device."""
        ...

    def host(self, array: Any) -> np.ndarray:
        """A copy of a device array in the host's memory."""
        ...

    def calls(self, problem: Problem, pass_: str) -> dict[str, Callable[[Arrays], Any]]:
        """Its ways to do a pass, by name."""
        ...

    def exact(self, problem: Problem, pass_: str, arrays: Arrays) -> np.ndarray:
        """The result in float64."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """One layer in one pass.

    Attributes
    ----------
    layer, problem, pass_, algorithm
        What ran, and what the cost model chose.
    seconds, peers
        Medians of one call: ours, and each of the peer's ways.
    error, error_limit
        Ours against the exact result, and what the algorithm states.
    peak_share, bandwidth_share
        Of the card's multiply-adds and of its memory's speed, for the operations of the direct sum and the least bytes.
    reason
        Why there is no time: refused, or wrong.
    """

    layer: str
    problem: str
    pass_: str
    algorithm: str = ""
    seconds: float | None = None
    peers: dict[str, float] | None = None
    error: float | None = None
    error_limit: float | None = None
    peak_share: float | None = None
    bandwidth_share: float | None = None
    reason: str | None = None

    @property
    def ratio(self) -> float | None:
        """The time of the peer's first way (cuDNN, TF32 off) over ours: above 1 we are faster."""
        if self.seconds is None or not self.peers:
            return None
        return next(iter(self.peers.values())) / self.seconds


def run(
    layers: Sequence[Layer], passes: Sequence[str], gpu: Gpu, peer: Peer, *, rounds: int = ROUNDS,
    algorithm: str = "auto", tolerance: float | None = None,
) -> Iterator[Row]:  # fmt: skip
    """Time layers, one row each.

    Parameters
    ----------
    layers, passes
        What to time; passes that a layer lacks are left out.
    gpu
        The device, for its ceilings.
    peer
        Who makes the arrays, and competes.
    rounds
        Samples of each call.
    algorithm, tolerance
        As for :func:`convforge.plan`.
    """
    for layer in layers:
        host = operands(layer.problem, weight=layer.weight())
        for pass_ in passes:
            if pass_ in layer.problem.passes:
                yield _row(layer, pass_, host, gpu, peer, rounds, algorithm, tolerance)


def geometric_mean(rows: Sequence[Row]) -> float | None:
    """Of the rows' ratios."""
    ratios = [row.ratio for row in rows if row.ratio is not None]
    return exp(statistics.fmean(map(log, ratios))) if ratios else None


def render(rows: Sequence[Row], gpu: Gpu) -> str:
    """A table in plain text."""
    from convforge.bench import units

    lines = [
        f"{gpu.name}: {gpu.peak('float32') / 1e12:.1f} TFLOP/s float32, {gpu.bandwidth / 1e9:.0f} GB/s",
        f"{'layer':32} {'pass':12} {'algorithm':12} {'time':>9} {'peak':>5} {'memory':>6} {'error':>8}  "
        "cuDNN over ours",
    ]
    for row in rows:
        head = f"{row.layer:32} {row.pass_:12} {row.algorithm:12}"
        if row.seconds is None:
            lines.append(f"{head} {row.reason}")
            continue
        others = "  ".join(f"{name} {seconds / row.seconds:.2f}" for name, seconds in (row.peers or {}).items())
        lines.append(
            f"{head} {units.seconds(row.seconds):>9} {row.peak_share or 0:5.0%} {row.bandwidth_share or 0:6.0%} "
            f"{row.error or 0:8.1e}  {others}"
        )
    mean = geometric_mean(rows)
    if mean is not None:
        lines.append(f"geometric mean of cuDNN (TF32 off) over ours: {mean:.2f}")
    return "\n".join(lines)


def _row(
    layer: Layer, pass_: str, host: dict[str, np.ndarray | None], gpu: Gpu, peer: Peer, rounds: int, algorithm: str,
    tolerance: float | None,
) -> Row:  # fmt: skip
    problem = layer.problem
    row = Row(layer.name, str(problem), pass_)
    try:
        plan = Plan(problem, (pass_,), algorithm, "cuda", tolerance, "prepared")
    except UnsupportedProblem as error:
        return replace(row, reason=str(error))
    row = replace(row, algorithm=plan.algorithms[pass_][0])
    sets = [_placed(host, peer) for _ in range(set_count(problem, gpu))]
    ours = _ours(plan, pass_, sets[0])
    chosen = registry.choose(problem, pass_, algorithm, "cuda", tolerance, "prepared")
    limit = chosen.error(problem, pass_) + compare.rounding(problem.dtype)
    distance = _error(peer.host(ours(sets[0])), peer.exact(problem, pass_, sets[0]))
    row = replace(row, error=distance, error_limit=limit)
    if not distance <= limit:
        return replace(row, reason=f"wrong: its error {distance:.1e} is beyond the {limit:.1e} that it states")
    theirs = peer.calls(problem, pass_)
    seconds = interleave([ours, *theirs.values()], sets, rounds)
    return replace(
        row,
        seconds=seconds[0],
        peers=dict(zip(theirs, seconds[1:], strict=True)),
        peak_share=problem.flops(pass_) / seconds[0] / gpu.peak(problem.dtype),
        bandwidth_share=problem.least_bytes(pass_) / seconds[0] / gpu.bandwidth,
    )


def set_count(problem: Problem, gpu: Gpu) -> int:
    """Sets of arrays that together outgrow the second-level cache."""
    return max(1, min(_MOST_SETS, -(-_CACHES * gpu.l2 // problem.least_bytes())))


def _placed(host: dict[str, np.ndarray | None], peer: Peer) -> Arrays:
    return {name: peer.place(array) for name, array in host.items() if array is not None}


def _ours(plan: Plan, pass_: str, first: Arrays) -> Callable[[Arrays], Any]:
    """Our call on a set of arrays; its weight prepared, and its result's memory the library's to give."""
    if pass_ == "grad_weight":
        return lambda a: plan.grad_weight(a["x"], a["grad_output"])
    prepared = plan.prepare_weight(first["weight"]) if isinstance(plan.problem, ConvProblem) else None
    if pass_ == "forward":
        if getattr(plan.problem, "indices", False):
            return lambda a: plan(a["x"])[0]
        return lambda a: plan(a["x"], prepared, a.get("bias"))
    return lambda a: plan.grad_input(a["grad_output"], prepared, indices=a.get("indices"))


def interleave(calls: Sequence[Callable[[Arrays], Any]], sets: Sequence[Arrays], rounds: int) -> list[float]:
    """Median seconds of each call on the device, all of them in every round; sets take turns."""
    turn = 0

    def sample(call: Callable[[Arrays], Any], repeats: int) -> float:
        from convforge.kernels.cuda.memory import Stopwatch

        nonlocal turn
        watch = Stopwatch()
        watch.mark()
        for _ in range(repeats):
            call(sets[turn % len(sets)])
            turn += 1
        watch.mark()
        return watch.seconds()[0] / repeats

    repeats = []
    for call in calls:
        sample(call, 2)  # compiles, and lets cuDNN choose
        repeats.append(max(1, min(_MOST_REPEATS, round(_SAMPLE / max(sample(call, 1), 1e-9)))))
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for index, call in enumerate(calls):
            samples[index].append(sample(call, repeats[index]))
    return [statistics.median(each) for each in samples]


def _error(y: np.ndarray, exact: np.ndarray) -> float:
    scale = float(np.linalg.norm(exact.ravel()))
    distance = float(np.linalg.norm((y.astype(np.float64) - exact).ravel()))
    return distance / scale if scale else distance


class NoPeer:
    """Numba's arrays and the reference, where torch has no CUDA: only our own times."""

    def place(self, array: np.ndarray) -> Any:
        """A copy on the device."""
        from convforge.kernels.cuda import memory

        made = memory.numba_array(array.shape, array.dtype.name, 0)
        memory.write(made, array)
        return made

    def host(self, array: Any) -> np.ndarray:
        """A copy in the host's memory."""
        from convforge.kernels.cuda import memory

        return memory.read(array)

    def calls(self, problem: Problem, pass_: str) -> dict[str, Callable[[Arrays], Any]]:
        """None."""
        return {}

    def exact(self, problem: Problem, pass_: str, arrays: Arrays) -> np.ndarray:
        """The reference's result in float64."""
        host = {name: self.host(array) for name, array in arrays.items()}
        result = reference.run(problem, pass_, host, dtype="float64")
        exact: np.ndarray = result[0] if isinstance(result, tuple) else result
        return exact
