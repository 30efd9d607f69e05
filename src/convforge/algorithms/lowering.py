"""Forward and input-gradient passes as plain correlations over views.

The gradient of a convolution by its input is itself a correlation of ``grad_output`` with the flipped, transposed
weight. A stride s splits it into s phases an axis, each a dense correlation that writes every s-th input pixel
(Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4): no zeros are inserted.
Every algorithm that has a forward kernel thus has an input gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import gcd, prod
from typing import TYPE_CHECKING

from convforge.problem import ConvProblem
from convforge.program import Slot, View

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Correlation:
    """``out[n, k, o] = bias[k] + sum over c, t of x[n, c, o * stride - padding + t * dilation] * weight[k, c, t]``.

    Reads outside ``x`` give zero. ``c`` and ``k`` count one group's channels; ``padding`` pads before and may be
    negative. ``x`` and ``out`` are views with axes (n, channel, spatial...), channels of all groups;
    ``weight`` has axes (group, k, c, spatial...). A ``kernel`` with a zero size means that ``out`` is zero (plus bias).
    With ``accumulate`` the sums are added to what ``out`` holds.
    """

    x: View
    weight: View
    out: View
    bias: bool
    n: int
    groups: int
    c: int
    k: int
    input: tuple[int, ...]
    output: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    accumulate: bool = False

    @property
    def pixels(self) -> int:
        """Output pixels of one channel of one image."""
        total = 1
        for size in self.output:
            total *= size
        return total

    @property
    def taps(self) -> int:
        """Kernel elements of one channel."""
        total = 1
        for size in self.kernel:
            total *= size
        return total


def correlations(problem: ConvProblem, pass_: str) -> list[Correlation]:
    """The correlations that make up the forward or the grad_input pass; together they write every output once."""
    return [_forward(problem)] if pass_ == "forward" else _grad_input(problem)


def _forward(p: ConvProblem) -> Correlation:
    k, c = p.k // p.groups, p.c // p.groups
    return Correlation(
        x=View.of("x", p.ndim + 2),
        weight=_weight(p),
        out=View.of("out", p.ndim + 2),
        bias=True,
        n=p.n,
        groups=p.groups,
        c=c,
        k=k,
        input=p.input,
        output=p.output,
        kernel=p.kernel,
        stride=p.stride,
        padding=tuple(before for before, _ in p.padding),
        dilation=p.dilation,
    )


def _weight(p: ConvProblem) -> View:
    """The weight with its axis of output channels split into (group, channel)."""
    whole = View.of("weight", p.ndim + 2)
    per_group = p.k // p.groups
    return View(whole.array, (0, *whole.axes), (per_group, *whole.steps), whole.starts)


def _grad_input(p: ConvProblem) -> list[Correlation]:
    phases = [list(_phases(p, axis)) for axis in range(p.ndim)]
    base = _weight(p).transpose(0, 2, 1, *range(3, p.ndim + 3))
    result = []
    for choice in product(*phases):
        weight, out = base, View.of("out", p.ndim + 2)
        for axis, phase in enumerate(choice):
            if phase.taps:
                weight = weight.window(axis + 3, phase.last_tap, -phase.tap_step)
            out = out.window(axis + 2, phase.start, p.stride[axis])
        result.append(
            Correlation(
                x=View.of("grad_output", p.ndim + 2),
                weight=weight,
                out=out,
                bias=False,
                n=p.n,
                groups=p.groups,
                c=p.k // p.groups,
                k=p.c // p.groups,
                input=p.output,
                output=tuple(phase.size for phase in choice),
                kernel=tuple(phase.taps for phase in choice),
                stride=(1,) * p.ndim,
                padding=tuple(phase.padding for phase in choice),
                dilation=tuple(phase.dilation for phase in choice),
            )
        )
    return result


@dataclass(frozen=True)
class _Phase:
    start: int
    size: int
    taps: int
    last_tap: int
    tap_step: int
    dilation: int
    padding: int


def _phases(p: ConvProblem, axis: int) -> list[_Phase]:
    """Input pixels i = start + stride * m see the taps t with i + before - t * dilation divisible by stride.

    Those taps are t = first + step * u with step = stride / gcd(stride, dilation), and tap t reads
    grad_output[m + (start + before - t * dilation) / stride]: taken from the last tap to the first, a correlation
    with dilation ``dilation / gcd`` whose first read is at m - padding.
    """
    stride, dilation, kernel = p.stride[axis], p.dilation[axis], p.kernel[axis]
    before = p.padding[axis][0]
    common = gcd(stride, dilation)
    step = stride // common
    result = []
    for start in range(min(stride, p.input[axis])):
        size = (p.input[axis] - start + stride - 1) // stride
        taps = [t for t in range(kernel) if (start + before - t * dilation) % stride == 0]
        last = taps[-1] if taps else 0
        padding = (last * dilation - start - before) // stride if taps else 0
        result.append(_Phase(start, size, len(taps), last, step, dilation // common, padding))
    return result


def phases(r: Correlation) -> Correlation:
    """All phases of a dilated correlation of stride 1, with their padding, as the images of one without a dilation.

    A dilation d parts an axis into d phases: outputs o read only inputs with the same remainder o - padding. Without a
    dilation the correlation itself.
    """
    if all(d == 1 for d in r.dilation):
        return r
    output = tuple(-(-size // d) for size, d in zip(r.output, r.dilation, strict=True))
    return replace(
        r,
        n=r.n * prod(r.dilation),
        input=tuple(size + taps - 1 for size, taps in zip(output, r.kernel, strict=True)),
        output=output,
        padding=(0,) * len(output),
        dilation=(1,) * len(output),
    )


def inside(r: Correlation) -> list[Correlation]:
    """The same outputs as correlations of ranges of them, each with the taps that reach the input for some of them.

    Where the dilation is of the order of the input's size, most taps of most outputs see padding alone. Ranges that
    would save little are merged with their neighbours.
    """
    if all(4 * (k - 1) * d < size for k, d, size in zip(r.kernel, r.dilation, r.input, strict=True)):
        return [r]
    return [_range(r, choice) for choice in product(*(_ranges(r, axis) for axis in range(len(r.output))))]


@dataclass(frozen=True)
class _Range:
    """Outputs ``start`` to ``end`` of an axis, and the taps ``first`` to ``last`` that they are computed with."""

    start: int
    end: int
    first: int
    last: int

    @property
    def work(self) -> int:
        return (self.end - self.start) * (self.last - self.first + 1)

    def with_next(self, other: _Range) -> _Range:
        return _Range(self.start, other.end, min(self.first, other.first), max(self.last, other.last))


#: Share of an axis' taps that merged ranges may add.
_MERGED_SHARE = 1 / 12


def _ranges(r: Correlation, axis: int) -> list[_Range]:
    size, stride, dilation, taps = r.input[axis], r.stride[axis], r.dilation[axis], r.kernel[axis]
    ranges: list[_Range] = []
    for at in range(r.output[axis]):
        begin = at * stride - r.padding[axis]
        first = min(max(-(begin // dilation), 0), taps - 1)  # with none inside, one that reads padding
        last = max(min((size - 1 - begin) // dilation, taps - 1), first)
        if ranges and (ranges[-1].first, ranges[-1].last) == (first, last):
            ranges[-1] = ranges[-1].with_next(_Range(at, at + 1, first, last))
        else:
            ranges.append(_Range(at, at + 1, first, last))
    left = sum(each.work for each in ranges) * _MERGED_SHARE
    while len(ranges) > 1:
        merged = [a.with_next(b) for a, b in pairwise(ranges)]
        added = [m.work - a.work - b.work for m, (a, b) in zip(merged, pairwise(ranges), strict=True)]
        least = min(added)
        if least > left:
            break
        at = added.index(least)
        ranges[at : at + 2] = [merged[at]]
        left -= least
    return ranges


def _range(r: Correlation, choice: Sequence[_Range]) -> Correlation:
    weight, out = r.weight, r.out
    for axis, each in enumerate(choice):
        weight, out = weight.window(axis + 3, each.first), out.window(axis + 2, each.start)
    return replace(
        r,
        weight=weight,
        out=out,
        output=tuple(each.end - each.start for each in choice),
        kernel=tuple(each.last - each.first + 1 for each in choice),
        padding=tuple(
            padding - each.start * stride - each.first * dilation
            for each, padding, stride, dilation in zip(choice, r.padding, r.stride, r.dilation, strict=True)
        ),
    )


def by_taps(r: Correlation) -> list[Correlation]:
    """The same sums tap by tap, each over the outputs that it has an input for; the first one reaches them all.

    Where none does, the correlation itself.
    """
    reached = [list(_reached(r, axis)) for axis in range(len(r.output))]
    taps = [_tap(r, choice) for choice in product(*reached)]
    whole = next((tap for tap in taps if tap.output == r.output), None)
    if whole is None:
        return [r]
    return [whole, *(replace(tap, bias=False, accumulate=True) for tap in taps if tap is not whole)]


def _reached(r: Correlation, axis: int) -> Iterator[_Range]:
    """For each tap of an axis that has any: the outputs whose input it reads."""
    for tap in range(r.kernel[axis]):
        shift = r.padding[axis] - tap * r.dilation[axis]
        start = max(0, -(-shift // r.stride[axis]))
        end = min(r.output[axis], (r.input[axis] - 1 + shift) // r.stride[axis] + 1)
        if start < end:
            yield _Range(start, end, tap, tap)


def _tap(r: Correlation, choice: Sequence[_Range]) -> Correlation:
    return replace(_range(r, choice), dilation=(1,) * len(choice))


def geometry(r: Correlation) -> dict[str, Slot | int]:
    """The GEOMETRY fields of a 2-D correlation, as the kernels' argument lists name them."""
    return {
        "n": r.n, "g": r.groups, "c": r.c, "k": r.k,
        "ih": r.input[0], "iw": r.input[1], "oh": r.output[0], "ow": r.output[1],
        "kh": r.kernel[0], "kw": r.kernel[1], "sh": r.stride[0], "sw": r.stride[1],
        "ph": r.padding[0], "pw": r.padding[1], "dh": r.dilation[0], "dw": r.dilation[1],
    }  # fmt: skip


def input_fields(r: Correlation) -> dict[str, Slot | int]:
    """The INPUT fields."""
    return {"x": r.x.address, "x_n": r.x.stride(0), "x_c": r.x.stride(1), "x_h": r.x.stride(2)}


def output_fields(r: Correlation) -> dict[str, Slot | int]:
    """The OUTPUT fields."""
    out = r.out
    return {
        "out": out.address, "out_n": out.stride(0), "out_k": out.stride(1), "out_h": out.stride(2),
        "out_w": out.stride(3),
    }  # fmt: skip


def weight_fields(r: Correlation) -> dict[str, Slot | int]:
    """The WEIGHT fields."""
    w = r.weight
    return {
        "w": w.address, "w_g": w.stride(0), "w_k": w.stride(1), "w_c": w.stride(2), "w_h": w.stride(3),
        "w_w": w.stride(4),
    }  # fmt: skip


def bias_field(r: Correlation) -> Slot | int:
    """Address of the bias, 0 where the pass has none."""
    return View.of("bias", 1).address if r.bias else 0
