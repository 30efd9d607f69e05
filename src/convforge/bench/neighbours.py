"""How much of the machine other programs used meanwhile: a measurement among them is worth less.

Ratios survive a slow clock, not a taken core: libraries that split work evenly and wait for all (OpenMP) then lose ten
times what those lose that hand out small pieces.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_STAT = Path("/proc/stat")
#: Of a line of /proc/stat: user, nice, system, irq, softirq and steal; not idle and iowait. proc(5) has them all.
_BUSY = (0, 1, 2, 5, 6, 7)

#: A share of the machine beyond which a figure is to be doubted.
MUCH = 0.1


def watch() -> Callable[[], float | None]:
    """Start to watch; the function returned says what share of all cores others have used since, None if unknown."""
    before, own, start = _busy(), time.process_time(), time.perf_counter()

    def share() -> float | None:
        after = _busy()
        if before is None or after is None:
            return None
        seconds = (time.perf_counter() - start) * (os.cpu_count() or 1)
        return max(0.0, (after - before - (time.process_time() - own)) / seconds)

    return share


def _busy() -> float | None:
    """Seconds of all cores that were not idle since the machine started."""
    try:
        fields = _STAT.read_text().split("\n", 1)[0].split()[1:]
        return sum(int(fields[index]) for index in _BUSY) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
