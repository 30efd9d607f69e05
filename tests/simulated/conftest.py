"""These tests need Numba's simulator of CUDA from a process's start: tests/test_simulated.py runs them in one."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from convforge.runtime.gpu import simulated

_HERE = Path(__file__).parent

if simulated():
    from . import blocks

    blocks.install()
else:
    collect_ignore_glob = ["test_*.py"]


def pytest_addoption(parser):
    parser.addoption("--every", action="store_true", help="simulate every problem, not one in three for each kernel")


def pytest_collection_modifyitems(config, items):
    """Leave out two problems in three: a thread of the simulator is one of Python's, and all take a quarter of an hour.

    Every test, algorithm, tile, pass, kind and dtype stays.
    """
    if config.getoption("every", False):
        return
    alike = defaultdict(list)
    for item in items:
        parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        problem = str(parameters.pop("problem", ""))
        marks = tuple(mark in problem for mark in ("max:", "avg:", "float16", "float64"))
        alike[item.path, item.originalname, marks, str(sorted(map(str, parameters.values())))].append(item)
    left_out = {
        id(item)
        for group in alike.values()
        for index, item in enumerate(group)
        if len(group) > 1 and index % 3 != 1 and item.path.is_relative_to(_HERE)
    }
    config.hook.pytest_deselected(items=[item for item in items if id(item) in left_out])
    items[:] = [item for item in items if id(item) not in left_out]


@pytest.fixture(autouse=True)
def poisoned_device_memory(monkeypatch):
    """What a kernel or a call reads of new device memory is NaN in every float format."""
    from convforge.kernels.cuda import memory
    from convforge.runtime.device_pool import Pool

    make = memory.numba_array

    def poisoned(shape, dtype, device):
        made = make(shape, dtype, device)
        made.array.view(np.uint8).reshape(-1)[...] = 0xFF
        return made

    monkeypatch.setattr(memory, "numba_array", poisoned)
    monkeypatch.setattr("convforge.runtime.device_executor.pool", Pool(kept_bytes=0))
