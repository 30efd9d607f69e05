"""Pointers, loads and stores. Nothing outside the lanes that an operation names is ever touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.errors import TypingError

from convforge.kernels.numba.simd_emit import I32, I64, call, integers, primitive, splat
from convforge.kernels.numba.simd_vector import ELEMENTS, Vector


def _window(builder: Any, lo: Any, hi: Any, lanes: int) -> Any:
    """Emit the mask of the lanes ``lo <= l < hi``, from 64-bit bounds of any size; no ``lo`` means 0."""

    def bound(value: Any) -> Any:
        value = call(builder, "llvm.smax.i64", I64, [value, I64(0)])
        value = call(builder, "llvm.smin.i64", I64, [value, I64(lanes)])
        return splat(builder, builder.trunc(value, I32), lanes)

    lane = integers(range(lanes))
    mask = builder.icmp_signed("<", lane, bound(hi))
    return mask if lo is None else builder.and_(mask, builder.icmp_signed(">=", lane, bound(lo)))


def _at(builder: Any, pointer: Any, index: Any, vector: Vector) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), vector.llvm.as_pointer())


def _masked_load(builder: Any, pointer: Any, mask: Any, vector: Vector) -> Any:
    pointer = _at(builder, pointer, I64(0), vector)
    zero = ir.Constant(vector.llvm, None)
    return call(builder, f"llvm.masked.load.{vector.suffix}.p0", vector.llvm, [pointer, I32(vector.bytes), mask, zero])


def _every_second(builder: Any, pointer: Any, lo: Any, hi: Any, vector: Vector) -> Any:
    """Emit two loads that are de-interleaved; nothing after the last wanted element is read."""
    lanes = vector.lanes
    lo, hi = builder.shl(lo, I64(1)), builder.sub(builder.shl(hi, I64(1)), I64(1))
    halves = []
    for start in (0, lanes):
        mask = _window(builder, builder.sub(lo, I64(start)), builder.sub(hi, I64(start)), lanes)
        halves.append(_masked_load(builder, builder.gep(pointer, [I64(start)]), mask, vector))
    return builder.shuffle_vector(*halves, integers(range(0, 2 * lanes, 2)))


def _gather(builder: Any, pointer: Any, step: Any, mask: Any, vector: Vector) -> Any:
    scale = splat(builder, builder.mul(step, I64(vector.bytes)), vector.lanes)
    offsets = builder.mul(integers(range(vector.lanes), I64), scale)
    base = splat(builder, builder.ptrtoint(pointer, I64), vector.lanes)
    pointers = builder.inttoptr(builder.add(base, offsets), ir.VectorType(pointer.type, vector.lanes))
    args = [pointers, I32(vector.bytes), mask, ir.Constant(vector.llvm, None)]
    return call(builder, f"llvm.masked.gather.{vector.suffix}.v{vector.lanes}p0", vector.llvm, args)


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


def _pointer_to(element: types.Type) -> Any:
    @primitive
    def pointer(address):
        result = types.CPointer(element)
        return result(types.int64), lambda builder, x: builder.inttoptr(x, ELEMENTS[element].as_pointer())

    return pointer


@primitive
def _address(p):
    return types.int64(p), lambda builder, pointer: builder.ptrtoint(pointer, I64)


@primitive
def _advance(p, i):
    return p(p, types.int64), lambda builder, pointer, index: builder.gep(pointer, [index])


@primitive
def _prefetch(p, i):
    def emit(builder, pointer, index):
        # to read, into every cache, data
        args = [builder.gep(pointer, [index]), I32(0), I32(3), I32(1)]
        call(builder, "llvm.prefetch.p0", ir.VoidType(), args)

    return types.void(p, types.int64), emit


@primitive
def _store(p, i, x):
    def emit(builder, pointer, index, value):
        builder.store(value, _at(builder, pointer, index, x), align=x.bytes)

    return types.void(types.CPointer(x.element), types.int64, x), emit


@primitive
def _store_partial(p, x, n):
    def emit(builder, pointer, value, count):
        # most often all lanes are named
        with builder.if_else(builder.icmp_signed(">=", count, I64(x.lanes))) as (whole, part):
            with whole:
                builder.store(value, _at(builder, pointer, I64(0), x), align=x.bytes)
            with part:
                if x.lanes * x.bytes < 64:
                    _store_by_powers(builder, pointer, value, count, x)
                else:
                    _masked_store(builder, pointer, value, count, x)

    return types.void(types.CPointer(x.element), x, types.int64), emit


def _masked_store(builder: Any, pointer: Any, value: Any, count: Any, vector: Vector) -> None:
    args = [value, _at(builder, pointer, I64(0), vector), I32(vector.bytes)]
    args += [_window(builder, None, count, vector.lanes)]
    call(builder, f"llvm.masked.store.{vector.suffix}.p0", ir.VoidType(), args)


def _store_by_powers(builder: Any, pointer: Any, value: Any, count: Any, vector: Vector) -> None:
    """Emit stores of 4, 2, 1 lanes: a masked store of AVX2 takes AMD's cores 18 cycles, these 4 to 10."""
    count = call(builder, "llvm.smax.i64", I64, [count, I64(0)])
    size = vector.lanes // 2
    while size:
        low = builder.shuffle_vector(value, value, integers(range(size)))
        before = builder.block
        with builder.if_then(builder.icmp_signed("!=", builder.and_(count, I64(size)), I64(0))):
            builder.store(low, builder.bitcast(pointer, low.type.as_pointer()), align=vector.bytes)
            high = builder.shuffle_vector(value, value, integers(range(size, 2 * size)))
            following, inside = builder.gep(pointer, [I64(size)]), builder.block
        value, last = builder.phi(low.type), pointer
        pointer = builder.phi(last.type)
        for phi, stored, left in ((value, high, low), (pointer, following, last)):
            phi.add_incoming(stored, inside)
            phi.add_incoming(left, before)
        size //= 2


def _loads(lanes: int) -> dict[str, Any]:
    def vector_at(p: types.Type) -> Vector:
        if not isinstance(p, types.CPointer):
            raise TypingError(f"a load needs a pointer, not {p}")
        return Vector(p.dtype, lanes)

    @primitive
    def load(p, i):
        vector = vector_at(p)

        def emit(builder, pointer, index):
            return builder.load(_at(builder, pointer, index, vector), align=vector.bytes)

        return vector(p, types.int64), emit

    @primitive
    def load_partial(p, n):
        vector = vector_at(p)

        def emit(builder, pointer, count):
            return _masked_load(builder, pointer, _window(builder, None, count, lanes), vector)

        return vector(p, types.int64), emit

    @primitive
    def load_window(p, lo, hi):
        vector = vector_at(p)

        def emit(builder, pointer, lo, hi):
            return _masked_load(builder, pointer, _window(builder, lo, hi, lanes), vector)

        return vector(p, types.int64, types.int64), emit

    @primitive
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


def memory(real: types.Type, lanes: int) -> dict[str, Any]:
    """Make the functions by their names in the vocabulary."""
    return {
        "pointer": _pointer_to(real),
        "pointer_int64": _pointer_to(types.int64),
        "pointer_uint8": _pointer_to(types.uint8),
        "address": _address,
        "advance": _advance,
        "prefetch": _prefetch,
        "store": _store,
        "store_partial": _store_partial,
        **_loads(lanes),
    }
