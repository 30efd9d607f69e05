"""Users' arguments and shapes turned into problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

from convforge import checks
from convforge.checks import Pairs
from convforge.problem import ConvProblem, PoolProblem

P = ParamSpec("P")
R = TypeVar("R")


def _remembered(build: Callable[P, R]) -> Callable[P, R]:
    """Keep what ``build`` returned for plain arguments: 26 us become 2, which a small layer's call feels.

    Only plain ints, strings and tuples or lists of them are looked up: to a dict, (1,), (1.0,) and (True,) are equal.
    """
    look_up = lru_cache(maxsize=1024, typed=True)(build)

    @wraps(build)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _plain(args) and _plain(kwargs.values()):
            return look_up(*args, **kwargs)  # type: ignore[arg-type]
        frozen = tuple(map(_frozen, args))
        named = {name: _frozen(value) for name, value in kwargs.items()}
        if _plain(frozen) and _plain(named.values()):
            with suppress(TypeError, ValueError):  # what is wrong is told of the lists that were given
                return look_up(*frozen, **named)
        return build(*args, **kwargs)

    return call


def _frozen(value: object) -> object:
    return tuple(map(_frozen, value)) if type(value) is list else value


_NUMBERS: frozenset[type] = frozenset((int, str))
_ATOMS: frozenset[type] = _NUMBERS | {bool, type(None)}


def _plain(values: Iterable[object], atoms: frozenset[type] = _ATOMS) -> bool:
    for value in values:
        kind = type(value)
        if kind not in atoms and not (isinstance(value, tuple) and kind is tuple and _plain(value, _NUMBERS)):
            return False
    return True


@_remembered
def conv_problem(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    dtype: Any = "float32",
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    *,
    bias: bool = False,
    names: tuple[str, str] = ("x", "weight"),
) -> ConvProblem:
    """Return the problem of a user's arguments.

    The shapes are batched: (n, c, spatial...) and (k, c / groups, spatial...). ``padding`` is an int, one int
    per axis, one (before, after) pair per axis, "same" or "valid". ``names`` are the user's words for the two shapes,
    for errors.
    """
    x_name, weight_name = names
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


@_remembered
def pool_problem(
    kind: str,
    x_shape: Sequence[int],
    dtype: Any = "float32",
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    *,
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
