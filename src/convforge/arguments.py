"""Users' arguments and shapes turned into problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convforge import checks
from convforge.checks import Pairs
from convforge.problem import ConvProblem, PoolProblem


def conv_problem(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    dtype: Any = "float32",
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    bias: bool = False,
    x_name: str = "x",
    weight_name: str = "weight",
) -> ConvProblem:
    """Return the problem of a user's arguments.

    The shapes are batched: (n, c, spatial...) and (k, c / groups, spatial...). ``padding`` is an int, one int
    per axis, one (before, after) pair per axis, "same" or "valid". ``x_name`` and ``weight_name`` are the user's
    words for the two shapes, for errors.
    """
    x_shape = checks.shape(x_name, x_shape)
    ndim = _batched_dimension(x_name, x_shape)
    weight_shape = checks.shape(weight_name, weight_shape)
    if len(weight_shape) != ndim + 2:
        raise ValueError(
            f"{weight_name} must have {ndim + 2} axes (output channels, input channels / groups, spatial...) "
            f"for {x_name} of shape {x_shape}, got shape {weight_shape}"
        )
    (n, c, *size), (k, per_group, *kernel) = x_shape, weight_shape
    groups = checks.integer("groups", groups, 1)
    if min(weight_shape) < 1:
        raise ValueError(f"{weight_name} must have no empty axis, got shape {weight_shape}")
    if per_group * groups != c:
        raise ValueError(
            f"{weight_name} of shape {weight_shape} takes {per_group} input channels (its axis 1) in each of "
            f"{groups} group(s), {per_group * groups} in all, but {x_name} of shape {x_shape} has {c}"
        )
    if k % groups:
        raise ValueError(f"groups must divide the {k} output channels of {weight_name}, got {groups}")
    strides = checks.per_axis("stride", stride, ndim, 1)
    dilations = checks.per_axis("dilation", dilation, ndim, 1)
    return ConvProblem(
        n=n,
        c=c,
        k=k,
        input=tuple(size),
        kernel=tuple(kernel),
        stride=strides,
        padding=_padding(padding, kernel, strides, dilations),
        dilation=dilations,
        groups=groups,
        dtype=dtype,
        bias=bias,
    )


def pool_problem(
    kind: str,
    x_shape: Sequence[int],
    dtype: Any = "float32",
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
    indices: bool = False,
    name: str = "x",
) -> PoolProblem:
    """Return the problem of a user's arguments.

    The shape is batched: (n, c, spatial...). A ``stride`` of None is the kernel's size; ``padding`` is as
    in :func:`conv_problem`. ``name`` is the user's word for the shape, for errors.
    """
    x_shape = checks.shape(name, x_shape)
    ndim = _batched_dimension(name, x_shape)
    n, c, *size = x_shape
    kernel = checks.per_axis("kernel_size", kernel_size, ndim, 1)
    strides = kernel if stride is None else checks.per_axis("stride", stride, ndim, 1)
    dilations = checks.per_axis("dilation", dilation, ndim, 1)
    return PoolProblem(
        kind=kind,
        n=n,
        c=c,
        input=tuple(size),
        kernel=kernel,
        stride=strides,
        padding=_padding(padding, kernel, strides, dilations),
        dilation=dilations,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
        dtype=dtype,
        indices=indices,
    )


def _padding(value: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pairs:
    """Return a user's ``padding`` as pairs; "same" keeps the size, its odd pixel goes after, as in torch."""
    ndim = len(kernel)
    if not isinstance(value, str):
        return checks.pairs("padding", value, ndim)
    if value == "valid":
        return ((0, 0),) * ndim
    if value != "same":
        raise ValueError(
            f"padding must be 'same', 'valid', an int, or one int or pair per axis ({ndim}), got {value!r}"
        )
    if any(step != 1 for step in stride):
        raise ValueError(f"padding='same' needs stride 1, got {tuple(stride)}: give the padding as numbers")
    totals = [d * (f - 1) for f, d in zip(kernel, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def _batched_dimension(name: str, shape: tuple[int, ...]) -> int:
    if not 3 <= len(shape) <= 5:
        raise ValueError(f"{name} must have shape (n, channels, spatial...) with 1, 2 or 3 spatial axes, got {shape}")
    if min(shape[1:]) < 1:
        raise ValueError(f"{name} must have no empty axis but the first (n), got shape {shape}")
    return len(shape) - 2
