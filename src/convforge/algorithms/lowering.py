"""Forward and input-gradient passes as plain correlations over views.

The gradient of a convolution by its input is itself a correlation of ``grad_output`` with the flipped, transposed
weight. A stride s splits it into s phases an axis, each a dense correlation that writes every s-th input pixel
(Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4): no zeros are inserted.
Every algorithm that has a forward kernel thus has an input gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod

from convforge.problem import ConvProblem
from convforge.program import Slot, View


@dataclass(frozen=True)
class Correlation:
    """``out[n, k, o] = bias[k] + sum over c, t of x[n, c, o * stride - padding + t * dilation] * weight[k, c, t]``.

    Reads outside ``x`` give zero. ``c`` and ``k`` count one group's channels; ``padding`` pads before and may be
    negative. ``x`` and ``out`` are views with axes (n, channel, spatial...), channels of all groups;
    ``weight`` has axes (group, k, c, spatial...). A ``kernel`` with a zero size means that ``out`` is zero (plus bias).
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
