"""Functions between registers: constants, arithmetic, masks, conversions, permutations."""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import types

from convforge.kernels.numba.simd_emit import I1, I32, call, integers, primitive, splat
from convforge.kernels.numba.simd_vector import Vector


def _constant(result: Vector, value: list[int] | None) -> Any:
    @primitive
    def constant():
        return result(), lambda builder: ir.Constant(result.llvm, value)

    return constant


def _broadcast(result: Vector) -> Any:
    @primitive
    def broadcast(x):
        return result(result.element), lambda builder, value: splat(builder, value, result.lanes)

    return broadcast


@primitive
def _fma(a, b, c):
    # not llvm.fma, which calls a function for each lane where the CPU has no such instruction
    return a(a, a, a), lambda builder, *args: call(builder, f"llvm.fmuladd.{a.suffix}", a.llvm, args)


def _extremum(ordered: str, integer: str) -> Any:
    @primitive
    def extremum(a, b):
        def emit(builder, x, y):
            if not a.real:
                return call(builder, f"llvm.{integer}.{a.suffix}", a.llvm, [x, y])
            # llvm.maximum would also tell zeros by their sign, at twice the cost; LLVM 15 has it for no x86
            first = builder.or_(builder.fcmp_ordered(ordered, x, y), builder.fcmp_unordered("uno", x, x))
            return builder.select(first, x, y)

        return a(a, a), emit

    return extremum


@primitive
def _is_nan(a):
    return a.of(types.boolean)(a), lambda builder, x: builder.fcmp_unordered("uno", x, x)


@primitive
def _select(mask, a, b):
    return a(a.of(types.boolean), a, a), lambda builder, *args: builder.select(*args)


def _reduction(name: str) -> Any:
    @primitive
    def reduction(mask):
        function = f"llvm.vector.reduce.{name}.{mask.suffix}"
        return types.boolean(mask), lambda builder, *args: call(builder, function, I1, args)

    return reduction


@primitive
def _total(a):
    def emit(builder, value):
        add = builder.fadd if a.real else builder.add
        lanes = a.lanes
        while lanes > 1:
            lanes //= 2
            lower = builder.shuffle_vector(value, value, integers(range(lanes)))
            upper = builder.shuffle_vector(value, value, integers(range(lanes, 2 * lanes)))
            value = add(lower, upper)
        return builder.extract_element(value, I32(0))

    return a.element(a), emit


@primitive
def _extract(a, lane):
    return a.element(a, types.int64), lambda builder, *args: builder.extract_element(*args)


def _conversion(result: Vector, name: str) -> Any:
    @primitive
    def convert(a):
        return result(a), lambda builder, value: getattr(builder, name)(value, result.llvm)

    return convert


@primitive
def _widen(a):
    result = a.of(types.int64)

    def emit(builder, value):
        if a == result:
            return value
        return (builder.sext if a.element.signed else builder.zext)(value, result.llvm)

    return result(a), emit


@cache
def _shuffle(indices: tuple[int, ...]) -> Any:
    """Make the function ``(a, b)`` that picks elements ``indices`` of ``a`` followed by ``b``."""

    @primitive
    def permute(a, b):
        return Vector(a.element, len(indices))(a, a), lambda builder, *args: builder.shuffle_vector(
            *args, integers(indices)
        )

    return permute


def values(vector: Vector, whole: Vector) -> dict[str, Any]:
    """Make the functions by their names in the vocabulary; ``whole`` is a vector of integers of the same size."""
    lanes = vector.lanes
    interleaved = [index for lane in range(lanes) for index in (lane, lane + lanes)]
    return {
        "zero": _constant(vector, None),
        "zero_int": _constant(whole, None),
        "lane": _constant(whole, list(range(lanes))),
        "broadcast": _broadcast(vector),
        "broadcast_int": _broadcast(whole),
        "broadcast_int64": _broadcast(vector.of(types.int64)),
        "fma": _fma,
        "maximum": _extremum(">", "smax"),
        "minimum": _extremum("<", "smin"),
        "is_nan": _is_nan,
        "select": _select,
        "any": _reduction("or"),
        "all": _reduction("and"),
        "sum": _total,
        "extract": _extract,
        "to_real": _conversion(vector, "sitofp"),
        "to_int": _conversion(whole, "fptosi"),
        "widen": _widen,
        "shuffle": _shuffle,
        "even": _shuffle(tuple(range(0, 2 * lanes, 2))),
        "odd": _shuffle(tuple(range(1, 2 * lanes, 2))),
        "following": _shuffle(tuple(range(1, lanes + 1))),
        "low": _shuffle(tuple(interleaved[:lanes])),
        "high": _shuffle(tuple(interleaved[lanes:])),
    }
