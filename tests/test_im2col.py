"""How im2col takes its weights: packed, as they lie, or as the rows of dot products."""

import numpy as np
import pytest

import convforge as cf
from convforge.algorithms import im2col
from convforge.registry import ALGORITHMS, backend_missing
from convforge.runtime.machine import Machine, machine

from . import calls

BACKENDS = [each.backend for each in ALGORITHMS if each.name == "im2col" and each.backend in ("cython", "numba")]
# pixels in the lanes, channels in the lanes, long sums in each, one output pixel
READ = [
    "n1c64k9i14x14f1x1:bias",
    "n1c24k70i5x5f3x3p1",
    "n1c1300k40i5x9f1x1:bias",
    "n1c40k10i6x7f3x3p1g2",
    "n1c24k70i9x9f3x3s2p1:bias",
    "n3c9k5i1x1f1x1",
]


def program(text, pass_, here=None):
    problem, here = cf.parse(text), here or machine()
    (policy,) = im2col.POLICIES
    return policy.program(problem, pass_, here.tile(problem.dtype), here)


@pytest.mark.parametrize("text", READ)
def test_weights_that_are_not_prepared_are_not_copied(text):
    made = program(text, "forward")
    stages = made.unprepared or made.stages
    assert all(stage.args.get("packed", stage.args.get("w")).array == "weight" for stage in stages)
    assert not program(text, "grad_input").unprepared


@pytest.mark.parametrize("text", ["n1c8k8i3x3f3x3p1s5", "n1c16k16i28x28f3x3p20d20", "n3c256k192i5x5f1x1"])
def test_taps_left_out_and_many_items_want_packed_weights(text):
    """Weights are taken in another order than they lie in, or packed more often than once and a second time."""
    made = program(text, "forward")
    assert made.prepare
    assert not made.unprepared


@pytest.mark.parametrize("cores", [2, 3])
@pytest.mark.parametrize(
    ("isa", "text"),
    [
        ("avx2", "n1c256k512i56x56f1x1s2"), ("avx2", "n1c64k256i56x56f1x1"), ("avx2", "n1c96k40i40x40f3x3p1"),
        ("avx512", "n1c96k576i14x14f1x1"),
    ],
)  # fmt: skip
def test_few_items_go_around_evenly(isa, text, cores):
    here = Machine(isa, l1=32 << 10, l2=512 << 10, l3=32 << 20, cores=cores)  # others have panels of other sizes
    (stage,) = program(text, "forward", here).stages
    assert stage.items % cores == 0 or stage.items >= 8 * cores


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
@pytest.mark.parametrize("text", ["n1c184k128i8x8f3x3s2p1", "n2c32k16i5x5f3x3s2p1", "n1c256k64i3x3f3x3p1"])
def test_padding_is_not_left_out_for_single_pixels(isa, text):
    """A tile of one pixel takes as long as one of half its rows, and each part copies its input."""
    here = Machine(isa, l1=32 << 10, l2=1 << 20, l3=32 << 20, cores=2)
    assert len(program(text, "forward", here).stages) == 1


@pytest.mark.parametrize("text", ["n1c100k50i1x1f1x1", "n9c100k50i1x1f1x1:bias", "n2c6k50i7x5f7x5", "n1c6k8i4x4f3x3s2"])
def test_one_pixel_takes_dot_products(text):
    made = program(text, "forward")
    assert [stage.kernel for stage in made.stages] == ["im2col_dots"]
    assert made.packed_bytes == 0
    assert not made.prepare


def test_taps_of_one_pixel_fit_the_second_cache():
    here = machine()
    channels = here.l2 // 4 + 1
    assert program(f"n1c{channels}k3i1x1f1x1", "forward").stages[0].kernel != "im2col_dots"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("text", READ)
def test_weights_of_any_strides(backend, text, rng):
    if reason := backend_missing(backend):
        pytest.skip(reason)
    problem = cf.parse(text)
    arrays = calls.arrays_for(problem, rng)
    plan = cf.plan(problem, algorithm="im2col", backend=backend)
    expected = plan(arrays["x"], arrays["weight"], arrays["bias"])
    wide = np.full((*problem.weight_shape[:3], 2 * problem.weight_shape[3] + 1), np.nan, np.float32)
    view = wide[:, ::-1, :, 1::2]
    view[...] = arrays["weight"]
    np.testing.assert_array_equal(plan(arrays["x"], view, arrays["bias"]), expected)
    prepared = plan.prepare_weight(view)
    np.testing.assert_array_equal(plan(arrays["x"], prepared, arrays["bias"]), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("text", ["n2c300k40i7x7f1x1:bias", "n1c40k48i7x13f1x1:bias", "n1c70k9i3x3f1x1:bias"])
def test_planes_whose_rows_lie_apart(backend, text, rng):
    """What lies between the rows is not read, and sums have the same order as of a plane in one piece."""
    if reason := backend_missing(backend):
        pytest.skip(reason)
    problem = cf.parse(text)
    arrays = calls.arrays_for(problem, rng)
    plan = cf.plan(problem, algorithm="im2col", backend=backend)
    expected = plan(arrays["x"], arrays["weight"], arrays["bias"])
    n, c, h, w = problem.input_shape
    wide = np.full((n, c, h + 2, w + 5), np.nan, np.float32)
    view = wide[:, :, 1:-1, 2:-3]
    view[...] = arrays["x"]
    np.testing.assert_array_equal(plan(view, arrays["weight"], arrays["bias"]), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("text", ["n1c12k70i9x9f3x3s2p1:bias", "n1c8k40i8x8f5x5s2p2", "n2c9k33i7x7f3x3p1"])
def test_kernel_rows_of_padding_are_left_out_where_weights_are_finite(backend, text, rng):
    """Zero times a weight is not zero where the weight is not finite: such panels of channels leave nothing out."""
    if reason := backend_missing(backend):
        pytest.skip(reason)
    problem = cf.parse(text)
    avx512 = Machine("avx512", l1=32 << 10, l2=1 << 20, l3=32 << 20, cores=2)
    (stage,) = program(text, "forward", avx512).stages
    assert stage.args["totals"]
    arrays = calls.arrays_for(problem, rng)
    arrays["weight"][-1, 2, 0, 1] = np.inf
    arrays["weight"][0, 1, -1, 0] = np.nan
    plan = cf.plan(problem, algorithm="im2col", backend=backend)
    out = plan(arrays["x"], plan.prepare_weight(arrays["weight"]), arrays["bias"])
    expected = calls.exact(problem, "forward", arrays)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(out), np.isinf(expected))
    assert np.isnan(expected).any()
    assert np.isfinite(out[:, 1:-1]).all()
    np.testing.assert_allclose(out[:, 1:-1], expected[:, 1:-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_strided_pixels_are_read_where_they_lie(isa):
    """Nothing is copied without padding, and few channels at a time with it."""
    here = Machine(isa, l1=32 << 10, l2=1 << 20, l3=32 << 20, cores=2)
    (plain,) = program("n1c96k40i14x14f1x1s2", "forward", here).stages
    (padded,) = program("n1c96k40i14x14f3x3s2p1", "forward", here).stages
    assert plain.kernel == padded.kernel == "im2col_pixels_apart"
    assert padded.args["channels"] < 96


@pytest.mark.parametrize(("isa", "kernel"), [("avx512", "im2col_pixels_in_place"), ("avx2", "im2col_pixels")])
def test_small_planes_are_read_in_place(isa, kernel):
    """Where the tile is written by hand for packed pixels, lowering them takes less."""
    here = Machine(isa, l1=32 << 10, l2=1 << 20, l3=32 << 20, cores=2, multiply_adds=1 if isa == "avx512" else 2)
    (stage,) = program("n1c512k128i7x7f1x1", "forward", here).stages
    assert stage.kernel == kernel
