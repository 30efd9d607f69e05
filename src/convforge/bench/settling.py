"""Waiting until nothing of this process runs but the caller, so that one library's threads do not slow the next one's.

Every thread pool spins for a while after a parallel call, in case another one follows: libgomp for 2 to 10 ms,
OpenVINO's TBB for 1 to 2 ms, onnxruntime up to 100 ms (measured on 2 cores). That is part of how a library is used,
and it serves calls that follow each other; but in rounds of several libraries the spinning of one takes a core away
from the next. Switching it off (``OMP_WAIT_POLICY=PASSIVE``, ``session.intra_op.allow_spinning``) would charge every
call for waking its threads up. So the pools keep their defaults, each sample waits here first, and a short call is
made untimed first, which wakes its own threads. A call on one thread leaves nothing behind to wait for.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

_TASKS = Path("/proc/self/task")
_POLL = 200e-6
#: Seconds after which what still runs is taken for work of its own.
_LONGEST = 0.2
#: Seconds to wait where the system does not say which threads run.
_BLIND = 20e-3


def settle() -> None:
    """Return when no other thread of this process runs, or after a fifth of a second."""
    if not _TASKS.is_dir():
        time.sleep(_BLIND)
        return
    end = time.perf_counter() + _LONGEST
    while _others_running() and time.perf_counter() < end:
        time.sleep(_POLL)


def _others_running() -> bool:
    own = str(threading.get_native_id())
    return any(task != own and _state(task) == "R" for task in os.listdir(_TASKS))


def _state(task: str) -> str:
    try:
        line = (_TASKS / task / "stat").read_text()
    except OSError:  # it ended
        return ""
    return line.rpartition(")")[2].split()[0]
