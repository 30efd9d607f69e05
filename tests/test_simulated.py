"""The GPU's kernels without a GPU: tests/simulated in processes of their own, under Numba's simulator of CUDA."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: pip install 'convforge[test]'")

# one worker of xdist, for each would start all processes
pytestmark = pytest.mark.xdist_group("simulated")

MODULES = sorted(Path(__file__).parent.glob("simulated/test_*.py"))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A process for each module, all at once: a simulated thread is one of Python's, so each has one core's speed."""
    logs = tmp_path_factory.mktemp("simulated")
    found = {}
    for module in MODULES:
        with (logs / module.stem).open("w") as log:
            found[module] = logs / module.stem, subprocess.Popen(
                [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=3", str(module)],
                env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}, cwd=Path(__file__).parent.parent, stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
    yield found
    for _, process in found.values():
        process.kill()


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_simulated(module, running):
    log, process = running[module]
    status = process.wait()
    text = log.read_text()
    print(text[-2000:])
    assert status == 0, text[-8000:]
