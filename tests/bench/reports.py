"""Reports to test with: of small contests that are held, and made up."""

from convforge.bench import layers, suite_run
from convforge.bench.contest import Rules
from convforge.bench.report import Case, Report, Score

SMALL = "n1c2k3i6x7f3x3p1:bias"
GROUPED = "n1c4k4i5x5f3x3g2"
QUICK = Rules(rounds=2, budget=0.01)


def report_on(*names, rules=QUICK, counts=(1,)):
    found = [each for name in names for each in layers.named(name)]
    run = suite_run.prepare(found, rules, counts)
    return run.report(list(run.cases()))


def made(layer, ours, theirs, noise=0.01, threads=1, **more):
    """A case of one contender against one peer, with these milliseconds."""

    def timed(name, library, role, spent, **rest):
        seconds = spent * 1e-3
        low, high = seconds * (1 - noise), seconds * (1 + noise)
        return Score(name, library, role, "ok", None, seconds=seconds, low=low, high=high, rounds=7, error=1e-7,
                     error_limit=1e-5, **rest)  # fmt: skip

    scores = [timed("convforge", "convforge", "ours", ours, algorithm="direct/cython")]
    scores += [timed(f"{name} fast", name, "peer", spent) for name, spent in theirs.items()]
    settings = {"problem": SMALL, "family": "3x3", **more}
    return Case(layer, threads=threads, flops=10**9, least_bytes=10**6, peak_flops=2e11, copy_bandwidth=1e10,
                others=0.0, scores=tuple(scores), **settings)  # fmt: skip


def made_report(*cases, **more):
    host = {"cpu": "one", "isa": "avx2", "cores": 2}
    given = {
        "mode": "prepared",
        "pass_": "forward",
        "settings": {},
        "host": host,
        "peers": {"torch": "2"},
        "missing": {},
    }
    return Report(**{**given, "cases": cases, **more})
