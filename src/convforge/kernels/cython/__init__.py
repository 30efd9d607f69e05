"""Kernels compiled ahead of time: one module for each instruction set and dtype, of which the machine's is imported."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from convforge.kernels import abi
from convforge.runtime.machine import machine


def lookup(kernel: str, dtype: str) -> int:
    """Address of the C function ``kernel`` for ``dtype``.

    Raises
    ------
    ImportError
        If the extension modules were not built; see :func:`available`.
    KeyError
        If there is no such kernel.
    """
    return _kernels(dtype)[kernel]


@cache
def available() -> str | None:
    """None, or the reason why this backend is missing."""
    try:
        _kernels("float32")
    except ImportError as error:
        return (
            f"the compiled kernels are missing ({error}): they are built on Linux where a C compiler is found at "
            "installation, unless CONVFORGE_NO_EXTENSIONS is set"
        )
    return None


@cache
def _kernels(dtype: str) -> dict[str, int]:
    name = f"{__name__}._{machine().isa}_{dtype}"
    module = import_module(name)
    if getattr(module, "FINGERPRINT", None) != abi.fingerprint():
        raise ImportError(f"{name} was built from other sources; build it again", name=name)
    kernels: dict[str, int] = module.KERNELS
    return kernels
