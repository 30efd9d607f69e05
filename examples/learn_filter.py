"""Learn a filter from examples: given images and their Sobel edges, gradient descent finds Sobel's 3x3 weights.

The loss is the mean squared error of the output; ``conv2d_grad_weight`` gives its gradient by the filter.
"""

from __future__ import annotations

import argparse

import numpy as np

import convforge as cf
from convforge import filters

SOBEL = filters.named("sobel_x")


def learn(images: np.ndarray, targets: np.ndarray, steps: int, rate: float) -> np.ndarray:
    """Return the 3x3 filter that turns ``images`` into ``targets``, found from zero by gradient descent."""
    weight = np.zeros_like(SOBEL)
    for step in range(steps):
        error = cf.conv2d(images, weight) - targets
        if step % 10 == 0:
            print(f"step {step:3}  loss {np.mean(error**2):.3e}")
        weight -= rate * cf.conv2d_grad_weight(images, weight.shape, 2 / error.size * error)
    return weight


def main() -> None:
    """Make input and output pairs, learn the filter between them, print it beside the true one."""
    parser = argparse.ArgumentParser(description="Recover Sobel's filter from input and output pairs.")
    parser.add_argument("--steps", type=int, default=50, help="steps of gradient descent (default: 50)")
    parser.add_argument("--rate", type=float, default=0.3, help="learning rate (default: 0.3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random images (default: 0)")
    options = parser.parse_args()

    images = np.random.default_rng(options.seed).standard_normal((8, 1, 64, 64)).astype(np.float32)
    targets = cf.conv2d(images, SOBEL)
    weight = learn(images, targets, options.steps, options.rate)
    print(f"the filter learned:\n{weight[0, 0].round(4) + 0}")
    print(f"largest error {np.abs(weight - SOBEL).max():.1e}")


if __name__ == "__main__":
    main()
