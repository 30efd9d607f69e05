"""What a benchmark runs on: layers of suites by name, problems, and layers drawn at random."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from convforge import filters, models, registry
from convforge.problem import ConvProblem, Problem

#: Filters that layers of the suite "filters" are named after; the others get random weights.
_WEIGHTS = {
    "filters:sobel": ("sobel_x",),
    "filters:sobel_pair": ("sobel_x", "sobel_y"),
    "filters:rgb_sobel": ("sobel_x",) * 3,
    "filters:gaussian5": ("gaussian_5",),
    "filters:gaussian7": ("gaussian_7",),
    "filters:gaussian31": ("gaussian_31",),
    "filters:rgb_gaussian5": ("gaussian_5",) * 3,
    "filters:box15": ("box_15",),
}


@dataclass(frozen=True)
class Layer:
    """A problem with a name."""

    name: str
    problem: Problem

    def weight(self) -> np.ndarray | None:
        """The filter that the layer is named after; None where any weight will do."""
        names = _WEIGHTS.get(self.name)
        return None if names is None else np.concatenate([filters.named(each) for each in names])


def named(
    name: str, batch: int | None = None, *, pools: bool = False, dimensions: tuple[int, ...] = (2,)
) -> list[Layer]:
    """The convolutions of a suite, or one layer or problem.

    Parameters
    ----------
    name
        "resnet50", "resnet50:conv2_x", a problem string, or "all" for every suite.
    batch
        Images; 1 by default for suites, and what a problem string says.
    pools
        Whether a suite's pools come along.
    dimensions
        How many spatial axes there may be: the functions that are timed on the CPU are 2-D.

    Raises
    ------
    ValueError
        There is no such suite, layer or problem; or no images.
    """
    if name == "all":
        return [layer for suite in models.suites() for layer in named(suite, batch, pools=pools, dimensions=dimensions)]
    if name in models.suites():
        found = models.suite(name, 1 if batch is None else batch)
        layers = [Layer(f"{name}:{layer}", problem) for layer, problem in found.items()]
        layers = [each for each in layers if pools or isinstance(each.problem, ConvProblem)]
    else:
        try:
            problem = registry.as_problem(name)
        except ValueError as error:
            if name.partition(":")[0] in models.suites():
                raise
            raise ValueError(f"{error}; a suite is one of {', '.join(models.suites())}") from error
        layers = [Layer(name, problem if batch is None else replace(problem, n=batch))]
    if any(each.problem.n == 0 for each in layers):
        raise ValueError(f"{name} has no images: there is nothing to time")
    if any(each.problem.ndim not in dimensions for each in layers):
        allowed = " or ".join(f"{count}-D" for count in dimensions)
        raise ValueError(f"{name} is not {allowed}: the functions that would be timed are")
    return layers


#: Map sizes of networks on pictures of 224, 299, 320, 416, 512 and 640 pixels, and on pictures of other sizes.
_SIZES = (7, 8, 9, 10, 13, 14, 16, 17, 19, 20, 26, 28, 30, 32, 35, 38, 40, 45, 52, 56, 60, 64, 73, 75, 80, 90, 96, 104,
          112, 120, 128, 147, 149, 160, 200, 208, 224)  # fmt: skip
_CHANNELS = (16, 24, 32, 36, 40, 48, 56, 58, 64, 72, 80, 96, 104, 112, 116, 120, 128, 144, 160, 176, 184, 192, 200,
             224, 232, 240, 256, 288, 320, 336, 384, 400, 440, 448, 480, 512, 576, 640, 672, 704, 768, 928, 960,
             1024)  # fmt: skip
#: How often each kind is drawn.
_KINDS = {"3x3": 5, "1x1": 5, "strided": 2, "large": 2, "first": 1, "depthwise": 3, "grouped": 2, "dilated": 1}
_LEAST_OPERATIONS = 3e6
_MOST_OPERATIONS = 3e9


def drawn(count: int, seed: int, batch: int | None = None) -> list[Layer]:
    """Layers such as networks have, that no suite lists: ``drawn(n, s)`` begins with ``drawn(n - 1, s)``.

    Parameters
    ----------
    count
        How many.
    seed
        Which; the same layers for the same seed.
    batch
        Images; 1 by default.
    """
    return [
        Layer(f"random:{seed}:{index}", _draw(random.Random(f"{seed}:{index}"), batch or 1)) for index in range(count)
    ]


def _draw(dice: random.Random, batch: int) -> ConvProblem:
    while True:
        problem = _of_kind(dice, dice.choices(list(_KINDS), list(_KINDS.values()))[0])
        # deep layers are small: a network spends about as much on each
        if _LEAST_OPERATIONS <= problem.flops() <= _MOST_OPERATIONS and problem.c * max(problem.input) <= 40_000:
            return replace(problem, n=batch)


def _of_kind(dice: random.Random, kind: str) -> ConvProblem:
    c, k, size = dice.choice(_CHANNELS), dice.choice(_CHANNELS), dice.choice(_SIZES)
    kernel, stride, dilation, groups = 3, 1, 1, 1
    if kind == "1x1":
        kernel, stride = 1, dice.choice((1, 1, 1, 1, 2))
    elif kind == "strided":
        stride = 2
    elif kind == "large":
        kernel, stride = dice.choice((5, 5, 7)), dice.choice((1, 1, 2))
    elif kind == "first":
        c, size = dice.choice((1, 3, 3, 4)), dice.choice([each for each in _SIZES if each >= 96])
        kernel, stride = dice.choice(((3, 1), (3, 2), (5, 2), (7, 2), (4, 4)))
    elif kind == "depthwise":
        k = groups = c
        kernel, stride = dice.choice((3, 3, 5, 7)), dice.choice((1, 1, 2))
    elif kind == "grouped":
        groups = dice.choice([each for each in (2, 4, 8, 16, 32) if c % each == 0])
        k = c
        stride = dice.choice((1, 1, 2))
    elif kind == "dilated":
        dilation = dice.choice((2, 2, 3, 4, 6))
    padding = dilation * (kernel - 1) // 2
    return ConvProblem(
        1, c, k, (size, size), (kernel,) * 2, (stride,) * 2, ((padding,) * 2,) * 2, (dilation,) * 2, groups,
        bias=dice.random() < 0.5,
    )  # fmt: skip


def unique(layers: Sequence[Layer]) -> list[Layer]:
    """Layers that differ: of those that are the same problem on the same filter, the first."""
    found: dict[tuple[Problem, object], Layer] = {}
    for layer in layers:
        found.setdefault((layer.problem, _WEIGHTS.get(layer.name)), layer)
    return list(found.values())
