"""Edges in a photograph: the magnitude of the Sobel gradient, saved as a PNG.

Sobel's two filters are the two output channels of one convolution with one input channel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

import convforge as cf
from convforge import filters

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def read_grey(photo: str) -> np.ndarray:
    """Return a photograph, a file or one of scikit-learn's, as grey values in 0 ... 1 of shape (height, width)."""
    if photo in ("china", "flower"):
        rgb = load_sample_image(f"{photo}.jpg")
    else:
        rgb = np.asarray(Image.open(photo).convert("RGB"))
    return rgb.astype(np.float32) / 255 @ LUMA


def sobel_magnitude(grey: np.ndarray) -> np.ndarray:
    """Return the length of the gradient at every pixel but the outermost."""
    weight = np.concatenate([filters.named("sobel_x"), filters.named("sobel_y")])
    horizontal, vertical = cf.conv2d(grey[None], weight)
    return np.hypot(horizontal, vertical)


def main() -> None:
    """Read a photograph, find its edges, write them."""
    parser = argparse.ArgumentParser(description="Draw the edges of a photograph (Sobel's gradient magnitude).")
    parser.add_argument("photo", nargs="?", default="china", help="china, flower or an image file (default: china)")
    parser.add_argument("-o", "--output", type=Path, default=Path("edges.png"), help="where to write (edges.png)")
    options = parser.parse_args()

    edges = sobel_magnitude(read_grey(options.photo))
    scaled = np.clip(edges * (255 / np.percentile(edges, 99.5)), 0, 255)
    Image.fromarray(scaled.astype(np.uint8)).save(options.output)
    height, width = edges.shape
    row, column = np.unravel_index(edges.argmax(), edges.shape)
    print(f"{width} x {height} pixels, the steepest edge {edges.max():.2f} at row {row}, column {column}")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
