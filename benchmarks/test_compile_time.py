"""What Numba's kernels cost before they run: compiled into an empty cache, and loaded from a warm one."""

import json
import subprocess
import sys

import pytest

from convforge import registry

#: One kernel with a generated register tile, one with plain loops.
FAST = ("im2col_forward", "fill_zero")

_WARM = """
import json, sys, time
from convforge.runtime import cache
begin = time.perf_counter()
spent = {kernel: seconds for kernel, _, seconds in cache.warm(["float32"], json.loads(sys.argv[1]))}
print(json.dumps({"total": time.perf_counter() - begin, "kernels": spent}))
"""


@pytest.fixture
def warm(request, tmp_path, monkeypatch):
    """``warm()``: a new process makes the kernels ready; its seconds, in all and by kernel."""
    missing = registry.backend_missing("numba")
    if missing is not None:
        pytest.skip(missing)
    monkeypatch.setenv("CONVFORGE_CACHE_DIR", str(tmp_path))
    kernels = json.dumps(None if request.config.getoption("--full") else FAST)

    def run():
        done = subprocess.run([sys.executable, "-c", _WARM, kernels], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return run


def test_cold(benchmark, warm):
    benchmark.group = "compile time, float32"
    found = benchmark.pedantic(warm, rounds=1)
    assert found["total"] > 0
    benchmark.extra_info.update(found)


def test_warm(benchmark, warm):
    cold = warm()
    benchmark.group = "compile time, float32"
    found = benchmark.pedantic(warm, rounds=3)
    assert found["kernels"].keys() == cold["kernels"].keys()
    assert found["total"] < cold["total"]
    benchmark.extra_info.update(found)
