"""Every algorithm of the GPU on small problems, against the oracle: odd sizes, tails, memory full of NaN."""

from math import prod

import numpy as np
import pytest

from convforge.models import corpus
from convforge.problem import ConvProblem, parse
from convforge.registry import ALGORITHMS

from .. import calls

ON_GPU = [each for each in ALGORITHMS if each.backend == "cuda"]
#: The corpus is for the GPU: a thread of the simulator is one of Python's. Here are tails on every axis, strides,
#: uneven padding, dilation, groups, one pixel, no images, 1-D and each dtype.
CONVOLUTIONS = [
    "n1c1k1i1x1f1x1", "n1c1k1i1x1f3x3p1", "n0c2k3i5x5f3x3p1", "n2c3k5i5x7f3x3p1:bias", "n1c2k2i3x3f3x3",
    "n1c3k4i9x7f3x3s2p1", "n1c2k3i5x6f3x3p1_2x0_1:float64", "n1c2k3i9x8f3x3s3p1d2", "n1c4k6i5x6f3x3p1g2:bias",
    "n1c3k3i7x19f3x3s2p1g3", "n1c4k4i16f3p1g4", "n2c3k4i11f5p2:bias", "n1c2k2i19f3s2p1d2", "n1c9k10i1x13f1x1",
    "n1c2k2i6x7f3x3p2d2g2", "n1c1k3i7x8f5x3p2x1", "n1c2k2i1x9f1x9", "n1c2k2i3x4f2x2p3", "n1c2k2i11x5f9x2p4x1g2",
    "n1c2k2i7x10f2x2s4:float64",
]  # fmt: skip
HALF = [
    "n1c3k5i5x6f3x3p1:bias:float16", "n1c4k4i8x9f3x3s2p1g4:float16", "n1c5k6i9f4s2p2:float16",
    "max:n1c2i7x9f3x3s2p1:indices:float16", "avg:n1c2i6x7f3x3s2p1:exclude_pad:float16",
]  # fmt: skip
POOLS = [each for each in corpus() if each.kind != "conv" and prod(each.input_shape) <= 300]
PROBLEMS = [*map(parse, CONVOLUTIONS), *map(parse, HALF), *POOLS]
CASES = [
    pytest.param(algorithm, problem, pass_, id=f"{algorithm.name}-{pass_}-{problem}")
    for algorithm in ON_GPU
    for problem in PROBLEMS
    for pass_ in problem.passes
    if algorithm.refuses(problem, pass_) is None
]


def limit(algorithm, problem, pass_):
    """What the algorithm states, and the rounding of results that are stored in half precision."""
    return algorithm.error(problem, pass_) + (2**-11 if problem.dtype == "float16" else 0)


@pytest.mark.parametrize(("algorithm", "problem", "pass_"), CASES)
def test_matches_the_oracle(algorithm, problem, pass_, rng):
    arrays = calls.arrays_for(problem, rng)
    arrays["bias"] = None if problem.dtype != "float16" else arrays.get("bias")
    expected = calls.exact(problem, pass_, arrays)
    y = calls.run(algorithm, problem, pass_, arrays)
    if getattr(problem, "indices", False) and pass_ == "forward":
        np.testing.assert_array_equal(y[1], expected[1])
        y, expected = y[0], expected[0]
    assert y.dtype == problem.dtype
    assert calls.relative_error(y, expected) <= limit(algorithm, problem, pass_)


BIASED = [p for p in PROBLEMS if isinstance(p, ConvProblem) and p.bias and p.dtype != "float16"]


@pytest.mark.parametrize("problem", BIASED, ids=str)
@pytest.mark.parametrize("algorithm", [each for each in ON_GPU if "conv" in each.policy.kinds], ids=str)
def test_bias_is_added(algorithm, problem, rng):
    if reason := algorithm.refuses(problem, "forward"):
        pytest.skip(reason)
    arrays = calls.arrays_for(problem, rng, integers=True)
    expected = calls.exact(problem, "forward", arrays)
    y = calls.run(algorithm, problem, "forward", arrays)
    np.testing.assert_allclose(y, expected, atol=1e-3 * np.abs(expected).max(initial=1.0))


def test_every_algorithm_is_reached():
    reached = {(case.values[0].name, case.values[1].kind, case.values[2]) for case in CASES}
    stated = {(each.name, kind, pass_) for each in ON_GPU for kind in each.policy.kinds for pass_ in each.policy.passes}
    assert stated == reached


def test_half_precision_is_reached():
    reached = {case.values[0].name for case in CASES if case.values[1].dtype == "float16"}
    assert reached == {each.name for each in ON_GPU if "float16" in each.dtypes}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's scalars are the simulator's
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("algorithm", [each for each in ON_GPU if "conv" in each.policy.kinds], ids=str)
def test_nonfinite_inputs_show_where_direct_puts_them(algorithm, value, rng):
    problem = parse("n1c2k3i9x9f3x3p1")
    arrays = calls.arrays_for(problem, rng)
    arrays["x"][0, 1, 4, 5] = value
    y = calls.run(algorithm, problem, "forward", arrays)
    expected = calls.exact(problem, "forward", arrays)
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(expected))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
