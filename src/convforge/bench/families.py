"""Kinds of layers, each with a bottleneck of its own: results are summed up by them."""

from __future__ import annotations

from dataclasses import dataclass

from convforge.problem import ConvProblem, Problem

#: Most operations of a problem whose time is that of making the call.
_TINY = 2e6
#: Images from which a batch fills what one image leaves idle.
_BATCH = 8
_FEW_CHANNELS = 4
_FILTER_CHANNELS = 3


@dataclass(frozen=True)
class Family:
    """A kind of layer.

    Attributes
    ----------
    name, title
        In results, and in words.
    mean, worst
        What is aimed at in mode prepared: the geometric mean and the least of the ratios best peer / ours.
    """

    name: str
    title: str
    mean: float | None = None
    worst: float | None = None


#: In the order of reports.
FAMILIES = (
    Family("3x3", "3x3 stride 1, batch below 8", 1.25, 1.0),
    Family("3x3 batch", "3x3 stride 1, batch 8 and more", 2.5, 1.5),
    Family("1x1", "1x1, any stride", 1.05, 0.97),
    Family("other dense", "strided, 5x5, 7x7, first layers", 1.2, 1.0),
    Family("depthwise", "depthwise", 1.7, 1.2),
    Family("grouped", "grouped", 2.0, 1.2),
    Family("dilated", "dilated", 1.5, 1.0),
    Family("filters", "filters of pictures", 1.3, 1.0),
    Family("tiny", "tiny: whole calls", 2.0, 1.2),
    Family("pooling", "pooling"),
)
#: All convolutions together.
ALL = Family("all", "all convolutions", 1.6, 0.97)
POOLING = "pooling"


def family(problem: Problem) -> str:
    """The name of the family that a problem belongs to."""
    if not isinstance(problem, ConvProblem):
        return POOLING
    if problem.groups == problem.c and problem.k <= _FILTER_CHANNELS and problem.n == 1:
        return "filters"
    if problem.groups > 1:
        return "depthwise" if problem.groups == problem.c else "grouped"
    if problem.flops() <= _TINY:
        return "tiny"
    if set(problem.dilation) != {1}:
        return "dilated"
    if set(problem.kernel) == {1}:
        return "1x1"
    if problem.c <= _FEW_CHANNELS or set(problem.stride) != {1} or set(problem.kernel) != {3}:
        return "other dense"
    return "3x3 batch" if problem.n >= _BATCH else "3x3"
