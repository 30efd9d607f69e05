"""What a measurement was taken on, for whoever reads it later."""

from __future__ import annotations

import platform
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np

from convforge.runtime.machine import machine
from convforge.version import __version__


@cache
def cpu_name() -> str:
    """The processor's name as it gives it, or its architecture."""
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """Processor, caches, instruction set and versions, as plain data."""
    return {
        "cpu": cpu_name(),
        **asdict(machine()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "convforge": __version__,
    }
