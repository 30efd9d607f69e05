"""The compiled kernels of every instruction set that this CPU can run: register tiles on their own, weights, im2col."""

import ctypes
from importlib import import_module
from itertools import product

import numpy as np
import pytest

from convforge.algorithms import im2col
from convforge.kernels import abi
from convforge.problem import parse
from convforge.registry import operand_shapes
from convforge.runtime.executor import OPERANDS, Executor
from convforge.runtime.machine import Machine, runnable, tile

from . import calls
from .guard import at_page_end, at_page_start

pytest.importorskip("convforge.runtime._native", reason="built without extensions")

DTYPES = ("float32", "float64")
MODULES = [(isa, dtype) for isa in runnable() for dtype in DTYPES]
EVERY_MODULE = pytest.mark.parametrize(("isa", "dtype"), MODULES)


def lookup(isa):
    return lambda kernel, dtype: import_module(f"convforge.kernels.cython._{isa}_{dtype}").KERNELS[kernel]


def call(isa, dtype, kernel, begin=0, end=1, **values):
    """Call a kernel by its fields' names; arrays go by address."""
    names = abi.SIGNATURES[kernel]
    assert set(names) == set(values)
    args = np.array([v.ctypes.data if isinstance(v, np.ndarray) else v for v in map(values.get, names)], np.int64)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    function(lookup(isa)(kernel, dtype))(args.ctypes.data, None, begin, end)


def integers(rng, *shape, dtype):
    return rng.integers(-4, 5, shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", runnable())
def test_every_kernel_has_a_signature(isa, dtype):
    kernels = import_module(f"convforge.kernels.cython._{isa}_{dtype}").KERNELS
    assert set(kernels) == set(abi.SIGNATURES)
    assert all(kernels.values())


@EVERY_MODULE
@pytest.mark.parametrize("depth", [1, 7])
def test_outer_product_tile_at_every_edge(isa, dtype, depth, rng):
    shape = tile(isa, dtype)
    a = at_page_end(integers(rng, depth, shape.rows, dtype=dtype))
    b = at_page_end(integers(rng, depth, shape.columns, dtype=dtype))
    for rows, lda in product(range(1, shape.rows + 1), (0, depth)):
        bias = at_page_end(integers(rng, rows, dtype=dtype))
        left = at_page_end(a[:, :rows].T) if lda else a
        for columns in range(1, shape.columns + 1):
            exact = a[:, :rows].T @ b[:, :columns]
            before = integers(rng, rows, columns, dtype=dtype)
            for init, accumulate in ((None, 0), (bias, 0), (bias, 1)):
                c = at_page_end(before)
                call(
                    isa, dtype, "gemm_tile", a=left, lda=lda, b=b, ldb=shape.columns, c=c, ldc=columns,
                    bias=0 if init is None else init, depth=depth, rows=rows, columns=columns, accumulate=accumulate,
                )  # fmt: skip
                start = before if accumulate else 0 if init is None else init[:, None]
                np.testing.assert_array_equal(c, exact + start)


@EVERY_MODULE
def test_outer_product_tile_leaves_the_rest_alone(isa, dtype, rng):
    shape = tile(isa, dtype)
    rows, columns = shape.rows - 1, shape.columns - 1
    a, b = integers(rng, 3, shape.rows, dtype=dtype), integers(rng, 3, shape.columns, dtype=dtype)
    c = np.full((shape.rows, shape.columns + 5), 99, dtype)
    call(
        isa, dtype, "gemm_tile", a=a, lda=0, b=b, ldb=shape.columns, c=c, ldc=shape.columns + 5, bias=0, depth=3,
        rows=rows, columns=columns, accumulate=0,
    )  # fmt: skip
    np.testing.assert_array_equal(c[:rows, :columns], (a.T @ b)[:rows, :columns])
    assert (c[:, columns:] == 99).all()
    assert (c[rows:] == 99).all()


@EVERY_MODULE
def test_outer_product_tile_repeats_once_an_item(isa, dtype, rng):
    shape = tile(isa, dtype)
    a, b = integers(rng, 3, shape.rows, dtype=dtype), integers(rng, 3, shape.columns, dtype=dtype)
    c = np.zeros((shape.rows, shape.columns), dtype)
    call(
        isa, dtype, "gemm_tile", 2, 5, a=a, lda=0, b=b, ldb=shape.columns, c=c, ldc=shape.columns, bias=0, depth=3,
        rows=shape.rows, columns=shape.columns, accumulate=1,
    )  # fmt: skip
    np.testing.assert_array_equal(c, 3 * (a.T @ b))


@EVERY_MODULE
def test_dot_product_tile_at_every_edge(isa, dtype, rng):
    lanes = tile(isa, dtype).lanes
    for depth in (1, lanes - 1, lanes, 3 * lanes + 1):
        for rows in range(1, 14):
            for columns in range(1, 10):
                a = at_page_end(integers(rng, rows, depth, dtype=dtype))
                b = at_page_end(integers(rng, columns, depth, dtype=dtype))
                before = integers(rng, rows, columns, dtype=dtype)
                c = at_page_end(before)
                call(
                    isa, dtype, "dot_tile", a=a, lda=depth, b=b, ldb=depth, c=c, ldc=columns, depth=depth, rows=rows,
                    columns=columns,
                )  # fmt: skip
                np.testing.assert_array_equal(c, before + a @ b.T)


@EVERY_MODULE
def test_dot_product_tile_leaves_the_rest_alone(isa, dtype, rng):
    a, b = integers(rng, 5, 20, dtype=dtype), integers(rng, 7, 20, dtype=dtype)
    c = np.zeros((5, 12), dtype)
    call(isa, dtype, "dot_tile", a=a, lda=20, b=b, ldb=20, c=c, ldc=12, depth=20, rows=5, columns=7)
    np.testing.assert_array_equal(c[:, :7], a @ b.T)
    assert not c[:, 7:].any()


@EVERY_MODULE
def test_peak_does_the_arithmetic(isa, dtype):
    shape = tile(isa, dtype)
    out = np.full(shape.rows * shape.columns, 3, dtype)
    out[:2] = 2, -1
    call(isa, dtype, "peak", 0, 2, out=out, depth=3)
    np.testing.assert_array_equal(out[2:], 3 * 64 - 63)


@EVERY_MODULE
@pytest.mark.parametrize("k", [1, 8, 11])
def test_pack_weight(isa, dtype, k, rng):
    rows, g, c, kh, kw = tile(isa, dtype).rows, 2, 3, 2, 3
    weight = rng.standard_normal((g * k, c, kh, kw)).astype(dtype)[..., ::-1]
    blocks = -(-k // rows)
    packed = at_page_end(np.full((g, blocks, c, kh, kw, rows), np.nan, dtype))
    w_k, w_c, w_h, w_w = (stride // weight.itemsize for stride in weight.strides)
    for begin, end in ((0, 1), (1, g * blocks)):
        call(
            isa, dtype, "pack_weight", begin, end, w=weight, w_g=k * w_k, w_k=w_k, w_c=w_c, w_h=w_h, w_w=w_w,
            packed=packed, g=g, k=k, c=c, kh=kh, kw=kw,
        )  # fmt: skip
    padded = np.zeros((g, blocks * rows, c, kh, kw), dtype)
    padded[:, :k] = weight.reshape(g, k, c, kh, kw)
    np.testing.assert_array_equal(packed, np.moveaxis(padded.reshape(g, blocks, rows, c, kh, kw), 2, -1))


@EVERY_MODULE
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 8])
def test_sum_parts(isa, dtype, parts, rng):
    count = 2050
    partial = at_page_end(integers(rng, parts, count, dtype=dtype))
    expected = partial.sum(0)
    out = at_page_end(np.full(count, np.nan, dtype))
    for begin, end in ((2, 3), (0, 2)):
        call(isa, dtype, "sum_parts", begin, end, partial=partial, out=out, parts=parts, count=count)
    np.testing.assert_array_equal(out, expected)


@EVERY_MODULE
def test_fill_zero(isa, dtype):
    whole = np.full((2, 3, 8, 12), 7, dtype)
    view = whole[:, :, 1::2, ::3]
    out_n, out_k, out_h, out_w = (stride // whole.itemsize for stride in view.strides)
    call(
        isa, dtype, "fill_zero", 0, 6, out=view, out_n=out_n, out_k=out_k, out_h=out_h, out_w=out_w, n=2, channels=3,
        oh=4, ow=4,
    )  # fmt: skip
    assert not view.any()
    view[...] = 7
    assert (whole == 7).all()


IM2COL = [
    "n1c3k8i5x5f3x3p1", "n2c3k5i7x9f3x3p1", "n1c1k1i1x1f1", "n1c4k6i6x6f1", "n1c2k5i4x150f1", "n1c7k3i8x8f1s2",
    "n2c16k24i14x14f3x3p1", "n1c3k9i23x31f7x7s2p3", "n1c5k7i12x13f3x3s3p2", "n1c6k4i17x19f3x2d2x3p1_2x0_3",
    "n2c6k12i11x60f5x5s2x1p2g2", "n1c4k4i5x100f2s1x2", "n1c130k70i10x10f3x3p1", "n1c2k3i4x4f3s5p1", "n1c2k3i9x9f2s2d3",
    "n1c3k3i9x6f4s2d2p3", "n1c2k5i40x40f9x40p0x20", "n1c12k2i70x70f3p1", "n1c37k70i1x1f1", "n7c12k34i4x3f4x3g2",
    "n2c5k9i3x4f3x3s2", "n1c300k30i3x3f1",
]  # fmt: skip


@EVERY_MODULE
@pytest.mark.parametrize("place", [at_page_start, at_page_end])
@pytest.mark.parametrize("text", IM2COL)
def test_im2col_is_exact_and_stays_inside(isa, dtype, text, place, rng):
    problem = parse(f"{text}:{dtype}:bias")
    arrays = {name: place(array) for name, array in calls.arrays_for(problem, rng, integers=True).items()}
    machine = Machine(isa, l1=3000, l2=40_000, l3=1 << 20, cores=1)  # small caches: many panels in small problems
    for pass_ in problem.passes:
        program = im2col.POLICIES[0].program(problem, pass_, machine.tile(dtype), machine)
        executor = Executor(program, operand_shapes(problem, pass_), lookup(isa), 0.0)
        out = place(calls.poisoned_out(problem, pass_))
        used = {"forward": ("x", "weight", "bias"), "grad_input": ("weight", "grad_output")}.get(pass_, OPERANDS)
        operands = {**{name: arrays.get(name) for name in used}, "out": out}
        executor.call_with_copies(tuple(operands.get(name) for name in OPERANDS))
        np.testing.assert_array_equal(out, calls.exact(problem, pass_, arrays))
