"""A small CNN, [[CONV-RELU]*N-POOL]*M-[FC-RELU]*K-FC, trained on handwritten digits (scikit-learn's, 8 x 8 pixels).

convforge does the convolutions and pools of both directions; the fully connected layers are NumPy matrix products.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import convforge as cf

CLASSES = 10


class Conv:
    """3x3 convolution that keeps the image's size."""

    def __init__(self, rng: np.random.Generator, inputs: int, outputs: int) -> None:
        self.parameters = [_he(rng, (outputs, inputs, 3, 3), 9 * inputs), np.zeros(outputs, np.float32)]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return the convolution."""
        self.x = x
        return cf.conv2d(x, *self.parameters, padding=1)

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Return the gradient by x, and keep those by weight and bias."""
        grad_x, *self.gradients = cf.conv2d_backward(gradient, self.x, self.parameters[0], padding=1)
        return grad_x


class Pool:
    """Maximum over windows of 2 x 2."""

    parameters: tuple[np.ndarray, ...] = ()
    gradients: tuple[np.ndarray, ...] = ()

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return the maxima."""
        self.shape = x.shape
        maxima, self.indices = cf.max_pool2d(x, 2, return_indices=True)
        return maxima

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Return the gradient by x."""
        return cf.max_pool2d_backward(gradient, self.indices, self.shape)


class Dense:
    """A fully connected layer; images are flattened."""

    def __init__(self, rng: np.random.Generator, inputs: int, outputs: int) -> None:
        self.parameters = [_he(rng, (inputs, outputs), inputs), np.zeros(outputs, np.float32)]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return x @ weight + bias."""
        self.shape, self.x = x.shape, x.reshape(len(x), -1)
        weight, bias = self.parameters
        return self.x @ weight + bias

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Return the gradient by x, and keep those by weight and bias."""
        self.gradients = [self.x.T @ gradient, gradient.sum(axis=0)]
        return (gradient @ self.parameters[0].T).reshape(self.shape)


class Relu:
    """max(x, 0)."""

    parameters: tuple[np.ndarray, ...] = ()
    gradients: tuple[np.ndarray, ...] = ()

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return the positive part."""
        self.positive = x > 0
        return x * self.positive

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Return the gradient where x was positive."""
        return gradient * self.positive


Layer = Conv | Pool | Dense | Relu


def build(rng: np.random.Generator, n: int, m: int, k: int, size: int, width: int) -> list[Layer]:
    """Return [[CONV-RELU]*n-POOL]*m-[FC-RELU]*k-FC for images of ``size``; the channels double m - 1 times."""
    layers: list[Layer] = []
    channels = 1
    for stage in range(m):
        for _ in range(n):
            layers += [Conv(rng, channels, width << stage), Relu()]
            channels = width << stage
        layers.append(Pool())
    features = channels * (size >> m) ** 2
    for _ in range(k):
        layers += [Dense(rng, features, 64), Relu()]
        features = 64
    return [*layers, Dense(rng, features, CLASSES)]


def predict(layers: list[Layer], x: np.ndarray) -> np.ndarray:
    """Return the scores of each class."""
    for layer in layers:
        x = layer.forward(x)
    return x


def train_step(layers: list[Layer], x: np.ndarray, labels: np.ndarray) -> float:
    """Run one batch forward and backward; return the mean cross-entropy."""
    scores = predict(layers, x)
    scores = scores - scores.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(scores).sum(axis=1, keepdims=True))
    rows = np.arange(len(x))
    gradient = np.exp(scores - log_sum)
    gradient[rows, labels] -= 1
    gradient /= len(x)
    for layer in reversed(layers):
        gradient = layer.backward(gradient)
    return float(np.mean(log_sum[:, 0] - scores[rows, labels]))


class Adam:
    """Kingma and Ba, "Adam: a method for stochastic optimization", 2015."""

    def __init__(self, parameters: list[np.ndarray]) -> None:
        self.parameters, self.steps = parameters, 0
        self.means = [np.zeros_like(each) for each in parameters]
        self.squares = [np.zeros_like(each) for each in parameters]

    def step(self, gradients: list[np.ndarray], rate: float) -> None:
        """Move every parameter against its gradient."""
        self.steps += 1
        rate *= math.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for value, mean, square, gradient in zip(self.parameters, self.means, self.squares, gradients, strict=True):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            value -= rate * mean / (np.sqrt(square) + 1e-8)


def batches(rng: np.random.Generator, count: int, size: int) -> Iterator[np.ndarray]:
    """Yield the indices of ``count`` examples in random order, ``size`` at a time."""
    order = rng.permutation(count)
    for begin in range(0, count, size):
        yield order[begin : begin + size]


def accuracy(layers: list[Layer], x: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of digits that are recognised."""
    return float(np.mean(predict(layers, x).argmax(axis=1) == labels))


def _he(rng: np.random.Generator, shape: tuple[int, ...], inputs: int) -> np.ndarray:
    """Return normal weights of variance 2 / inputs, which keeps the variance through a ReLU (He et al., 2015)."""
    return (rng.standard_normal(shape) * np.sqrt(2 / inputs)).astype(np.float32)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train [[CONV-RELU]*N-POOL]*M-[FC-RELU]*K-FC on handwritten digits.")
    parser.add_argument("-n", type=int, default=1, help="convolutions before each pool (default: 1)")
    parser.add_argument("-m", type=int, default=2, choices=(1, 2, 3), help="pools (default: 2)")
    parser.add_argument("-k", type=int, default=1, help="hidden fully connected layers (default: 1)")
    parser.add_argument("--width", type=int, default=32, help="channels of the first stage (default: 32)")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training set (default: 30)")
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate, which falls to 0 (default: 0.003)")
    parser.add_argument("--seed", type=int, default=0, help="seed of split, weights and order (default: 0)")
    options = parser.parse_args()
    if options.n < 0 or options.k < 0:
        parser.error("N and K must not be negative")
    return options


def main() -> None:
    """Train on three quarters of the digits, and test on the rest."""
    options = _options()
    rng = np.random.default_rng(options.seed)
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    x, x_test, labels, labels_test = train_test_split(
        images, digits.target, test_size=0.25, stratify=digits.target, random_state=options.seed
    )

    layers = build(rng, options.n, options.m, options.k, images.shape[-1], options.width)
    optimiser = Adam([each for layer in layers for each in layer.parameters])
    begin = time.perf_counter()
    for epoch in range(options.epochs):
        rate = options.rate * (1 - epoch / options.epochs)
        losses = []
        for batch in batches(rng, len(x), 64):
            losses.append(train_step(layers, x[batch], labels[batch]))
            optimiser.step([each for layer in layers for each in layer.gradients], rate)
        print(f"epoch {epoch + 1:2}  loss {np.mean(losses):.4f}  train accuracy {accuracy(layers, x, labels):.2%}")
    print(f"trained in {time.perf_counter() - begin:.1f} s on {len(x)} digits")
    print(f"test accuracy {accuracy(layers, x_test, labels_test):.2%} on {len(x_test)} others")


if __name__ == "__main__":
    main()
