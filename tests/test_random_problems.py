"""Problems that nobody thought of: hypothesis draws them, every algorithm that takes one is held against the oracle."""

import numpy as np
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from convforge.problem import ConvProblem
from convforge.registry import ALGORITHMS

from . import calls
from .strategies import conv_problems, pool_problems

SETTINGS = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _check(problem, seed):
    note(f"convforge compare {problem}")
    rng = np.random.default_rng(seed)
    arrays = {**calls.arrays_for(problem, rng), "bias": None}
    for pass_ in problem.passes:
        expected = calls.exact(problem, pass_, arrays)
        for algorithm in ALGORITHMS:
            if algorithm.refuses(problem, pass_) is not None:
                continue
            y, wanted = calls.run(algorithm, problem, pass_, arrays), expected
            if isinstance(y, tuple):
                np.testing.assert_array_equal(y[1], wanted[1])
                y, wanted = y[0], wanted[0]
            if isinstance(problem, ConvProblem):
                # a handful of outputs may cancel: the promise on any data
                absolute = {name: None if array is None else np.abs(array) for name, array in arrays.items()}
                scale = np.linalg.norm(calls.exact(problem, pass_, absolute))
                assert np.linalg.norm(y - wanted) <= algorithm.error(problem, pass_) * scale, str(algorithm)
            else:
                assert calls.relative_error(y, wanted) <= algorithm.error(problem, pass_), str(algorithm)


@SETTINGS
@given(problem=conv_problems(ndims=(2,), most=24, channels=20), seed=st.integers(0, 2**32 - 1))
def test_convolutions(problem, seed):
    _check(problem, seed)


@SETTINGS
@given(problem=pool_problems(ndims=(2,), most=40), seed=st.integers(0, 2**32 - 1))
def test_pools(problem, seed):
    _check(problem, seed)
