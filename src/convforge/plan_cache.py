"""The plans behind the functions: found by the arguments of a call, kept up to a number of bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from functools import lru_cache
from itertools import count
from typing import Any

from convforge import checks, registry
from convforge.plan import Plan
from convforge.problem import Problem

#: Bytes of workspaces that the plans behind the functions may keep.
CACHE_BYTES = 256 * 2**20

_uses = count()


class CachedPlan:
    """A plan that is made when it is first called for, and again if the cache has dropped it since."""

    __slots__ = ("cache", "key", "make", "plan", "size", "used")

    def __init__(self, cache: PlanCache, key: Hashable, make: Callable[[], Plan]) -> None:
        self.cache = cache
        self.key = key
        self.make = make
        self.plan: Plan | None = None
        self.size = 0
        self.used = 0

    def __call__(self) -> Plan:
        """The plan."""
        plan = self.plan
        if plan is None:
            return self.cache.fill(self)
        self.used = next(_uses)
        return plan


class PlanCache:
    """The plans behind the functions: least recently used ones go when their workspaces exceed ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._entries: dict[Hashable, CachedPlan] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, key: Hashable, make: Callable[[], Plan]) -> CachedPlan:
        """The entry of ``key``, whose plan is what ``make`` returns. Keys must carry the types of their parts."""
        with self._lock:
            entry = self._entries.get(key)
        return CachedPlan(self, key, make) if entry is None else entry

    def fill(self, entry: CachedPlan) -> Plan:
        """Make the plan of ``entry``, or find the one that another entry of the same key has."""
        with self._lock:
            known = self._entries.get(entry.key)
        if known is not None and known is not entry:
            return known()
        made = entry.make()
        with self._lock:
            known = self._entries.setdefault(entry.key, entry)
            if known.plan is None:
                # a plan's own tables weigh some kilobytes
                known.plan, known.size, known.used = made, made.workspace_bytes + 8192, next(_uses)
                self._bytes += known.size
                while self._bytes > self._limit and len(self._entries) > 1:
                    self._drop(min(self._entries.values(), key=_last_use))
        return made

    def clear(self) -> None:
        """Forget every plan."""
        with self._lock:
            for entry in list(self._entries.values()):
                self._drop(entry)

    def _drop(self, entry: CachedPlan) -> None:
        del self._entries[entry.key]
        self._bytes -= entry.size
        entry.plan = None


def _last_use(entry: CachedPlan) -> int:
    return entry.used


cache = PlanCache(CACHE_BYTES)


def functional_plan(
    pass_: str,
    algorithm: str,
    backend: str,
    tolerance: float | None,
    build: Callable[..., Problem],
    *arguments: Any,
) -> Plan:
    """The plan of a functional call of the problem ``build(*arguments)``.

    Plain arguments are looked up as they are, without making the problem: 30 us become 1.5, which a small layer's call
    feels. Only ints, strings and tuples or lists of ints are: to a dict, (1,), (1.0,) and (True,) are equal.
    """
    if type(algorithm) is type(backend) is str and (tolerance is None or type(tolerance) is float):
        if _plain(arguments):
            return _look_up(pass_, algorithm, backend, tolerance, build, *arguments)()
        frozen = tuple(map(_frozen, arguments))
        if _plain(frozen):
            with suppress(TypeError, ValueError):  # what is wrong is told of the lists that were given
                return _look_up(pass_, algorithm, backend, tolerance, build, *frozen)()
    return _entry(pass_, algorithm, backend, tolerance, build, *arguments)()


def _entry(
    pass_: str,
    algorithm: str,
    backend: str,
    tolerance: float | None,
    build: Callable[..., Problem],
    *arguments: Any,
) -> CachedPlan:
    problem = build(*arguments)
    registry.check_choice(algorithm, backend, tolerance)
    if problem.dtype == "float16" and backend != "cuda":
        raise TypeError(checks.wrong_dtype(problem.dtype))

    def make() -> Plan:
        return Plan(problem, (pass_,), algorithm, backend, tolerance, "functional")

    return cache.entry((problem, pass_, algorithm, backend, tolerance), make)


_look_up = lru_cache(maxsize=1024, typed=True)(_entry)


def _frozen(value: object) -> object:
    return tuple(map(_frozen, value)) if type(value) is list else value


_INTS: frozenset[type] = frozenset((int,))
_TUPLES: frozenset[type] = frozenset((tuple,))
_ATOMS: frozenset[type] = frozenset((int, str, bool, type(None)))


def _plain(values: Iterable[Any]) -> bool:
    for value in values:
        kind = type(value)
        if kind in _ATOMS:
            continue
        if kind is not tuple:
            return False
        kinds = {*map(type, value)}
        if kinds != _INTS and not (kinds == _TUPLES and all({*map(type, each)} == _INTS for each in value)):
            return False
    return True
