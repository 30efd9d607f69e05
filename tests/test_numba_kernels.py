"""The Numba vocabulary of vectors and the register tiles on their own, for the tiles of every instruction set."""

import ctypes
from functools import cache
from itertools import product

import numpy as np
import pytest

from convforge.kernels import abi
from convforge.runtime.machine import machine, tile

pytest.importorskip("numba")
from convforge.kernels.numba import compile as compiling
from convforge.kernels.numba import gemm, translate, weights

from .guard import at_page_end, at_page_start

DTYPES = ["float32", "float64"]
# LLVM splits vectors that the CPU lacks, so every tile runs everywhere
TILES = {
    f"{isa}-{dtype}": (dtype, tile(isa, dtype)) for isa in ("avx512", "avx2", "baseline", "neon") for dtype in DTYPES
}
EVERY_TILE = pytest.mark.parametrize(("dtype", "shape"), TILES.values(), ids=TILES)


@cache
def address(factory, dtype, shape):
    code = translate.object_code(factory, dtype, shape, compiling.cpu())
    return compiling.load(factory.__name__, code, {})


def call(factory, dtype, shape, values, begin=0, end=1, scratch=None):
    """Call a kernel with ``values``: arrays go by address."""
    args = np.array([v.ctypes.data if isinstance(v, np.ndarray) else v for v in values], np.int64)
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    kernel(address(factory, dtype, shape))(args.ctypes.data, scratch, begin, end)


def call_named(factory, dtype, shape, begin=0, end=1, **values):
    names = abi.SIGNATURES[factory.__name__]
    assert set(names) == set(values)
    call(factory, dtype, shape, [values[name] for name in names], begin, end)


def integers(rng, *shape, dtype):
    return rng.integers(-4, 5, shape).astype(dtype)


# vectors


def vocabulary(target):
    v = target.v
    lanes = v.lanes
    reverse = v.shuffle(tuple(range(2 * lanes - 1, lanes - 1, -1)))

    @target.jit
    def both(p):
        return v.load(p, 0), v.load(p, lanes)

    @target.call
    def put(out, row, x):
        v.store(out, row * lanes, x)

    def kernel(args, scratch, begin, end):
        out = v.pointer(args[1])
        a, b = both(v.pointer(args[0]))
        put(out, 0, a + b)
        put(out, 1, a - b)
        put(out, 2, a * b)
        put(out, 3, a / b)
        put(out, 4, v.fma(a, b, v.broadcast(args[3])))
        put(out, 5, v.maximum(a, b))
        put(out, 6, v.minimum(a, b))
        put(out, 7, v.select(a < b, a, v.zero()))
        put(out, 8, v.select(v.either(a > b, a == b), a, v.broadcast(0.5)))
        put(out, 9, v.even(a, b))
        put(out, 10, v.odd(a, b))
        put(out, 11, v.low(a, b))
        put(out, 12, v.high(a, b))
        put(out, 13, reverse(a, b))
        put(out, 14, v.to_real(v.to_int(a) + v.lane()))
        put(out, 15, v.broadcast(v.sum(a)))
        put(out, 16, v.broadcast(v.extract(b, 1)))
        put(out, 17, v.select(v.is_nan(a), v.broadcast(1), v.zero()))
        put(out, 18, v.broadcast(1) if v.any(a > b) else v.zero())
        put(out, 19, v.broadcast(1) if v.all(a > b) else v.zero())
        counts = v.pointer_int64(args[2])
        v.store(counts, 0, v.widen(v.select(a > b, v.lane() + v.broadcast_int(args[3]), v.zero_int())))
        v.store(counts, lanes, v.load(counts, lanes) * v.load(counts, lanes))

    return kernel


@EVERY_TILE
def test_vocabulary(dtype, shape, rng):
    lanes = shape.lanes
    x = rng.integers(1, 9, 2 * lanes).astype(dtype)
    out, counts = np.full((20, lanes), np.nan, dtype), np.arange(2 * lanes)
    call(vocabulary, dtype, shape, [x, out, counts, 100])
    a, b, order = x[:lanes], x[lanes:], np.arange(lanes)
    interleaved = np.stack([a, b], 1).ravel()
    expected = [
        a + b, a - b, a * b, a / b, a * b + 100, np.maximum(a, b), np.minimum(a, b), np.where(a < b, a, 0),
        np.where(a >= b, a, 0.5), x[::2], x[1::2], interleaved[:lanes], interleaved[lanes:], b[::-1], a + order,
        a.sum(), b[1], 0, (a > b).any(), (a > b).all(),
    ]  # fmt: skip
    for row, value in zip(out, expected, strict=True):
        np.testing.assert_array_equal(row, np.broadcast_to(value, lanes).astype(dtype))
    np.testing.assert_array_equal(counts[:lanes], np.where(a > b, order + 100, 0))
    np.testing.assert_array_equal(counts[lanes:], np.arange(lanes, 2 * lanes) ** 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_wins(dtype):
    shape = machine().tile(dtype)
    x = np.array([np.nan, 1.0] * (shape.lanes // 2) + [2.0, np.nan] * (shape.lanes // 2), dtype)
    out, counts = np.zeros((20, shape.lanes), dtype), np.zeros(2 * shape.lanes, np.int64)
    call(vocabulary, dtype, shape, [x, out, counts, 0])
    assert np.isnan(out[5]).all()
    assert np.isnan(out[6]).all()
    np.testing.assert_array_equal(out[17], [1, 0] * (shape.lanes // 2))
    assert not out[19].any()


def partial_access(target):
    v = target.v

    def kernel(args, scratch, begin, end):
        p, out = v.pointer(args[0]), v.pointer(args[1])
        lo, hi, step = args[2], args[3], args[4]
        v.store(out, 0, v.load_partial(p, hi))
        v.store(out, v.lanes, v.load_window(v.advance(p, -lo), lo, hi + lo))
        v.store(out, 2 * v.lanes, v.load_strided(v.advance(p, -lo * step), step, lo, hi + lo))
        v.store_partial(v.pointer(args[5]), v.load(out, 0), hi)

    return kernel


@EVERY_TILE
@pytest.mark.parametrize("place", [at_page_end, at_page_start])
def test_nothing_else_is_touched(dtype, shape, place, rng):
    lanes = shape.lanes
    for lo in (0, 1, lanes - 1, lanes, lanes + 3):
        for hi in (0, 1, lanes - 1, lanes):
            for step in (1, 2, 3, 5):
                # with a step, the last of hi elements is the array's last
                x = place(integers(rng, max(hi, (hi - 1) * step + 1, 1), dtype=dtype))
                out, stored = np.full((3, lanes), np.nan, dtype), place(np.zeros(max(hi, 1), dtype))
                call(partial_access, dtype, shape, [x, out, lo, hi, step, stored])
                expected = np.zeros((3, lanes), dtype)
                expected[0, :hi] = x[:hi]
                inside = max(0, min(hi, lanes - lo))
                expected[1, lo : lo + inside] = x[:inside]
                expected[2, lo : lo + inside] = x[: inside * step : step][:inside]
                np.testing.assert_array_equal(out, expected)
                np.testing.assert_array_equal(stored[:hi], x[:hi])


# tiles


@EVERY_TILE
def test_outer_product_tile(dtype, shape, rng):
    lanes, depth = shape.lanes, 5
    a = integers(rng, depth, shape.rows, dtype=dtype)
    b = at_page_end(integers(rng, depth, shape.columns, dtype=dtype))
    bias = at_page_end(integers(rng, shape.rows, dtype=dtype))
    for rows, lda in product(range(1, shape.rows + 1), (0, depth)):
        left = at_page_end(a[:, :rows].T) if lda else a
        for columns in {1, lanes - 1, lanes, lanes + 1, shape.columns - 1, shape.columns} - {0}:
            for accumulate, biased in [(0, False), (0, True), (1, True)]:
                before = integers(rng, shape.rows + 1, shape.columns + 2, dtype=dtype)
                c, expected = before.copy(), before.copy()
                init = before[:rows, :columns] if accumulate else bias[:rows, None] * biased
                expected[:rows, :columns] = init + a.T[:rows] @ b[:, :columns]
                row_bias = bias[-rows:] if rows < shape.rows else bias  # ends at the page's end
                if not accumulate and biased:
                    expected[:rows, :columns] += (row_bias - bias[:rows])[:, None]
                call_named(
                    gemm.gemm_tile, dtype, shape, a=left, lda=lda, b=b, ldb=shape.columns, c=c, ldc=shape.columns + 2,
                    bias=row_bias if biased else 0, depth=depth, rows=rows, columns=columns, accumulate=accumulate,
                )  # fmt: skip
                np.testing.assert_array_equal(c, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_outer_product_tile_past_the_last_row(dtype, rng):
    """A tile with more rows than are left neither reads nor writes the others."""
    shape = machine().tile(dtype)
    a, b = integers(rng, 3, shape.rows, dtype=dtype), integers(rng, 3, shape.columns, dtype=dtype)
    c, bias = at_page_end(np.full((2, shape.lanes + 1), np.nan, dtype)), at_page_end(integers(rng, 2, dtype=dtype))
    call_named(
        gemm.gemm_tile, dtype, shape, a=a, lda=0, b=b, ldb=shape.columns, c=c, ldc=shape.lanes + 1, bias=bias, depth=3,
        rows=2, columns=shape.lanes + 1, accumulate=0,
    )  # fmt: skip
    np.testing.assert_array_equal(c, a.T[:2] @ b[:, : shape.lanes + 1] + bias[:, None])


@EVERY_TILE
def test_dot_product_tile(dtype, shape, rng):
    lanes = shape.lanes
    for rows in (1, 3, 5, 6, 7, 13):
        for columns in (1, 3, 4, 5):
            for depth in (1, lanes - 1, lanes, lanes + 1, 3 * lanes + 2):
                a = at_page_end(integers(rng, rows, depth, dtype=dtype))
                b = at_page_end(integers(rng, columns, depth, dtype=dtype))
                before = integers(rng, rows, columns, dtype=dtype)
                c = at_page_end(before)
                call_named(
                    gemm.dot_tile, dtype, shape, a=a, lda=depth, b=b, ldb=depth, c=c, ldc=columns, depth=depth,
                    rows=rows, columns=columns,
                )  # fmt: skip
                np.testing.assert_array_equal(c, before + a @ b.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiles_use_one_rounding(dtype):
    """Products are fused into the sums: 1 + e squared keeps its last bit when 1 + 2e is taken off."""
    shape = machine().tile(dtype)
    if machine().isa == "baseline":
        pytest.skip("no fused multiply-add in this instruction set")
    e = np.finfo(dtype).eps
    a = np.array([[1.0] * shape.rows, [1 + e] * shape.rows], dtype)
    b = np.array([[-1 - 2 * e] * shape.columns, [1 + e] * shape.columns], dtype)
    c = np.full((shape.rows, shape.columns), np.nan, dtype)
    call_named(
        gemm.gemm_tile, dtype, shape, a=a, lda=0, b=b, ldb=shape.columns, c=c, ldc=shape.columns, bias=0, depth=2,
        rows=shape.rows, columns=shape.columns, accumulate=0,
    )  # fmt: skip
    np.testing.assert_array_equal(c, np.full_like(c, e) ** 2)


def sums_on_the_stack(text):
    """Lines that put there what a multiply-add wrote last."""
    sums, found = set(), []
    for line in text.splitlines():
        operands = line.split()[1:]
        if len(operands) > 1 and operands[-1].startswith("%zmm"):
            moved = len(operands) == 2 and operands[0].rstrip(",") in sums
            (sums.add if moved or "vfmadd" in line else sums.discard)(operands[-1])
        elif len(operands) == 2 and "(%rsp)" in operands[1] and operands[0].rstrip(",") in sums:
            found.append(line)
    return found


def test_stored_sums_are_found():
    stored = "\tvmovups\t%zmm3, 16(%rsp)"
    lines = ["\tvfmadd231ps\t%zmm1, %zmm2, %zmm3", stored, "\tvmovups\t%zmm3, (%rax)"]
    assert sums_on_the_stack("\n".join(lines)) == [stored]
    lines[1:1] = ["\tvmovaps\t%zmm3, %zmm5", stored.replace("%zmm3", "%zmm5")]
    assert len(sums_on_the_stack("\n".join(lines))) == 2
    lines[1:3] = []
    lines.insert(1, "\tvbroadcastss\t(%rax), %zmm3")
    assert not sums_on_the_stack("\n".join(lines))


@pytest.mark.parametrize("factory", [gemm.gemm_tile, gemm.dot_tile], ids=lambda factory: factory.__name__)
def test_accumulators_stay_in_registers(factory):
    """No sum goes through the stack on this CPU, and on a named one no vector at all.

    LLVM has a schedule for each CPU: Zen 4's unrolls a loop by four and parks some of its broadcasts.
    """
    if machine().isa == "neon":
        pytest.skip("it reads assembly of AVX-512, which is not this machine's")
    wide = tile("avx512", "float32")
    text = translate.assembly(factory, "float32", wide, compiling.Cpu("skylake-avx512", ""))
    assert "vfmadd231ps" in text
    assert not [line for line in text.splitlines() if "zmm" in line and "%rsp" in line]
    if machine().isa == "avx512":
        text = translate.assembly(factory, "float32", wide, compiling.cpu())
        assert "vfmadd231ps" in text
        assert not sums_on_the_stack(text)


# weights


@EVERY_TILE
@pytest.mark.parametrize("k", [1, 8, 11])
def test_pack_weight(dtype, shape, k, rng):
    g, c, kh, kw = 2, 3, 2, 3
    weight = rng.standard_normal((g * k, c, kh, kw)).astype(dtype)[..., ::-1]
    blocks = -(-k // shape.rows)
    packed = np.full((g, blocks, c, kh, kw, shape.rows), np.nan, dtype)
    w_k, w_c, w_h, w_w = (stride // weight.itemsize for stride in weight.strides)
    for begin, end in [(0, 1), (1, g * blocks)]:
        call_named(
            weights.pack_weight, dtype, shape, begin, end, w=weight, w_g=k * w_k, w_k=w_k, w_c=w_c, w_h=w_h, w_w=w_w,
            packed=packed, g=g, k=k, c=c, kh=kh, kw=kw,
        )  # fmt: skip
    padded = np.zeros((g, blocks * shape.rows, c, kh, kw), dtype)
    padded[:, :k] = weight.reshape(g, k, c, kh, kw)
    expected = np.moveaxis(padded.reshape(g, blocks, shape.rows, c, kh, kw), 2, -1)
    np.testing.assert_array_equal(packed, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 8])
def test_sum_parts(dtype, parts, rng):
    shape = machine().tile(dtype)
    count = 2050
    partial = at_page_end(integers(rng, parts, count, dtype=dtype))
    expected = partial.sum(0)
    out = at_page_end(np.full(count, np.nan, dtype))
    for begin, end in [(2, 3), (0, 2)]:
        call_named(weights.sum_parts, dtype, shape, begin, end, partial=partial, out=out, parts=parts, count=count)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fill_zero(dtype):
    out = np.full((2, 3, 8, 12), 7, dtype)
    view = out[:, :, 1::2, ::3]
    out_n, out_k, out_h, out_w = (stride // out.itemsize for stride in view.strides)
    call_named(
        weights.fill_zero, dtype, machine().tile(dtype), 0, 6, out=view, out_n=out_n, out_k=out_k, out_h=out_h,
        out_w=out_w, n=2, channels=3, oh=4, ow=4,
    )  # fmt: skip
    assert not view.any()
    view[...] = 7
    assert (out == 7).all()
