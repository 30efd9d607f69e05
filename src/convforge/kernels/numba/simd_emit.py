"""Numba intrinsics made from what they emit, and the pieces of LLVM IR that many of them share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def primitive(define: Callable[..., Any]) -> Any:
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


def call(builder: Any, name: str, result: ir.Type, args: Sequence[Any]) -> Any:
    """Call an LLVM intrinsic, declared by its full name: llvmlite's own way knows no vector types."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, args)


def integers(values: Sequence[int], element: ir.Type = I32) -> ir.Constant:
    """A constant vector."""
    return ir.Constant(ir.VectorType(element, len(values)), list(values))


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Emit a vector of one value."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, I32(0))
    return builder.shuffle_vector(first, undefined, integers([0] * lanes))


def kernel_call(name: str) -> Any:
    """Make ``kernel(fields, scratch, begin, end)``: a call of another kernel, with its arguments as a tuple."""

    @primitive
    def kernel(fields: types.BaseTuple, scratch: types.Type, begin: types.Type, end: types.Type) -> Any:
        def emit(builder: Any, fields_: Any, *rest: Any) -> None:
            with builder.goto_entry_block():
                table = builder.alloca(I64, fields.count)
            for i in range(fields.count):
                builder.store(builder.extract_value(fields_, i), builder.gep(table, [I32(i)]))
            call(builder, name, ir.VoidType(), [table, *rest])

        return signature(types.void, fields, scratch, begin, end), emit

    return kernel
