"""Arrays of any layout in, the same answer out; inputs are never written to."""

import numpy as np
import pytest

import convforge as cf


def _strided(array, axis):
    wide = np.repeat(array, 2, axis=axis)
    return wide[(slice(None),) * axis + (slice(None, None, 2),)]


def _unaligned(array):
    memory = np.empty(array.nbytes + 1, np.uint8)
    copy = memory[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _byte_swapped(array):
    return array.astype(array.dtype.newbyteorder())


def _read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def _odd_strides(array):
    """Strides that are no multiple of the item size, as a field of a packed record has."""
    record = np.zeros(array.shape, np.dtype([("pad", np.uint8), ("value", array.dtype)]))
    record["value"] = array
    return record["value"]


LAYOUTS = {
    "fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2),
    "channels_last": lambda a: np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "every_second_image": lambda a: _strided(a, 0),
    "every_second_channel": lambda a: _strided(a, 1),
    "every_second_row": lambda a: _strided(a, 2),
    "every_second_column": lambda a: _strided(a, 3),
    "negative_rows": lambda a: a[:, :, ::-1].copy()[:, :, ::-1],
    "negative_columns": lambda a: a[..., ::-1].copy()[..., ::-1],
    "unaligned": _unaligned,
    "byte_swapped": _byte_swapped,
    "read_only": _read_only,
    "odd_strides": _odd_strides,
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_bits(layout, dtype, rng):
    x = rng.standard_normal((2, 6, 9, 11)).astype(dtype)
    weight = rng.standard_normal((4, 3, 3, 3)).astype(dtype)
    make = LAYOUTS[layout]
    y = cf.conv2d(x, weight, padding=1, groups=2)
    given_x, given_weight = make(x), make(weight)
    before = given_x.copy(), given_weight.copy()
    np.testing.assert_array_equal(cf.conv2d(given_x, given_weight, padding=1, groups=2), y)
    grad_output = rng.standard_normal(y.shape).astype(dtype)
    expected = cf.conv2d_backward(grad_output, x, weight, padding=1, groups=2)
    for got, want in zip(
        cf.conv2d_backward(make(grad_output), given_x, given_weight, padding=1, groups=2), expected, strict=True
    ):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, rtol=1e-6 if got.ndim == 1 else 0)
    maxima, indices = cf.max_pool2d(x, 3, 2, 1, return_indices=True)
    given_maxima, given_indices = cf.max_pool2d(given_x, 3, 2, 1, return_indices=True)
    np.testing.assert_array_equal(given_maxima, maxima)
    np.testing.assert_array_equal(given_indices, indices)
    gradient = cf.max_pool2d_backward(maxima, indices, x.shape)
    np.testing.assert_array_equal(cf.max_pool2d_backward(make(maxima), make(indices), x.shape), gradient)
    np.testing.assert_array_equal(cf.avg_pool2d(given_x, 2), cf.avg_pool2d(x, 2))
    np.testing.assert_array_equal(given_x, before[0])
    np.testing.assert_array_equal(given_weight, before[1])


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "read_only"])
def test_out_of_any_layout_is_filled(layout, rng):
    x = rng.standard_normal((2, 6, 9, 12)).astype(np.float32)
    weight = rng.standard_normal((8, 6, 3, 3)).astype(np.float32)
    y = cf.conv2d(x, weight, padding=1)
    out = LAYOUTS[layout](np.full_like(y, np.nan))
    if layout == "byte_swapped":
        assert out.dtype.byteorder != y.dtype.byteorder
    assert cf.conv2d(x, weight, padding=1, out=out) is out
    np.testing.assert_array_equal(out, y)
    gradient = cf.conv2d_grad_weight(x, weight.shape, y, padding=1)
    out = LAYOUTS[layout](np.full_like(gradient, np.nan))
    assert cf.conv2d_grad_weight(x, weight.shape, y, padding=1, out=out) is out
    np.testing.assert_array_equal(out, gradient)


def test_broadcast_input(rng):
    row = rng.standard_normal((1, 1, 1, 10)).astype(np.float32)
    x = np.broadcast_to(row, (2, 3, 7, 10))
    weight = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(cf.conv2d(x, weight), cf.conv2d(x.copy(), weight))


def test_unbatched_in_unbatched_out(rng):
    x = rng.standard_normal((3, 8, 8)).astype(np.float32)
    weight = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    y = cf.conv2d(x, weight)
    assert y.shape == (4, 6, 6)
    np.testing.assert_array_equal(y, cf.conv2d(x[None], weight)[0])
    out = np.empty_like(y)
    assert cf.conv2d(x, weight, out=out) is out
    np.testing.assert_array_equal(out, y)
    grads = cf.conv2d_backward(y, x, weight)
    assert [g.shape for g in grads] == [x.shape, weight.shape, (4,)]
    maxima, indices = cf.max_pool2d(x, 2, return_indices=True)
    assert maxima.shape == indices.shape == (3, 4, 4)
    assert cf.max_pool2d_backward(maxima, indices, x.shape).shape == x.shape
    assert cf.avg_pool2d(x, 2).shape == (3, 4, 4)
    assert cf.avg_pool2d_backward(maxima, x.shape, 2).shape == x.shape


def test_zero_images():
    x = np.empty((0, 3, 8, 8), np.float32)
    weight = np.ones((4, 3, 3, 3), np.float32)
    y = cf.conv2d(x, weight)
    assert y.shape == (0, 4, 6, 6)
    grad_input, grad_weight, grad_bias = cf.conv2d_backward(y, x, weight)
    assert grad_input.shape == x.shape
    np.testing.assert_array_equal(grad_weight, np.zeros_like(weight))
    np.testing.assert_array_equal(grad_bias, np.zeros(4, np.float32))
    maxima, indices = cf.max_pool2d(x, 2, return_indices=True)
    assert maxima.shape == indices.shape == (0, 3, 4, 4)
    assert cf.max_pool2d_backward(maxima, indices, x.shape).shape == x.shape
    assert cf.avg_pool2d_backward(cf.avg_pool2d(x, 2), x.shape, 2).shape == x.shape
