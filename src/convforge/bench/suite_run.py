"""A run of the benchmark: layers by counts of threads, each a contest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from convforge import registry
from convforge.bench import ceilings, compare, contest, host, peers
from convforge.bench.contest import Rules
from convforge.bench.layers import Layer
from convforge.bench.peers import Peer
from convforge.bench.report import Case, Report
from convforge.bench.trial import Trial, operands
from convforge.runtime import threads

#: ``progress(what, fraction)``.
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Run:
    """A run that is ready to start: everything about it was checked.

    Attributes
    ----------
    layers, rules, threads
        What to time, how, and on how many threads.
    peers
        Libraries by name.
    missing
        Why others are missing.
    """

    layers: tuple[Layer, ...]
    rules: Rules
    threads: tuple[int, ...]
    peers: dict[str, Peer]
    missing: dict[str, str]

    def cases(self, progress: Progress | None = None) -> Iterator[Case]:
        """Hold the contests, and give each case when it is done."""
        tell = progress or (lambda what, fraction: None)
        count = len(self.layers) * len(self.threads)
        for workers in self.threads:
            tell(f"copying on {workers}", 0.0)
            ceilings.copy_bandwidth(workers)
        for index, layer in enumerate(self.layers):
            done = index * len(self.threads)
            tell(f"{layer.name}: oracle", done / count)
            arrays = operands(layer.problem, weight=layer.weight())
            trial = Trial(layer.problem, self.rules.pass_, arrays)
            for turn, workers in enumerate(self.threads):
                self._pin(workers)
                tell_case = _within(tell, f"{layer.name} on {workers}", done + turn, count)
                yield contest.hold(layer, trial, arrays, self.rules, self.peers, workers, tell_case)

    def report(self, cases: Sequence[Case]) -> Report:
        """What these cases of the run say."""
        rules = self.rules
        settings = {
            "tolerance": rules.tolerance or registry.DEFAULT_TOLERANCE,
            "peer_tolerance": contest.PEER_TOLERANCE,
            "rounds": rules.rounds,
            "budget": rules.budget,
        }
        versions = {name: peer.version() for name, peer in self.peers.items()}
        return Report(rules.mode, rules.pass_, settings, host.describe(), versions, self.missing, tuple(cases))

    def _pin(self, workers: int) -> None:
        """Tell everyone; libraries that share an OpenMP with us must not have told it less."""
        for peer in self.peers.values():
            peer.pin(workers)
        with threads.num_threads(workers):
            found = threads.get_num_threads()
        if found != workers:
            raise RuntimeError(f"convforge would use {found} threads, not {workers}: OpenMP's own limit is lower")


def prepare(
    layers: Sequence[Layer], rules: Rules, counts: Sequence[int] = (), wanted: Sequence[str] | None = None
) -> Run:
    """A run, everything about it checked.

    Parameters
    ----------
    layers
        What to time.
    rules
        How.
    counts
        Counts of threads; none is 1 and all.
    wanted
        Libraries to compete with; None is all. One that is missing is reported.

    Raises
    ------
    ValueError, TypeError
        A setting is no such thing, a layer has no such pass, a library is unknown or there are fewer threads.
    """
    if not layers:
        raise ValueError("there is no layer to time")
    if isinstance(rules.tolerance, bool) or not rules.backends:
        raise ValueError(f"the rules name no backend or a wrong tolerance: {rules}")
    compare.check_settings(rules.tolerance, rules.mode, rules.rounds, rules.budget)
    for backend in rules.backends:
        registry.check_choice("auto", backend, None)
    for layer in layers:
        registry.check_pass(layer.problem, rules.pass_)
    most = threads.get_num_threads()
    for count in counts:
        if not 1 <= count <= most:
            raise ValueError(f"threads must be from 1 to {most}, what this process may use, got {count}")
    found: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    for name in peers.PEERS if wanted is None else wanted:
        if name not in peers.PEERS:
            raise ValueError(f"a peer is one of {', '.join(peers.PEERS)}, got {name!r}")
        try:
            found[name] = peers.load(name)
        except ImportError as error:
            missing[name] = str(error)
    return Run(tuple(layers), rules, tuple(dict.fromkeys(counts or (1, most))), found, missing)


def _within(tell: Progress, what: str, done: int, count: int) -> Progress:
    """What tells of one of ``count`` contests."""
    return lambda step, fraction: tell(f"{what}: {step}", (done + fraction) / count)
