"""Every test runs with poisoned workspaces: what a kernel reads before writing it is NaN."""

import numpy as np
import pytest

from convforge.runtime import executor

#: Of minutes each: started last, one of them would keep a core busy long after the others are done.
LONGEST = ("test_gpu_resources.py", "test_simulated.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def poisoned_workspaces(monkeypatch):
    allocate = executor.allocate

    def poisoned(nbytes):
        memory = allocate(nbytes)
        memory[...] = 0xFF  # a NaN in every float format
        return memory

    monkeypatch.setattr(executor, "allocate", poisoned)


@pytest.fixture
def rng():
    return np.random.default_rng(20)
