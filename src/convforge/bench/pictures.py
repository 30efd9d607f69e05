"""Real pictures as arrays, and filters on them as problems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convforge import filters
from convforge.problem import ConvProblem

_SAMPLE = "sample:"
_SAMPLES = ("china", "flower")
#: Luma of ITU-R BT.601, as Pillow's own conversion to grey uses it.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def load_grey(name: str) -> np.ndarray:
    """A picture's luminance, of shape (height, width), float32 from 0 to 1.

    Parameters
    ----------
    name
        A file that Pillow reads, or ``sample:china`` or ``sample:flower``, photographs that scikit-learn carries.

    Raises
    ------
    ImportError
        Pillow or scikit-learn is not installed; the message says how to get it.
    OSError
        There is no such file, or it is no picture.
    ValueError
        There is no such sample.
    """
    pixels = _sample(name.removeprefix(_SAMPLE)) if name.startswith(_SAMPLE) else _file(name)
    return (pixels.astype(np.float32) @ _LUMA) / np.float32(255)


def _file(name: str) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures are read with Pillow: pip install 'convforge[image]'") from error
    if not Path(name).is_file():
        raise FileNotFoundError(f"there is no picture {name!r}")
    try:
        with Image.open(name) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"{name!r} cannot be read as a picture: {error}") from error


def _sample(name: str) -> np.ndarray:
    if name not in _SAMPLES:
        raise ValueError(f"a sample is one of {', '.join(_SAMPLE + each for each in _SAMPLES)}, got {_SAMPLE + name!r}")
    try:
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise ImportError("the samples come with scikit-learn: pip install 'convforge[image]'") from error
    pixels: np.ndarray = load_sample_image(f"{name}.jpg")
    return pixels


@dataclass(frozen=True)
class FilteredPicture:
    """A filter on a picture, as a convolution of one channel."""

    title: str
    problem: ConvProblem
    x: np.ndarray
    weight: np.ndarray


def filtered(picture: str, filter_name: str) -> FilteredPicture:
    """The problem of filtering a picture to its own size.

    Raises
    ------
    ImportError, OSError, ValueError
        As :func:`load_grey` and :func:`convforge.filters.named`.
    """
    weight = filters.named(filter_name)
    x = load_grey(picture)[None, None]
    kernel = weight.shape[2:]
    padding = tuple(((size - 1) // 2, size // 2) for size in kernel)
    problem = ConvProblem(n=1, c=1, k=1, input=x.shape[2:], kernel=kernel, padding=padding)
    return FilteredPicture(f"{filter_name} on {picture}", problem, x, weight)
