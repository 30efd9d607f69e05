"""The reference against loops over single numbers, SciPy, the adjoint identity and finite differences."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import signal

from convforge.kernels.numpy import reference
from convforge.models import corpus
from convforge.problem import ConvProblem, PoolProblem, parse
from tests.strategies import conv_problems, pool_problems

CONVS = [problem for problem in corpus() if problem.kind == "conv"]
POOLS = [problem for problem in corpus() if problem.kind != "conv"]


def conv_arrays(problem, seed=0):
    """Small integers: every sum is exact."""
    rng = np.random.default_rng(seed)
    shapes = (problem.input_shape, problem.weight_shape, (problem.k,), problem.output_shape)
    return [rng.integers(-4, 5, shape).astype(problem.dtype) for shape in shapes]


def terms(problem):
    """Every product of the direct sum, as the indices of its output, input and weight; None for padding."""
    per_group, outputs = problem.c // problem.groups, problem.k // problem.groups
    for n, k, c in product(range(problem.n), range(problem.k), range(per_group)):
        for o in np.ndindex(*problem.output):
            for tap in np.ndindex(*problem.kernel):
                at = tuple(
                    o[a] * problem.stride[a] - problem.padding[a][0] + tap[a] * problem.dilation[a]
                    for a in range(problem.ndim)
                )
                inside = all(0 <= at[a] < problem.input[a] for a in range(problem.ndim))
                yield (n, k, *o), (n, k // outputs * per_group + c, *at) if inside else None, (k, c, *tap)


def naive_conv(problem, x, weight, bias, grad_output):
    """All passes as plain loops."""
    out = np.zeros(problem.output_shape)
    grad_input, grad_weight = np.zeros(problem.input_shape), np.zeros(problem.weight_shape)
    for at_out, at_x, at_weight in terms(problem):
        if at_x is not None:
            out[at_out] += float(x[at_x]) * float(weight[at_weight])
            grad_input[at_x] += float(grad_output[at_out]) * float(weight[at_weight])
            grad_weight[at_weight] += float(grad_output[at_out]) * float(x[at_x])
    for k in range(problem.k):
        out[:, k] += float(bias[k])
    return out, grad_input, grad_weight


def check_conv(problem):
    x, weight, bias, grad_output = conv_arrays(problem)
    results = (
        reference.forward(problem, x, weight, bias),
        reference.grad_input(problem, weight, grad_output),
        reference.grad_weight(problem, x, grad_output),
    )
    for result, expected in zip(results, naive_conv(problem, x, weight, bias, grad_output), strict=True):
        assert result.dtype == problem.dtype
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("problem", [p for p in CONVS if p.flops() < 2e4], ids=str)
def test_conv_is_the_naive_loop(problem):
    check_conv(problem)


@settings(max_examples=60, deadline=None)
@given(conv_problems(most=5, channels=2).filter(lambda p: p.flops() < 5000))
def test_any_conv_is_the_naive_loop(problem):
    check_conv(problem)


@pytest.mark.parametrize("problem", [p for p in CONVS if p.flops() >= 2e4], ids=str)
def test_conv_is_scipys(problem):
    x, weight, _, _ = conv_arrays(problem)
    padded = np.pad(x, ((0, 0), (0, 0), *problem.padding))
    dilated = np.zeros(
        (*problem.weight_shape[:2], *(d * (f - 1) + 1 for f, d in zip(problem.kernel, problem.dilation, strict=True)))
    )
    dilated[(..., *(slice(None, None, d) for d in problem.dilation))] = weight
    expected = np.zeros(problem.output_shape)
    per_group, outputs = problem.c // problem.groups, problem.k // problem.groups
    subsampled = tuple(slice(None, None, s) for s in problem.stride)
    for n, k, c in product(range(problem.n), range(problem.k), range(per_group)):
        image = padded[n, k // outputs * per_group + c].astype(np.float64)
        expected[n, k] += signal.correlate(image, dilated[k, c], mode="valid", method="direct")[subsampled]
    np.testing.assert_array_equal(reference.forward(problem, x, weight), expected)


@pytest.mark.parametrize("problem", CONVS, ids=str)
def test_gradients_are_adjoint(problem):
    x, weight, _, grad_output = conv_arrays(problem)
    inner = np.vdot(reference.forward(problem, x, weight, dtype="float64"), grad_output.astype(np.float64))
    assert np.vdot(x, reference.grad_input(problem, weight, grad_output, "float64")) == inner
    assert np.vdot(weight, reference.grad_weight(problem, x, grad_output, "float64")) == inner


@pytest.mark.parametrize(
    "text",
    ["n2c2k4i5x4f3x2s2x1p1_0x0_1g2:bias:float64", "n1c2k2i6f3p1d2:float64", "avg:n1c2i5x6f3x2s2p1:exclude_pad:float64",
     "max:n1c2i5x6f3x2s2x1p1:indices:float64"],
)  # fmt: skip
def test_gradients_are_finite_differences(text):
    problem, rng, step = parse(text), np.random.default_rng(1), 1e-5
    x = rng.standard_normal(problem.input_shape)
    grad_output = rng.standard_normal(problem.output_shape)
    if problem.kind == "conv":
        weight, bias = rng.standard_normal(problem.weight_shape), rng.standard_normal(problem.k)
        losses = {
            "x": lambda x: np.vdot(grad_output, reference.forward(problem, x, weight, bias)),
            "weight": lambda weight: np.vdot(grad_output, reference.forward(problem, x, weight, bias)),
        }
        gradients = {
            "x": reference.grad_input(problem, weight, grad_output),
            "weight": reference.grad_weight(problem, x, grad_output),
        }
        points = {"x": x, "weight": weight}
    elif problem.kind == "max":
        losses = {"x": lambda x: np.vdot(grad_output, reference.max_pool(problem, x)[0])}
        gradients = {"x": reference.max_pool_backward(problem, grad_output, reference.max_pool(problem, x)[1])}
        points = {"x": x}
    else:
        losses = {"x": lambda x: np.vdot(grad_output, reference.avg_pool(problem, x))}
        gradients = {"x": reference.avg_pool_backward(problem, grad_output)}
        points = {"x": x}
    for name, loss in losses.items():
        point = points[name]
        for at in np.ndindex(*point.shape):
            up, down = point.copy(), point.copy()
            up[at] += step
            down[at] -= step
            assert gradients[name][at] == pytest.approx((loss(up) - loss(down)) / (2 * step), abs=1e-8)


def window(problem, o):
    """The pixels of one window in row-major order, and how many taps lie inside the padded input."""
    pixels, counted = [], 0
    for tap in np.ndindex(*problem.kernel):
        at = tuple(
            o[a] * problem.stride[a] - problem.padding[a][0] + tap[a] * problem.dilation[a] for a in range(problem.ndim)
        )
        if all(0 <= at[a] < problem.input[a] for a in range(problem.ndim)):
            pixels.append(at)
        counted += all(at[a] < problem.input[a] + problem.padding[a][1] for a in range(problem.ndim))
    return pixels, counted


def naive_max(problem, x, grad_output):
    values, indices = np.zeros(problem.output_shape), np.zeros(problem.output_shape, np.int64)
    grad_input = np.zeros(problem.input_shape)
    for n, c in np.ndindex(problem.n, problem.c):
        for o in np.ndindex(*problem.output):
            pixels, _ = window(problem, o)
            best = pixels[0]
            for at in pixels[1:]:
                value, leader = x[(n, c, *at)], x[(n, c, *best)]
                if value > leader or (math.isnan(value) and not math.isnan(leader)):
                    best = at
            values[(n, c, *o)] = x[(n, c, *best)]
            flat = 0
            for position, size in zip(best, problem.input, strict=True):
                flat = flat * size + position
            indices[(n, c, *o)] = flat
            grad_input[(n, c, *best)] += grad_output[(n, c, *o)]
    return values, indices, grad_input


def naive_avg(problem, x, grad_output):
    values, grad_input = np.zeros(problem.output_shape), np.zeros(problem.input_shape)
    for n, c in np.ndindex(problem.n, problem.c):
        for o in np.ndindex(*problem.output):
            pixels, counted = window(problem, o)
            divisor = problem.divisor_override or (counted if problem.count_include_pad else len(pixels))
            values[(n, c, *o)] = sum(float(x[(n, c, *at)]) for at in pixels) / divisor
            for at in pixels:
                grad_input[(n, c, *at)] += float(grad_output[(n, c, *o)]) / divisor
    return values, grad_input


def check_pool(problem, seed=0):
    """Few distinct values, so that many maxima tie."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, problem.input_shape).astype(problem.dtype)
    grad_output = rng.integers(-4, 5, problem.output_shape).astype(problem.dtype)
    if problem.kind == "max":
        values, indices = reference.max_pool(problem, x)
        expected, expected_indices, expected_gradient = naive_max(problem, x, grad_output)
        assert indices.dtype == np.int64
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(indices, expected_indices)
        gradient = reference.max_pool_backward(problem, grad_output, indices)
        np.testing.assert_array_equal(gradient, expected_gradient)
    else:
        values = reference.avg_pool(problem, x)
        expected, expected_gradient = naive_avg(problem, x, grad_output)
        np.testing.assert_allclose(reference.avg_pool(problem, x, "float64"), expected, rtol=1e-14, atol=1e-14)
        gradient = reference.avg_pool_backward(problem, grad_output)
        eps = 8 * np.finfo(problem.dtype).eps
        np.testing.assert_allclose(values, expected, rtol=eps, atol=eps)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=eps, atol=eps)
    assert values.dtype == gradient.dtype == problem.dtype


@pytest.mark.parametrize("problem", POOLS, ids=str)
def test_pool_is_the_naive_loop(problem):
    check_pool(problem)


@settings(max_examples=60, deadline=None)
@given(pool_problems(most=6).filter(lambda p: p.flops() < 5000))
def test_any_pool_is_the_naive_loop(problem):
    check_pool(problem)


@pytest.mark.parametrize("kernel", range(1, 5))
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_small_pools_one_and_all(kind, kernel):
    checked = 0
    for size, stride, before, after, dilation, ceil_mode, include in product(
        range(1, 8), range(1, 5), range(3), range(3), range(1, 4), (False, True), (False, True)
    ):
        if (kind == "max" and not include) or (kind == "avg" and dilation > 1):
            continue
        try:
            problem = PoolProblem(
                kind, 1, 1, (size,), (kernel,), (stride,), ((before, after),), (dilation,), ceil_mode, include
            )
        except ValueError:
            continue
        check_pool(problem, seed=checked)
        checked += 1
    assert checked > 100


def test_nan_and_ties_of_a_maximum():
    nan, inf = np.nan, np.inf
    problem = parse("max:n1c1i6f3:indices")
    for row, values, indices in (
        ([1, 1, 1, 0, 2, 2], [1, 1, 2, 2], [0, 1, 4, 4]),
        ([1, nan, 2, nan, 3, 0], [nan, nan, nan, nan], [1, 1, 3, 3]),
        ([-inf, -inf, -inf, inf, nan, inf], [-inf, inf, nan, nan], [0, 3, 4, 4]),
        ([-0.0, 0.0, 0.0, -0.0, 0.0, -0.0], [0, 0, 0, 0], [0, 1, 2, 3]),
    ):
        found, at = reference.max_pool(problem, np.array([[row]], np.float32))
        np.testing.assert_array_equal(found[0, 0], np.array(values, np.float32))
        np.testing.assert_array_equal(at[0, 0], indices)


def test_a_maximum_never_comes_from_the_padding():
    values, indices = reference.max_pool(parse("max:n1c1i2x2f3x3p1:indices"), np.full((1, 1, 2, 2), -5.0, np.float32))
    assert (values == -5).all()
    assert indices.ravel().tolist() == [0, 0, 0, 0]


def test_gradients_of_equal_indices_add_up():
    gradient = reference.max_pool_backward(
        parse("max:n1c1i4f3"), np.array([[[1.0, 2.0]]], np.float32), np.array([[[2, 2]]])
    )
    assert gradient.tolist() == [[[0, 0, 3, 0]]]


def test_padding_takes_part_in_the_sum():
    nan, inf = np.nan, np.inf
    problem = parse("n1c1k1i4f3p1:float64")
    x = np.array([[[1.0, 2, 3, 4]]])
    out = reference.forward(problem, x, np.array([[[inf, 0, 0]]]))
    np.testing.assert_array_equal(out, [[[nan, inf, inf, inf]]])
    x[0, 0, 1] = inf
    out = reference.forward(problem, x, np.array([[[1.0, 0, 1]]]))
    np.testing.assert_array_equal(out, [[[inf, nan, inf, 3]]])
    gradient = reference.grad_weight(problem, x, np.array([[[inf, 0, 0, 0]]]))
    np.testing.assert_array_equal(gradient, [[[nan, nan, inf]]])
    gradient = reference.grad_input(problem, np.array([[[inf, 1, 1]]]), np.ones((1, 1, 4)))
    np.testing.assert_array_equal(gradient, [[[inf, inf, inf, nan]]])


def test_overflow_is_infinite_and_silent():
    problem = parse("n1c2k1i3f1")
    x = np.full((1, 2, 3), 3e38, np.float32)
    weight = np.ones((1, 2, 1), np.float32)
    assert np.isinf(reference.forward(problem, x, weight)).all()
    assert np.isfinite(reference.forward(problem, x, weight, dtype="float64")).all()


def test_sums_are_float64():
    problem = parse("n1c3k1i1f1")
    x = np.array([[[1e8], [1], [-1e8]]], np.float32)
    assert reference.forward(problem, x, np.ones((1, 3, 1), np.float32)).item() == 1


def test_a_stride_costs_no_memory():
    problem = ConvProblem(1, 1, 1, (3,), (1,), (1 << 39,))
    assert reference.forward(problem, np.ones((1, 1, 3)), np.ones((1, 1, 1))).tolist() == [[[1]]]
    assert reference.grad_input(problem, np.ones((1, 1, 1)), np.ones((1, 1, 1))).tolist() == [[[1, 0, 0]]]


def test_inputs_are_left_alone_and_views_are_read():
    problem = parse("n2c2k2i6x5f3x3p1")
    x, weight, bias, grad_output = conv_arrays(problem)
    wide = np.repeat(x[..., ::-1], 2, axis=-1)
    view = wide[..., ::-2]
    for array in (wide, weight, bias, grad_output):
        array.flags.writeable = False
    np.testing.assert_array_equal(
        reference.forward(problem, view, weight, bias), reference.forward(problem, x, weight, bias)
    )
    np.testing.assert_array_equal(
        reference.grad_weight(problem, view, grad_output), reference.grad_weight(problem, x, grad_output)
    )


@pytest.mark.parametrize("pass_", ["forward", "grad_input", "grad_weight"])
def test_an_empty_batch(pass_):
    problem = parse("n0c2k3i5x5f3x3p1")
    x, weight, _, grad_output = conv_arrays(problem)
    result = {
        "forward": lambda: reference.forward(problem, x, weight),
        "grad_input": lambda: reference.grad_input(problem, weight, grad_output),
        "grad_weight": lambda: reference.grad_weight(problem, x, grad_output),
    }[pass_]()
    if pass_ == "grad_weight":
        assert not result.any()
        assert result.shape == problem.weight_shape
    else:
        assert result.size == 0
