"""The register tile on its own, operands in the first level of cache: how near it comes to the machine's peak."""

import numpy as np
import pytest

from convforge import registry
from convforge.bench import bare, ceilings, timing
from convforge.runtime.machine import machine

DEPTH = 96  # 8 x 96 and 96 x 48 floats fill half of a first-level cache
ITEMS = 2000


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["cython", "numba"])
def test_outer_tile(benchmark, measure, rng, backend, dtype):
    missing = registry.backend_missing(backend)
    if missing is not None:
        pytest.skip(missing)
    tile = machine().tile(dtype)
    a, b, c = (bare.aligned(n, dtype) for n in (DEPTH * tile.rows, DEPTH * tile.columns, tile.rows * tile.columns))
    a[:], b[:] = rng.standard_normal(a.size), rng.standard_normal(b.size)
    c[:] = np.nan
    arguments = {
        "a": a, "lda": 0, "b": b, "ldb": tile.columns, "c": c, "ldc": tile.columns, "bias": 0, "depth": DEPTH,
        "rows": tile.rows, "columns": tile.columns, "accumulate": 0,
    }  # fmt: skip
    call = bare.bind(backend, "gemm_tile", dtype, arguments, ITEMS)
    call()
    exact = a.reshape(DEPTH, -1).astype(float).T @ b.reshape(DEPTH, -1).astype(float)
    error = np.linalg.norm(c.reshape(exact.shape) - exact) / np.linalg.norm(exact)
    assert error < 4 * np.finfo(dtype).eps

    benchmark.group = f"register tile {dtype}"
    measure(call)
    most = ceilings.fma_peak(dtype, backend)
    seconds, peak_seconds = (each.seconds for each in timing.interleave([call, most.run], budget=1.0))
    rate = 2.0 * tile.rows * tile.columns * DEPTH * ITEMS / seconds
    benchmark.extra_info.update(
        error=float(error), isa=machine().isa, flops_per_second=rate, peak_share=rate * peak_seconds / most.amount
    )


@pytest.fixture
def rng():
    return np.random.default_rng(20)
