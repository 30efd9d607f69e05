"""The cache of plans behind the functions: bounded in bytes, its keys told apart by the types of their parts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from convforge import checks, registry
from convforge.plan import Plan
from convforge.problem import Problem

#: Bytes of workspaces that the plans behind the functions may keep.
CACHE_BYTES = 256 * 2**20


class PlanCache:
    """The plans behind the functions: least recently used ones go when their workspaces exceed ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._plans: OrderedDict[Hashable, tuple[Plan, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._plans)

    def get(self, key: Hashable, make: Callable[[], Plan]) -> Plan:
        """The plan under ``key``, made if it is missing. Keys must carry the types of their parts."""
        with self._lock:
            entry = self._plans.get(key)
            if entry is not None:
                self._plans.move_to_end(key)
                return entry[0]
        made = make()
        with self._lock:
            if key not in self._plans:
                # a plan's own tables weigh some kilobytes
                size = made.workspace_bytes + 8192
                self._plans[key] = (made, size)
                self._bytes += size
                while self._bytes > self._limit and len(self._plans) > 1:
                    self._bytes -= self._plans.popitem(last=False)[1][1]
        return made

    def clear(self) -> None:
        """Forget every plan."""
        with self._lock:
            self._plans.clear()
            self._bytes = 0


cache = PlanCache(CACHE_BYTES)


def cached_plan(
    problem: Problem, pass_: str, algorithm: str = "auto", backend: str = "auto", tolerance: float | None = None
) -> Plan:
    """The plan of one functional call."""

    def make() -> Plan:
        registry.check_choice(algorithm, backend, tolerance)
        if problem.dtype == "float16" and backend != "cuda":
            raise TypeError(checks.wrong_dtype(problem.dtype))
        return Plan(problem, (pass_,), algorithm, backend, tolerance, "functional")

    key = (problem, pass_, algorithm, backend, tolerance, type(tolerance))  # True == 1.0 to a dict
    try:
        return cache.get(key, make)
    except TypeError:
        registry.check_choice(algorithm, backend, tolerance)  # says which argument could not be hashed
        raise
