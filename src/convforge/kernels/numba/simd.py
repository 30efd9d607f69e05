"""Vectors as a Numba type, and the vocabulary that kernels are written in.

A value of type :class:`Vector` is one LLVM vector: local variables of it live in registers. ``vectors(dtype, lanes)``
is the namespace ``v`` of a kernel: its functions become one or a few instructions each. Vectors of the same lanes, of
whatever element, work together: ``a < b`` is a mask, a vector of booleans; a pointer's dtype decides what ``load``
gives, so that a pointer to int64 loads (and stores) a vector of int64.

Memory is reached by pointers: ``v.pointer(address)`` makes one, ``v.advance(p, i)`` moves it by ``i`` elements,
``p[i]`` reads or writes an element. Nothing outside the lanes that an operation names is ever touched.

=================================  ===================================================================================
``load(p, i)  store(p, i, x)``     all lanes, at ``p + i``, of any alignment
``load_partial(p, n)``             lanes ``l < n``; the others are 0
``store_partial(p, x, n)``         lanes ``l < n``; the others are not written
``load_window(p, lo, hi)``         lanes ``lo <= l < hi`` read ``p[l]``, the others are 0; ``p`` itself may lie outside
``load_strided(p, step, lo, hi)``  the same, reading ``p[l * step]``; a step of 2 may read what lies between, too
``zero()  broadcast(x)``           of the kernel's dtype, whatever the type of ``x``
``zero_int()  broadcast_int(x)``   of the integer of the same size; ``lane()`` is 0, 1, 2...
``a + b  a - b  a * b  a / b``     also ``add sub mul``; ``fma(a, b, c)`` is ``a * b + c``, rounded once where the CPU can
``maximum(a, b)  minimum(a, b)``   of numbers; NaN wins
``a < b  a > b  a == b  is_nan``   masks; ``both either any all select(mask, a, b)`` take them
``sum(a)``                         of all lanes: halves are added until one is left
``even(a, b)  odd(a, b)``          elements 0, 2, 4... and 1, 3, 5... of ``a`` followed by ``b``
``low(a, b)  high(a, b)``          lower and upper half of a0 b0 a1 b1...
``shuffle(indices)``               outside of kernels: makes the function of ``a, b`` that permutes by constants
``extract(a, l)``                  one lane
``to_real  to_int  widen``         conversions: of integers to the dtype, back (towards 0), of integers to int64
=================================  ===================================================================================
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, register_model

_ELEMENTS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.boolean: ir.IntType(1),
    types.uint8: ir.IntType(8),
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
}
_BYTES = {types.float32: 4, types.float64: 8, types.uint8: 1, types.int32: 4, types.int64: 8}
_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
# a * b + c may become one instruction, as in the Cython kernels; nothing else is relaxed
_FLAGS = ("contract",)


class Vector(types.Type):  # type: ignore[misc]
    """``lanes`` elements in a register; ``element`` boolean makes it a mask."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"{element}x{lanes}")

    @property
    def llvm(self) -> ir.VectorType:
        """LLVM's type."""
        return ir.VectorType(_ELEMENTS[self.element], self.lanes)

    @property
    def suffix(self) -> str:
        """How LLVM's overloaded intrinsics write the type."""
        real = self.element in types.real_domain
        return f"v{self.lanes}{'f' if real else 'i'}{8 * _BYTES[self.element] if self.element in _BYTES else 1}"

    def of(self, element: types.Type) -> Vector:
        """The vector of another element with as many lanes."""
        return Vector(element, self.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


def _call(builder: Any, name: str, result: ir.Type, args: Sequence[Any]) -> Any:
    """Call an LLVM intrinsic, declared by its full name: llvmlite's own way knows no vector types."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, args)


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _clamped(builder: Any, value: Any, lanes: int) -> Any:
    """A 64-bit count as a vector of 32-bit ones, 0 to ``lanes``."""
    value = _call(builder, "llvm.smax.i64", _I64, [value, _I64(0)])
    value = _call(builder, "llvm.smin.i64", _I64, [value, _I64(lanes)])
    return _splat(builder, builder.trunc(value, _I32), lanes)


def _window(builder: Any, lo: Any, hi: Any, lanes: int) -> Any:
    """The mask of the lanes ``lo <= l < hi``; no ``lo`` means 0."""
    lane = ir.Constant(ir.VectorType(_I32, lanes), list(range(lanes)))
    mask = builder.icmp_signed("<", lane, _clamped(builder, hi, lanes))
    if lo is not None:
        mask = builder.and_(mask, builder.icmp_signed(">=", lane, _clamped(builder, lo, lanes)))
    return mask


def _at(builder: Any, pointer: Any, index: Any, vector: Vector) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), vector.llvm.as_pointer())


def _masked_load(builder: Any, pointer: Any, mask: Any, vector: Vector) -> Any:
    name = f"llvm.masked.load.{vector.suffix}.p0"
    zero = ir.Constant(vector.llvm, None)
    return _call(builder, name, vector.llvm, [pointer, _I32(_BYTES[vector.element]), mask, zero])


def _choose(
    builder: Any, value: Any, cases: dict[int, Callable[[], Any]], otherwise: Callable[[], Any], result: ir.Type
) -> Any:
    """What the case for ``value`` emits; LLVM drops the others where it comes to know the value."""
    end = builder.append_basic_block()
    blocks = {case: builder.append_basic_block() for case in cases}
    default = builder.append_basic_block()
    switch = builder.switch(value, default)
    incoming = []
    for case, block in [*blocks.items(), (None, default)]:
        if case is not None:
            switch.add_case(ir.Constant(value.type, case), block)
        builder.position_at_end(block)
        incoming.append(((otherwise if case is None else cases[case])(), builder.block))
        builder.branch(end)
    builder.position_at_end(end)
    phi = builder.phi(result)
    for chosen, block in incoming:
        phi.add_incoming(chosen, block)
    return phi


def _vector_at(pointer: types.Type, lanes: int) -> Vector | None:
    """What a load from ``pointer`` gives."""
    return Vector(pointer.dtype, lanes) if isinstance(pointer, types.CPointer) else None


@intrinsic
def advance(typingctx, p, i):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.gep(args[0], [args[1]])

    return p(p, types.int64), emit


@intrinsic
def store(typingctx, p, i, x):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointer, index, value = args
        builder.store(value, _at(builder, pointer, index, x), align=_BYTES[x.element])
        return context.get_dummy_value()

    return types.void(types.CPointer(x.element), types.int64, x), emit


@intrinsic
def store_partial(typingctx, p, x, n):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointer, value, count = args
        mask = _window(builder, None, count, x.lanes)
        pointer = _at(builder, pointer, _I64(0), x)
        align = _I32(_BYTES[x.element])
        _call(builder, f"llvm.masked.store.{x.suffix}.p0", ir.VoidType(), [value, pointer, align, mask])
        return context.get_dummy_value()

    return types.void(types.CPointer(x.element), x, types.int64), emit


@intrinsic
def fma(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        # not llvm.fma, which calls a function for each lane where the CPU has no such instruction
        return _call(builder, f"llvm.fmuladd.{a.suffix}", a.llvm, args)

    return a(a, a, a), emit


def _extremum(which: str) -> Any:
    @intrinsic
    def extremum(typingctx, a, b):  # type: ignore[no-untyped-def]
        def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
            name = f"{which}imum" if a.element in types.real_domain else f"s{which[:3]}"
            return _call(builder, f"llvm.{name}.{a.suffix}", a.llvm, args)

        return a(a, a), emit

    return extremum


maximum, minimum = _extremum("max"), _extremum("min")


@intrinsic
def is_nan(typingctx, a):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.fcmp_unordered("uno", args[0], args[0])

    return a.of(types.boolean)(a), emit


@intrinsic
def select(typingctx, mask, a, b):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.select(*args)

    return a(a.of(types.boolean), a, a), emit


def _reduction(which: str) -> Any:
    @intrinsic
    def reduction(typingctx, mask):  # type: ignore[no-untyped-def]
        def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
            bit = _call(builder, f"llvm.vector.reduce.{which}.{mask.suffix}", _I1, args)
            return context.cast(builder, bit, types.boolean, types.boolean)

        return types.boolean(mask), emit

    return reduction


any_lane, all_lanes = _reduction("or"), _reduction("and")


@intrinsic
def total(typingctx, a):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        (value,) = args
        add = builder.fadd if a.element in types.real_domain else builder.add
        lanes = a.lanes
        while lanes > 1:
            lanes //= 2
            kind = ir.VectorType(_I32, lanes)
            lower = builder.shuffle_vector(value, value, ir.Constant(kind, list(range(lanes))))
            upper = builder.shuffle_vector(value, value, ir.Constant(kind, list(range(lanes, 2 * lanes))))
            value = add(lower, upper)
        return builder.extract_element(value, _I32(0))

    return a.element(a), emit


@intrinsic
def extract(typingctx, a, lane):  # type: ignore[no-untyped-def]
    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.extract_element(*args)

    return a.element(a, types.int64), emit


@intrinsic
def widen(typingctx, a):  # type: ignore[no-untyped-def]
    result = a.of(types.int64)

    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        if a == result:
            return args[0]
        extend = builder.sext if a.element.signed else builder.zext
        return extend(args[0], result.llvm)

    return result(a), emit


@cache
def shuffle(indices: tuple[int, ...]) -> Any:
    """The function ``(a, b)`` that picks elements ``indices`` of ``a`` followed by ``b``."""

    @intrinsic
    def permute(typingctx, a, b):  # type: ignore[no-untyped-def]
        def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return builder.shuffle_vector(*args, ir.Constant(ir.VectorType(_I32, len(indices)), list(indices)))

        return Vector(a.element, len(indices))(a, a), emit

    return permute


# --- operators ---


def _operator(function: Callable[..., Any], result: types.Type | None, emit: Callable[..., Any]) -> Any:
    """Define ``function`` for two vectors of one type; ``emit(builder, a, b, element)``. Gives it a name to call."""

    @infer_global(function)
    class Template(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args, kws):  # type: ignore[no-untyped-def]
            a, b = args
            if isinstance(a, Vector) and a == b:
                return signature(a if result is None else a.of(result), a, b)
            return None

    @lower_builtin(function, Vector, Vector)
    def lower(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return emit(builder, *args, sig.args[0].element)

    @intrinsic
    def named(typingctx, a, b):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return emit(builder, *args, a.element)

        return (a if result is None else a.of(result))(a, a), codegen

    return named


def _arithmetic(name: str) -> Callable[..., Any]:
    def emit(builder: Any, a: Any, b: Any, element: types.Type) -> Any:
        if element in types.real_domain:
            return getattr(builder, f"f{name}")(a, b, flags=_FLAGS)
        return getattr(builder, {"div": "sdiv"}.get(name, name))(a, b)

    return emit


def _comparison(symbol: str) -> Callable[..., Any]:
    def emit(builder: Any, a: Any, b: Any, element: types.Type) -> Any:
        if element in types.real_domain:
            return (builder.fcmp_unordered if symbol == "!=" else builder.fcmp_ordered)(symbol, a, b)
        return builder.icmp_signed(symbol, a, b)

    return emit


def _bitwise(name: str) -> Callable[..., Any]:
    def emit(builder: Any, a: Any, b: Any, element: types.Type) -> Any:
        return getattr(builder, name)(a, b)

    return emit


_OPERATORS = {
    "add": _operator(operator.add, None, _arithmetic("add")),
    "sub": _operator(operator.sub, None, _arithmetic("sub")),
    "mul": _operator(operator.mul, None, _arithmetic("mul")),
    "div": _operator(operator.truediv, None, _arithmetic("div")),
    "less": _operator(operator.lt, types.boolean, _comparison("<")),
    "greater": _operator(operator.gt, types.boolean, _comparison(">")),
    "equal": _operator(operator.eq, types.boolean, _comparison("==")),
    "both": _operator(operator.and_, None, _bitwise("and_")),
    "either": _operator(operator.or_, None, _bitwise("or_")),
}


@cache
def vectors(dtype: str, lanes: int) -> ModuleType:
    """The vocabulary for ``lanes`` elements of "float32" or "float64".

    It is a module, made here, because Numba looks attributes of modules up when it types a function. Beside the
    functions it has the constants ``lanes`` and ``itemsize``.
    """
    real = {"float32": types.float32, "float64": types.float64}[dtype]
    integer = {"float32": types.int32, "float64": types.int64}[dtype]
    vector, integers = Vector(real, lanes), Vector(integer, lanes)
    order = range(lanes)

    def address_to(element: types.Type) -> Any:
        @intrinsic
        def pointer(typingctx, address):  # type: ignore[no-untyped-def]
            def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
                return builder.inttoptr(args[0], _ELEMENTS[element].as_pointer())

            return types.CPointer(element)(types.int64), emit

        return pointer

    @intrinsic
    def load(typingctx, p, i):  # type: ignore[no-untyped-def]
        result = _vector_at(p, lanes)

        def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return builder.load(_at(builder, *args, result), align=_BYTES[result.element])

        return result(p, types.int64), emit

    @intrinsic
    def load_partial(typingctx, p, n):  # type: ignore[no-untyped-def]
        result = _vector_at(p, lanes)

        def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
            pointer = _at(builder, args[0], _I64(0), result)
            return _masked_load(builder, pointer, _window(builder, None, args[1], lanes), result)

        return result(p, types.int64), emit

    @intrinsic
    def load_window(typingctx, p, lo, hi):  # type: ignore[no-untyped-def]
        result = _vector_at(p, lanes)

        def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
            pointer = _at(builder, args[0], _I64(0), result)
            return _masked_load(builder, pointer, _window(builder, *args[1:], lanes), result)

        return result(p, types.int64, types.int64), emit

    @intrinsic
    def load_strided(typingctx, p, step, lo, hi):  # type: ignore[no-untyped-def]
        result = _vector_at(p, lanes)

        def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
            pointer, step, lo, hi = args

            def contiguous() -> Any:
                return _masked_load(builder, pointer, _window(builder, lo, hi, lanes), result)

            def every_second() -> Any:
                # what lies between is read too, and dropped; the last element may have nothing after it
                lo2 = builder.shl(lo, _I64(1))
                hi2 = builder.sub(builder.shl(hi, _I64(1)), _I64(1))
                upper = builder.gep(pointer, [_I64(lanes)])
                parts = [
                    _masked_load(builder, pointer, _window(builder, lo2, hi2, lanes), result),
                    _masked_load(
                        builder, upper,
                        _window(builder, builder.sub(lo2, _I64(lanes)), builder.sub(hi2, _I64(lanes)), lanes), result,
                    ),
                ]  # fmt: skip
                return builder.shuffle_vector(*parts, ir.Constant(ir.VectorType(_I32, lanes), [2 * l for l in order]))

            def any_step() -> Any:
                scale = _splat(builder, builder.mul(step, _I64(_BYTES[result.element])), lanes)
                offsets = builder.mul(ir.Constant(ir.VectorType(_I64, lanes), list(order)), scale)
                base = _splat(builder, builder.ptrtoint(pointer, _I64), lanes)
                pointers = builder.inttoptr(builder.add(base, offsets), ir.VectorType(pointer.type, lanes))
                mask, align = _window(builder, lo, hi, lanes), _I32(_BYTES[result.element])
                name = f"llvm.masked.gather.{result.suffix}.v{lanes}p0"
                return _call(builder, name, result.llvm, [pointers, align, mask, ir.Constant(result.llvm, None)])

            return _choose(builder, step, {1: contiguous, 2: every_second}, any_step, result.llvm)

        return result(p, types.int64, types.int64, types.int64), emit

    def constant(result: Vector, value: Any) -> Any:
        @intrinsic
        def make(typingctx):  # type: ignore[no-untyped-def]
            return result(), lambda context, builder, signature, args: ir.Constant(result.llvm, value)

        return make

    def broadcast_of(result: Vector) -> Any:
        @intrinsic
        def broadcast(typingctx, x):  # type: ignore[no-untyped-def]
            def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
                return _splat(builder, args[0], lanes)

            return result(result.element), emit

        return broadcast

    @intrinsic
    def to_real(typingctx, a):  # type: ignore[no-untyped-def]
        def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return builder.sitofp(args[0], vector.llvm)

        return vector(a), emit

    @intrinsic
    def to_int(typingctx, a):  # type: ignore[no-untyped-def]
        def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return builder.fptosi(args[0], integers.llvm)

        return integers(a), emit

    both = [index for pair in zip(order, range(lanes, 2 * lanes), strict=True) for index in pair]
    v = ModuleType(f"{dtype}x{lanes}")
    v.__dict__.update(
        _OPERATORS, lanes=lanes, itemsize=_BYTES[real],
        pointer=address_to(real), pointer_int64=address_to(types.int64), pointer_uint8=address_to(types.uint8),
        advance=advance, load=load, load_partial=load_partial, load_window=load_window, load_strided=load_strided,
        store=store, store_partial=store_partial,
        zero=constant(vector, None), broadcast=broadcast_of(vector),
        zero_int=constant(integers, None), broadcast_int=broadcast_of(integers), lane=constant(integers, list(order)),
        fma=fma, maximum=maximum, minimum=minimum, is_nan=is_nan, select=select, any=any_lane, all=all_lanes,
        sum=total, extract=extract, widen=widen, to_real=to_real, to_int=to_int, shuffle=shuffle,
        even=shuffle(tuple(range(0, 2 * lanes, 2))), odd=shuffle(tuple(range(1, 2 * lanes, 2))),
        low=shuffle(tuple(both[:lanes])), high=shuffle(tuple(both[lanes:])),
    )  # fmt: skip
    return v
