"""Filters by what they do to images whose answer is known."""

import numpy as np
import pytest

import convforge as cf
from convforge import filters

COLUMN, ROW = np.meshgrid(np.arange(12.0, dtype=np.float32), np.arange(10.0, dtype=np.float32))


def applied(weight, image):
    return cf.conv2d(image[None, None].astype(np.float32), weight, backend="numpy")[0, 0]


@pytest.mark.parametrize(("family", "gain"), [("sobel", 8), ("prewitt", 6), ("scharr", 32)])
def test_derivatives_of_a_slope(family, gain):
    slope = 3 * COLUMN - 2 * ROW
    np.testing.assert_array_equal(applied(filters.named(f"{family}_x"), slope), 3 * gain)
    np.testing.assert_array_equal(applied(filters.named(f"{family}_y"), slope), -2 * gain)


@pytest.mark.parametrize(("name", "gain"), [("laplacian", 1), ("laplacian_diagonal", 3)])
def test_second_derivatives(name, gain):
    """x² + y² has the Laplacian 4; the eight neighbours see three times as much of it."""
    np.testing.assert_array_equal(applied(filters.named(name), COLUMN**2 + ROW**2), 4 * gain)
    np.testing.assert_array_equal(applied(filters.named(name), 5 * COLUMN - ROW + 2), 0)


def test_the_directions_are_the_transposes():
    for family in ("sobel", "prewitt", "scharr"):
        np.testing.assert_array_equal(filters.named(f"{family}_x")[0, 0].T, filters.named(f"{family}_y")[0, 0])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 31])
@pytest.mark.parametrize("family", ["box", "gaussian"])
def test_blurs(family, size):
    weight = filters.named(f"{family}_{size}")
    assert weight.shape == (1, 1, size, size)
    assert weight.dtype == np.float32
    assert weight.sum(dtype=float) == pytest.approx(1, abs=1e-6)
    plane = weight[0, 0]
    np.testing.assert_array_equal(plane, plane[::-1, ::-1])
    np.testing.assert_array_equal(plane, plane.T)
    assert np.linalg.matrix_rank(plane) == 1


def test_gaussian_has_its_variance():
    plane = filters.gaussian(41, sigma=3.0)[0, 0].astype(float)
    at = np.arange(41) - 20
    assert (plane.sum(axis=0) * at**2).sum() == pytest.approx(9, rel=1e-3)


def test_gaussians_default_width_is_opencvs():
    """What cv2.getGaussianKernel(9, 0.3 * 3 + 0.8) of OpenCV 5 gives; it rounds it to 1/256 where no width is named."""
    row = filters.gaussian(9)[0, 0].sum(axis=0)
    expected = [0.01483945, 0.04981729, 0.11832251, 0.198829, 0.23638351]
    np.testing.assert_allclose(row[:5], expected, rtol=1e-6)


def test_every_name_works_and_arrays_are_fresh():
    for name in filters.NAMES:
        weight = filters.named(name.replace("N", "3"))
        weight[...] = 0
        assert filters.named(name.replace("N", "3")).any()


@pytest.mark.parametrize("name", ["", "sobel", "sobel_z", "box_0", "gaussian_-3", "gaussian_", "box_٣", "laplacian_x"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="a filter is one of sobel_x"):
        filters.named(name)


def test_bad_arguments():
    with pytest.raises(ValueError, match="size must be at least 1"):
        filters.box(0)
    with pytest.raises(TypeError, match="size must be an int"):
        filters.gaussian(3.0)
    with pytest.raises(ValueError, match="sigma must be positive"):
        filters.gaussian(3, 0.0)
