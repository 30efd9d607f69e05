"""Builds the compiled kernels: one extension module for each instruction set and dtype, and the parallel runner.

Everything else about the package is in pyproject.toml. Environment variables:

CONVFORGE_NO_EXTENSIONS=1
    Build a pure Python package: the Numba and NumPy backends work without a compiler.
CONVFORGE_BUILD_ISA=avx512
    Build only these instruction sets (comma-separated), for quick turns during development.

``python setup.py build_ext --inplace`` builds in the source tree; only what changed is compiled again. Generated
files (the ABI header, module stubs, C code) go to build/.
"""

from __future__ import annotations

import os
import platform
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, ExecError, PlatformError, SetupError

SOURCE = Path("src/convforge")
KERNELS = SOURCE / "kernels" / "cython"
MACHINE = SOURCE / "runtime" / "machine.py"
GENERATED = Path("build/generated")

ISA_FLAGS = {
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx2": ["-march=x86-64-v3"],
    "baseline": ["-march=x86-64"],
    "neon": [],
}
ARCHITECTURES = {
    "x86_64": ("avx512", "avx2", "baseline"),
    "amd64": ("avx512", "avx2", "baseline"),
    "aarch64": ("neon",),
    "arm64": ("neon",),
}
# ISO C switches contraction to FMA off: it is named. No flag here may change NaN, infinities or rounding.
FLAGS = ["-O3", "-std=c11", "-ffp-contract=fast", "-fno-math-errno", "-Wall", "-Wextra"]
# Cython's generated code has helpers it does not use, parameters of Python's calling conventions, short initialisers
# of type objects, and signed loop counters.
FLAGS += ["-Wno-unused-function", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-sign-compare"]
# gcc's limits would leave loops over register tiles as loops, and their sums in memory (measured: half the speed on
# AVX2); loops that fill a few vectors are no calls of memset. clang does well without, and warns of such flags.
GCC_FLAGS = ["--param=max-completely-peeled-insns=4000", "--param=max-completely-peel-times=64"]
GCC_FLAGS += ["-fno-tree-loop-distribute-patterns"]

DIRECTIVES = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": True,
}


class BuildError(SetupError):
    """The extensions cannot be built here; says what to do."""


class BuildKernels(build_ext):
    """build_ext that uses every core, and says what to do where there is no compiler."""

    def finalize_options(self) -> None:
        """As many compilers at a time as there are cores, unless told otherwise."""
        super().finalize_options()
        self.parallel = self.parallel or True

    def build_extensions(self) -> None:
        """Build all of them, or raise a BuildError."""
        compiler = getattr(self.compiler, "compiler_so", None)
        if not compiler or shutil.which(compiler[0]) is None:
            raise BuildError(_advice(f"no C compiler was found ({compiler[0] if compiler else 'none'})"))
        if _is_gcc(compiler[0]):
            for extension in self.extensions:
                extension.extra_compile_args = [*extension.extra_compile_args, *GCC_FLAGS]
        try:
            super().build_extensions()
        except (CCompilerError, CompileError, ExecError, PlatformError) as error:
            raise BuildError(_advice(f"the C compiler failed: {error}")) from error


def _is_gcc(compiler: str) -> bool:
    """Whether this command is gcc, by what it prints about itself; "cc" may be anything."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    return "Free Software Foundation" in version


def _advice(trouble: str) -> str:
    return (
        f"\n\nconvforge: {trouble}.\nInstall gcc, or clang with libomp, and Python's headers (Debian: apt install gcc "
        "python3-dev), or set\nCONVFORGE_NO_EXTENSIONS=1 to install without compiled kernels: the Numba and NumPy "
        "backends work.\n"
    )


def _write(path: Path, text: str) -> str:
    """Write a generated file if it changed, so that timestamps drive what is compiled again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return str(path)


def _write_abi() -> None:
    """The kernels' argument lists as C structs, and their declarations for Cython."""
    abi = runpy.run_path(str(SOURCE / "kernels" / "abi.py"))
    signatures: dict[str, tuple[str, ...]] = abi["SIGNATURES"]
    header = ["#pragma once", "#include <stdint.h>", f'#define ABI_FINGERPRINT "{abi["fingerprint"]()}"']
    declarations = ['cdef extern from "abi.h":', "    const char *ABI_FINGERPRINT"]
    for kernel, names in signatures.items():
        header.append(f"typedef struct {{ int64_t {', '.join(names)}; }} {kernel}_args;")
        declarations.append(f"    ctypedef struct {kernel}_args:")
        declarations += [f"        int64_t {name}" for name in names]
    _write(GENERATED / "abi.h", "\n".join(header) + "\n")
    _write(GENERATED / "abi.pxi", "\n".join(declarations) + "\n")


#: What several of Winograd's kernels call: the function that is specialised for an F(m, r), and its parameters.
WINOGRAD_SHARED = {
    "winograd_every_input": (
        "winograd_transform_input",
        "bint channels, const winograd_args *a, const winograd_block *b, int64_t g, int64_t begin, int64_t end, "
        "real *v, real *scratch",
    ),
    "winograd_every_weight": (
        "winograd_weight_rows",
        "const real *w, int64_t w_k, int64_t w_c, int64_t w_h, int64_t w_w, int64_t c, int64_t left, int64_t group, "
        "int64_t groups, real *u, real *taps",
    ),
    "winograd_every_output": (
        "winograd_transform_output",
        "bint channels, const winograd_args *a, const winograd_block *b, int64_t g, int64_t first_k, const real *p, "
        "real *rows",
    ),
}
#: A kernel's name after that of its F(m, r), the function that is specialised for it, what that is told beside F(m, r),
#: and its arguments.
WINOGRAD_STAGES = {
    "weight": ("winograd_transform_weight", "", "winograd_f2_weight_args"),
    "forward": ("winograd_forward", "False, ", "winograd_args"),
    "input": ("winograd_only_input", "False, ", "winograd_args"),
    "output": ("winograd_only_output", "False, ", "winograd_args"),
    "channels_forward": ("winograd_forward", "True, ", "winograd_args"),
    "channels_input": ("winograd_only_input", "True, ", "winograd_args"),
    "channels_output": ("winograd_only_output", "True, ", "winograd_args"),
    "grad_transform": ("winograd_grad_transform", "", "winograd_grad_args"),
    "grad_multiply": ("winograd_grad_multiply", "", "winograd_grad_args"),
    "grad_weight": ("winograd_inverse_grad", "", "winograd_grad_args"),
}


def _write_winograd() -> None:
    """Winograd's constant products as C, from exact matrices, and its kernels, of which each F(m, r) has its own."""
    matrices = runpy.run_path(str(SOURCE / "algorithms" / "winograd" / "transforms.py"))
    transforms, shortened = matrices["transforms"], matrices["shortened"]
    abi = runpy.run_path(str(SOURCE / "kernels" / "abi.py"))
    family = {each: transforms(*each) for each in abi["WINOGRAD"]}
    short = [shortened(each.short, t) for each, t in family.items() if each.short]
    header = runpy.run_path(str(SOURCE / "kernels" / "codegen.py"))["c_header"](list(family.values()), short)
    _write(GENERATED / "winograd_transforms.h", header)
    lines = []
    for name, (function, parameters) in WINOGRAD_SHARED.items():
        names = ", ".join(parameter.split()[-1].lstrip("*") for parameter in parameters.split(","))
        lines.append(f"cdef void {name}(int f, {parameters}) noexcept nogil:")
        for t in family.values():
            lines += [f"    if f == {t.code}:", f"        {function}({t.code}, {names})"]
    kernels = []
    for each, t in family.items():
        for stage, (function, told, struct) in WINOGRAD_STAGES.items():
            kernel = f"winograd_{each.name}_{stage}"
            if kernel in abi["SIGNATURES"]:
                kernels.append(kernel)
                lines.append(f"cdef void {kernel}(const int64_t *args, char *s, int64_t i, int64_t j) noexcept nogil:")
                lines.append(f"    {function}({t.code}, {told}<const {struct} *>args, s, i, j)")
    lines.append(f"WINOGRAD_KERNELS = {{{', '.join(f'{name!r}: address({name})' for name in kernels)}}}")
    _write(GENERATED / "winograd_kernels.pxi", "\n".join(lines) + "\n")


def _kernel_extensions(isas: list[str]) -> list[Extension]:
    machine = runpy.run_path(str(MACHINE))
    # machine.py sets the tiles, this file the flags
    depends = ["setup.py", str(MACHINE)]
    depends += sorted(
        str(path) for folder in (KERNELS, GENERATED) for path in folder.iterdir() if path.suffix in (".h", ".pxi")
    )
    extensions = []
    for isa in isas:
        for dtype, itemsize in machine["DTYPES"].items():
            tile = machine["tile"](isa, dtype)
            macros = {
                "CF_REAL_BITS": 8 * itemsize, "CF_LANES": tile.lanes, "CF_ROWS": tile.rows, "CF_VECTORS": tile.vectors,
                # helpers with constant arguments specialise at their calls
                "CYTHON_INLINE": "inline __attribute__((always_inline))",
            }  # fmt: skip
            name = f"_{isa}_{dtype}"
            extensions.append(
                Extension(
                    f"convforge.kernels.cython.{name}",
                    [_write(GENERATED / f"{name}.pyx", 'include "module.pxi"\n')],
                    include_dirs=[str(KERNELS), str(GENERATED)],
                    define_macros=[(key, str(value)) for key, value in macros.items()],
                    extra_compile_args=FLAGS + ISA_FLAGS[isa],
                    depends=depends,
                )
            )
    return extensions


def _runner_extension() -> Extension:
    import numpy

    folder = SOURCE / "runtime"
    return Extension(
        "convforge.runtime._native",
        [str(folder / "_native.pyx")],
        include_dirs=[numpy.get_include(), str(folder)],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=[*FLAGS, "-fopenmp"],
        extra_link_args=["-fopenmp"],
        depends=["setup.py", *sorted(str(path) for path in folder.glob("*.h"))],
    )


def _extensions() -> list[Extension]:
    if os.environ.get("CONVFORGE_NO_EXTENSIONS") == "1":
        return []
    isas = ARCHITECTURES.get(platform.machine().lower())
    if not sys.platform.startswith("linux") or isas is None:
        print(f"convforge: no compiled kernels on {sys.platform} {platform.machine()}; Numba and NumPy are used")
        return []
    from Cython.Build import cythonize

    wanted = [isa for isa in os.environ.get("CONVFORGE_BUILD_ISA", "").split(",") if isa] or list(isas)
    if not set(wanted) <= set(isas):
        raise BuildError(f"CONVFORGE_BUILD_ISA is {','.join(wanted)!r}; here it may name {', '.join(isas)}")
    _write_abi()
    _write_winograd()
    extensions = [*_kernel_extensions(wanted), _runner_extension()]
    return cythonize(
        extensions,
        build_dir="build/cython",
        include_path=[str(KERNELS), str(GENERATED)],
        compiler_directives=DIRECTIVES,
    )


setup(ext_modules=_extensions(), cmdclass={"build_ext": BuildKernels})
