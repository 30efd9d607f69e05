"""Every registered algorithm on every problem of the corpus that it takes, in every pass, against the oracle."""

import numpy as np
import pytest

from convforge.models import corpus
from convforge.problem import ConvProblem
from convforge.registry import ALGORITHMS

from . import calls

COMPILED = [each for each in ALGORITHMS if each.backend not in ("numpy", "cuda")]
CASES = [
    pytest.param(algorithm, problem, pass_, id=f"{algorithm}-{pass_}-{problem}")
    for algorithm in COMPILED
    for problem in corpus()
    for pass_ in problem.passes
    if algorithm.refuses(problem, pass_) is None
]
CONV_CASES = [case for case in CASES if isinstance(case.values[1], ConvProblem)]


@pytest.mark.parametrize(("algorithm", "problem", "pass_"), CASES)
def test_matches_the_oracle(algorithm, problem, pass_, rng):
    arrays = calls.arrays_for(problem, rng)
    expected = calls.exact(problem, pass_, {**arrays, "bias": None})
    y = calls.run(algorithm, problem, pass_, {**arrays, "bias": None})
    if getattr(problem, "indices", False) and pass_ == "forward":
        np.testing.assert_array_equal(y[1], expected[1])
        y, expected = y[0], expected[0]
    assert y.dtype == problem.dtype
    assert calls.relative_error(y, expected) <= algorithm.error(problem, pass_)


@pytest.mark.parametrize(("algorithm", "problem", "pass_"), CONV_CASES)
def test_integers_come_out_right(algorithm, problem, pass_, rng):
    """Sums of small integers are exact in float32; Winograd divides, so it may miss by a rounding."""
    arrays = calls.arrays_for(problem, rng, integers=True)
    expected = calls.exact(problem, pass_, arrays)
    y = calls.run(algorithm, problem, pass_, arrays)
    if algorithm.name.startswith("winograd"):
        np.testing.assert_allclose(y, expected, atol=1e-3 * np.abs(expected).max(initial=1.0))
    else:
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(("algorithm", "problem", "pass_"), CONV_CASES)
def test_error_on_data_that_cancels(algorithm, problem, pass_, rng):
    """The promise on any finite data: norm(y - exact) <= error * norm(conv(|x|, |w|))."""
    arrays = calls.arrays_for(problem, rng)
    arrays["x"] = (1000 + arrays["x"]).astype(problem.dtype)
    arrays["bias"] = None
    absolute = {name: None if array is None else np.abs(array) for name, array in arrays.items()}
    expected = calls.exact(problem, pass_, arrays)
    scale = np.linalg.norm(calls.exact(problem, pass_, absolute).ravel())
    y = calls.run(algorithm, problem, pass_, arrays)
    assert np.linalg.norm((y - expected).ravel()) <= algorithm.error(problem, pass_) * scale


def test_every_algorithm_is_reached():
    """The corpus exercises each registered algorithm of an available backend in each pass that it states."""
    reached = {(str(case.values[0]), case.values[2]) for case in CASES}
    stated = {
        (str(each), pass_)
        for each in COMPILED
        for pass_ in each.policy.passes
        if each.backend in {case.values[0].backend for case in CASES}
    }
    assert stated == reached


@pytest.mark.filterwarnings("ignore::convforge.PerformanceWarning")  # 1-D and 3-D have the reference alone
@pytest.mark.parametrize("problem", [p for p in corpus() if isinstance(p, ConvProblem)], ids=str)
def test_adjoint_identity(problem, rng):
    """<conv(x, w), y> = <x, grad_input(w, y)> = <w, grad_weight(x, y)> for what auto chooses."""
    from convforge.plan import Plan

    arrays = {**calls.arrays_for(problem, rng), "bias": None}
    plan = Plan(problem, problem.passes)
    operands = {"forward": "grad_output", "grad_input": "x", "grad_weight": "weight"}
    products = [
        np.vdot(calls.call(plan, pass_, arrays).astype(np.float64), arrays[other].astype(np.float64))
        for pass_, other in operands.items()
    ]
    scale = np.linalg.norm(calls.exact(problem, "forward", arrays)) * np.linalg.norm(arrays["grad_output"])
    tolerance = (1e-5 if problem.dtype == "float32" else 1e-13) * scale
    assert abs(products[0] - products[1]) <= tolerance
    assert abs(products[0] - products[2]) <= tolerance


BITS = [
    "n2c5k9i13x17f3x3p1", "n3c16k8i9x9f3x3s2p1", "n2c8k8i12x20f3x3p1g8", "n1c3k70i30x31f3x3p1", "n4c20k6i7x7f1x1",
    "n1c40k40i28x28f3x3p1:float64", "max:n2c6i15x17f3x3s2p1x1", "avg:n2c6i15x17f3x3s2p1x1",
]  # fmt: skip


@pytest.mark.parametrize("text", BITS)
@pytest.mark.parametrize("algorithm", COMPILED, ids=str)
def test_bits_do_not_depend_on_threads_alignment_or_preparation(algorithm, text, rng, monkeypatch):
    import convforge as cf
    from convforge.runtime import executor

    monkeypatch.setattr(executor, "_PARALLEL_SECONDS", 0.0)
    problem = cf.parse(text)
    for pass_ in problem.passes:
        if algorithm.refuses(problem, pass_) is not None:
            continue
        arrays = calls.arrays_for(problem, rng)
        with cf.num_threads(1):
            once = calls.run(algorithm, problem, pass_, arrays)
        with cf.num_threads(2):
            np.testing.assert_array_equal(calls.run(algorithm, problem, pass_, arrays), once)
        shifted = {name: None if a is None else _shifted(a) for name, a in arrays.items()}
        np.testing.assert_array_equal(calls.run(algorithm, problem, pass_, shifted), once)
        if pass_ != "grad_weight" and isinstance(problem, ConvProblem):
            plan = cf.plan(problem, passes=(pass_,), algorithm=algorithm.name, backend=algorithm.backend)
            prepared = {**arrays, "weight": plan.prepare_weight(arrays["weight"])}
            np.testing.assert_array_equal(calls.call(plan, pass_, prepared), once)


def _shifted(array):
    """A copy that starts one element past a cache line."""
    memory = np.empty(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + array.itemsize
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
