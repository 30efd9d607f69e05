"""Vectors as a Numba type: a value is one LLVM vector, and local variables of it live in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import register_model

#: Types of elements, as LLVM's.
ELEMENTS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.boolean: ir.IntType(1),
    types.uint8: ir.IntType(8),
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
}
_BYTES = {types.float32: 4, types.float64: 8, types.uint8: 1, types.int32: 4, types.int64: 8}


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
        return ir.VectorType(ELEMENTS[self.element], self.lanes)

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
