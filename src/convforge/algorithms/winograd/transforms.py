"""Exact matrices of Winograd's minimal filtering F(m, r), for any m, r and points.

F(m, r) gives m outputs of a correlation with r taps from m + r - 1 inputs and as many multiplications:

    y = A^T [(G g) * (B^T d)]        y[j] = sum over l of d[j + l] g[l]

The product of a polynomial of r coefficients and one of m coefficients is known by its values at m + r - 1 points
(the last one infinity, where the value is the leading coefficient). Evaluation is a Vandermonde matrix, interpolation
its inverse; the transpose of this product by one factor is the correlation (Toom and Cook; Winograd 1980; Lavin and
Gray 2016, section 4.1):

    A[i][j] = p_i^j      G[i][l] = p_i^l / N_i      B^T[i][k] = coefficient of x^k in prod over j != i of (x - p_j)

with N_i the product's value at p_i; at infinity A and G pick the leading coefficient and B^T is the product over all
finite points. In two dimensions the matrices act on both axes: Y = A^T [(G g G^T) * (B^T d B)] A, and the gradient by
the weight is the adjoint of that: dg = G^T [(A dY A^T) * (B^T d B)] G.

A stride s parts taps and inputs into s phases, l and l + j s by their remainder, each a correlation without a stride
(Yepez and Ko, "Stride 2 1-D, 2-D, and 3-D Winograd for convolutional neural networks", 2020): the matrices of
F(m, r_q) for the r_q taps of each phase q stand side by side, and their products are added up by A^T. That makes
s m + r - s multiplications of as many inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import chain
from math import ceil

Matrix = tuple[tuple[Fraction, ...], ...]


#: Finite points by count, chosen for the error in float32 among those whose matrices are exact in binary. Measured
#: with float32 transforms on standard-normal data of 64 channels, root mean square, relative: F(4, 3) has 5.9e-7 on
#: these, 1.25e-6 on the textbook's {0, 1, -1, 2, -2}; F(3, 3) 6.3e-7, not 9.8e-7 as on {0, 1, -1, 2}, F(4, 2) 7.6e-7,
#: not 1.05e-6.
_POINTS: dict[int, tuple[Fraction, ...]] = {
    4: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(2)),
    5: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
}


@dataclass(frozen=True)
class Transforms:
    """The exact matrices of one F(m, r), of a stride.

    Attributes
    ----------
    input
        B^T, alpha x alpha.
    weight
        G without its row factors, alpha x r: row i is (1, p_i, p_i^2, ...) in the columns of its phase.
    scale
        The row factors 1 / N_i of G, kept apart: they are the only inexact constants, and rounding is least where
        the factors of both axes are multiplied first.
    output
        A^T, m x alpha.
    within
        The m of the larger tiles whose weights it takes, see :func:`shortened`, or 0.
    """

    m: int
    r: int
    stride: int
    input: Matrix
    weight: Matrix
    scale: tuple[Fraction, ...]
    output: Matrix
    within: int = 0

    @property
    def alpha(self) -> int:
        """Inputs of a tile, and multiplications, per axis."""
        return len(self.input)

    @property
    def code(self) -> int:
        """The number that the compiled kernels know these matrices by: the digits of within, m, r and the stride."""
        return 1000 * self.within + 100 * self.m + 10 * self.r + self.stride


def default_points(count: int) -> tuple[Fraction, ...]:
    """``count`` finite points: 0, then pairs of small numbers of either sign and their reciprocals."""
    if count in _POINTS:
        return _POINTS[count]
    points = [Fraction(0)]
    size = 1
    while len(points) < count:
        for magnitude in (Fraction(size), Fraction(1, size)):
            if magnitude not in points:
                points += [magnitude, -magnitude]
        size += 1
    return tuple(points[:count])


@cache
def transforms(m: int, r: int, stride: int = 1, points: Sequence[Fraction] | None = None) -> Transforms:
    """The matrices of F(m, r) on ``points``, m + r - 2 distinct finite ones; infinity is always the last.

    With a stride each phase has its own :func:`default_points`.

    Raises
    ------
    ValueError
        If a size is not positive, the stride is more than r, or the points are too few, too many or not distinct.
    """
    if m < 1 or r < 1:
        raise ValueError(f"F(m, r) needs m >= 1 and r >= 1, not F({m}, {r})")
    if not 1 <= stride <= r or (stride > 1 and points is not None):
        raise ValueError(f"F({m}, {r}) needs a stride from 1 to {r}, and 1 with points of one's own, not {stride}")
    if stride == 1:
        return _one_phase(m, r, points)
    phases = [_one_phase(m, ceil((r - q) / stride), None) for q in range(stride)]
    alpha = stride * m + r - stride
    return Transforms(
        m=m,
        r=r,
        stride=stride,
        input=tuple(_spread(row, alpha, q, stride) for q, phase in enumerate(phases) for row in phase.input),
        weight=tuple(_spread(row, r, q, stride) for q, phase in enumerate(phases) for row in phase.weight),
        scale=tuple(factor for phase in phases for factor in phase.scale),
        output=tuple(tuple(chain.from_iterable(rows)) for rows in zip(*(p.output for p in phases), strict=True)),
    )


@cache
def shortened(m: int, larger: Transforms) -> Transforms:
    """F(m, r) on the first points of a ``larger`` one and infinity, of whose transformed weights it takes those.

    So tiles of both sizes share one transformed weight: the factors that their N_i differ by go to the input.

    Raises
    ------
    ValueError
        If m is not from 1 to the larger one less 1, or the larger one has a stride.
    """
    if not 0 < m < larger.m or larger.stride > 1:
        raise ValueError(f"F({m}, {larger.r}) is not within F({larger.m}, {larger.r}) with stride {larger.stride}")
    t = _one_phase(m, larger.r, default_points(larger.m + larger.r - 2)[: m + larger.r - 2])
    factors = [*(a / b for a, b in zip(t.scale[:-1], larger.scale, strict=False)), Fraction(1)]
    rows = (tuple(factor * value for value in row) for factor, row in zip(factors, t.input, strict=True))
    return Transforms(t.m, t.r, 1, tuple(rows), (), (), t.output, larger.m)


def _one_phase(m: int, r: int, points: Sequence[Fraction] | None) -> Transforms:
    count = m + r - 2
    finite = default_points(count) if points is None else tuple(Fraction(p) for p in points)
    if len(finite) != count or len(set(finite)) != count:
        raise ValueError(f"F({m}, {r}) needs {count} distinct finite points, not {tuple(map(str, finite))}")
    rows, scale = [], []
    for i, point in enumerate(finite):
        others = finite[:i] + finite[i + 1 :]
        rows.append((*_product(others), Fraction(0)))
        scale.append(1 / _value(_product(others), point))
    rows.append(_product(finite))
    scale.append(Fraction(1))
    return Transforms(
        m=m,
        r=r,
        stride=1,
        input=tuple(rows),
        weight=_evaluation(finite, r),
        scale=tuple(scale),
        output=transpose(_evaluation(finite, m)),
    )


def _spread(row: Sequence[Fraction], size: int, first: int, step: int) -> tuple[Fraction, ...]:
    """A row of ``size`` elements: those of ``row`` from ``first`` on, ``step`` apart, and zeros."""
    result = [Fraction(0)] * size
    result[first::step] = row
    return tuple(result)


def transpose(matrix: Matrix) -> Matrix:
    """The matrix with rows and columns exchanged."""
    return tuple(zip(*matrix, strict=True))


def _evaluation(points: Sequence[Fraction], size: int) -> Matrix:
    """Values at the points, then at infinity, of a polynomial of ``size`` coefficients."""
    rows = [tuple(point**power for power in range(size)) for point in points]
    return (*rows, (*[Fraction(0)] * (size - 1), Fraction(1)))


def _product(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients, lowest first, of the monic polynomial with these roots."""
    result = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *result]
        result = [high - root * low for high, low in zip(shifted, [*result, Fraction(0)], strict=True)]
    return tuple(result)


def _value(polynomial: Sequence[Fraction], point: Fraction) -> Fraction:
    return sum((coefficient * point**power for power, coefficient in enumerate(polynomial)), Fraction(0))
