"""Every argument of every public function, wrong in type, sign, size, count, dtype or shape: an error that names it."""

import re

import numpy as np
import pytest

import convforge as cf
from convforge.arguments import conv_problem
from convforge.plan_cache import functional_plan

X = np.ones((2, 4, 8, 9), np.float32)
W = np.ones((6, 2, 3, 3), np.float32)
B = np.ones(6, np.float32)
Y = np.ones((2, 6, 6, 7), np.float32)
POOLED, INDICES = cf.max_pool2d(X, 2, return_indices=True)

CONV_GEOMETRY = {"stride": 1, "padding": 0, "dilation": 1, "groups": 2}
POOL_GEOMETRY = {"kernel_size": 2, "stride": None, "padding": 0, "ceil_mode": False}
VALID = {
    cf.conv2d: {"x": X, "weight": W, "bias": B, **CONV_GEOMETRY},
    cf.conv2d_grad_input: {"input_shape": X.shape, "weight": W, "grad_output": Y, **CONV_GEOMETRY},
    cf.conv2d_grad_weight: {"x": X, "weight_shape": W.shape, "grad_output": Y, **CONV_GEOMETRY},
    cf.conv2d_backward: {"grad_output": Y, "x": X, "weight": W, **CONV_GEOMETRY},
    cf.max_pool2d: {"x": X, **POOL_GEOMETRY, "dilation": 1, "return_indices": False},
    cf.max_pool2d_backward: {"grad_output": POOLED, "indices": INDICES, "input_shape": X.shape},
    cf.avg_pool2d: {"x": X, **POOL_GEOMETRY, "count_include_pad": True, "divisor_override": None},
    cf.avg_pool2d_backward: {"grad_output": POOLED, "input_shape": X.shape, **POOL_GEOMETRY},
}

NO_ARRAYS = [
    (None, TypeError), (3.0, TypeError), ("x", TypeError), ([[1.0]], TypeError), (np.ma.masked_array(X), TypeError),
]  # fmt: skip
BAD_DTYPES = [(dtype, TypeError) for dtype in ("int32", "bool", "complex64", "float16", "object", "datetime64[s]")]
SIZES = [
    (0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError), ("2", (TypeError, ValueError)),
    ((1, 1, 1), ValueError), ((1,), ValueError), ((), ValueError), ((0, 1), ValueError), ((1, -2), ValueError),
    ((1.0, 1), TypeError), ((True, True), TypeError), (1 << 70, ValueError), (np.float32(1), TypeError),
    (None, TypeError), ({1: 1}, TypeError), (float("nan"), TypeError), ([[1, 2], [3, 4]], TypeError), (b"1", TypeError),
]  # fmt: skip
PADDINGS = [
    (-1, ValueError), (1.0, TypeError), (True, TypeError), ("SAME", ValueError), ("full", ValueError),
    (None, TypeError), ((1,), ValueError), ((1, 1, 1), ValueError), ((1, -1), ValueError), (((1, 1), 1), TypeError),
    (((1, 1), (1,)), ValueError), (((1, 1), (1, -1)), ValueError), (((1, 1), (1, 0.5)), TypeError),
    (1 << 70, ValueError), (((1, 2),), ValueError), ((1, 1.0), TypeError),
]  # fmt: skip
FLAGS = [(1, TypeError), (None, TypeError), ("yes", TypeError), (0.0, TypeError)]
SHAPES = [
    (None, TypeError), (5, TypeError), ("2489", TypeError), ((2, 4), ValueError), ((2, 4, 8, 9, 1), ValueError),
    ((2, 4, 8, 0), ValueError), ((2, 4, -8, 9), ValueError), ((2, 4, 8.0, 9), TypeError), ((2, 4, True, 9), TypeError),
    (np.ones(4), TypeError),
]  # fmt: skip
CHOICES = {
    "algorithm": [("fast", ValueError), ("", ValueError), (None, TypeError), (1, TypeError), (["direct"], TypeError)],
    "backend": [("gpu", ValueError), ("Cython", ValueError), (None, TypeError), (b"numba", TypeError)],
    "tolerance": [
        (0, ValueError), (-1e-5, ValueError), (float("nan"), ValueError), (float("inf"), ValueError),
        ("1e-5", TypeError), (True, TypeError), (1j, TypeError),
    ],
    "out": [([1.0], TypeError), (np.ones(3, np.float32), ValueError), (1, TypeError)],
}  # fmt: skip

BAD = {
    "stride": SIZES,
    "dilation": SIZES,
    "kernel_size": SIZES,
    "padding": PADDINGS,
    "groups": [
        (0, ValueError), (-2, ValueError), (3, ValueError), (2.0, TypeError), (True, TypeError), ((2, 2), TypeError),
        (None, TypeError), (1 << 70, ValueError), ("2", TypeError),
    ],
    "ceil_mode": FLAGS,
    "return_indices": FLAGS,
    "count_include_pad": FLAGS,
    "divisor_override": [(0, ValueError), (-3, ValueError), (1.5, TypeError), (True, TypeError), ("3", TypeError)],
    "input_shape": SHAPES,
    "weight_shape": [*SHAPES, ((6, 4, 3, 3), ValueError), ((5, 2, 3, 3), ValueError), ((6, 2, 9, 3), ValueError)],
    "x": [
        *NO_ARRAYS, (X[0, 0], ValueError), (X[None], ValueError), (X[:, :3], ValueError), (X[:, :, :0], ValueError),
        (X[:, :0], ValueError),
    ],
    "weight": [*NO_ARRAYS, (W[0], ValueError), (W[None], ValueError), (W[:, :1], ValueError), (W[:5], ValueError)],
    "bias": [
        (3.0, TypeError), ([1.0] * 6, TypeError), (B[:5], ValueError), (B[:, None], ValueError),
        (B.astype(int), TypeError),
    ],
    "grad_output": [*NO_ARRAYS, (Y[:, :, :5], ValueError), (Y[:1], ValueError), (Y[0, 0], ValueError)],
    "indices": [
        *NO_ARRAYS, (INDICES[:1], ValueError), (INDICES.astype(np.int32), TypeError), (POOLED, TypeError),
        (INDICES - 100, ValueError), (INDICES + 72, ValueError),
    ],
    "needs": [(True, TypeError), ((True, True), TypeError), ((1, 1, 1), TypeError), (None, TypeError)],
    **CHOICES,
}  # fmt: skip
# what another argument of the same call makes valid, or reports under its own, equally right name
ELSEWHERE = {
    ("x", "weight"): r"x|weight|grad_output|groups|stride|kernel_size",
    ("weight", "weight"): r"weight|grad_output|groups|bias",
    ("groups", "groups"): r"groups|weight",
    ("input_shape", "input_shape"): r"input_shape|grad_output|weight|kernel_size",
    ("weight_shape", "weight_shape"): r"weight_shape|grad_output",
    ("grad_output", "grad_output"): r"grad_output|input_shape|indices",
    ("indices", "indices"): r"indices",
}
EXTRA = {
    cf.conv2d: ("algorithm", "backend", "tolerance", "out"),
    cf.conv2d_grad_input: ("algorithm", "backend", "tolerance", "out"),
    cf.conv2d_grad_weight: ("algorithm", "backend", "tolerance", "out"),
    cf.conv2d_backward: ("needs", "algorithm", "backend", "tolerance"),
    cf.max_pool2d: ("algorithm", "backend", "out"),
    cf.max_pool2d_backward: ("backend", "out"),
    cf.avg_pool2d: ("algorithm", "backend", "out"),
    cf.avg_pool2d_backward: ("count_include_pad", "divisor_override", "algorithm", "backend", "out"),
}


def _cases():
    for function, valid in VALID.items():
        for name in (*valid, *EXTRA[function]):
            for number, (value, error) in enumerate(BAD[name]):
                if _is_valid(function, name, value):
                    continue
                yield pytest.param(function, name, value, error, id=f"{function.__name__}-{name}-{number}")


def _is_valid(function, name, value):
    pool = "pool" in function.__name__
    if name == "stride" and value is None:
        return pool
    if name == "x" and isinstance(value, np.ndarray) and value.shape == (2, 3, 8, 9):
        return pool  # a pool takes any number of channels
    return False


@pytest.mark.parametrize(("function", "name", "value", "error"), list(_cases()))
def test_bad_argument(function, name, value, error):
    with pytest.raises(error) as caught:
        function(**{**VALID[function], name: value})
    assert not isinstance(caught.value, cf.UnsupportedProblem)
    assert re.search(ELSEWHERE.get((name, name), name), str(caught.value)), str(caught.value)


@pytest.mark.parametrize("dtype", [dtype for dtype, _ in BAD_DTYPES])
@pytest.mark.parametrize("name", ["x", "weight", "grad_output", "bias"])
def test_bad_dtype(name, dtype):
    for function, valid in VALID.items():
        if name in valid:
            with pytest.raises(TypeError, match=rf"{name}|dtype"):
                function(**{**valid, name: valid[name].astype(dtype)})


@pytest.mark.parametrize("function", VALID, ids=lambda f: f.__name__)
def test_valid_arguments_are_valid(function):
    function(**VALID[function])


@pytest.mark.parametrize("function", [f for f in VALID if "out" in EXTRA[f]], ids=lambda f: f.__name__)
def test_read_only_or_overlapping_out(function):
    result = function(**VALID[function])
    out = np.empty_like(result)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writeable"):
        function(**VALID[function], out=out)
    with pytest.raises(TypeError, match="out must have dtype"):
        function(**VALID[function], out=result.astype(np.float64))


def test_mixed_dtypes_say_what_to_cast():
    with pytest.raises(TypeError, match=r"weight must have dtype float32.*astype"):
        cf.conv2d(X, W.astype(np.float64), groups=2)


def test_integer_like_arguments_are_fine():
    expected = cf.conv2d(X, W, stride=2, padding=1, groups=2)
    for integer in (np.int64, np.uint8):
        got = cf.conv2d(X, W, stride=integer(2), padding=(integer(1), integer(1)), groups=integer(2))
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(cf.conv2d(X, W, stride=[2, 2], padding=[[1, 1], [1, 1]], groups=2), expected)


def test_spellings_share_a_plan():
    """Lists are looked up like tuples, and named as they were given where they are wrong."""
    choice = ("forward", "auto", "auto", None, conv_problem)

    def planned(*sizes):
        return functional_plan(*choice, X.shape, W.shape, "float32", *sizes, 2)

    assert planned([2, 1], [[1, 0], [2, 2]], 1) is planned((2, 1), ((1, 0), (2, 2)), (1, 1))
    assert planned(2, 1, 1) is planned((2, 2), (1, np.int64(1)), [1, 1]) is planned(np.uint8(2), ((1, 1), (1, 1)), 1)
    for wrong in ([1, 1, 1], [1, -1], [1, 1.0], [1, True], (1.0, 1), (True, 1), True, 1.0):
        planned(1, 1, 1)
        for _ in range(2):
            with pytest.raises((TypeError, ValueError), match="stride"):
                planned(wrong, 1, 1)
    with pytest.raises(ValueError, match=re.escape("[1, 1, 1]")):
        planned([1, 1, 1], 1, 1)


def test_kernel_larger_than_padded_input():
    with pytest.raises(ValueError, match="kernel"):
        cf.conv2d(X, np.ones((6, 2, 9, 3), np.float32), groups=2)
    with pytest.raises(ValueError, match="padding must be at most half"):
        cf.max_pool2d(X, 2, padding=2)


PLAN_BAD = {
    "problem": [
        (None, TypeError), (3, TypeError), ("nonsense", ValueError), ("resnet50:conv9", ValueError), ("", ValueError),
    ],
    "passes": [
        ("forward", TypeError), ((), ValueError), (("backward",), ValueError), (None, TypeError), (3, TypeError),
    ],
    **{name: CHOICES[name] for name in ("algorithm", "backend", "tolerance")},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "error"), [(name, *bad) for name, bads in PLAN_BAD.items() for bad in bads], ids=str
)
def test_bad_plan(name, value, error):
    with pytest.raises(error):
        cf.plan(**{"problem": "n1c4k6i8x9f3x3", name: value})


def test_bad_plan_calls():
    plan = cf.plan("n2c4k6i8x9f3x3g2")
    with pytest.raises(ValueError, match="x must have shape"):
        plan(X[:1], W)
    with pytest.raises(TypeError, match=r"weight must be a numpy\.ndarray"):
        plan(X)
    with pytest.raises(ValueError, match="has no grad_input pass"):
        plan.grad_input(Y, W)
    with pytest.raises(ValueError, match="weight must have shape"):
        plan.prepare_weight(W[:3])
    pool = cf.plan("max:n2c4i8x9f2s2", passes=("forward", "grad_input"))
    with pytest.raises(ValueError, match="takes no weight"):
        pool(X, W)
    with pytest.raises(TypeError, match="indices must be"):
        pool.grad_input(POOLED)
    with pytest.raises(ValueError, match="no weight"):
        pool.prepare_weight(W)
    with pytest.raises(ValueError, match="pass must be one of"):
        pool.grad_weight(X, POOLED)
