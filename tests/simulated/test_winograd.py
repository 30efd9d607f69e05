"""Winograd on a GPU under the simulator: borders, chunks of tiles, sums in parts, numbers that are not finite."""

from dataclasses import replace

import numpy as np
import pytest

from convforge.algorithms.cuda import products, winograd
from convforge.kernels.cuda.tile import Tile
from convforge.plan import Plan
from convforge.problem import parse
from convforge.runtime.gpu import TYPICAL, simulated

from .. import calls

pytestmark = [
    pytest.mark.skipif(not simulated(), reason="runs under CUDA's simulator"),
    # a tile's idle rows and columns are sums of whatever memory holds
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

PASSES = ("forward", "grad_input", "grad_weight")
NAMES = ("winograd_f2", "winograd_f4")
POLICIES = {policy.name: policy for policy in winograd.POLICIES}


def run(name, problem, pass_, arrays):
    return calls.call(Plan(problem, (pass_,), name, "cuda"), pass_, arrays, calls.poisoned_out(problem, pass_))


def assert_close(name, problem, pass_, arrays):
    error = calls.relative_error(run(name, problem, pass_, arrays), calls.exact(problem, pass_, arrays))
    assert error <= POLICIES[name].error(problem, pass_)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("problem", [
    "n1c3k5i6x5f3x3p1:bias",
    "n2c2k2i5x4f3x3p0_2x1_0",
    "n1c4k6i3x4f3x3p2g2:float64",
    "n1c1k1i1x1f3x3p1:float64",
])  # fmt: skip
def test_within_its_error(name, pass_, problem, rng):
    problem = parse(problem)
    assert_close(name, problem, pass_, calls.arrays_for(problem, rng))


@pytest.mark.parametrize("pass_", PASSES)
def test_float16_is_summed_in_float32(pass_, rng):
    problem = parse("n1c3k4i5x6f3x3p1:float16:bias")
    arrays = calls.arrays_for(problem, rng)
    result = run("winograd_f4", problem, pass_, arrays)
    np.testing.assert_allclose(result, calls.exact(problem, pass_, arrays), rtol=1e-3, atol=1e-3)


@pytest.fixture
def always_fused(monkeypatch):
    monkeypatch.setattr(winograd, "_FUSED_BLOCKS", 1)
    monkeypatch.setattr(winograd, "_FUSED_FILL", 0)


@pytest.mark.usefixtures("always_fused")
@pytest.mark.parametrize("problem", [
    "n1c9k66i5x6f3x3p1:bias",
    "n3c2k4i7x5f3x3p0_2x1_0g2",
    "n1c3k2i5x4f3x3p1:float16:bias",
])  # fmt: skip
@pytest.mark.parametrize("pass_", ["forward", "grad_input"])
def test_fused(problem, pass_, rng):
    problem = parse(problem)
    program = POLICIES["winograd_f2"].program(problem, pass_, TYPICAL)
    assert [launch.kernel for launch in program.launches] == ["fused"]
    arrays = calls.arrays_for(problem, rng)
    result, expected = run("winograd_f2", problem, pass_, arrays), calls.exact(problem, pass_, arrays)
    rounding = 2**-11 if problem.dtype == "float16" else 0
    assert calls.relative_error(result, expected) <= POLICIES["winograd_f2"].error(problem, pass_) + rounding


@pytest.mark.usefixtures("always_fused")
def test_fused_numbers_that_are_not_finite(rng):
    problem = parse("n1c2k3i7x6f3x3p1:bias")
    arrays = calls.arrays_for(problem, rng)
    arrays["x"][0, 0, 1, 2], arrays["bias"][1] = np.inf, np.inf
    result, expected = run("winograd_f2", problem, "forward", arrays), calls.exact(problem, "forward", arrays)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(result[~finite], expected[~finite].astype(result.dtype))
    np.testing.assert_allclose(result[finite], expected[finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pass_", PASSES)
def test_chunks_of_tiles(pass_, monkeypatch, rng):
    monkeypatch.setattr(winograd, "_MOST_ELEMENTS", 1)
    problem = parse("n3c1k2i13x14f3x3p1")  # 147 tiles of two by two: 128, and 19
    program = POLICIES["winograd_f2"].program(problem, pass_, TYPICAL)
    assert sum(launch.kernel == "products" for launch in program.launches) == 2
    assert_close("winograd_f2", problem, pass_, calls.arrays_for(problem, rng))


@pytest.mark.parametrize("tile", [Tile(64, 64, products.DEPTH, 8, 8), Tile(32, 32, products.DEPTH, 4, 4)])
def test_sums_in_parts(tile, monkeypatch, rng):
    monkeypatch.setattr(winograd, "cut", lambda shape, dtype, steps, most_parts=2: products.Cut(tile, 2, 1.0))
    problem = parse("n1c3k4i9x8f3x3p1")
    assert_close("winograd_f2", problem, "grad_weight", calls.arrays_for(problem, rng))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pass_", PASSES)
def test_numbers_that_are_not_finite_stay_where_they_are(name, pass_, rng):
    problem = parse("n1c2k3i7x6f3x3p1")
    arrays = calls.arrays_for(problem, rng)
    source = arrays["grad_output" if pass_ == "grad_input" else "x"]
    source[0, 0, 1, 2], source[0, 1, 5, 5] = np.inf, np.nan
    result, expected = run(name, problem, pass_, arrays), calls.exact(problem, pass_, arrays)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(result[~finite], expected[~finite].astype(result.dtype))
    np.testing.assert_allclose(result[finite], expected[finite], rtol=1e-4, atol=1e-4)


def test_refusals():
    for policy in winograd.POLICIES:
        assert policy.refuses(parse("n1c1k1i4x4f3x3p1"), "forward") is None
        assert policy.refuses(parse("n1c1k1i4x4f3x3s2"), "forward")
        assert policy.refuses(parse("n1c4000k4000i4x4f3x3g4000"), "forward")


def test_workspace_is_bounded():
    for problem in ("n64c64k64i224x224f3x3p1", "n256c512k512i28x28f3x3p1"):
        for pass_ in PASSES:
            program = POLICIES["winograd_f4"].program(parse(problem), pass_, TYPICAL)
            assert max(buffer.count for buffer in program.workspace.values()) <= 2 * winograd._MOST_ELEMENTS
            assert all(max(launch.grid[1:]) <= 65535 for launch in program.launches)


def test_error_grows_with_the_tile_and_the_length():
    short, long = parse("n1c8k8i8x8f3x3p1"), parse("n1c512k8i8x8f3x3p1")
    two, four = (POLICIES[name].error for name in NAMES)
    assert two(short, "forward") < two(long, "forward") < four(long, "forward")
    assert two(short, "forward") < four(short, "forward")
    assert two(replace(short, dtype="float64"), "forward") < 1e-14
