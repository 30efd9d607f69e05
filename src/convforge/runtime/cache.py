"""The directory that keeps object code compiled by the Numba backend, so that a later process need not compile it.

It is ``CONVFORGE_CACHE_DIR``, or the user's cache directory. Nothing depends on it: whatever goes wrong with it,
kernels are compiled as if it were empty.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What the cache holds.

    Attributes
    ----------
    path
        Its directory, which may not exist.
    files
        Compiled kernels in it.
    bytes
        Their size.
    """

    path: Path
    files: int
    bytes: int


def directory() -> Path:
    """The cache's directory, which may not exist."""
    chosen = os.environ.get("CONVFORGE_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("convforge", appauthor=False)


def read(name: str) -> bytes | None:
    """The content stored as ``name``; None where there is none, or it cannot be read, or it is damaged."""
    try:
        stored = (directory() / name).read_bytes()
    except OSError:
        return None
    digest, content = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def write(name: str, content: bytes) -> None:
    """Store ``content``, whole or not at all; nothing happens where the directory cannot be written."""
    path = directory()
    temporary = path / f"{name}.{os.getpid()}-{threading.get_ident()}.tmp"
    with suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
            os.replace(temporary, path / name)
        except OSError:
            temporary.unlink(missing_ok=True)


def _files() -> list[Path]:
    try:
        return sorted(file for file in directory().iterdir() if file.suffix in (".o", ".tmp"))
    except OSError:
        return []


def info() -> CacheInfo:
    """Where the cache is, and what it holds."""
    sizes = []
    for file in _files():
        with suppress(OSError):
            sizes.append(file.stat().st_size)
    return CacheInfo(directory(), len(sizes), sum(sizes))


def clear() -> int:
    """Delete the compiled kernels; the number deleted. Other files in the directory are left alone."""
    count = 0
    for file in _files():
        with suppress(OSError):
            file.unlink()
            count += 1
    return count


def warm(
    dtypes: Iterable[str] = ("float32", "float64"), kernels: Iterable[str] | None = None
) -> Iterator[tuple[str, str, float]]:
    """Compile kernels into the cache, or load them; yields (kernel, dtype, seconds) after each.

    Parameters
    ----------
    dtypes
        "float32" and "float64" are known.
    kernels
        Their names; by default all that the Numba backend has.

    Raises
    ------
    ImportError
        If Numba is not installed.
    """
    from convforge.kernels.numba import MODULES, lookup

    chosen = list(MODULES if kernels is None else kernels)
    for dtype in dtypes:
        for kernel in chosen:
            start = time.perf_counter()
            lookup(kernel, dtype)
            yield kernel, dtype, time.perf_counter() - start
