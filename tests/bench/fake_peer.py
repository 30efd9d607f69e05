"""A library to race against that needs no installation: NumPy's reference, with what can go wrong with a library."""

import numpy as np

from convforge.algorithms import reference
from convforge.bench.peers import Contender

pinned = []


def version():
    return "1.2"


def pin(threads):
    pinned.append(threads)


def refuses(job):
    return "it does no groups" if getattr(job.problem, "groups", 1) > 1 else None


def contenders(job):
    result = reference.run(job.problem, job.pass_, job.arrays)
    result = result[0] if isinstance(result, tuple) else result
    yield Contender("fake", lambda: np.copy(result), lambda found: found)
    yield Contender("fake bfloat16", lambda: None, lambda _: result * np.float32(1.004))
    yield Contender("fake lazy", lambda: None, lambda _: np.full_like(result, np.nan))
    yield Contender("fake crash", lambda: 1 / 0, lambda found: found)
    raise RuntimeError("no more\nmemory")
