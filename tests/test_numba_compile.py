"""Compiled Numba kernels: what is kept on disk, when it is used, and that nothing that is wrong with it does harm."""

import ctypes
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import convforge
from convforge.kernels import abi
from convforge.runtime import cache
from convforge.runtime.machine import machine

pytest.importorskip("numba")
from convforge.kernels import numba as kernels
from convforge.kernels.numba import compile as compiling
from convforge.kernels.numba import translate

PACKAGE = Path(convforge.__file__).parent

# Adds two rows of partial sums, and says what was imported for that
PROGRAM = """
    import ctypes, sys
    import numpy as np
    from convforge.kernels.numba import lookup

    partial, out = np.arange(40, dtype=np.float32), np.zeros(20, np.float32)
    args = np.array([partial.ctypes.data, out.ctypes.data, 2, 20])
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    kernel(lookup("sum_parts", "float32"))(args.ctypes.data, None, 0, 1)
    print(*out.astype(int), "numba" in sys.modules)
"""
SUMS = " ".join(str(2 * i + 20) for i in range(20))


def start(folder, package=PACKAGE, code=PROGRAM, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "CONVFORGE_CACHE_DIR": str(folder), "PYTHONPATH": str(package.parent), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


def run(*args, **keywords):
    return finish(start(*args, **keywords))


def sums(address):
    """The sums that the kernel at ``address`` adds up, as PROGRAM does."""
    partial, out = np.arange(40, dtype=np.float32), np.zeros(20, np.float32)
    values = {"partial": partial.ctypes.data, "out": out.ctypes.data, "parts": 2, "count": 20}
    args = np.array([values[name] for name in abi.SIGNATURES["sum_parts"]])
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)
    kernel(args.ctypes.data, None, 0, 1)
    return " ".join(str(int(x)) for x in out)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, for a process that has not looked any kernel up."""
    monkeypatch.setenv("CONVFORGE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(compiling, "_addresses", {})
    return tmp_path / "cache"


@pytest.fixture
def compiled(monkeypatch):
    """The names of the kernels that are compiled, as they are."""
    names = []
    original = translate.object_code

    def counted(factory, *args):
        names.append(factory.__name__)
        return original(factory, *args)

    monkeypatch.setattr(translate, "object_code", counted)
    return names


def forget():
    compiling._addresses.clear()


def test_a_warm_start_does_not_import_numba(tmp_path):
    assert run(tmp_path) == f"{SUMS} True"
    assert run(tmp_path) == f"{SUMS} False"


def test_compiled_once_in_a_process(folder, compiled):
    addresses = []
    threads = [
        threading.Thread(target=lambda: addresses.append(kernels.lookup("sum_parts", "float32"))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(addresses) == 16
    assert len(set(addresses)) == 1
    assert compiled == ["sum_parts"]
    assert [file.suffix for file in folder.iterdir()] == [".o"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
        lambda content: b"not object code at all",
    ],
    ids=["empty", "cut short", "one byte less", "one bit changed", "something else"],
)
def test_a_damaged_file_is_replaced(folder, compiled, damage):
    kernels.lookup("sum_parts", "float32")
    (file,) = folder.iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(content))
    forget()
    assert sums(kernels.lookup("sum_parts", "float32")) == SUMS
    assert compiled == ["sum_parts"] * 2
    forget()
    assert sums(kernels.lookup("sum_parts", "float32")) == SUMS
    assert len(compiled) == 2


def test_a_directory_in_place_of_a_file(folder, compiled):
    kernels.lookup("sum_parts", "float32")
    (file,) = folder.iterdir()
    file.unlink()
    file.mkdir()
    forget()
    assert sums(kernels.lookup("sum_parts", "float32")) == SUMS
    assert list(folder.iterdir()) == [file]


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch, folder):
    occupied = tmp_path / "occupied"
    occupied.write_text("a file where the directory should be")
    monkeypatch.setenv("CONVFORGE_CACHE_DIR", str(occupied / "below"))
    assert sums(kernels.lookup("sum_parts", "float32")) == SUMS
    assert cache.info() == cache.CacheInfo(occupied / "below", 0, 0)
    assert cache.clear() == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_cache_that_cannot_be_written(folder):
    folder.mkdir()
    folder.chmod(0o500)
    try:
        assert sums(kernels.lookup("sum_parts", "float32")) == SUMS
        assert cache.info().files == 0
    finally:
        folder.chmod(0o700)


def test_a_full_disk(folder, monkeypatch):
    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert sums(kernels.lookup("sum_parts", "float32")) == SUMS
    assert list(folder.iterdir()) == []


def test_two_processes_at_once(tmp_path):
    assert [finish(process) for process in [start(tmp_path), start(tmp_path)]] == [f"{SUMS} True"] * 2
    assert [file.suffix for file in tmp_path.iterdir()] == [".o"]


def test_an_edited_source_is_compiled_anew(tmp_path):
    package = tmp_path / "convforge"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert run(tmp_path / "cache", package) == f"{SUMS} True"
    operators = package / "kernels/numba/simd_operators.py"
    source = operators.read_text()
    edited = source.replace('_operator(operator.add, _arithmetic("add",', '_operator(operator.add, _arithmetic("sub",')
    assert edited != source
    operators.write_text(edited)
    assert run(tmp_path / "cache", package) == " ".join(["-20"] * 20) + " True"
    operators.write_text(source)
    assert run(tmp_path / "cache", package) == f"{SUMS} False"


@pytest.mark.parametrize("source", compiling.SOURCES)
def test_every_source_counts(tmp_path, source):
    for each in compiling.SOURCES:
        if (PACKAGE / each).is_dir():
            shutil.copytree(PACKAGE / each, tmp_path / each)
        else:
            shutil.copy(PACKAGE / each, tmp_path / each)
    before = compiling.source_hash(tmp_path)
    assert before == compiling.source_hash(PACKAGE)
    path = tmp_path / source
    file = path if path.is_file() else path / "__init__.py"
    file.write_bytes(file.read_bytes() + b"\n")
    assert compiling.source_hash(tmp_path) != before


def test_the_name_tells_targets_apart():
    tile, cpu = machine().tile("float32"), compiling.cpu()
    one = compiling.cache_name("peak", "float32", tile, cpu, "hash")
    others = [
        compiling.cache_name("gemm_tile", "float32", tile, cpu, "hash"),
        compiling.cache_name("peak", "float64", tile, cpu, "hash"),
        compiling.cache_name("peak", "float32", machine().tile("float64"), cpu, "hash"),
        compiling.cache_name("peak", "float32", tile, cpu._replace(name="other"), "hash"),
        compiling.cache_name("peak", "float32", tile, cpu._replace(features="+other"), "hash"),
        compiling.cache_name("peak", "float32", tile, cpu, "other"),
    ]
    assert one == compiling.cache_name("peak", "float32", tile, cpu, "hash")
    assert len({one, *others}) == 7


@pytest.mark.skipif(machine().isa == "neon", reason="an x86-64 target")
def test_another_cpu(tmp_path):
    lesser = {"CONVFORGE_ISA": "baseline", "NUMBA_CPU_NAME": "generic"}
    assert run(tmp_path) == f"{SUMS} True"
    assert run(tmp_path, **lesser) == f"{SUMS} True"
    assert run(tmp_path, **lesser) == f"{SUMS} False"
    assert run(tmp_path, NUMBA_CPU_FEATURES=compiling.cpu().features + ",-sse4a") == f"{SUMS} True"
    assert len(list(tmp_path.iterdir())) == 3


def test_the_cpu_is_told_as_numba_tells_it(monkeypatch):
    monkeypatch.setattr(compiling.llvm, "get_host_cpu_name", lambda: "generic")
    host = compiling.cpu()
    assert host.name == "generic"
    assert host.features  # LLVM does not know the host by name, but can ask it
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert compiling.cpu() == ("generic", "")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2")
    assert compiling.cpu() == ("generic", "+avx2")


def test_the_reason_why_the_backend_is_missing(tmp_path):
    assert kernels.available() is None
    code = "from convforge.kernels.numba import available; print(available())"
    assert run(tmp_path, code=code, NUMBA_DISABLE_JIT="1") == "NUMBA_DISABLE_JIT is set"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_another_thread_compiles(tmp_path):
    code = """
        import os, threading, time, warnings
        from convforge.kernels.numba import compile, lookup

        warnings.simplefilter("ignore")  # Python warns of the fork
        thread = threading.Thread(target=lookup, args=("gemm_tile", "float32"))
        thread.start()
        while compile._lock.acquire(blocking=False):
            compile._lock.release()
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            lookup("gemm_tile", "float64")
            os._exit(0)
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run(tmp_path, code=code) == "0"


def test_unknown_kernels_and_dtypes():
    with pytest.raises(KeyError):
        kernels.lookup("no_such_kernel", "float32")
    with pytest.raises(KeyError):
        kernels.lookup("peak", "float16")


def test_info_warm_and_clear(folder):
    assert cache.info() == cache.CacheInfo(folder, 0, 0)
    done = list(cache.warm(["float32"], ["peak", "sum_parts"]))
    assert [(kernel, dtype) for kernel, dtype, _ in done] == [("peak", "float32"), ("sum_parts", "float32")]
    assert all(seconds > 0 for _, _, seconds in done)
    info = cache.info()
    assert (info.path, info.files) == (folder, 2)
    assert info.bytes == sum(file.stat().st_size for file in folder.iterdir())
    stranger = folder / "notes.txt"
    stranger.write_text("mine")
    assert cache.clear() == 2
    assert list(folder.iterdir()) == [stranger]
    assert cache.info().files == 0


def test_the_default_directory(monkeypatch):
    monkeypatch.delenv("CONVFORGE_CACHE_DIR", raising=False)
    assert "convforge" in cache.directory().parts
