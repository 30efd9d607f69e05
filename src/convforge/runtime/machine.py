"""The CPU this process runs on, read once: instruction set, caches, register tiles.

Standard library only: ``setup.py`` runs this file on its own for the table of tiles.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DTYPES = {"float32": 4, "float64": 8}

#: LLVM's names of the CPU features that each instruction set's modules are compiled for, best first.
#: avx512 is x86-64-v4, avx2 is x86-64-v3 (https://gitlab.com/x86-psABIs/x86-64-ABI).
FEATURES: dict[str, frozenset[str]] = {
    "avx512": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    "avx2": frozenset({"avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "xsave"}),
    "baseline": frozenset(),
}
_LLVM_NAMES = {"bmi1": "bmi", "abm": "lzcnt"}


@dataclass(frozen=True, slots=True)
class Tile:
    """A register tile: ``rows`` x ``vectors`` accumulators of ``lanes`` elements each."""

    lanes: int
    vectors: int
    rows: int

    @property
    def columns(self) -> int:
        """Elements in one row of the tile."""
        return self.lanes * self.vectors

    @property
    def group(self) -> int:
        """The fewest rows, or lanes, that are both whole vectors and whole tiles."""
        return max(self.lanes, self.rows)


#: Bytes of a vector, and rows x vectors of the register tile. The accumulators, one row of vectors and one broadcast
#: must fit the registers: 32 with AVX-512 and NEON, 16 else. Measured share of the peak: AVX-512 0.97, AVX2 0.99,
#: SSE2 0.8 (its multiplications overwrite an operand).
_TILES = {"avx512": (64, 8, 3), "avx2": (32, 4, 3), "baseline": (16, 4, 3), "neon": (16, 8, 3)}


def tile(isa: str, dtype: str) -> Tile:
    """The register tile of an instruction set, the same in every backend."""
    vector_bytes, rows, vectors = _TILES[isa]
    return Tile(vector_bytes // DTYPES[dtype], vectors, rows)


@dataclass(frozen=True, slots=True)
class Machine:
    """What block sizes and modelled costs depend on.

    Attributes
    ----------
    isa
        Instruction set in use: "avx512", "avx2", "baseline" (SSE2) or "neon".
    l1, l2, l3
        Data cache sizes in bytes, as one core sees them.
    cores
        Logical CPUs this process may run on.
    bandwidth
        Nominal bytes/s that one core streams from memory.
    multiply_adds
        Fused multiply-adds of whole vectors that a core begins in a cycle.
    """

    isa: str
    l1: int
    l2: int
    l3: int
    cores: int
    bandwidth: float = 1e10
    multiply_adds: int = 2

    def tile(self, dtype: str) -> Tile:
        """The register tile for ``dtype``."""
        return tile(self.isa, dtype)

    @property
    def cycle(self) -> float:
        """Nominal seconds of a cycle, at 3 GHz."""
        return 1 / 3e9

    @property
    def step(self) -> float:
        """Nominal seconds of two multiply-adds of whole vectors, and of two loads, a store or a shuffle."""
        return 2 * self.cycle / self.multiply_adds

    def peak(self, dtype: str) -> float:
        """Nominal FLOP/s of one core."""
        return 4 * self.tile(dtype).lanes / self.step


@cache
def machine() -> Machine:
    """The machine; ``CONVFORGE_ISA`` forces a lesser instruction set.

    Raises
    ------
    ValueError
        If ``CONVFORGE_ISA`` is no instruction set this CPU can run.
    """
    possible = runnable()
    isa = os.environ.get("CONVFORGE_ISA") or possible[0]
    if isa not in possible:
        raise ValueError(f"CONVFORGE_ISA is {isa!r}; this CPU can run {', '.join(possible)}")
    l1, l2, l3 = _cache_sizes(Path("/sys/devices/system/cpu/cpu0/cache"))
    return Machine(isa, l1, l2, l3, _cores(), multiply_adds=1 if isa == "avx512" and _in_halves() else 2)


def runnable() -> tuple[str, ...]:
    """Instruction sets this CPU can run, best first."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return ("neon",)
    features = _features()
    needed: set[str] = set()
    possible = []
    for isa in reversed(FEATURES):
        needed |= FEATURES[isa]
        if needed <= features:
            possible.append(isa)
    return tuple(reversed(possible))


def _in_halves() -> bool:
    """Whether the CPU works on halves of AVX-512's vectors one after the other, as AMD's Zen 4 does (family 25)."""
    return _cpu("vendor_id") == "AuthenticAMD" and _cpu("cpu family") == "25"


def _cpu(field: str) -> str:
    """What the system says of the first CPU, or nothing."""
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == field:
                    return value.strip()
    except OSError:
        pass
    return ""


def _features() -> frozenset[str]:
    """Features that CPU and operating system support, by LLVM's names."""
    flags = _cpu("flags").split()
    if flags:
        return frozenset(_LLVM_NAMES.get(flag, flag) for flag in flags)
    try:  # no /proc: macOS and Windows, where Numba's LLVM is there to ask
        from llvmlite import binding
    except ImportError:
        return frozenset()
    return frozenset(name for name, present in binding.get_host_cpu_features().items() if present)


def _cache_sizes(folder: Path) -> tuple[int, int, int]:
    """Bytes of the data or unified caches of levels 1 to 3; common sizes where the system does not say."""
    sizes = {1: 32 << 10, 2: 512 << 10, 3: 8 << 20}
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    for index in folder.glob("index*"):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction":
                sizes[int(level)] = int(size[:-1]) * units[size[-1]] if size[-1] in units else int(size)
        except (OSError, ValueError, IndexError):
            continue
    return sizes[1], sizes[2], sizes[3]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
