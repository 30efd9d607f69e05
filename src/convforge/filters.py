"""Named image filters, as weights of shape (1, 1, height, width) for :func:`convforge.conv2d`.

conv2d correlates: a weight is laid over the image as it stands here. ``sobel_x`` is positive where the image grows
brighter from left to right, ``sobel_y`` from top to bottom. The derivatives are not normalised: on a slope of 1 per
pixel Sobel gives 8, Prewitt 6 and Scharr 32.
"""

from __future__ import annotations

import re
from math import exp

import numpy as np

# Derivatives: the smoothing across them, and so the rows of x's weight.
# Sobel and Feldman, "An isotropic 3x3 image gradient operator", Stanford AI Project, 1968.
_SOBEL = (1, 2, 1)
# Prewitt, "Object enhancement and extraction", in Picture Processing and Psychopictorics, 1970.
_PREWITT = (1, 1, 1)
# Scharr, "Optimale Operatoren in der digitalen Bildverarbeitung", Heidelberg, 2000: the least error of direction.
_SCHARR = (3, 10, 3)
_SMOOTHING = {"sobel": _SOBEL, "prewitt": _PREWITT, "scharr": _SCHARR}

# Second differences along both axes (the five-point stencil), and along the diagonals too (the eight neighbours).
# Gonzalez and Woods, "Digital Image Processing", section on the Laplacian.
_LAPLACIAN = {
    "laplacian": ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
    "laplacian_diagonal": ((1, 1, 1), (1, -8, 1), (1, 1, 1)),
}
_SIZED = re.compile(r"(box|gaussian)_([1-9][0-9]{0,3})", re.ASCII)

#: The names that :func:`named` takes, N being a size.
NAMES = (*(f"{each}_{axis}" for each in _SMOOTHING for axis in "xy"), *_LAPLACIAN, "box_N", "gaussian_N")


def named(name: str) -> np.ndarray:
    """The filter of this name.

    Parameters
    ----------
    name
        One of :data:`NAMES`, such as "sobel_x", "laplacian" or "gaussian_5".

    Returns
    -------
    ndarray
        Of shape (1, 1, height, width), float32, an array of its own.

    Raises
    ------
    ValueError
        There is no such filter.

    Examples
    --------
    >>> from convforge import filters
    >>> filters.named("sobel_x")[0, 0]
    array([[-1.,  0.,  1.],
           [-2.,  0.,  2.],
           [-1.,  0.,  1.]], dtype=float32)
    """
    family, _, axis = name.partition("_")
    if family in _SMOOTHING and axis in ("x", "y"):
        rows = np.outer(_SMOOTHING[family], (-1, 0, 1))
        return _weight(rows if axis == "x" else rows.T)
    if name in _LAPLACIAN:
        return _weight(_LAPLACIAN[name])
    sized = _SIZED.fullmatch(name)
    if sized is None:
        raise ValueError(f"a filter is one of {', '.join(NAMES)}, got {name!r}")
    size = int(sized[2])
    return box(size) if sized[1] == "box" else gaussian(size)


def box(size: int) -> np.ndarray:
    """The mean of ``size`` x ``size`` pixels.

    Parameters
    ----------
    size
        Pixels along each axis.

    Returns
    -------
    ndarray
        Of shape (1, 1, size, size), float32.

    Raises
    ------
    TypeError, ValueError
        ``size`` is no positive int.
    """
    _check_size(size)
    return _weight(np.full((size, size), 1 / size**2))


def gaussian(size: int, sigma: float | None = None) -> np.ndarray:
    """A Gaussian sampled at ``size`` x ``size`` pixels, with sum 1.

    Parameters
    ----------
    size
        Pixels along each axis.
    sigma
        Standard deviation in pixels; by default ``0.3 * ((size - 1) / 2 - 1) + 0.8``, OpenCV's rule for a size.

    Returns
    -------
    ndarray
        Of shape (1, 1, size, size), float32.

    Raises
    ------
    TypeError, ValueError
        ``size`` is no positive int, or ``sigma`` is not positive.
    """
    _check_size(size)
    if sigma is None:
        sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma!r}")
    row = np.array([exp(-((i - (size - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(size)])
    return _weight(np.outer(row, row) / row.sum() ** 2)


def _check_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"size must be an int, got {size!r} of type {type(size).__name__}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")


def _weight(rows: object) -> np.ndarray:
    return np.array(rows, np.float32)[None, None]
