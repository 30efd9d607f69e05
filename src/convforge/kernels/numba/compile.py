"""Addresses of compiled kernels: from this process, else from object code on disk, else from Numba.

Numba's own disk cache does not notice an edit in another module that it inlines, takes generated functions for
each other, and raises where its directory cannot be written or a file is truncated. Hence a cache of our own, which
holds plain object code under a name that hashes all that the code depends on. Loading it needs llvmlite alone:
Numba's import, 0.5 s, is spared.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from dataclasses import astuple
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llvmlite import binding as llvm

from convforge.kernels.numba import CALLED, MODULES
from convforge.runtime import cache as disk
from convforge.runtime.machine import machine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convforge.runtime.machine import Tile

_PACKAGE = Path(__file__).parents[2]
#: What a kernel is made of, relative to the package: editing any of it makes other names in the cache.
SOURCES = ("kernels/numba", "kernels/abi.py", "kernels/codegen.py", "algorithms/winograd")

_lock = threading.RLock()
_addresses: dict[tuple[str, str], int] = {}
_loaded: list[object] = []  # owners of the machine code; it must stay for as long as anyone may call it

if hasattr(os, "register_at_fork"):
    # A fork waits until no thread is inside LLVM, whose locks the child could never release
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class Cpu(NamedTuple):
    """LLVM's name of the CPU that is compiled for, and its features as LLVM writes them (``+avx2,-sse4a``)."""

    name: str
    features: str


def cpu() -> Cpu:
    """Read ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` as Numba itself does; by default it is the host."""
    name, features = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        # a host that LLVM does not know is "generic" too, but its features are known
        features = "" if name and name.lower() == "generic" else llvm.get_host_cpu_features().flatten()
    return Cpu(name or llvm.get_host_cpu_name(), features)


def lookup(kernel: str, dtype: str) -> int:
    """Address of ``void kernel(const int64_t *args, char *scratch, int64_t begin, int64_t end)``.

    Parameters
    ----------
    kernel
        A kernel named in :data:`convforge.kernels.numba.MODULES`.
    dtype
        "float32" or "float64".
    """
    try:
        return _addresses[kernel, dtype]
    except KeyError:
        pass
    with _lock:
        if (kernel, dtype) not in _addresses:
            called = {name: lookup(name, dtype) for name in CALLED.get(kernel, ())}
            _addresses[kernel, dtype] = load(kernel, _object_code(kernel, dtype), called)
        return _addresses[kernel, dtype]


def _object_code(kernel: str, dtype: str) -> bytes:
    tile = machine().tile(dtype)
    name = cache_name(kernel, dtype, tile, cpu(), _source_hash())
    code = disk.read(name)
    if code is None:
        from convforge.kernels.numba.translate import object_code

        factory = getattr(import_module(f"{__package__}.{MODULES[kernel]}"), kernel)
        code = object_code(factory, dtype, tile, cpu())
        disk.write(name, code)
    return code


def cache_name(kernel: str, dtype: str, tile: Tile, target: Cpu, sources: str) -> str:
    """File name of a kernel's object code: it changes with everything that the code depends on."""
    versions = (sys.version, version("numba"), version("llvmlite"))
    parts = (*versions, llvm.get_process_triple(), *target, sources, kernel, dtype, *map(str, astuple(tile)))
    return f"{kernel}-{dtype}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}.o"


@cache
def _source_hash() -> str:
    return source_hash(_PACKAGE)


def source_hash(package: Path) -> str:
    """Hash of the names and contents of all :data:`SOURCES` under ``package``."""
    digest = hashlib.sha256()
    for source in SOURCES:
        path = package / source
        for file in [path] if path.suffix else sorted(path.rglob("*.py")):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(package).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


@cache
def _jit() -> llvm.LLJIT:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.create_lljit_compiler(use_jit_link=True)


def load(symbol: str, code: bytes, called: Mapping[str, int]) -> int:
    """Link object code into this process for good; the address of its function ``symbol``.

    It may call other functions, whose addresses are ``called``.
    """
    with _lock:
        # a library is a scope of symbols; its name is taken for ever
        builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process().export_symbol(symbol)
        for name, address in called.items():
            builder.import_symbol(name, address)
        library = builder.link(_jit(), f"{symbol}-{len(_loaded)}")
        _loaded.append(library)
        return int(library[symbol])
