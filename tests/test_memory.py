"""No kernel touches memory beyond its arrays: each operand ends, and then begins, at a page that cannot be touched."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest

import convforge as cf
from convforge.algorithms import direct, im2col
from convforge.models import suite, suites
from convforge.operands import operand_shapes
from convforge.problem import ConvProblem
from convforge.registry import ALGORITHMS, choose
from convforge.runtime.executor import Executor
from convforge.runtime.machine import machine

from . import calls
from .guard import at_page_end, at_page_start

COMPILED = [each for each in ALGORITHMS if each.backend not in ("numpy", "cuda")]
PROBLEMS = [
    "n1c3k5i7x9f3x3p1", "n2c8k24i14x14f3x3p1", "n1c5k7i13x50f3x3p1", "n1c3k9i15x21f5x5s2p2", "n1c16k16i9x33f3x3p1g16",
    "n1c4k4i17x35f5x5s2p2g4", "n2c7k50i5x5f1x1", "n1c6k8i16x16f3x3s2", "n1c2k3i40x3f3x1p1x0", "n1c4k8i12x14f3x3d2",
    "n1c5k6i11x19f3x3p1:float64", "max:n2c3i17x35f3x3s2p1", "max:n1c3i8x9f2s1:indices", "avg:n2c3i17x35f3x3s2p1",
    "avg:n1c5i7x7f7x7",
    # read in place, as far as that is inside
    "n1c2k2i60x70f3x3g2", "n1c1k1i60x70f7x7", "n1c3k8i20x34f3x3", "n1c2k2i21x61f3x3p1g2", "n1c2k4i27x60f3x3s2p1g2",
    "n2c2k2i20x66f3x3s2g2", "n1c1k1i9x53f3x3p4x2:float64",
    # transposed, or put in by phases
    "n2c21k21i7x7f3x3p1g21", "n1c17k17i9x11f5x5s2p2g17", "n1c5k6i14x15f3x3p3d3",
]  # fmt: skip


def _cases():
    for text in PROBLEMS:
        problem = cf.parse(text)
        for algorithm in COMPILED:
            for pass_ in problem.passes:
                if algorithm.refuses(problem, pass_) is None:
                    yield pytest.param(algorithm, problem, pass_, id=f"{algorithm}-{pass_}-{text}")


@pytest.mark.parametrize("place", [at_page_end, at_page_start])
@pytest.mark.parametrize(("algorithm", "problem", "pass_"), list(_cases()))
def test_no_access_beyond_the_arrays(algorithm, problem, pass_, place, rng):
    arrays = {**calls.arrays_for(problem, rng), "bias": None}
    expected = calls.run(algorithm, problem, pass_, arrays)
    guarded = {name: None if array is None else place(array) for name, array in arrays.items()}
    out = place(calls.poisoned_out(problem, pass_))
    result = calls.run(algorithm, problem, pass_, guarded, out)
    first, second = (r[0] if isinstance(r, tuple) else r for r in (result, expected))
    assert first is out
    np.testing.assert_array_equal(first, second)
    for name, array in arrays.items():
        if array is not None:
            np.testing.assert_array_equal(guarded[name], array)


@pytest.mark.parametrize(("algorithm", "problem", "pass_"), list(_cases()))
def test_a_strided_out_is_written_only_where_it_is(algorithm, problem, pass_, rng):
    arrays = {**calls.arrays_for(problem, rng), "bias": None}
    expected = calls.run(algorithm, problem, pass_, arrays)
    shape = calls.result_shape(problem, pass_)
    canvas = np.full((*shape[:-2], shape[-2] + 4, shape[-1] + 6), 7.0, problem.dtype)
    window = canvas[..., 2:-2, 3:-3]
    window[...] = np.nan
    result = calls.run(algorithm, problem, pass_, arrays, window)
    first, second = (r[0] if isinstance(r, tuple) else r for r in (result, expected))
    np.testing.assert_array_equal(first, second)
    window[...] = 7.0
    assert (canvas == 7.0).all()


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("name", suites())
def test_im2col_keeps_the_memory_that_it_states(name, batch):
    """The lowered matrix of a layer is never there as a whole."""
    (policy,), here = im2col.POLICIES, machine()
    for problem in suite(name, batch).values():
        if not isinstance(problem, ConvProblem) or problem.ndim != 2:
            continue
        for pass_ in problem.passes:
            tile = here.tile(problem.dtype)
            program = policy.program(problem, pass_, tile, here)
            assert program.scratch_bytes <= 1.25 * max(here.l2, 1 << 20)
            assert program.workspace_bytes <= 16 * problem.weight_bytes
            # each phase of a strided gradient may end in a part of a cache line
            phases = problem.stride[0] * problem.stride[1]
            assert program.packed_bytes <= tile.rows * problem.weight_bytes + 64 * phases


@pytest.mark.parametrize("l2", [20_000, 1 << 20])
@pytest.mark.parametrize("name", suites())
def test_direct_keeps_the_memory_that_it_states(name, l2):
    """Whatever the cache: half of it, or the input under eight vectors of one row; and its tables."""
    (policy,), here = direct.POLICIES, replace(machine(), l1=3000, l2=l2)
    for problem in suite(name).values():
        if not isinstance(problem, ConvProblem) or problem.ndim != 2:
            continue
        tile = here.tile(problem.dtype)
        program = policy.program(problem, "forward", tile, here)
        (args,) = (stage.args for stage in program.stages)
        channels, (kh, kw), (_, sw) = problem.c // problem.groups, problem.kernel, problem.stride
        reach_h, reach_w = (kh - 1) * problem.dilation[0] + 1, (kw - 1) * problem.dilation[1] // sw
        row = channels * reach_h * sw * (8 * tile.lanes + reach_w + tile.lanes) * problem.itemsize
        tables = 24 * args["rows"] * -(-args["columns"] // tile.lanes) + 8 * channels * kh * kw
        slack = channels * (128 + tile.lanes * problem.itemsize) + 2 * tile.rows * tile.columns * problem.itemsize
        assert program.scratch_bytes <= max(l2 // 2, row) + tables + slack


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("name", suites())
def test_what_auto_chooses_takes_little_more_memory_than_the_arrays(name, batch):
    for problem in suite(name, batch).values():
        for mode in ("prepared", "functional"):
            executor = choose(problem, "forward", mode=mode).executor(problem, "forward")
            shapes = operand_shapes(problem, "forward").values()
            arrays = sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in shapes)
            if isinstance(executor, Executor):
                assert executor.workspace_bytes(2, prepared=mode == "prepared") <= arrays + (64 << 20), problem
