"""The shim as intrinsics of Numba's: LLVM's instructions for a GPU, registers in tuples."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from convforge.kernels.cuda.tile import WIDTH, Tile


def _computed(array: Any) -> Any:
    return types.float32 if array.dtype == types.float16 else array.dtype


def _pointer(context: Any, builder: Any, array: Any, value: Any, at: Any, at_type: Any) -> Any:
    data = context.make_array(array)(context, builder, value=value).data
    index = context.cast(builder, at, at_type, types.int64)
    return builder.gep(data, [index])


def _load(context: Any, builder: Any, array: Any, pointer: Any) -> Any:
    value = context.unpack_value(builder, array.dtype, pointer)
    return context.cast(builder, value, array.dtype, _computed(array))


def _vector(context: Any, array: Any) -> Any:
    return ir.VectorType(context.get_data_type(array.dtype), WIDTH)


def _load_four(context: Any, builder: Any, array: Any, pointer: Any) -> list[Any]:
    wide = builder.load(builder.bitcast(pointer, _vector(context, array).as_pointer()), align=_align(array))
    values = [builder.extract_element(wide, ir.IntType(32)(i)) for i in range(WIDTH)]
    return [context.cast(builder, value, array.dtype, _computed(array)) for value in values]


def _store_four(context: Any, builder: Any, array: Any, pointer: Any, values: list[Any], type_: Any) -> None:
    vector = _vector(context, array)
    wide = ir.Constant(vector, ir.Undefined)
    for i, value in enumerate(values):
        wide = builder.insert_element(wide, context.cast(builder, value, type_, array.dtype), ir.IntType(32)(i))
    builder.store(wide, builder.bitcast(pointer, vector.as_pointer()), align=_align(array))


def _align(array: Any) -> int:
    return int(min(16, WIDTH * array.dtype.bitwidth // 8))


def _if(builder: Any, wanted: Any, make: Callable[[], list[Any]], types_: list[Any]) -> list[Any]:
    """What ``make`` gives where ``wanted`` holds, else zeros."""
    before = builder.block
    with builder.if_then(wanted):
        values = make()
        inside = builder.block
    results = []
    for value, type_ in zip(values, types_, strict=True):
        phi = builder.phi(type_)
        phi.add_incoming(ir.Constant(type_, 0), before)
        phi.add_incoming(value, inside)
        results.append(phi)
    return results


def _truth(context: Any, builder: Any, value: Any, type_: Any) -> Any:
    return context.cast(builder, value, type_, types.boolean)


def _below(context: Any, builder: Any, row: Any, i: int, rows: Any, limit: Any) -> Any:
    here = builder.add(row, builder.mul(rows, ir.IntType(32)(i)))
    return builder.icmp_signed("<", here, limit)


def _i32(context: Any, builder: Any, sig: Any, args: Any, *positions: int) -> list[Any]:
    return [context.cast(builder, args[p], sig.args[p], types.int32) for p in positions]


@intrinsic
def quotient(typingctx: Any, a: Any, b: Any) -> Any:
    """``a // b`` of numbers that are not negative."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.udiv(*_i32(context, builder, sig, args, 0, 1))

    return types.int32(a, b), codegen


@intrinsic
def within(typingctx: Any, value: Any, size: Any) -> Any:
    """Whether ``0 <= value < size``: one comparison of numbers without a sign."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.icmp_unsigned("<", *_i32(context, builder, sig, args, 0, 1))

    return types.boolean(value, size), codegen


@intrinsic
def load(typingctx: Any, array: Any, at: Any) -> Any:
    """The element at an index."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load(context, builder, array, _pointer(context, builder, array, args[0], args[1], sig.args[1]))

    return _computed(array)(array, at), codegen


@intrinsic
def load_if(typingctx: Any, array: Any, at: Any, wanted: Any) -> Any:
    """The element at an index; 0, and no access, where it is not wanted."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, args[0], args[1], sig.args[1])
        truth = _truth(context, builder, args[2], sig.args[2])
        type_ = context.get_value_type(_computed(array))
        return _if(builder, truth, lambda: [_load(context, builder, array, pointer)], [type_])[0]

    return _computed(array)(array, at, wanted), codegen


@intrinsic
def store(typingctx: Any, array: Any, at: Any, value: Any) -> Any:
    """Write an element."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, args[0], args[1], sig.args[1])
        context.pack_value(builder, array.dtype, context.cast(builder, args[2], sig.args[2], array.dtype), pointer)
        return context.get_dummy_value()

    return types.void(array, at, value), codegen


@intrinsic
def store4(typingctx: Any, array: Any, at: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Write four elements at once."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, args[0], args[1], sig.args[1])
        _store_four(context, builder, array, pointer, list(args[2:]), a)
        return context.get_dummy_value()

    return types.void(array, at, a, b, c, d), codegen


@intrinsic
def starts_aligned(typingctx: Any, array: Any) -> Any:
    """Whether four elements may be written at once."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(array)(context, builder, value=args[0]).data
        address = builder.ptrtoint(data, ir.IntType(64))
        low = builder.and_(address, ir.IntType(64)(_align(array) - 1))
        return builder.icmp_unsigned("==", low, ir.IntType(64)(0))

    return types.boolean(array), codegen


@cache
def zeros(count: int, dtype: str) -> Any:
    """A function without arguments that gives ``count`` zeros."""
    result = types.UniTuple(getattr(types, dtype), count)

    @intrinsic
    def zeros(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return ir.Constant(context.get_value_type(result), None)

        return result(), codegen

    return zeros


@cache
def load_rows(count: int) -> Any:
    """``f(array, at, step, row, rows, limit)``: ``count`` times four elements, each ``step`` on from the last.

    The i-th four are row ``row + i * rows``; at and beyond the row ``limit`` they are zeros, and nothing is read.
    """

    @intrinsic
    def load_rows(typingctx: Any, array: Any, at: Any, step: Any, row: Any, rows: Any, limit: Any) -> Any:
        result = types.UniTuple(_computed(array), count * WIDTH)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            at_, step_, row_, rows_, limit_ = _i32(context, builder, sig, args, 1, 2, 3, 4, 5)
            type_ = context.get_value_type(_computed(array))
            values: list[Any] = []
            for i in range(count):
                here = builder.add(at_, builder.mul(step_, ir.IntType(32)(i)))
                pointer = _pointer(context, builder, array, args[0], here, types.int32)
                wanted = _below(context, builder, row_, i, rows_, limit_)

                def make(pointer: Any = pointer) -> list[Any]:
                    return _load_four(context, builder, array, pointer)

                values += _if(builder, wanted, make, [type_] * WIDTH)
            return context.make_tuple(builder, result, values)

        return result(array, at, step, row, rows, limit), codegen

    return load_rows


@cache
def load_column(count: int) -> Any:
    """The same for ``count`` single elements: ``f(array, at, step, wanted, row, rows, limit)``."""

    @intrinsic
    def load_column(
        typingctx: Any, array: Any, at: Any, step: Any, wanted: Any, row: Any, rows: Any, limit: Any
    ) -> Any:
        result = types.UniTuple(_computed(array), count)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            at_, step_, row_, rows_, limit_ = _i32(context, builder, sig, args, 1, 2, 4, 5, 6)
            truth = _truth(context, builder, args[3], sig.args[3])
            type_ = context.get_value_type(_computed(array))
            values: list[Any] = []
            for i in range(count):
                here = builder.add(at_, builder.mul(step_, ir.IntType(32)(i)))
                pointer = _pointer(context, builder, array, args[0], here, types.int32)
                wanted_ = builder.and_(truth, _below(context, builder, row_, i, rows_, limit_))

                def make(pointer: Any = pointer) -> list[Any]:
                    return [_load(context, builder, array, pointer)]

                values += _if(builder, wanted_, make, [type_])
            return context.make_tuple(builder, result, values)

        return result(array, at, step, wanted, row, rows, limit), codegen

    return load_column


def _registers(builder: Any, values: Any, count: int) -> list[Any]:
    return [builder.extract_value(values, i) for i in range(count)]


@cache
def store_rows(count: int) -> Any:
    """``f(array, at, step, values)``: what :func:`load_rows` loads goes ``step`` apart."""

    @intrinsic
    def store_rows(typingctx: Any, array: Any, at: Any, step: Any, values: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            at_, step_ = _i32(context, builder, sig, args, 1, 2)
            registers = _registers(builder, args[3], count * WIDTH)
            for i in range(count):
                here = builder.add(at_, builder.mul(step_, ir.IntType(32)(i)))
                pointer = _pointer(context, builder, array, args[0], here, types.int32)
                four = registers[i * WIDTH : (i + 1) * WIDTH]
                _store_four(context, builder, array, pointer, four, values.dtype)
            return context.get_dummy_value()

        return types.void(array, at, step, values), codegen

    return store_rows


def _store_at(offsets: list[int]) -> Any:
    """``f(array, at, values)``: value i goes to ``at + offsets[i]``."""

    @intrinsic
    def store_at(typingctx: Any, array: Any, at: Any, values: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            base = _pointer(context, builder, array, args[0], args[1], sig.args[1])
            for value, offset in zip(_registers(builder, args[2], len(offsets)), offsets, strict=True):
                pointer = builder.gep(base, [ir.IntType(64)(offset)])
                stored = context.cast(builder, value, values.dtype, array.dtype)
                context.pack_value(builder, array.dtype, stored, pointer)
            return context.get_dummy_value()

        return types.void(array, at, values), codegen

    return store_at


@cache
def store_column(count: int, step: int) -> Any:
    """``f(array, at, values)``: ``count`` values, each ``step`` on from the last."""
    return _store_at([i * step for i in range(count)])


@cache
def store_transposed(count: int, step: int, pitch: int) -> Any:
    """``f(array, at, values)``: of the i-th four values, the j-th goes to ``at + i * step + j * pitch``."""
    return _store_at([i * step + j * pitch for i in range(count) for j in range(WIDTH)])


@cache
def multiply(tile: Tile) -> Any:
    """``f(sums, a, a_at, b, b_at)``: ``sums`` plus what a thread multiplies of one step's panels.

    ``a`` holds ``tile.bk`` rows of ``tile.a_pitch`` elements, ``b`` of ``tile.b_pitch``; the thread's rows and
    columns are fours, ``tile.row_step`` and ``tile.column_step`` apart, from ``a_at`` and ``b_at`` on.
    """

    @intrinsic
    def multiply(typingctx: Any, sums: Any, a: Any, a_at: Any, b: Any, b_at: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            total = _registers(builder, args[0], tile.tm * tile.tn)
            a_base = _pointer(context, builder, a, args[1], args[2], sig.args[2])
            b_base = _pointer(context, builder, b, args[3], args[4], sig.args[4])

            def fours(array: Any, base: Any, at: int, count: int, step: int) -> list[Any]:
                result: list[Any] = []
                for q in range(count):
                    pointer = builder.gep(base, [ir.IntType(64)(at + q * step)])
                    result += _load_four(context, builder, array, pointer)
                return result

            for k in range(tile.bk):
                left = fours(a, a_base, k * tile.a_pitch, tile.tm // WIDTH, tile.row_step)
                right = fours(b, b_base, k * tile.b_pitch, tile.tn // WIDTH, tile.column_step)
                for i, x in enumerate(left):
                    for j, y in enumerate(right):
                        at = i * tile.tn + j
                        total[at] = builder.fma(x, y, total[at])
            return context.make_tuple(builder, sums, total)

        return sums(sums, a, a_at, b, b_at), codegen

    return multiply


def _arithmetic(emit: Callable[..., Any], name: str) -> Any:
    """An intrinsic on constants and numbers of one type, that of the first argument which is no constant."""

    def codegen_for(type_: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            values = [context.cast(builder, value, t, type_) for value, t in zip(args, sig.args, strict=True)]
            return emit(builder, *values)

        return codegen

    if name == "fma":

        @intrinsic
        def operation(typingctx: Any, factor: Any, a: Any, b: Any) -> Any:
            return a(factor, a, b), codegen_for(a)

    else:

        @intrinsic
        def operation(typingctx: Any, a: Any, b: Any) -> Any:
            return b(a, b), codegen_for(b)

    return operation


@intrinsic
def broadcast(typingctx: Any, value: Any) -> Any:
    """A constant of the transforms."""
    return value(value), lambda context, builder, sig, args: args[0]


#: ``factor * a`` and ``factor * a + b``, rounded once, in the type of ``a``; sums and differences.
mul = _arithmetic(lambda builder, a, b: builder.fmul(a, b), "mul")
add = _arithmetic(lambda builder, a, b: builder.fadd(a, b), "add")
sub = _arithmetic(lambda builder, a, b: builder.fsub(a, b), "sub")
fma = _arithmetic(lambda builder, factor, a, b: builder.fma(factor, a, b), "fma")
