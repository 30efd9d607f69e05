"""On a real GPU: ``pytest -m gpu``. Under compute-sanitizer as docs/gpu.md says."""

import numpy as np
import pytest

import convforge as cf
from convforge import registry
from convforge.models import corpus
from convforge.plan import Plan
from convforge.problem import parse
from convforge.registry import ALGORITHMS

from . import calls

MISSING = registry.backend_missing("cuda")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(MISSING), reason=str(MISSING))]

ON_GPU = [each for each in ALGORITHMS if each.backend == "cuda"]
HALF = [
    "n2c7k9i13x15f3x3p1:bias:float16", "n1c8k8i12x20f3x3s2p1g8:float16", "n2c16k24i9x9f1x1:float16",
    "n1c64k64i300f4p3g64:float16", "max:n2c3i13x15f3x3s2p1:indices:float16", "avg:n2c3i13x15f3x3s2p1:float16",
]  # fmt: skip
#: Larger than the corpus, which is small for the CPU's sake: many blocks, and parts of sums.
LARGE = [
    "n4c64k64i56x56f3x3p1", "n2c3k64i112x112f7x7s2p3", "n4c256k64i28x28f1x1", "n4c64k64i57x55f3x3p1g64",
    "n2c96k80i31x33f5x5s2p2g2", "n1c512k512i4096f4p3g512", "n2c33k65i30x31f3x3p1:float64",
    "max:n4c64i112x112f3x3s2p1:indices", "avg:n4c64i57x55f3x3s2p1:exclude_pad",
]  # fmt: skip
CASES = [
    pytest.param(algorithm, problem, pass_, id=f"{algorithm.name}-{pass_}-{problem}")
    for algorithm in ON_GPU
    for problem in (*corpus(), *map(parse, HALF), *map(parse, LARGE))
    for pass_ in problem.passes
    if MISSING is None and algorithm.refuses(problem, pass_) is None
]


def limit(algorithm, problem, pass_):
    return algorithm.error(problem, pass_) + (2**-11 if problem.dtype == "float16" else 0)


def values(result):
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize(("algorithm", "problem", "pass_"), CASES)
def test_matches_the_oracle(algorithm, problem, pass_, rng):
    arrays = {**calls.arrays_for(problem, rng), "bias": None}
    expected = calls.exact(problem, pass_, arrays)
    y = calls.run(algorithm, problem, pass_, arrays)
    if getattr(problem, "indices", False) and pass_ == "forward":
        np.testing.assert_array_equal(y[1], expected[1])
    assert calls.relative_error(values(y), values(expected)) <= limit(algorithm, problem, pass_)
    again = calls.run(algorithm, problem, pass_, arrays)
    np.testing.assert_array_equal(values(again), values(y))


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA here")
    return torch


def test_torch_tensors_in_and_out(torch):
    x = torch.randn(2, 8, 14, 15, device="cuda")
    weight = torch.randn(6, 8, 3, 3, device="cuda")
    expected = torch.nn.functional.conv2d(x.double(), weight.double(), padding=1)
    for given in (x, x.to(memory_format=torch.channels_last)):
        y = cf.conv2d(given, weight, padding=1)
        assert isinstance(y, torch.Tensor)
        torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    out = torch.full_like(y, torch.nan)
    assert cf.conv2d(x, weight, padding=1, out=out) is out
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_stream_of_torchs(torch):
    stream = torch.cuda.Stream()
    x, weight = torch.randn(2, 8, 64, 64, device="cuda"), torch.randn(8, 8, 3, 3, device="cuda")
    torch.cuda.synchronize()
    y = cf.conv2d(x, weight, stream=stream)
    with torch.cuda.stream(stream):
        z = cf.conv2d(y, weight)
    stream.synchronize()
    expected = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x.double(), weight.double()), weight.double())
    torch.testing.assert_close(z.double(), expected, rtol=1e-3, atol=1e-3)


def test_prepared_weights(torch):
    plan = Plan(parse("n2c16k16i20x20f3x3p1"), ("forward", "grad_input"), "auto", "cuda")
    x, weight = torch.randn(2, 16, 20, 20, device="cuda"), torch.randn(16, 16, 3, 3, device="cuda")
    torch.testing.assert_close(plan(x, plan.prepare_weight(weight)), plan(x, weight))


def test_cupy_and_numba_arrays(rng):
    from numba import cuda

    x, weight = (rng.standard_normal(shape).astype("f") for shape in ((1, 3, 9, 9), (4, 3, 3, 3)))
    expected = cf.conv2d(x, weight)
    y = cf.conv2d(cuda.to_device(x), cuda.to_device(weight))
    np.testing.assert_allclose(y.copy_to_host(), expected, rtol=1e-4, atol=1e-4)
    cupy = pytest.importorskip("cupy")
    y = cf.conv2d(cupy.asarray(x), cupy.asarray(weight))
    assert isinstance(y, cupy.ndarray)
    np.testing.assert_allclose(y.get(), expected, rtol=1e-4, atol=1e-4)
