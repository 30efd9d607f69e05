"""Vectors as a Numba type, and the vocabulary that kernels are written in.

A value of type :class:`Vector` is one LLVM vector: local variables of it live in registers. ``vectors(dtype, lanes)``
is the namespace ``v`` of a kernel: its functions become one or a few instructions each. Vectors of the same lanes, of
whatever element, work together: ``a < b`` is a mask, a vector of booleans; a pointer's dtype decides what ``load``
gives, so that a pointer to int64 loads (and stores) a vector of int64.

Memory is reached by pointers: ``v.pointer(address)`` makes one, ``v.advance(p, i)`` moves it by ``i`` elements,
``p[i]`` reads or writes an element. Nothing outside the lanes that an operation names is ever touched.

=================================  ===================================================================================
``load(p, i)  store(p, i, x)``     all lanes, at ``p + i``, of any alignment
``prefetch(p, i)``                 a hint that ``p + i``, which may be anything, will be read
``load_partial(p, n)``             lanes ``l < n``; the others are 0
``store_partial(p, x, n)``         lanes ``l < n``; the others are not written
``load_window(p, lo, hi)``         lanes ``lo <= l < hi`` read ``p[l]``, the others are 0; ``p`` itself may lie outside
``load_strided(p, step, lo, hi)``  the same, reading ``p[l * step]``; a step of 2 may read what lies between too
``zero()  broadcast(x)``           of the kernel's dtype, whatever the type of ``x``
``zero_int()  broadcast_int(x)``   of the integer of the same size; ``lane()`` is 0, 1, 2...
``broadcast_int64(x)``             of int64, what ``widen`` gives
``a + b  a - b  a * b  a / b``     also ``add sub mul``; ``fma(a, b, c)``: ``a * b + c``, rounded once if the CPU can
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

import inspect
import operator
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.core.errors import TypingError
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
_ELEMENTS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.boolean: _I1,
    types.uint8: ir.IntType(8),
    types.int32: _I32,
    types.int64: _I64,
}
_BYTES = {types.float32: 4, types.float64: 8, types.uint8: 1, types.int32: 4, types.int64: 8}
# a * b + c may become one instruction, as in the Cython kernels; nothing else is relaxed
_FLAGS = ("contract",)


class Vector(types.Type):
    """``lanes`` elements in a register; a mask where ``element`` is boolean."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"{element}x{lanes}")

    @property
    def real(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.element in types.real_domain

    @property
    def llvm(self) -> ir.VectorType:
        """LLVM's type."""
        return ir.VectorType(_ELEMENTS[self.element], self.lanes)

    @property
    def suffix(self) -> str:
        """How the names of LLVM's intrinsics write the type."""
        bits = 8 * _BYTES[self.element] if self.element in _BYTES else 1
        return f"v{self.lanes}{'f' if self.real else 'i'}{bits}"

    @property
    def bytes(self) -> int:
        """Size, and alignment, of an element in memory."""
        return _BYTES[self.element]

    def of(self, element: types.Type) -> Vector:
        """As many lanes of another element."""
        return Vector(element, self.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


# Emitting LLVM IR ----------------------------------------------------------------------------------------------------


def _call(builder: Any, name: str, result: ir.Type, args: Sequence[Any]) -> Any:
    """Call an LLVM intrinsic, declared by its full name: llvmlite's own way knows no vector types."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, args)


def _indices(indices: Sequence[int], element: ir.Type = _I32) -> ir.Constant:
    return ir.Constant(ir.VectorType(element, len(indices)), list(indices))


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, _indices([0] * lanes))


def _window(builder: Any, lo: Any, hi: Any, lanes: int) -> Any:
    """Emit the mask of the lanes ``lo <= l < hi``, from 64-bit bounds of any size; no ``lo`` means 0."""

    def bound(value: Any) -> Any:
        value = _call(builder, "llvm.smax.i64", _I64, [value, _I64(0)])
        value = _call(builder, "llvm.smin.i64", _I64, [value, _I64(lanes)])
        return _splat(builder, builder.trunc(value, _I32), lanes)

    lane = _indices(range(lanes))
    mask = builder.icmp_signed("<", lane, bound(hi))
    return mask if lo is None else builder.and_(mask, builder.icmp_signed(">=", lane, bound(lo)))


def _at(builder: Any, pointer: Any, index: Any, vector: Vector) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), vector.llvm.as_pointer())


def _masked_load(builder: Any, pointer: Any, mask: Any, vector: Vector) -> Any:
    pointer = _at(builder, pointer, _I64(0), vector)
    zero = ir.Constant(vector.llvm, None)
    return _call(
        builder, f"llvm.masked.load.{vector.suffix}.p0", vector.llvm, [pointer, _I32(vector.bytes), mask, zero]
    )


def _every_second(builder: Any, pointer: Any, lo: Any, hi: Any, vector: Vector) -> Any:
    """Emit two loads that are de-interleaved; nothing after the last wanted element is read."""
    lanes = vector.lanes
    lo, hi = builder.shl(lo, _I64(1)), builder.sub(builder.shl(hi, _I64(1)), _I64(1))
    halves = []
    for start in (0, lanes):
        mask = _window(builder, builder.sub(lo, _I64(start)), builder.sub(hi, _I64(start)), lanes)
        halves.append(_masked_load(builder, builder.gep(pointer, [_I64(start)]), mask, vector))
    return builder.shuffle_vector(*halves, _indices(range(0, 2 * lanes, 2)))


def _gather(builder: Any, pointer: Any, step: Any, mask: Any, vector: Vector) -> Any:
    scale = _splat(builder, builder.mul(step, _I64(vector.bytes)), vector.lanes)
    offsets = builder.mul(_indices(range(vector.lanes), _I64), scale)
    base = _splat(builder, builder.ptrtoint(pointer, _I64), vector.lanes)
    pointers = builder.inttoptr(builder.add(base, offsets), ir.VectorType(pointer.type, vector.lanes))
    args = [pointers, _I32(vector.bytes), mask, ir.Constant(vector.llvm, None)]
    return _call(builder, f"llvm.masked.gather.{vector.suffix}.v{vector.lanes}p0", vector.llvm, args)


def _choose(builder: Any, value: Any, cases: dict[int, Callable[[], Any]], otherwise: Callable[[], Any]) -> Any:
    """Emit a switch; LLVM drops the other cases where it comes to know the value."""
    end, default = builder.append_basic_block(), builder.append_basic_block()
    switch = builder.switch(value, default)
    blocks = [(default, otherwise)]
    for case, emit in cases.items():
        blocks.append((builder.append_basic_block(), emit))
        switch.add_case(ir.Constant(value.type, case), blocks[-1][0])
    incoming = []
    for block, emit in blocks:
        builder.position_at_end(block)
        incoming.append((emit(), builder.block))
        builder.branch(end)
    builder.position_at_end(end)
    phi = builder.phi(incoming[0][0].type)
    for chosen, block in incoming:
        phi.add_incoming(chosen, block)
    return phi


# The vocabulary ------------------------------------------------------------------------------------------------------


def _primitive(define: Callable[..., Any]) -> Any:
    """Make a Numba intrinsic of ``define(*types) -> (signature, emit)``; ``emit(builder, *values)`` gives its value."""
    parameters = inspect.signature(define).parameters

    def definition(typing_context: Any, *args: types.Type) -> Any:
        result, emit = define(*args)

        def codegen(context: Any, builder: Any, sig: Any, values: Sequence[Any]) -> Any:
            value = emit(builder, *values)
            return context.get_dummy_value() if value is None else value

        return result, codegen

    definition.__name__ = define.__name__
    first = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    definition.__signature__ = inspect.Signature([first, *parameters.values()])  # type: ignore[attr-defined]
    return intrinsic(definition)


@_primitive
def _advance(p, i):
    return p(p, types.int64), lambda builder, pointer, index: builder.gep(pointer, [index])


@_primitive
def _prefetch(p, i):
    def emit(builder, pointer, index):
        # to read, into every cache, data
        args = [builder.gep(pointer, [index]), _I32(0), _I32(3), _I32(1)]
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), args)

    return types.void(p, types.int64), emit


@_primitive
def _store(p, i, x):
    def emit(builder, pointer, index, value):
        builder.store(value, _at(builder, pointer, index, x), align=x.bytes)

    return types.void(types.CPointer(x.element), types.int64, x), emit


@_primitive
def _store_partial(p, x, n):
    def emit(builder, pointer, value, count):
        target = _at(builder, pointer, _I64(0), x)
        # most often all lanes are named, and a masked store of AVX2 takes AMD's cores as long as a dozen whole ones
        with builder.if_else(builder.icmp_signed(">=", count, _I64(x.lanes))) as (whole, part):
            with whole:
                builder.store(value, target, align=x.bytes)
            with part:
                args = [value, target, _I32(x.bytes), _window(builder, None, count, x.lanes)]
                _call(builder, f"llvm.masked.store.{x.suffix}.p0", ir.VoidType(), args)

    return types.void(types.CPointer(x.element), x, types.int64), emit


@_primitive
def _fma(a, b, c):
    # not llvm.fma, which calls a function for each lane where the CPU has no such instruction
    return a(a, a, a), lambda builder, *args: _call(builder, f"llvm.fmuladd.{a.suffix}", a.llvm, args)


def _extremum(ordered: str, integer: str) -> Any:
    @_primitive
    def extremum(a, b):
        def emit(builder, x, y):
            if not a.real:
                return _call(builder, f"llvm.{integer}.{a.suffix}", a.llvm, [x, y])
            # llvm.maximum would also tell zeros by their sign, at twice the cost; LLVM 15 has it for no x86
            first = builder.or_(builder.fcmp_ordered(ordered, x, y), builder.fcmp_unordered("uno", x, x))
            return builder.select(first, x, y)

        return a(a, a), emit

    return extremum


@_primitive
def _is_nan(a):
    return a.of(types.boolean)(a), lambda builder, x: builder.fcmp_unordered("uno", x, x)


@_primitive
def _select(mask, a, b):
    return a(a.of(types.boolean), a, a), lambda builder, *args: builder.select(*args)


@_primitive
def _any_lane(mask):
    name = f"llvm.vector.reduce.or.{mask.suffix}"
    return types.boolean(mask), lambda builder, *args: _call(builder, name, _I1, args)


@_primitive
def _all_lanes(mask):
    name = f"llvm.vector.reduce.and.{mask.suffix}"
    return types.boolean(mask), lambda builder, *args: _call(builder, name, _I1, args)


@_primitive
def _total(a):
    def emit(builder, value):
        add = builder.fadd if a.real else builder.add
        lanes = a.lanes
        while lanes > 1:
            lanes //= 2
            lower = builder.shuffle_vector(value, value, _indices(range(lanes)))
            upper = builder.shuffle_vector(value, value, _indices(range(lanes, 2 * lanes)))
            value = add(lower, upper)
        return builder.extract_element(value, _I32(0))

    return a.element(a), emit


@_primitive
def _extract(a, lane):
    return a.element(a, types.int64), lambda builder, *args: builder.extract_element(*args)


@_primitive
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

    @_primitive
    def permute(a, b):
        return Vector(a.element, len(indices))(a, a), lambda builder, *args: builder.shuffle_vector(
            *args, _indices(indices)
        )

    return permute


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

    @_primitive
    def named(a, b):
        return of(a)(a, a), lambda builder, *args: emit(builder, a.real, *args)

    return named


def _arithmetic(name: str, integer: str) -> Callable[..., Any]:
    return lambda builder, real, a, b: (
        getattr(builder, f"f{name}")(a, b, flags=_FLAGS) if real else getattr(builder, integer)(a, b)
    )


def _comparison(symbol: str) -> Callable[..., Any]:
    return lambda builder, real, a, b: (builder.fcmp_ordered if real else builder.icmp_signed)(symbol, a, b)


_OPERATORS = {
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


def _pointer_to(element: types.Type) -> Any:
    @_primitive
    def pointer(address):
        result = types.CPointer(element)
        return result(types.int64), lambda builder, x: builder.inttoptr(x, _ELEMENTS[element].as_pointer())

    return pointer


def _constant(result: Vector, value: list[int] | None) -> Any:
    @_primitive
    def constant():
        return result(), lambda builder: ir.Constant(result.llvm, value)

    return constant


def _broadcast(result: Vector) -> Any:
    @_primitive
    def broadcast(x):
        return result(result.element), lambda builder, value: _splat(builder, value, result.lanes)

    return broadcast


def _conversion(result: Vector, name: str) -> Any:
    @_primitive
    def convert(a):
        return result(a), lambda builder, value: getattr(builder, name)(value, result.llvm)

    return convert


def _loads(lanes: int) -> dict[str, Any]:
    def vector_at(p: types.Type) -> Vector:
        if not isinstance(p, types.CPointer):
            raise TypingError(f"a load needs a pointer, not {p}")
        return Vector(p.dtype, lanes)

    @_primitive
    def load(p, i):
        vector = vector_at(p)

        def emit(builder, pointer, index):
            return builder.load(_at(builder, pointer, index, vector), align=vector.bytes)

        return vector(p, types.int64), emit

    @_primitive
    def load_partial(p, n):
        vector = vector_at(p)

        def emit(builder, pointer, count):
            return _masked_load(builder, pointer, _window(builder, None, count, lanes), vector)

        return vector(p, types.int64), emit

    @_primitive
    def load_window(p, lo, hi):
        vector = vector_at(p)

        def emit(builder, pointer, lo, hi):
            return _masked_load(builder, pointer, _window(builder, lo, hi, lanes), vector)

        return vector(p, types.int64, types.int64), emit

    @_primitive
    def load_strided(p, step, lo, hi):
        vector = vector_at(p)

        def emit(builder, pointer, step, lo, hi):
            return _choose(
                builder,
                step,
                {
                    1: lambda: _masked_load(builder, pointer, _window(builder, lo, hi, lanes), vector),
                    2: lambda: _every_second(builder, pointer, lo, hi, vector),
                },
                lambda: _gather(builder, pointer, step, _window(builder, lo, hi, lanes), vector),
            )

        return vector(p, types.int64, types.int64, types.int64), emit

    return {"load": load, "load_partial": load_partial, "load_window": load_window, "load_strided": load_strided}


@cache
def vectors(dtype: str, lanes: int) -> ModuleType:
    """Make the vocabulary for ``lanes`` elements of "float32" or "float64".

    It is a module because Numba looks attributes of modules up when it types a function. Beside the functions it has
    the constants ``lanes`` and ``itemsize``.
    """
    real, integer = {"float32": (types.float32, types.int32), "float64": (types.float64, types.int64)}[dtype]
    vector, integers = Vector(real, lanes), Vector(integer, lanes)
    interleaved = [index for lane in range(lanes) for index in (lane, lane + lanes)]
    v = ModuleType(f"{dtype}x{lanes}")
    v.__dict__.update(
        _OPERATORS, **_loads(lanes), lanes=lanes, itemsize=vector.bytes,
        pointer=_pointer_to(real), pointer_int64=_pointer_to(types.int64), pointer_uint8=_pointer_to(types.uint8),
        advance=_advance, prefetch=_prefetch, store=_store, store_partial=_store_partial,
        zero=_constant(vector, None), zero_int=_constant(integers, None), lane=_constant(integers, list(range(lanes))),
        broadcast=_broadcast(vector), broadcast_int=_broadcast(integers),
        broadcast_int64=_broadcast(vector.of(types.int64)),
        fma=_fma, maximum=_extremum(">", "smax"), minimum=_extremum("<", "smin"),
        is_nan=_is_nan, select=_select, any=_any_lane, all=_all_lanes,
        sum=_total, extract=_extract, shuffle=_shuffle,
        to_real=_conversion(vector, "sitofp"), to_int=_conversion(integers, "fptosi"), widen=_widen,
        even=_shuffle(tuple(range(0, 2 * lanes, 2))), odd=_shuffle(tuple(range(1, 2 * lanes, 2))),
        low=_shuffle(tuple(interleaved[:lanes])), high=_shuffle(tuple(interleaved[lanes:])),
    )  # fmt: skip
    return v


def mask_instructions(v: Any) -> bool:
    """Whether there are masked loads at all, as from AVX2 on: elsewhere the lanes go one by one."""
    return bool(v.lanes * v.itemsize >= 32)


def masked_loads(v: Any) -> bool:
    """Whether masked loads cost no more than whole ones: those of AVX-512, by the size of its vectors."""
    return bool(v.lanes * v.itemsize == 64)
