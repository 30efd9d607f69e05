"""The GPU's products under the simulator: tiles, tables, sums in parts, and what lies beyond their borders."""

from dataclasses import replace

import numpy as np
import pytest

from convforge.algorithms.cuda import im2col, products
from convforge.kernels.cuda.tile import Tile
from convforge.plan import Plan
from convforge.problem import parse
from convforge.runtime.gpu import TYPICAL, simulated

from .. import calls

pytestmark = [
    pytest.mark.skipif(not simulated(), reason="runs under CUDA's simulator"),
    # a tile's idle rows and columns are sums of whatever memory holds
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

PASSES = ("forward", "grad_input", "grad_weight")
SMALL = Tile(32, 32, products.DEPTH, 4, 4)


def every_tile():
    return sorted({(dtype, tile) for dtype, tiles in products._TILES.items() for tile, _ in tiles}, key=str)


@pytest.fixture
def fixed(monkeypatch):
    """A function that makes the policies take one tile, and sums in a number of parts."""

    def fix(tile=SMALL, parts=1):
        def cut(shape, dtype, steps, most_parts=parts):
            wanted = max(1, min(steps, parts, most_parts))
            return products.Cut(tile, -(-steps // -(-steps // wanted)) if steps else 1, 1.0)

        monkeypatch.setattr(im2col, "cut", cut)

    return fix


def run(problem, pass_, arrays, out=None):
    plan = Plan(problem, (pass_,), "im2col", "cuda")
    return calls.call(plan, pass_, arrays, calls.poisoned_out(problem, pass_) if out is None else out)


@pytest.mark.parametrize(("dtype", "tile"), every_tile())
def test_threads_share_a_block_out(dtype, tile):
    from convforge.kernels.cuda import gemm

    seen = np.zeros((tile.bm, tile.bn), int)
    rows = np.add.outer(np.arange(tile.tm // 4) * tile.row_step, np.arange(4)).ravel()
    columns = np.add.outer(np.arange(tile.tn // 4) * tile.column_step, np.arange(4)).ravel()
    for thread in range(tile.threads):
        row, column = gemm.first_row(tile)(thread), gemm.first_column(tile)(thread)
        seen[np.ix_(row + rows, column + columns)] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(("dtype", "tile"), every_tile())
@pytest.mark.parametrize("pass_", ["forward", "grad_weight"])
def test_every_tile_and_its_tails(dtype, tile, pass_, fixed, rng):
    fixed(tile)
    problem = replace(parse("n2c9k1i3x5f1x2p0x1:bias"), dtype=dtype, k=tile.bm + 5)
    arrays = calls.arrays_for(problem, rng, integers=True)
    np.testing.assert_array_equal(run(problem, pass_, arrays), calls.exact(problem, pass_, arrays))


@pytest.mark.parametrize(("problem", "parts"), [
    ("n1c3k4i6x5f3x3p1:bias", 1),  # by table
    ("n1c3k4i6x5f3x3p1:bias", 3),
    ("n1c16k3i5x4f3x3p1d2", 1),  # by tap
    ("n1c16k3i5x4f3x3p1d2", 3),
    ("n2c4k6i7x6f3x3s2p1g2", 1),  # phases of three sizes
    ("n1c9k4i5x4f1x1s2:bias", 1),  # phases that no tap reaches
    ("n1c2k3i12f4s3p2:bias", 1),  # one axis
    ("n1c1k1i1x1f3x3p1", 1),
    ("n3c8k2i5x4f2x3s3x1p1_0x0_2", 1),
])  # fmt: skip
@pytest.mark.parametrize("pass_", PASSES)
def test_exact_on_integers(problem, parts, pass_, fixed, rng):
    fixed(parts=parts)
    problem = parse(problem)
    arrays = calls.arrays_for(problem, rng, integers=True)
    np.testing.assert_array_equal(run(problem, pass_, arrays), calls.exact(problem, pass_, arrays))


@pytest.mark.parametrize("pass_", PASSES)
def test_float16_is_summed_in_float32(pass_, rng):
    problem = parse("n2c9k5i3x4f2x2:float16")
    arrays = calls.arrays_for(problem, rng)
    result = run(problem, pass_, arrays)
    np.testing.assert_allclose(result, calls.exact(problem, pass_, arrays), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("pass_", PASSES)
def test_strides_of_any_kind(pass_, fixed, rng):
    fixed()
    problem = parse("n2c3k5i4x3f2x3p1")
    drawn = calls.arrays_for(problem, rng, integers=True)
    arrays = {name: None if a is None else np.ascontiguousarray(a.T).T[..., ::-1] for name, a in drawn.items()}
    out = np.full(tuple(2 * s for s in calls.result_shape(problem, pass_)), np.nan, problem.dtype)[::2, ::-2, ::2, 1::2]
    run(problem, pass_, arrays, out)
    np.testing.assert_array_equal(out, calls.exact(problem, pass_, arrays))


def test_rows_of_whole_fours_are_written_at_once(fixed, rng, monkeypatch):
    from convforge.kernels.cuda import gemm, shim
    from convforge.kernels.cuda import im2col as kernels

    written, store4 = [], shim.store4
    monkeypatch.setattr(shim, "store4", lambda *args: written.append(args) or store4(*args))
    fixed()
    problem = parse("n2c4k5i6x6f1x1:bias")
    arrays = calls.arrays_for(problem, rng, integers=True)
    for made in (gemm.write_sums, kernels.forward):
        made.cache_clear()
    try:
        np.testing.assert_array_equal(run(problem, "forward", arrays), calls.exact(problem, "forward", arrays))
    finally:
        for made in (gemm.write_sums, kernels.forward):
            made.cache_clear()
    assert len(written) == 2 * 5 * 36 // 4


@pytest.mark.parametrize("pass_", PASSES)
def test_bits_do_not_depend_on_the_tile(pass_, fixed, rng):
    problem = parse("n1c9k5i4x3f2x2")
    arrays = calls.arrays_for(problem, rng)
    results = []
    for tile in (SMALL, Tile(64, 64, products.DEPTH, 8, 8)):
        fixed(tile)
        results.append(run(problem, pass_, arrays))
    np.testing.assert_array_equal(*results)


def test_cuts_waste_neither_ranges_nor_precision():
    for steps in (0, 1, 7, 63, 1000, 12544, 200704):
        shape = products.Shape(64, 147, steps * products.DEPTH, 1)
        how = products.cut(shape, "float32", steps)
        per_part = -(-steps // how.parts)
        assert how.parts == 1 or (how.parts - 1) * per_part < steps
        assert per_part * products.DEPTH <= products.MOST_PRODUCTS + products.DEPTH


def test_large_products_take_large_tiles_and_small_ones_are_cut():
    whole = products.cut(products.Shape(256, 100352, 2304, 1), "float32", 288)
    assert (whole.tile.bm, whole.tile.bn, whole.parts) == (128, 128, 1)
    few = products.cut(products.Shape(512, 49, 4608, 1), "float32", 576)
    assert few.parts > 1


def test_refusals():
    (policy,) = im2col.POLICIES
    assert policy.refuses(parse("max:n1c1i4x4f2x2"), "forward")
    assert policy.refuses(parse("n1c1k1i4x4x4f1"), "forward")
    assert policy.refuses(parse("n1c1k1i40000x1f2x1d32768x1"), "forward")
    assert policy.refuses(parse("n1c1k1i4f1"), "forward") is None


def test_programs_stay_within_a_grid():
    for text in ("n32c3k64i224x224f7x7s2p3", "n32c512k512i7x7f3x3p1", "n32c64k64i224x224f3x3p1"):
        for pass_ in PASSES:
            program = im2col.POLICIES[0].program(parse(text), pass_, TYPICAL)
            for launch in (*program.prepare, *program.launches):
                assert launch.grid[0] < 2**31, launch
                assert max(launch.grid[1:]) <= 65535, launch
                assert launch.block[0] <= 256, launch
