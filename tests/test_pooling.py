"""Pooling kernels against naive loops: every small window on every small input; and what only large ones reach."""

from itertools import product
from math import inf, nan, prod

import numpy as np
import pytest

import convforge as cf
from convforge.algorithms import pooling
from convforge.plan import Plan
from convforge.problem import PoolProblem
from convforge.registry import backend_missing

from . import calls

BACKENDS = [backend for backend in ("cython", "numba") if backend_missing(backend) is None]
POLICY = pooling.POLICIES[0]


# The rules once more, from what the documentation says, one axis at a time.


def starts_of(size, kernel, stride, before, after, dilation, ceil_mode):
    """Where the windows of one axis start.

    They follow each other while they fit into the padded input; with ``ceil_mode`` while the one before left
    something of it uncovered, and they start inside the input or its padding before.
    """
    span = dilation * (kernel - 1) + 1
    starts = []
    start = -before
    while start < size and start - stride + span < size + after if ceil_mode else start + span <= size + after:
        starts.append(start)
        start += stride
    return starts


def inside(start, axis):
    """The pixels of a window along an axis."""
    size, kernel, dilation = axis[0], axis[1], axis[5]
    return [at for at in range(start, start + kernel * dilation, dilation) if 0 <= at < size]


def is_valid(axis, ceil_mode):
    _, kernel, _, before, after, dilation = axis
    starts = starts_of(*axis, ceil_mode)
    fits = max(before, after) <= (dilation * (kernel - 1) + 1) // 2
    return fits and bool(starts) and all(inside(start, axis) for start in starts)


def naive_max(x, axes, ceil_mode):
    """Maxima and their flat indices, of an array of planes."""
    rows, columns = (starts_of(*axis, ceil_mode) for axis in axes)
    values = np.empty((*x.shape[:2], len(rows), len(columns)), x.dtype)
    indices = np.empty(values.shape, np.int64)
    for n, c, i, j in np.ndindex(*values.shape):
        best = None
        for at in product(inside(rows[i], axes[0]), inside(columns[j], axes[1])):
            value = x[(n, c, *at)]
            if best is None or value > best or (np.isnan(value) and not np.isnan(best)):
                best = value
                indices[n, c, i, j] = at[0] * x.shape[3] + at[1]
        values[n, c, i, j] = best
    return values, indices


def naive_avg(x, grad_output, axes, ceil_mode, include, override):
    """Means of integers, and the gradient by the input."""
    rows, columns = (starts_of(*axis, ceil_mode) for axis in axes)
    values = np.empty((*x.shape[:2], len(rows), len(columns)), x.dtype)
    gradient = np.zeros(x.shape)
    for n, c, i, j in np.ndindex(*values.shape):
        divisor = 1
        for start, (size, kernel, _, _, after, _) in zip((rows[i], columns[j]), axes, strict=True):
            first, end = (start, size + after) if include else (max(start, 0), size)
            divisor *= min(start + kernel, end) - first
        divisor = x.dtype.type(override or divisor)
        window = np.ix_(inside(rows[i], axes[0]), inside(columns[j], axes[1]))
        values[n, c, i, j] = x[n, c][window].sum() / divisor
        gradient[n, c][window] += np.float64(grad_output[n, c, i, j]) / divisor
    return values, gradient


# One kernel size, all else: (size, kernel, stride, before, after, dilation)
AXES = {
    kernel: list(product(range(1, 8), [kernel], range(1, 5), range(4), range(4), range(1, 4))) for kernel in range(1, 5)
}


def pairs_of_axes(kernel, ceil_mode, dilated):
    """Every valid axis with this kernel, each beside another that is drawn from all of them."""
    every = [a for axes in AXES.values() for a in axes if is_valid(a, ceil_mode) and (dilated or a[5] == 1)]
    rng = np.random.default_rng(kernel)
    for number, axis in enumerate(a for a in every if a[1] == kernel):
        other = every[rng.integers(len(every))]
        yield number, (axis, other) if number % 2 else (other, axis)


def problem_of(kind, axes, dtype, **options):
    sizes, kernels, strides, befores, afters, dilations = zip(*axes, strict=True)
    padding = tuple(zip(befores, afters, strict=True))
    return PoolProblem(kind, 1, 2, sizes, kernels, strides, padding, dilations, dtype=dtype, **options)


def plans(problem):
    return [Plan(problem, problem.passes, "direct", backend) for backend in BACKENDS]


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kernel", AXES)
def test_which_windows_are_valid(kernel, ceil_mode):
    for axis in AXES[kernel]:
        if is_valid(axis, ceil_mode):
            problem = problem_of("max", (axis, axis), "float32", ceil_mode=ceil_mode)
            assert problem.output == (len(starts_of(*axis, ceil_mode)),) * 2, axis
        else:
            with pytest.raises(ValueError, match=r"padding|kernel_size|dilation"):
                problem_of("max", (axis, axis), "float32", ceil_mode=ceil_mode)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kernel", AXES)
def test_max_grid(kernel, ceil_mode):
    """Few distinct values, so that many tie; NaN in every third case, -inf nearly everywhere in another third."""
    rng = np.random.default_rng(kernel)
    for number, axes in pairs_of_axes(kernel, ceil_mode, dilated=True):
        problem = problem_of("max", axes, ("float32", "float64")[number % 2], ceil_mode=ceil_mode, indices=True)
        x = rng.integers(-2, 3, problem.input_shape).astype(problem.dtype)
        if number % 3:
            x[rng.random(x.shape) < (0.2, 0.8)[number % 3 - 1]] = (nan, -inf)[number % 3 - 1]
        expected, expected_indices = naive_max(x, axes, ceil_mode)
        grad_output = rng.integers(-4, 5, problem.output_shape).astype(problem.dtype)
        gradient = np.zeros((problem.c, prod(problem.input)), problem.dtype)
        np.add.at(gradient, (np.arange(problem.c)[:, None, None], expected_indices[0]), grad_output[0])
        for plan in plans(problem):
            values, indices = plan(x, out=calls.poisoned_out(problem, "forward"))
            np.testing.assert_array_equal(values, expected, str(plan))
            np.testing.assert_array_equal(indices, expected_indices, str(plan))
            result = plan.grad_input(grad_output, indices=indices, out=calls.poisoned_out(problem, "grad_input"))
            np.testing.assert_array_equal(result.reshape(gradient.shape), gradient, str(plan))
        for plan in plans(problem_of("max", axes, problem.dtype, ceil_mode=ceil_mode)):
            np.testing.assert_array_equal(plan(x, out=calls.poisoned_out(problem, "forward")), expected, str(plan))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kernel", AXES)
def test_avg_grid(kernel, ceil_mode):
    rng = np.random.default_rng(kernel)
    divisors = [(True, None), (False, None), (True, 3)]
    for (number, axes), (include, override) in product(pairs_of_axes(kernel, ceil_mode, dilated=False), divisors):
        problem = problem_of(
            "avg", axes, ("float32", "float64")[number % 2], ceil_mode=ceil_mode, count_include_pad=include,
            divisor_override=override,
        )  # fmt: skip
        x = rng.integers(-9, 10, problem.input_shape).astype(problem.dtype)
        grad_output = rng.integers(-4, 5, problem.output_shape).astype(problem.dtype)
        expected, gradient = naive_avg(x, grad_output, axes, ceil_mode, include, override)
        for plan in plans(problem):
            values = plan(x, out=calls.poisoned_out(problem, "forward"))
            np.testing.assert_array_equal(values, expected, str(plan))
            result = plan.grad_input(grad_output, out=calls.poisoned_out(problem, "grad_input"))
            np.testing.assert_allclose(
                result, gradient, rtol=0, atol=64 * np.finfo(problem.dtype).eps, err_msg=str(plan)
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_nan_and_infinities(backend):
    for row, maxima, places in (
        ([1, 1, 1, 0, 2, 2], [1, 1, 2, 2], [0, 1, 4, 4]),
        ([1, nan, 2, nan, 3, 0], [nan, nan, nan, nan], [1, 1, 3, 3]),
        ([-inf, -inf, -inf, inf, nan, inf], [-inf, inf, nan, nan], [0, 3, 4, 4]),
        ([-0.0, 0.0, 0.0, -0.0, 0.0, -0.0], [0, 0, 0, 0], [0, 1, 2, 3]),
    ):
        x = np.array([[row]], np.float32)
        values, indices = cf.max_pool2d(x, (1, 3), 1, algorithm="direct", backend=backend, return_indices=True)
        np.testing.assert_array_equal(values[0, 0], np.array(maxima, np.float32))
        np.testing.assert_array_equal(indices[0, 0], places)


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_of_equals_is_the_first_row_by_row(backend):
    """Rows are joined before columns: the tie is not decided by the column that is met first."""
    x = np.array([[[0, 0, 7], [7, 0, 0], [0, 7, 0]]], np.float32)
    for dtype in ("float32", "float64"):
        values, indices = cf.max_pool2d(
            x.astype(dtype), 3, algorithm="direct", backend=backend, return_indices=True
        )  # fmt: skip
        assert (values.item(), indices.item()) == (7, 2)
        _, indices = cf.max_pool2d(
            np.where(x == 7, nan, x).astype(dtype), 3, algorithm="direct", backend=backend, return_indices=True
        )
        assert indices.item() == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_never_wins(backend):
    x = np.full((1, 3, 4), -inf, np.float32)
    values, indices = cf.max_pool2d(
        x, 3, 2, 1, ceil_mode=True, algorithm="direct", backend=backend, return_indices=True
    )
    assert (values == -inf).all()
    np.testing.assert_array_equal(indices[0], [[0, 1, 3], [4, 5, 7]])


# Blocks of rows and columns, strides of more than a vector, windows of more than a vector, planes of one column
LARGE = [
    "n1c1i3x1500f3x3p1", "n2c1i2x1400f2x3s1x2p0x1", "n1c2i5x1300f2x2s3", "n1c1i300x200f3x3s2p1",
    "n1c2i40x200f9x40s5x25p4x20", "n1c2i70x71f35x35s35x36", "n2c3i50x1f5x1s2x1p2x0", "n1c1i1x5000f1x7s1x11p0x3:ceil",
    "n3c40i7x7f7x7", "n1c1i90x90f33x33s1", "n1c1i20x3000f2x1200s2x900p1x600:ceil", "n1c2i33x65f3x3s2p1:float64",
    "n1c1i4x800f3x3p1:float64",
]  # fmt: skip


@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_large(kind, size, rng):
    problem = cf.parse(f"{kind}:{size}{':indices' if kind == 'max' else ''}")
    arrays = calls.arrays_for(problem, rng)
    for plan in plans(problem):
        for pass_ in problem.passes:
            y, expected = (
                each if isinstance(each, tuple) else (each,)
                for each in (
                    calls.call(plan, pass_, arrays, calls.poisoned_out(problem, pass_)),
                    calls.exact(problem, pass_, arrays),
                )
            )
            assert calls.relative_error(y[0], expected[0]) <= POLICY.error(problem, pass_), str(plan)
            if len(y) == 2:
                np.testing.assert_array_equal(y[1], expected[1], str(plan))


def test_dilated_windows_of_wide_rows(rng):
    problem = cf.parse("max:n1c2i40x1600f3x5s2x1p4x10d4x5:indices")
    arrays = calls.arrays_for(problem, rng, integers=True)
    expected = calls.exact(problem, "forward", arrays)
    for plan in plans(problem):
        for y, wanted in zip(calls.call(plan, "forward", arrays), expected, strict=True):
            np.testing.assert_array_equal(y, wanted)


ADJOINT = ["n2c3i17x40f3x3s2p1", "n2c3i16x33f2x2:ceil", "n1c3i20x20f4x5s3x2p2x1:exclude_pad", "n1c2i30x30f3s5:float64"]


@pytest.mark.parametrize("text", ADJOINT)
def test_adjoint_identities(text, rng):
    """<pool(x), y> = <x, pool_backward(y)>: an average is linear, a maximum is a selection."""
    for kind in ("avg",) if "exclude" in text else ("avg", "max"):
        problem = cf.parse(f"{kind}:{text}{':indices' if kind == 'max' else ''}")
        shapes = (problem.input_shape, problem.output_shape)
        x, grad_output = (rng.standard_normal(shape).astype(problem.dtype) for shape in shapes)
        for plan in plans(problem):
            y, indices = plan(x) if kind == "max" else (plan(x), None)
            back = plan.grad_input(grad_output, indices=indices)
            left, right = (np.vdot(a.astype(float), b.astype(float)) for a, b in ((y, grad_output), (x, back)))
            scale = np.linalg.norm(y) * np.linalg.norm(grad_output)
            assert abs(left - right) <= 8 * np.finfo(problem.dtype).eps * scale


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_finite_differences(kind, backend, rng):
    x = rng.permutation(2 * 6 * 7).reshape(1, 2, 6, 7).astype(float)  # far apart: no step changes which one is largest
    problem = cf.parse(f"{kind}:n1c2i6x7f3x2s2x1p1:float64{':indices' if kind == 'max' else ''}")
    plan = Plan(problem, problem.passes, "direct", backend)
    grad_output = rng.standard_normal(problem.output_shape)

    def loss(x):
        y = plan(x)
        return np.vdot(y[0] if kind == "max" else y, grad_output)

    gradient = plan.grad_input(grad_output, indices=plan(x)[1] if kind == "max" else None)
    for at in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[at] = 1e-3
        assert (loss(x + step) - loss(x - step)) / 2e-3 == pytest.approx(gradient[at], abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides(backend, rng):
    wide = rng.standard_normal((2, 3, 20, 60)).astype(np.float32)
    options = {"algorithm": "direct", "backend": backend}
    for x in (wide[:, :, 3:15, 5:44], wide[:, ::-1, ::-2], wide[..., ::-1], wide[..., ::3], wide.transpose(1, 0, 3, 2)):
        copy = np.ascontiguousarray(x)
        y, indices = cf.max_pool2d(copy, 3, 2, 1, return_indices=True, **options)
        canvas = np.zeros((*y.shape[:2], y.shape[2] * 2, y.shape[3] + 3), np.float32)
        for out in (None, canvas[:, :, ::2, 2:-1]):
            np.testing.assert_array_equal(cf.max_pool2d(x, 3, 2, 1, out=out, **options), y)
        mean = cf.avg_pool2d(copy, 3, 2, 1, **options)
        np.testing.assert_array_equal(cf.avg_pool2d(x, 3, 2, 1, **options), mean)
        back = cf.max_pool2d_backward(y, indices, x.shape, backend=backend)
        apart = (np.stack([a, a], -1)[..., 0] for a in (y, indices))
        pairs = np.full((*x.shape, 2), nan, np.float32)
        cf.max_pool2d_backward(*apart, x.shape, backend=backend, out=pairs[..., 1])
        np.testing.assert_array_equal(pairs[..., 1], back)
        assert np.isnan(pairs[..., 0]).all()
        rows = np.full((*x.shape[:3], x.shape[3] + 5), nan, np.float32)[..., 2:-3]
        cf.max_pool2d_backward(y, indices, x.shape, backend=backend, out=rows)
        np.testing.assert_array_equal(rows, back)


@pytest.mark.parametrize("backend", BACKENDS)
def test_indices_outside_the_plane_are_an_error(backend):
    y, indices = cf.max_pool2d(np.ones((1, 2, 4, 4), np.float32), 2, return_indices=True)
    for wrong in (-1, 16, 1 << 40):
        tampered = indices.copy()
        tampered[0, 1, 1, 1] = wrong
        with pytest.raises(ValueError, match="indices must lie in"):
            cf.max_pool2d_backward(y, tampered, (1, 2, 4, 4), backend=backend)


def test_refusals():
    assert POLICY.refuses(cf.parse("n1c1k1i4f2"), "forward") == "not a pooling problem"
    assert "1-D" in POLICY.refuses(cf.parse("max:n1c1i4f2"), "forward")
    # places within a window are exact numbers of the dtype
    assert "too many" in POLICY.refuses(cf.parse("max:n1c1i9000x9000f9000:indices"), "forward")
    for fine in ("max:n1c1i9000x9000f9000", "max:n1c1i9000x9000f9000:indices:float64", "max:n1c1i9000x9000f3:indices"):
        assert POLICY.refuses(cf.parse(fine), "forward") is None
    assert "scratch" in POLICY.refuses(cf.parse("max:n1c1i4x4f2000000000p1000000000"), "forward")
