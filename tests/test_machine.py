"""What is read of the CPU, and how an instruction set is forced."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from convforge.runtime import machine as module
from convforge.runtime.machine import DTYPES, Machine, machine, runnable, tile


@pytest.fixture
def fresh():
    """The machine is read anew, in the test and after it."""
    machine.cache_clear()
    yield
    machine.cache_clear()


@pytest.fixture
def system(tmp_path):
    """A folder of caches as Linux shows them."""

    def write(caches):
        for number, (kind, level, size) in enumerate(caches):
            folder = tmp_path / f"index{number}"
            folder.mkdir()
            for name, text in (("type", kind), ("level", level), ("size", size)):
                (folder / name).write_text(f"{text}\n")
        return tmp_path

    return write


def test_this_machine():
    here = machine()
    assert here is machine()
    assert here.isa in runnable()
    assert 4 << 10 <= here.l1 <= here.l2 <= max(here.l2, here.l3)
    assert here.cores >= 1
    assert pickle.loads(pickle.dumps(here)) == here


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline", "neon"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tiles_fit_the_registers(isa, dtype):
    size = tile(isa, dtype)
    vector_bytes = {"avx512": 64, "avx2": 32}.get(isa, 16)
    registers = 32 if isa in ("avx512", "neon") else 16
    assert size.lanes * np.dtype(dtype).itemsize == vector_bytes
    assert size.rows * size.vectors + size.vectors < registers
    assert size.columns == size.lanes * size.vectors


def test_peak_scales_with_the_lanes():
    wide, narrow = (Machine(isa, 1, 1, 1, 1) for isa in ("avx512", "avx2"))
    assert wide.peak("float32") == 2 * wide.peak("float64") == 2 * narrow.peak("float32")


@pytest.mark.parametrize(
    ("vendor", "family", "isa", "expected"),
    [
        ("AuthenticAMD", "25", "avx512", 1),
        ("AuthenticAMD", "25", "avx2", 2),
        ("AuthenticAMD", "26", "avx512", 2),
        ("GenuineIntel", "6", "avx512", 2),
        ("", "", "avx512", 2),
    ],
)
def test_long_vectors_in_halves(fresh, monkeypatch, vendor, family, isa, expected):
    monkeypatch.setattr(module, "_cpu", {"vendor_id": vendor, "cpu family": family}.get)
    monkeypatch.setattr(module, "runnable", lambda: ("avx512", "avx2", "baseline"))
    monkeypatch.setenv("CONVFORGE_ISA", isa)
    here = machine()
    assert here.multiply_adds == expected
    assert here.peak("float32") == here.tile("float32").lanes * 2 * expected * 3e9


def test_each_possible_isa_can_be_forced(fresh, monkeypatch):
    for isa in runnable():
        machine.cache_clear()
        monkeypatch.setenv("CONVFORGE_ISA", isa)
        assert machine().isa == isa


@pytest.mark.parametrize("wrong", ["sse9", "AVX2", "neon,avx2"])
def test_unknown_isa_is_an_error(fresh, monkeypatch, wrong):
    monkeypatch.setenv("CONVFORGE_ISA", wrong)
    with pytest.raises(ValueError, match=rf"CONVFORGE_ISA is '{wrong}'.*can run .*{runnable()[-1]}"):
        machine()


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (frozenset(), ("baseline",)),
        (module.FEATURES["avx2"] - {"fma"}, ("baseline",)),
        (module.FEATURES["avx2"], ("avx2", "baseline")),
        (module.FEATURES["avx512"], ("baseline",)),
        (module.FEATURES["avx512"] | module.FEATURES["avx2"], ("avx512", "avx2", "baseline")),
    ],
)
def test_isa_needs_all_its_features(monkeypatch, features, expected):
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(module, "_features", lambda: features)
    assert runnable() == expected


def test_an_isa_the_cpu_lacks_is_an_error(fresh, monkeypatch):
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(module, "_features", lambda: module.FEATURES["avx2"])
    monkeypatch.setenv("CONVFORGE_ISA", "avx512")
    with pytest.raises(ValueError, match="'avx512'; this CPU can run avx2, baseline"):
        machine()


@pytest.mark.parametrize("name", ["aarch64", "arm64"])
def test_arm_has_one_isa(monkeypatch, name):
    monkeypatch.setattr(module.platform, "machine", lambda: name)
    assert runnable() == ("neon",)


def test_cache_sizes(system):
    folder = system([("Data", 1, "48K"), ("Instruction", 1, "32K"), ("Unified", 2, "1M"), ("Unified", 3, "32768K")])
    assert module._cache_sizes(folder) == (48 << 10, 1 << 20, 32 << 20)


def test_cache_sizes_fall_back(system, tmp_path):
    assert module._cache_sizes(tmp_path / "none") == (32 << 10, 512 << 10, 8 << 20)
    assert module._cache_sizes(system([("Data", 1, "much"), ("Unified", 2, "")])) == (32 << 10, 512 << 10, 8 << 20)


def test_forced_isa_reaches_the_kernels():
    pytest.importorskip("convforge.runtime._native", reason="built without extensions")
    script = (
        "import sys; from convforge.kernels import cython; cython.lookup('peak', 'float32'); "
        "print(*(name for name in sys.modules if name.endswith('_float32')))"
    )
    for isa in runnable():
        done = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "CONVFORGE_ISA": isa}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert done.stdout.split() == [f"convforge.kernels.cython._{isa}_float32"]
