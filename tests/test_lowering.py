"""Correlations and their parts: the same products, each once."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

import convforge as cf
from convforge.algorithms import im2col
from convforge.algorithms.lowering import by_taps, correlations, inside, phases
from convforge.registry import ALGORITHMS
from convforge.runtime.machine import machine

from . import calls

KERNELS = [each for each in ALGORITHMS if each.name == "im2col" and each.backend != "cuda"]


def _products(r):
    """(output, tap, input) of all products that are not with padding, in one image, in the terms of whole arrays."""
    found = Counter()
    axes = [range(size) for size in (*r.output, *r.kernel)]
    for where in product(*axes):
        out, tap = where[: len(r.output)], where[len(r.output) :]
        read = [
            o * s - p + t * d for o, s, p, t, d in zip(out, r.stride, r.padding, tap, r.dilation, strict=True)
        ]  # fmt: skip
        if all(0 <= at < size for at, size in zip(read, r.input, strict=True)):
            found[tuple(_place(r.out, 2, out)), tuple(_place(r.weight, 3, tap)), tuple(read)] += 1
    return found


def _place(view, axis, at):
    """Where elements of the spatial axes of a view lie in its array."""
    return [view.starts[view.axes[axis + i]] + view.steps[axis + i] * place for i, place in enumerate(at)]


PADDED = [
    "n1c1k1i9x10f3x3p6d6", "n1c1k1i7x7f3x3p12d12", "n1c1k1i5x8f5x3p2x1", "n1c1k1i6x9f3x2s2p4d5", "n1c1k1i3x3f7x7p3",
    "n1c1k1i4x30f3x3p9x2d3x9", "n1c1k1i2x2f2x2p2_3",
]  # fmt: skip


@pytest.mark.parametrize("text", PADDED)
@pytest.mark.parametrize("pass_", ["forward", "grad_input"])
def test_taps_one_by_one_make_the_same_products(text, pass_):
    for r in correlations(cf.parse(text), pass_):
        if r.taps == 0:
            continue
        first, *more = by_taps(r)
        assert sum((_products(tap) for tap in (first, *more)), Counter()) == _products(r)
        assert (first.out, first.output, first.bias, first.accumulate) == (r.out, r.output, r.bias, False)
        assert all(tap.accumulate and not tap.bias and tap.taps == 1 for tap in more)


def test_taps_are_done_at_once_where_none_reaches_all_outputs():
    (r,) = correlations(cf.parse("n1c1k1i2x2f2x2p2_3"), "forward")
    assert by_taps(r) == [r]
    (r,) = correlations(cf.parse("n1c1k1i9x10f3x3p6d6"), "forward")
    assert [(tap.padding, tap.output) for tap in by_taps(r)[:2]] == [((0, 0), (9, 10)), ((0, 0), (3, 4))]


@pytest.mark.parametrize("text", PADDED)
@pytest.mark.parametrize("pass_", ["forward", "grad_input"])
def test_parts_make_the_same_products(text, pass_):
    problem = cf.parse(text)
    for r in correlations(problem, pass_):
        if r.taps == 0:
            continue
        parts = inside(r)
        assert sum((_products(part) for part in parts), Counter()) == _products(r)
        places = [tuple(_place(part.out, 2, at)) for part in parts for at in product(*map(range, part.output))]
        assert sorted(places) == sorted(tuple(_place(r.out, 2, at)) for at in product(*map(range, r.output)))
        assert sum(part.taps * part.pixels for part in parts) <= r.taps * r.pixels


def test_few_parts_where_little_is_saved():
    (r,) = correlations(cf.parse("n1c1k1i28x28f3x3p1"), "forward")
    assert inside(r) == [r]
    (r,) = correlations(cf.parse("n1c1k1i33x33f3x3p18d18"), "forward")
    assert sorted((part.kernel, part.output) for part in inside(r)) == [
        ((2, 2), (15, 15)), ((2, 2), (15, 18)), ((2, 2), (18, 15)), ((2, 2), (18, 18)),
    ]  # fmt: skip
    (r,) = correlations(cf.parse("n1c1k1i28x28f3x3p36d36"), "forward")
    (centre,) = inside(r)
    assert (centre.kernel, centre.padding, centre.output) == ((1, 1), (0, 0), (28, 28))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("pass_", ["forward", "grad_input"])
@pytest.mark.parametrize(
    "text", ["n2c40k24i24x24f3x3p13d13:bias", "n1c24k40i16x18f3x3p20d20", "n1c64k64i40x40f3x3p18d18:bias"]
)
def test_matrix_products_leave_padding_out(kernel, text, pass_, rng):
    problem = cf.parse(text)
    if reason := kernel.refuses(problem, pass_):
        pytest.skip(reason)
    here = machine()
    stages = kernel.policy.program(problem, pass_, here.tile(problem.dtype), here).stages
    products = [stage.args for stage in stages if stage.kernel.startswith("im2col")]
    taps = sum(each["kh"] * each["kw"] * each["oh"] * each["ow"] for each in products)
    assert taps < 0.6 * 9 * np.prod(problem.output)
    arrays = calls.arrays_for(problem, rng)
    arrays["bias"] = arrays["bias"] if pass_ == "forward" else None
    result, expected = calls.run(kernel, problem, pass_, arrays), calls.exact(problem, pass_, arrays)
    assert calls.relative_error(result, expected) <= kernel.error(problem, pass_)


def test_taps_one_by_one_add_to_the_output():
    """Parts of so many channels would pack too much, whatever the machine's tile."""
    here = machine()
    problem = cf.parse("n1c2048k256i33x33f3x3p12d12:bias")
    (policy,) = im2col.POLICIES
    for pass_ in ("forward", "grad_input"):
        program = policy.program(problem, pass_, here.tile(problem.dtype), here)
        products = [stage for stage in program.stages if stage.kernel.startswith("im2col")]
        assert [stage.args.get("accumulate", 0) for stage in products] == [0] + 8 * [1]
        assert [stage.kernel for stage in program.stages[9:]] == ["add_padding"]
        assert program.packed_bytes <= 1.1 * problem.weight_bytes


def test_packed_parts_have_a_limit():
    """Parts pack the taps that they share anew: not where that takes much more memory than the weight."""
    here = machine()
    problem = cf.parse("n1c2048k512i28x28f3x3p12d12")
    (policy,) = im2col.POLICIES
    packed = policy.program(problem, "forward", here.tile("float32"), here).packed_bytes
    assert packed <= problem.weight_bytes + (33 << 20)


def test_phases_of_a_dilation_are_images():
    (r,) = correlations(cf.parse("n2c3k4i13x22f3x3p2d2x3"), "forward")
    parted = phases(r)
    assert (parted.n, parted.output, parted.input) == (12, (7, 7), (9, 9))
    assert (parted.padding, parted.dilation, parted.kernel) == ((0, 0), (1, 1), (3, 3))
    assert phases(parted) is parted
