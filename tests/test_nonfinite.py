"""NaN, infinities, overflow and denormals stand where the definition puts them, for every algorithm."""

import numpy as np
import pytest

import convforge as cf
from convforge.registry import ALGORITHMS

from . import calls

COMPILED = [each for each in ALGORITHMS if each.backend not in ("numpy", "cuda")]
PROBLEMS = [
    "n2c5k9i13x17f3x3p1",
    "n1c3k5i12x12f3x3s2p1",
    "n2c6k6i9x20f3x3p1g6",
    "n1c4k20i7x7f1x1",
    "n1c8k8i11x11f3x3p1:bias",
    # im2col leaves padding out: in parts, and tap by tap
    "n2c12k24i24x24f3x3p13d13:bias",
    "n1c48k24i20x19f3x3p9d9",
]


def _cases():
    for text in PROBLEMS:
        problem = cf.parse(text)
        for algorithm in COMPILED:
            for pass_ in problem.passes:
                if algorithm.refuses(problem, pass_) is None:
                    yield pytest.param(algorithm, problem, pass_, id=f"{algorithm}-{pass_}-{text}")


def _same_kind(y, expected):
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_array_equal(np.isposinf(y), np.isposinf(expected))
    np.testing.assert_array_equal(np.isneginf(y), np.isneginf(expected))


def _spoil(array, rng, values):
    flat = array.reshape(-1)
    flat[rng.choice(flat.size, len(values), replace=False)] = values


@pytest.mark.parametrize("spoiled", ["x", "weight", "grad_output"])
@pytest.mark.parametrize(("algorithm", "problem", "pass_"), list(_cases()))
def test_non_finite_inputs(algorithm, problem, pass_, spoiled, rng):
    reads = {"forward": ("x", "weight"), "grad_input": ("weight", "grad_output"), "grad_weight": ("x", "grad_output")}
    if spoiled not in reads[pass_]:
        spoiled = reads[pass_][0]
    arrays = calls.arrays_for(problem, rng)
    _spoil(arrays[spoiled], rng, [np.nan, np.inf, -np.inf])
    y = calls.run(algorithm, problem, pass_, arrays)
    _same_kind(y, calls.exact(problem, pass_, arrays))


@pytest.mark.parametrize(("algorithm", "problem", "pass_"), list(_cases()))
def test_overflow(algorithm, problem, pass_, rng):
    """One product beyond the largest float: infinite where it is summed, finite elsewhere."""
    arrays = calls.arrays_for(problem, rng)
    large = np.sqrt(np.finfo(problem.dtype).max) * 4
    operands = {
        "forward": ("x", "weight"),
        "grad_input": ("grad_output", "weight"),
        "grad_weight": ("x", "grad_output"),
    }
    for name in operands[pass_]:
        array = arrays[name]
        array[(*(0 for _ in range(array.ndim - 2)), array.shape[-2] // 2, array.shape[-1] // 2)] = large
    with np.errstate(over="ignore"):
        expected = calls.exact(problem, pass_, arrays).astype(problem.dtype)
    _same_kind(calls.run(algorithm, problem, pass_, arrays), expected)


@pytest.mark.parametrize(("algorithm", "problem", "pass_"), list(_cases()))
def test_denormals_are_kept(algorithm, problem, pass_, rng):
    """Loading and running the kernels leaves gradual underflow on."""
    arrays = calls.arrays_for(problem, rng)
    tiny = np.finfo(problem.dtype).smallest_subnormal * 2**16
    scaled = {"forward": "x", "grad_input": "grad_output", "grad_weight": "x"}[pass_]
    arrays[scaled] = (rng.integers(-3, 4, arrays[scaled].shape) * tiny).astype(problem.dtype)
    other = {"forward": "weight", "grad_input": "weight", "grad_weight": "grad_output"}[pass_]
    arrays[other] = rng.integers(-3, 4, arrays[other].shape).astype(problem.dtype)
    arrays["bias"] = None
    y = calls.run(algorithm, problem, pass_, arrays)
    expected = calls.exact(problem, pass_, arrays)
    assert np.count_nonzero(expected)
    if algorithm.name.startswith("winograd"):
        # its sums are rounded to a subnormal step, and the output transform multiplies those roundings
        assert np.abs(y - expected).max() <= 1e-3 * np.abs(expected).max()
    else:
        np.testing.assert_array_equal(y, expected)
    assert np.float32(1e-40) * np.float32(0.5) != 0
