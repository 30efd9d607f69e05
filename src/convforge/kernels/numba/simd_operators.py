"""The operators of two vectors of one type, to write or to call by name."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from numba.core import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin

from convforge.kernels.numba.simd_emit import primitive
from convforge.kernels.numba.simd_vector import Vector

# a * b + c may become one instruction, as in the Cython kernels; nothing else is relaxed
_FLAGS = ("contract",)


def _operator(function: Callable[..., Any], emit: Callable[..., Any], result: types.Type | None = None) -> Any:
    """Define ``function`` of two vectors of one type as ``emit(builder, real, a, b)``; returns it to call by name."""

    def of(a: Vector) -> Vector:
        return a if result is None else a.of(result)

    @infer_global(function)
    class Template(AbstractTemplate):
        def generic(self, args, kws):
            a, b = args
            return signature(of(a), a, b) if isinstance(a, Vector) and a == b else None

    @lower_builtin(function, Vector, Vector)
    def lower(context, builder, sig, args):
        return emit(builder, sig.args[0].real, *args)

    @primitive
    def named(a, b):
        return of(a)(a, a), lambda builder, *args: emit(builder, a.real, *args)

    return named


def _arithmetic(name: str, integer: str) -> Callable[..., Any]:
    return lambda builder, real, a, b: (
        getattr(builder, f"f{name}")(a, b, flags=_FLAGS) if real else getattr(builder, integer)(a, b)
    )


def _comparison(symbol: str) -> Callable[..., Any]:
    return lambda builder, real, a, b: (builder.fcmp_ordered if real else builder.icmp_signed)(symbol, a, b)


#: The operators by their names in the vocabulary.
OPERATORS = {
    "add": _operator(operator.add, _arithmetic("add", "add")),
    "sub": _operator(operator.sub, _arithmetic("sub", "sub")),
    "mul": _operator(operator.mul, _arithmetic("mul", "mul")),
    "div": _operator(operator.truediv, _arithmetic("div", "sdiv")),
    "less": _operator(operator.lt, _comparison("<"), types.boolean),
    "greater": _operator(operator.gt, _comparison(">"), types.boolean),
    "equal": _operator(operator.eq, _comparison("=="), types.boolean),
    "both": _operator(operator.and_, lambda builder, _, a, b: builder.and_(a, b)),
    "either": _operator(operator.or_, lambda builder, _, a, b: builder.or_(a, b)),
}
