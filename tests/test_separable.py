"""Depthwise kernels that are an outer product: found by their values, right on any data, and only then."""

import numpy as np
import pytest

import convforge as cf
from convforge import filters
from convforge.registry import ALGORITHMS, backend_missing

from . import calls

DEPTHWISE = [a for a in ALGORITHMS if a.name == "depthwise" and backend_missing(a.backend) is None]
DTYPES = ("float32", "float64")
PROBLEM = "n1c1k1i40x61f{}x{}p{}x{}"
RNG = np.random.default_rng(7)


def _problem(weight):
    kh, kw = weight.shape[-2:]
    return cf.parse(f"{PROBLEM.format(kh, kw, kh // 2, kw // 2)}:{weight.dtype}")


def _found(algorithm, weight):
    """Whether the prepared weight says that it is an outer product."""
    plan = cf.plan(_problem(weight), algorithm="depthwise", backend=algorithm.backend)
    packed = plan.prepare_weight(weight).packed["forward"].view(weight.dtype)
    return packed[weight.size] != 0


def _outer(u, v, dtype):
    return np.outer(u, v).astype(dtype)[None, None]


SEPARABLE = {
    "gaussian": filters.gaussian(7)[0, 0],
    "large gaussian": filters.gaussian(31)[0, 0],
    "box": filters.box(15)[0, 0],
    "integers": np.outer((3, 10, -4, 7, 3), (-1, 0, 6, 5, 2, 9)),
    "zeros": np.outer((0, 3, 0, -1, 0), (0, 0, 5, 1, 0)),
    "random": np.outer(RNG.standard_normal(9), RNG.standard_normal(6)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("algorithm", DEPTHWISE, ids=str)
class TestDecision:
    @pytest.mark.parametrize("name", [n for n in SEPARABLE if "gaussian" not in n and n != "box"])
    def test_outer_products_are_found(self, algorithm, dtype, name):
        assert _found(algorithm, SEPARABLE[name].astype(dtype)[None, None])

    @pytest.mark.parametrize("name", ["gaussian", "large gaussian", "box"])
    def test_named_filters_are_found(self, algorithm, dtype, name):
        rows = SEPARABLE[name].astype(np.float64)
        assert _found(algorithm, _outer(rows.sum(1), rows.sum(0), dtype))

    def test_others_are_not(self, algorithm, dtype):
        eps = np.finfo(dtype).eps
        weight = SEPARABLE["random"].astype(dtype)[None, None]
        off = weight.copy()
        off[0, 0, 4, 3] *= 1 + 8 * eps
        hole = weight.copy()
        hole[0, 0, 2, 1] = 0
        extra = SEPARABLE["zeros"].astype(dtype)[None, None]
        extra[0, 0, 0, 0] = np.finfo(dtype).tiny
        # and one so large that sums of the tiniest inputs would lose digits
        others = [off, hole, extra, np.zeros_like(weight), weight * np.sqrt(np.finfo(dtype).max)]
        for value in (np.nan, np.inf, -np.inf):
            others.append(weight.copy())
            others[-1][0, 0, 3, 3] = value
        assert not any(_found(algorithm, each) for each in others)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SEPARABLE)
@pytest.mark.parametrize("algorithm", DEPTHWISE, ids=str)
def test_result(algorithm, name, dtype, rng):
    weight = SEPARABLE[name].astype(dtype)[None, None]
    problem = _problem(weight)
    for pass_ in ("forward", "grad_input"):
        arrays = {**calls.arrays_for(problem, rng), "weight": weight}
        absolute = {key: None if array is None else np.abs(array) for key, array in arrays.items()}
        expected = calls.exact(problem, pass_, arrays)
        scale = np.linalg.norm(calls.exact(problem, pass_, absolute))
        y = calls.run(algorithm, problem, pass_, arrays)
        assert np.linalg.norm(y - expected) <= algorithm.error(problem, pass_) * scale


@pytest.mark.parametrize("name", ["integers", "zeros"])
@pytest.mark.parametrize("algorithm", DEPTHWISE, ids=str)
def test_integers_stay_exact(algorithm, name, rng):
    weight = SEPARABLE[name].astype(np.float32)[None, None]
    problem = _problem(weight)
    arrays = {**calls.arrays_for(problem, rng, integers=True), "weight": weight}
    np.testing.assert_array_equal(
        calls.run(algorithm, problem, "forward", arrays), calls.exact(problem, "forward", arrays)
    )


@pytest.mark.parametrize("name", ["gaussian", "box", "zeros"])
@pytest.mark.parametrize("algorithm", DEPTHWISE, ids=str)
def test_what_is_not_finite_spoils_what_sees_it(algorithm, name, rng):
    weight = SEPARABLE[name].astype(np.float32)[None, None]
    problem = _problem(weight)
    arrays = {**calls.arrays_for(problem, rng), "weight": weight}
    for value, at in ((np.nan, (3, 7)), (np.inf, (20, 30)), (-np.inf, (22, 31)), (np.inf, (39, 60))):
        arrays["x"][0, 0][at] = value
    with np.errstate(invalid="ignore"):
        expected = calls.exact(problem, "forward", arrays)
    y = calls.run(algorithm, problem, "forward", arrays)
    for kind in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(kind(y), kind(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("algorithm", DEPTHWISE, ids=str)
def test_sums_over_columns_do_not_overflow(algorithm, dtype):
    """Of inputs near the largest number, the weighted mean is as large; factors of other scales would overflow."""
    weight = 0.9 * filters.box(15).astype(dtype)
    problem = _problem(weight)
    arrays = calls.arrays_for(problem, np.random.default_rng(0)) | {"weight": weight}
    arrays["x"] = np.full(problem.input_shape, np.finfo(dtype).max, dtype)
    y = calls.run(algorithm, problem, "forward", arrays)
    assert np.isfinite(y).all()
    assert y.max() > 0.8 * np.finfo(dtype).max
