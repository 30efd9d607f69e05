"""The vocabulary of vectors.h, compiled for every instruction set by every compiler at hand, beside guard pages."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from convforge.runtime.machine import machine, runnable, tile

from .guard import at_page_end, at_page_start

HEADER = Path(__file__).parents[1] / "src" / "convforge" / "kernels" / "cython"
FLAGS = {"avx512": ["-march=x86-64-v4"], "avx2": ["-march=x86-64-v3"], "baseline": ["-march=x86-64"], "neon": []}
SOURCE = """
#include "vectors.h"
void load(real *out, const real *p) { vec_store(out, vec_load(p)); }
void load_partial(real *out, const real *p, int64_t n) { vec_store(out, vec_load_partial(p, n)); }
void load_window(real *out, const real *p, int64_t lo, int64_t hi) { vec_store(out, vec_load_window(p, lo, hi)); }
void load_strided(real *out, const real *p, int64_t step, int64_t lo, int64_t hi) {
    vec_store(out, vec_load_strided(p, step, lo, hi));
}
void store_partial(real *p, const real *v, int64_t n) { vec_store_partial(p, vec_load(v), n); }
void broadcast(real *out, const real *p) { vec_store(out, vec_broadcast(*p)); }
void fma_(real *out, const real *a, const real *b, const real *c) {
    vec_store(out, vec_fma(vec_load(a), vec_load(b), vec_load(c)));
}
#define OF_TWO(name) \\
    void name(real *out, const real *a, const real *b) { vec_store(out, vec_##name(vec_load(a), vec_load(b))); }
OF_TWO(maximum) OF_TWO(even) OF_TWO(odd) OF_TWO(low) OF_TWO(high)
void exceeding(real *out, const real *a, const real *b) {
    vec_store(out, vec_select(vec_exceeds(vec_load(a), vec_load(b)), vec_broadcast(1), vec_zero()));
}
void preceding(real *out, const real *a, const real *i, const real *b, const real *j) {
    vec_flags first = vec_precedes(vec_load(a), vec_load(i), vec_load(b), vec_load(j));
    vec_store(out, vec_select(first, vec_broadcast(1), vec_zero()));
}
void sum(real *out, const real *p) { *out = vec_sum(vec_load(p)); }
void sums(real *out, const real *p) {
    vec v[LANES];
    for (int l = 0; l < LANES; l++)
        v[l] = vec_load(p + l * LANES);
    vec_store(out, vec_sums(v));
}
"""
COMPILERS = [compiler for compiler in ("gcc", "clang") if shutil.which(compiler)]
pytestmark = pytest.mark.skipif(not COMPILERS, reason="no C compiler")


class Vocabulary:
    """Calls the C functions on arrays; the first argument is the vector that comes back."""

    def __init__(self, library, dtype, lanes):
        self.library, self.dtype, self.lanes = library, np.dtype(dtype), lanes

    def __call__(self, name, *args):
        out = np.full(self.lanes, np.nan, self.dtype)
        self.into(out, name, *args)
        return out

    def into(self, out, name, *args):
        pointers = [
            ctypes.c_void_p(each.ctypes.data) if isinstance(each, np.ndarray) else ctypes.c_int64(each) for each in args
        ]
        self.library[name](ctypes.c_void_p(out.ctypes.data), *pointers)


@pytest.fixture(scope="module", params=COMPILERS)
def compiler(request):
    return request.param


@pytest.fixture(scope="module", params=[(isa, dtype) for isa in runnable() for dtype in ("float32", "float64")])
def v(request, compiler, tmp_path_factory):
    isa, dtype = request.param
    folder = tmp_path_factory.mktemp("vectors")
    (folder / "vectors.c").write_text(SOURCE)
    size = tile(isa, dtype)
    command = [
        compiler, "-std=c11", "-O2", "-ffp-contract=fast", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
        *FLAGS[isa], f"-I{HEADER}", f"-DCF_REAL_BITS={np.dtype(dtype).itemsize * 8}", f"-DCF_LANES={size.lanes}",
        f"-DCF_ROWS={size.rows}", f"-DCF_VECTORS={size.vectors}", "vectors.c", "-o", "vectors.so",
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True)
    return Vocabulary(ctypes.CDLL(str(folder / "vectors.so")), dtype, size.lanes)


def numbers(v, count):
    return np.arange(1, count + 1).astype(v.dtype)


def test_whole_vectors(v):
    p = at_page_end(numbers(v, v.lanes))
    assert (v("load", p) == p).all()
    assert (v("broadcast", p[-1:]) == p[-1]).all()


def test_broadcast_keeps_the_sign_of_zero(v):
    assert np.signbit(v("broadcast", np.array([-0.0], v.dtype))).all()


def test_load_partial(v):
    for n in range(-1, v.lanes + 3):
        p = at_page_end(numbers(v, min(max(n, 1), v.lanes)))
        expected = np.where(np.arange(v.lanes) < n, np.arange(1, v.lanes + 1), 0)
        assert (v("load_partial", p, n) == expected).all()


def test_store_partial(v):
    values = numbers(v, v.lanes)
    for n in range(-1, v.lanes + 3):
        stored = min(max(n, 0), v.lanes)
        p = at_page_end(np.full(max(stored, 1), -1, v.dtype))
        v.into(p, "store_partial", values, n)
        assert (p[:stored] == values[:stored]).all()
        assert (p[stored:] == -1).all()
        wide = np.full(v.lanes + 1, -1, v.dtype)
        v.into(wide, "store_partial", values, n)
        assert (wide[stored:] == -1).all()


def window_of(values, lo, hi, step, lanes):
    """What a window reads from ``values``, whose first element is lane ``lo``'s."""
    return [values[(lane - lo) * step] if max(lo, 0) <= lane < hi else 0 for lane in range(lanes)]


@pytest.mark.parametrize("place", [at_page_start, at_page_end])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_windows_read_nothing_else(v, step, place):
    for lo in range(v.lanes + 1):
        for hi in range(lo, v.lanes + 1):
            values = place(numbers(v, max((hi - lo - 1) * step + 1, 1)))
            lane_zero = values.ctypes.data - lo * step * v.dtype.itemsize
            out = np.full(v.lanes, np.nan, v.dtype)
            name, arguments = ("load_strided", [step, lo, hi]) if step > 1 else ("load_window", [lo, hi])
            v.library[name](
                ctypes.c_void_p(out.ctypes.data), ctypes.c_void_p(lane_zero), *map(ctypes.c_int64, arguments)
            )
            assert (out == window_of(values, lo, hi, step, v.lanes)).all()


@pytest.mark.parametrize("name", ["load_window", "load_strided"])
@pytest.mark.parametrize("limits", [(-9, 99), (3, 1), (99, 99), (-5, -2)])
def test_window_limits_are_clamped(v, name, limits):
    p = at_page_end(numbers(v, v.lanes))
    step = [1] if name == "load_strided" else []
    lanes = np.arange(v.lanes)
    expected = np.where((limits[0] <= lanes) & (lanes < limits[1]), p, 0)
    assert (v(name, p, *step, *limits) == expected).all()


def test_interleaving(v):
    both = numbers(v, 2 * v.lanes)
    a, b = both[: v.lanes], both[v.lanes :]
    assert (v("even", a, b) == both[0::2]).all()
    assert (v("odd", a, b) == both[1::2]).all()
    mixed = np.stack([a, b], 1).ravel()
    assert (v("low", a, b) == mixed[: v.lanes]).all()
    assert (v("high", a, b) == mixed[v.lanes :]).all()


def test_maximum_prefers_nan(v):
    specials = np.array([np.nan, -np.inf, np.inf, 0, -1, 2], v.dtype)
    for x in specials:
        for y in specials:
            a, b = np.full(v.lanes, x), np.full(v.lanes, y)
            assert np.array_equal(v("maximum", a, b), np.maximum(a, b), equal_nan=True)


def test_maximum_keeps_the_second_of_equals(v):
    zero = np.zeros(v.lanes, v.dtype)
    assert np.signbit(v("maximum", zero, -zero)).all()
    assert not np.signbit(v("maximum", -zero, zero)).any()


def test_which_number_goes_first(v):
    """Larger ones, NaN above all; of equals the one at the lower place."""
    specials = np.array([np.nan, -np.inf, np.inf, -0.0, 0, -1, 2], v.dtype)
    for x in specials:
        for y in specials:
            a, b = np.full(v.lanes, x), np.full(v.lanes, y)
            exceeds = x > y or (np.isnan(x) and not np.isnan(y))
            equal = x == y or (np.isnan(x) and np.isnan(y))
            assert (v("exceeding", a, b) == exceeds).all()
            places = np.arange(v.lanes).astype(v.dtype)
            middle = np.full(v.lanes, 1, v.dtype)
            assert (v("preceding", a, places, b, middle) == (exceeds | (equal & (places < 1)))).all()


def test_sums(v, rng):
    matrix = rng.standard_normal((v.lanes, v.lanes)).astype(v.dtype)
    sums = v("sums", matrix)
    for lane, row in enumerate(matrix):
        single = np.zeros(1, v.dtype)
        v.into(single, "sum", row.copy())
        assert single[0] == sums[lane], "one vector alone is summed in the same order"
    np.testing.assert_allclose(sums, matrix.sum(1), rtol=1e-4)


def test_fma_rounds_once_where_it_can(v):
    x = np.full(v.lanes, 1 + np.finfo(v.dtype).eps)
    product = v("fma_", x, x, -(x * x))
    fused = machine().isa != "baseline" and v.lanes * v.dtype.itemsize > 16
    assert (product != 0).all() if fused else (product == 0).all()
