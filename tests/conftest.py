"""Every test runs with poisoned workspaces: what a kernel reads before writing it is NaN."""

import numpy as np
import pytest

from convforge.runtime import executor


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
