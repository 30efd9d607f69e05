"""What a call costs beside its arithmetic: 1x1x8x8 images, and the first call of a process."""

import json
import subprocess
import sys

import numpy as np
import pytest

import convforge as cf

GROUP = "call overhead, 1x1x8x8 with a 3x3 filter"


@pytest.fixture
def arrays():
    rng = np.random.default_rng(20)
    return rng.standard_normal((1, 1, 8, 8), np.float32), rng.standard_normal((1, 1, 3, 3), np.float32)


def _direct(x, weight):
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x[0, 0].astype(float), 1), (3, 3))
    return np.einsum("ijkl,kl", windows, weight[0, 0])[None, None]


def test_function(benchmark, measure, arrays):
    np.testing.assert_allclose(cf.conv2d(*arrays, padding=1), _direct(*arrays), atol=1e-5)
    benchmark.group = GROUP
    measure(lambda: cf.conv2d(*arrays, padding=1))


def test_plan(benchmark, measure, arrays):
    plan = cf.plan("n1c1k1i8x8f3x3p1")
    np.testing.assert_allclose(plan(*arrays), _direct(*arrays), atol=1e-5)
    benchmark.group = GROUP
    measure(lambda: plan(*arrays))


def test_plan_with_prepared_weight_and_out(benchmark, measure, arrays):
    plan = cf.plan("n1c1k1i8x8f3x3p1")
    x, weight = arrays
    prepared, out = plan.prepare_weight(weight), np.full_like(x, np.nan)
    plan(x, prepared, out=out)
    np.testing.assert_allclose(out, _direct(*arrays), atol=1e-5)
    benchmark.group = GROUP
    measure(lambda: plan(x, prepared, out=out))


_FIRST = """
import json, time
import numpy as np
begin = time.perf_counter()
import convforge as cf
imported = time.perf_counter()
x, weight = np.ones((1, 8, 16, 16), np.float32), np.ones((8, 8, 3, 3), np.float32)
y = cf.conv2d(x, weight, padding=1)
called = time.perf_counter()
print(json.dumps({"import": imported - begin, "call": called - imported, "corner": float(y[0, 0, 0, 0])}))
"""


def test_first_call_of_a_process(benchmark):
    """After NumPy's own import; the process's start is in the time, not in ``extra_info``."""

    def run():
        done = subprocess.run([sys.executable, "-c", _FIRST], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    benchmark.group = "first call of a process"
    found = benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    assert found.pop("corner") == 32
    benchmark.extra_info.update({f"{name}_seconds": seconds for name, seconds in found.items()})
