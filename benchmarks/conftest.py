"""Options, and one way to benchmark a pass: right first, then timed."""

from functools import cache

import pytest
from problems import FAST, every_layer

from convforge import num_threads, registry
from convforge.bench import ceilings, timing
from convforge.bench.trial import Trial, operands


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="every layer of every suite, and the reference too")
    parser.addoption("--threads", type=int, default=1, metavar="N", help="threads that a call may use (1)")


def pytest_configure(config):
    # a case that is wrong is not timed: one complaint about it is enough
    config.addinivalue_line("filterwarnings", "ignore:Benchmark fixture was not used at all")


def pytest_generate_tests(metafunc):
    """Every layer x pass x algorithm of the registry that does not refuse."""
    if "algorithm" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full")
        metafunc.parametrize(
            ("layer", "problem", "pass_", "algorithm"),
            [
                pytest.param(name, problem, pass_, algorithm, id=f"{pass_}-{name}-{algorithm}")
                for name, problem in (every_layer() if full else FAST).items()
                for pass_ in problem.passes
                for algorithm in registry.ALGORITHMS
                if (full or algorithm.name != "reference") and algorithm.refuses(problem, pass_) is None
            ],
        )


@pytest.fixture(autouse=True)
def threads(request):
    count = request.config.getoption("--threads")
    with num_threads(count):
        yield count


@pytest.fixture
def measure(benchmark):
    """``measure(call)``: benchmark it as the comparisons do; median seconds, or None with --benchmark-disable."""

    def run(call):
        benchmark.pedantic(call, rounds=timing.ROUNDS, iterations=timing.repeats(call), warmup_rounds=1)
        return benchmark.stats.stats.median if benchmark.stats else None

    return run


@pytest.fixture
def peak(threads):
    """``peak(dtype)``: the machine's multiply-adds per second on these threads, or None; measured once."""
    return lambda dtype: _peak(dtype, threads)


@cache
def _peak(dtype, workers):
    backend = ceilings.peak_backend()
    if backend is None:
        return None
    ceiling = ceilings.fma_peak(dtype, backend, workers)
    return ceiling.amount / timing.interleave([ceiling.run])[0].seconds


@pytest.fixture(scope="session")
def trial():
    """``trial(problem, pass_)``; the last one is kept, for it is asked for by every algorithm in turn."""
    kept = {}

    def get(problem, pass_):
        if (problem, pass_) not in kept:
            kept.clear()
            kept[problem, pass_] = Trial(problem, pass_, operands(problem))
        return kept[problem, pass_]

    return get
