"""What is to be computed, validated once: after a problem is built, nothing checks shapes again.

Problems are frozen, hashable and n-dimensional (1 to 3 spatial axes). Sizes mean what torch's mean: along an axis,
``output = (input + before + after - dilation * (kernel - 1) - 1) // stride + 1``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd, prod
from typing import Any, ClassVar

from convforge import checks, problem_string
from convforge.checks import Pairs

_INDEX_BYTES = 8
_MAX_BYTES = (1 << 63) - 1


class _Sizes:
    """What both kinds of problem derive from their sizes."""

    __slots__ = ()

    n: int
    c: int
    input: tuple[int, ...]
    dtype: str

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.input)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of x: (n, c, *input)."""
        return (self.n, self.c, *self.input)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return {"float16": 2, "float32": 4, "float64": 8}[self.dtype]

    @property
    def input_bytes(self) -> int:
        """Bytes of x."""
        return prod(self.input_shape) * self.itemsize


@dataclass(frozen=True, slots=True)
class ConvProblem(_Sizes):
    """A convolution (a cross-correlation, as in torch) and its gradients.

    Parameters
    ----------
    n, c, k
        Images (may be 0), input channels and output channels.
    input, kernel
        Spatial sizes of x and of the weight, one per axis.
    stride, dilation
        One int per axis; an empty tuple stands for 1 on every axis.
    padding
        One (before, after) pair of zeros per axis; an empty tuple stands for none. The zeros take part in the sum.
    groups
        Divides c and k.
    dtype
        "float32" or "float64"; "float16" is storage, summed in float32, which the GPU's algorithms alone take.
    bias
        Whether the forward pass adds one number per output channel.

    Raises
    ------
    ValueError
        Where a value is out of range, sizes do not fit or an array would outgrow 64 bits.
    TypeError
        Where a size is no int or convforge does not compute in the dtype.
    """

    n: int
    c: int
    k: int
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: Pairs = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    dtype: str = "float32"
    bias: bool = False
    output: tuple[int, ...] = field(init=False, repr=False, compare=False)

    kind: ClassVar[str] = "conv"
    passes: ClassVar[tuple[str, ...]] = ("forward", "grad_input", "grad_weight")

    def __post_init__(self) -> None:
        """Normalise and check every field."""
        ndim = _dimension(self.input)
        _set(
            self,
            n=checks.integer("n (images of x)", self.n, 0),
            c=checks.integer("c (input channels of x)", self.c, 1),
            k=checks.integer("k (output channels of weight)", self.k, 1),
            input=checks.per_axis("input (spatial size of x)", self.input, ndim, 1),
            kernel=checks.per_axis("kernel (spatial size of weight)", self.kernel, ndim, 1),
            stride=checks.per_axis("stride", _default(self.stride, 1), ndim, 1),
            padding=checks.pairs("padding", _default(self.padding, 0), ndim),
            dilation=checks.per_axis("dilation", _default(self.dilation, 1), ndim, 1),
            groups=checks.integer("groups", self.groups, 1),
            dtype=checks.dtype_name(self.dtype),
            bias=checks.flag("bias", self.bias),
        )
        if self.c % self.groups or self.k % self.groups:
            raise ValueError(
                f"groups must divide the {self.c} input channels of x and the {self.k} output channels of weight, "
                f"got {self.groups}"
            )
        _set(
            self,
            output=_output(
                f"the kernel (weight_shape {self.weight_shape})",
                self.input,
                self.kernel,
                self.stride,
                self.padding,
                self.dilation,
            ),
        )
        _fits_memory(self.itemsize, x=self.input_shape, weight=self.weight_shape, out=self.output_shape)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight: (k, c / groups, *kernel)."""
        return (self.k, self.c // self.groups, *self.kernel)

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape of the bias: (k,)."""
        return (self.k,)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of out: (n, k, *output)."""
        return (self.n, self.k, *self.output)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight."""
        return prod(self.weight_shape) * self.itemsize

    @property
    def output_bytes(self) -> int:
        """Bytes of out."""
        return prod(self.output_shape) * self.itemsize

    def flops(self, pass_: str = "forward") -> int:
        """Operations of the direct sum, two per multiply-add, padding included, bias not: the same for each pass."""
        _known_pass(self, pass_)
        return 2 * prod(self.output_shape) * (self.c // self.groups) * prod(self.kernel)

    def least_bytes(self, pass_: str = "forward") -> int:
        """Bytes that move to and from memory if each operand is touched once."""
        _known_pass(self, pass_)
        bias = self.k * self.itemsize if self.bias and pass_ == "forward" else 0
        return self.input_bytes + self.weight_bytes + self.output_bytes + bias

    def __str__(self) -> str:
        """Return the problem string that :func:`parse` reads."""
        return problem_string.write(self)


@dataclass(frozen=True, slots=True)
class PoolProblem(_Sizes):
    """Max or average pooling and its gradient.

    Parameters
    ----------
    kind
        "max" or "avg".
    n, c
        Images (may be 0) and channels.
    input, kernel
        Spatial sizes of x and of the window, one per axis.
    stride
        One int per axis; an empty tuple stands for the kernel.
    padding
        One (before, after) pair per axis, each at most half the (dilated) window; an empty tuple stands for none.
        A maximum never comes from the padding; an average counts it as zeros.
    dilation
        One int per axis, for max pooling; an empty tuple stands for 1.
    ceil_mode
        Round the output size up; the last window must start inside x or its padding before.
    count_include_pad
        Average pooling: whether the divisor counts padded pixels, inside the padding that was asked for.
    divisor_override
        Average pooling: the divisor of every window.
    dtype
        As for :class:`ConvProblem`.
    indices
        Max pooling: whether the forward pass also returns where each maximum is, as int64 flat indices within a
        channel's plane (row * width + column).

    Raises
    ------
    ValueError, TypeError
        As for :class:`ConvProblem`; also where a dilated window would see no pixel at all.
    """

    kind: str
    n: int
    c: int
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: Pairs = ()
    dilation: tuple[int, ...] = ()
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None
    dtype: str = "float32"
    indices: bool = False
    output: tuple[int, ...] = field(init=False, repr=False, compare=False)

    passes: ClassVar[tuple[str, ...]] = ("forward", "grad_input")

    def __post_init__(self) -> None:
        """Normalise and check every field."""
        if self.kind not in ("max", "avg"):
            raise ValueError(f"kind must be 'max' or 'avg', got {self.kind!r}")
        ndim = _dimension(self.input)
        divisor = self.divisor_override
        _set(
            self,
            n=checks.integer("n (images of x)", self.n, 0),
            c=checks.integer("c (channels of x)", self.c, 1),
            input=checks.per_axis("input (spatial size of x)", self.input, ndim, 1),
            kernel=checks.per_axis("kernel_size", self.kernel, ndim, 1),
        )
        _set(
            self,
            stride=checks.per_axis("stride", _default(self.stride, self.kernel), ndim, 1),
            padding=checks.pairs("padding", _default(self.padding, 0), ndim),
            dilation=checks.per_axis("dilation", _default(self.dilation, 1), ndim, 1),
            ceil_mode=checks.flag("ceil_mode", self.ceil_mode),
            count_include_pad=checks.flag("count_include_pad", self.count_include_pad),
            divisor_override=None if divisor is None else checks.integer("divisor_override", divisor, 1),
            dtype=checks.dtype_name(self.dtype),
            indices=checks.flag("return_indices", self.indices),
        )
        self._check_kind()
        self._check_padding()
        output = _output(
            "kernel_size", self.input, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode
        )
        _set(self, output=output)
        self._check_windows()
        _fits_memory(max(self.itemsize, _INDEX_BYTES), x=self.input_shape, out=self.output_shape)

    def _check_kind(self) -> None:
        if self.kind == "avg" and any(d != 1 for d in self.dilation):
            raise ValueError(f"dilation is for max pooling, an average takes 1, got {self.dilation}")
        if self.kind == "avg" and self.indices:
            raise ValueError("indices are for max pooling, an average has none")
        if self.kind == "max" and not self.count_include_pad:
            raise ValueError("count_include_pad is for average pooling, got False for max pooling")
        if self.kind == "max" and self.divisor_override is not None:
            raise ValueError(f"divisor_override is for average pooling, got {self.divisor_override} for max pooling")

    def _check_padding(self) -> None:
        for axis, (f, d, padding) in enumerate(zip(self.kernel, self.dilation, self.padding, strict=True)):
            window = d * (f - 1) + 1
            if max(padding) > window // 2:
                raise ValueError(
                    f"padding must be at most half the window, {window // 2} for the {window} pixels that kernel_size "
                    f"{f} with dilation {d} spans on axis {axis}, got {padding}"
                )

    def _check_windows(self) -> None:
        """Only a window that starts in the padding, with a dilation beyond the input, can step over all pixels."""
        for axis, size in enumerate(self.input):
            d, s, before = self.dilation[axis], self.stride[axis], self.padding[axis][0]
            if d <= size:
                continue
            starts = min(self.output[axis], -(-before // s), d // gcd(s, d))
            if any((o * s - before) % d >= size for o in range(starts)):
                raise ValueError(
                    f"dilation {d} makes a window step over all {size} pixels of axis {axis}: "
                    f"it must be at most {size} there, or the padding smaller than {before}"
                )

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of out: (n, c, *output)."""
        return (self.n, self.c, *self.output)

    @property
    def output_bytes(self) -> int:
        """Bytes of out, without indices."""
        return prod(self.output_shape) * self.itemsize

    def flops(self, pass_: str = "forward") -> int:
        """One comparison or addition per tap of each window, or per output for the gradient of a maximum."""
        _known_pass(self, pass_)
        taps = 1 if self.kind == "max" and pass_ == "grad_input" else prod(self.kernel)
        return prod(self.output_shape) * taps

    def least_bytes(self, pass_: str = "forward") -> int:
        """Bytes that move to and from memory if each operand is touched once."""
        _known_pass(self, pass_)
        indexed = self.indices if pass_ == "forward" else self.kind == "max"
        return self.input_bytes + self.output_bytes + indexed * prod(self.output_shape) * _INDEX_BYTES

    def __str__(self) -> str:
        """Return the problem string that :func:`parse` reads."""
        return problem_string.write(self)


Problem = ConvProblem | PoolProblem


def parse(text: str) -> Problem:
    """Return the problem that a problem string names; ``parse(str(problem)) == problem``.

    Letters: n images, c channels in, k channels out, i input size, f filter or window, s stride (1), p padding (0),
    d dilation (1), g groups (1). Flags: ``:bias``, ``:ceil``, ``:exclude_pad``, ``:divisor=3``, ``:indices``,
    ``:float64``, ``:float16``. The number of sizes after i is the number of spatial axes; elsewhere one size serves all
    axes.

    Parameters
    ----------
    text
        ``[kind:]n1c64k64i56x56f3x3s1p1d1g1[:flag]...``; the kind is conv (the default), max or avg.

    Returns
    -------
    ConvProblem or PoolProblem

    Raises
    ------
    TypeError, ValueError
        It is no string, or no problem; the message says where it fails.

    Examples
    --------
    >>> parse("n1c64k128i56x56f3x3s2p1").output
    (28, 28)
    >>> parse("max:n1c64i112x112f3s2p1_0:ceil").padding
    ((1, 0), (1, 0))
    """
    kind, fields = problem_string.read(text)
    try:
        return ConvProblem(**fields) if kind == "conv" else PoolProblem(kind=kind, **fields)
    except ValueError as error:
        raise problem_string.failure(text, "", str(error)) from None


def _set(problem: ConvProblem | PoolProblem, **values: object) -> None:
    """Write normalised values into a problem that is being built."""
    for name, value in values.items():
        object.__setattr__(problem, name, value)


def _default(value: Any, default: Any) -> Any:
    return default if isinstance(value, tuple) and not value else value


def _dimension(input_: Any) -> int:
    ndim = len(checks.shape("input (spatial size of x)", input_))
    if not 1 <= ndim <= 3:
        raise ValueError(f"input (spatial size of x) must have 1, 2 or 3 axes, got {ndim}: {input_!r}")
    return ndim


def _output(
    what: str,
    input_: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Pairs,
    dilation: tuple[int, ...],
    ceil_mode: bool = False,
) -> tuple[int, ...]:
    """Output sizes; a ValueError where the (dilated) kernel does not fit into the padded input."""
    result = []
    for axis, (i, f, s, (before, after), d) in enumerate(zip(input_, kernel, stride, padding, dilation, strict=True)):
        window = d * (f - 1) + 1
        room = i + before + after - window
        size = (room + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (size - 1) * s >= i + before:
            size -= 1
        if size < 1:
            raise ValueError(
                f"{what} spans {window} pixels on spatial axis {axis} (size {f}, dilation {d}), more than the "
                f"{i + before + after} of the padded input (size {i}, padding {(before, after)}): "
                "take a smaller kernel or dilation, or more padding"
            )
        result.append(size)
    return tuple(result)


def _fits_memory(itemsize: int, **shapes: tuple[int, ...]) -> None:
    for name, shape in shapes.items():
        size = prod(shape) * itemsize
        if size > _MAX_BYTES:
            raise ValueError(f"{name} of shape {shape} would take {size} bytes, more than 64 bits count")


def _known_pass(problem: ConvProblem | PoolProblem, pass_: str) -> None:
    if pass_ not in problem.passes:
        raise ValueError(f"pass must be one of {', '.join(problem.passes)} for this problem, got {pass_!r}")
