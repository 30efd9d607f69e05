"""These tests need Numba's simulator of CUDA from a process's start: tests/test_simulated.py runs them in one."""

import numpy as np
import pytest

from convforge.runtime.gpu import simulated

if simulated():
    from . import blocks

    blocks.install()
else:
    collect_ignore_glob = ["test_*.py"]


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
