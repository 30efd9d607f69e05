"""The kernels of lesser instruction sets, on the corpus, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convforge.registry import backend_missing
from convforge.runtime.machine import runnable

TARGETS = {"avx2": "x86-64-v3", "baseline": "x86-64"}
TESTS = Path(__file__).parent


@pytest.mark.parametrize("backend", [b for b in ("cython", "numba") if backend_missing(b) is None])
@pytest.mark.parametrize("isa", runnable()[1:])
def test_corpus(isa, backend):
    environment = {**os.environ, "CONVFORGE_ISA": isa, "NUMBA_CPU_NAME": TARGETS[isa], "NUMBA_CPU_FEATURES": ""}
    # Numba compiles every kernel anew for another CPU: a few of them show that its vectors have other widths
    selected = "numba and oracle and not float64 and depthwise" if backend == "numba" else "cython and oracle"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", selected, TESTS / "test_algorithms.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_unknown_or_too_new_isa_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", "import convforge; convforge.show_config()"],
        env={**os.environ, "CONVFORGE_ISA": "mmx"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "CONVFORGE_ISA is 'mmx'; this CPU can run" in done.stderr
