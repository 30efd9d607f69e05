"""Direct and depthwise kernels of every backend and instruction set: each size that they are specialised for, borders,
guard pages, and bits that do not depend on how the items of a stage are shared out."""

import ctypes
from functools import cache
from importlib import import_module
from itertools import pairwise, product

import numpy as np
import pytest

from convforge.algorithms import depthwise, direct
from convforge.kernels import abi
from convforge.problem import parse
from convforge.program import ARRAYS
from convforge.registry import backend_missing
from convforge.runtime.executor import allocate
from convforge.runtime.machine import Machine, machine, runnable

from . import calls
from .guard import at_page_end, at_page_start

BUILDS = [f"cython:{isa}" for isa in runnable()] + ["numba"]
DTYPES = ("float32", "float64")

_DIRECT = """
    n1c1k1i1f1 n1c3k8i5x5f3p1 n2c3k9i7x9f3x3p1 n1c5k7i12x13f3s3p2 n2c4k5i9x100f2s1x2 n1c3k3i9x6f4s2d2p3
    n1c6k4i17x19f3x2d2x3p1_2x0_3 n3c6k12i11x60f5s2x1p2g2 n1c2k3i4f3s5p1 n1c2k25i8x48f3p1 n1c4k4i33x3f3x1p1x0
    n1c2k5i40x40f9x40p0x20 n1c3k16i40x35f11s4p2 n1c8k8i10x17f3p1g8 n2c2k2i6x34f1s2 n1c2k4i3x70f3x7s1x2p1x3
    n1c8k4i20x64f3p1g2 n1c3k3i12x100f3s2p1 n2c4k2i9x30f1
"""
# dilations, multipliers, one-channel filters
_DEPTHWISE = """
    n1c2k2i20x21f5s2x1p2d1x2g2 n1c2k2i20x21f5s1x2p2d2x1g2 n1c2k2i21x20f3s2p2d2g2 n1c2k2i21x20f4x7s2x3p2d3x2g2
    n1c2k6i11x11f3p1g2 n1c2k4i12x13f3s2p1g2 n2c3k6i9x33f5s2p2g3 n1c2k4i9f7p3g2 n1c1k6i28f5 n1c1k9i20f3p1
    n1c1k1i70x150f3p1 n1c1k1i70x150f5x7p2x3 n1c1k1i40x290f3 n1c1k1i33x290f9s2p4 n1c1k1i50x140f3s2 n1c1k1i40f31p15
    n1c1k1i3x200f3x31p1x15 n1c1k1i200x3f31x3p15x1 n1c3k3i5x6f2s3g3 n1c2k2i8f1s2g2 n1c2k2i4f4g2 n1c2k2i11f3p5g2
    n4c3k3i1x1f1g3 n1c2k2i7x9f1s2p1g2 n1c2k2i9x8f1x2s2p0x3d1x2g2 n1c2k2i9x1f3x1s2p1x0g2 n1c2k2i1x9f1x3s2p0x1g2
    n1c2k2i2f3s2p1g2 n1c2k2i9x170f3p1g2 n1c2k2i11x330f3s2p1g2
"""
DIRECT = _DIRECT.split()
# sizes 1 to 9 in each stride, maps of each width in vectors, small maps of many channels
DEPTHWISE = [
    *(f"n1c3k3i{19 - s}x{22 + f}f{f}s{s}p{f // 2}g3" for f in range(1, 10) for s in (1, 2, 3)),
    *(f"n2c5k5i{7 + w % 3}x{w}f3s{s}p1g5" for w in (1, 2, 7, 8, 9, 14, 16, 17, 28, 33, 48, 49, 64, 65) for s in (1, 2)),
    *(f"n1c2k2i9x{w}f3x3p1_0x0_2g2" for w in (3, 15, 16, 34)),
    *(
        f"n2c19k19i{5 + w % 3}x{w}f{f}s{s}p{f // 2}g19"
        for w in (1, 2, 5, 7, 8, 9, 13, 16)
        for f, s in ((2, 3), *product((3, 5, 7), (1, 2)))
    ),
    *(f"n1c3k3i23x25f3s{s}p{d}d{d}g3" for s in (1, 2, 3, 4) for d in (2, 3)),
    *_DEPTHWISE.split(),
]


@cache
def lookup(build):
    """``lookup(kernel, dtype)`` of a build, and its machine with small caches: small problems take several blocks."""
    backend, _, isa = build.partition(":")
    isa = isa or machine().isa
    here = Machine(isa, l1=3000, l2=20_000, l3=1 << 20, cores=1)
    if backend == "cython":
        return (lambda kernel, dtype: import_module(f"convforge.kernels.cython._{isa}_{dtype}").KERNELS[kernel]), here
    return import_module("convforge.kernels.numba").lookup, here


@pytest.fixture(params=BUILDS)
def build(request):
    if reason := backend_missing(request.param.partition(":")[0]):
        pytest.skip(reason)
    return request.param


_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def _value(slot, arrays):
    if isinstance(slot, int) or slot.array is None:
        return slot if isinstance(slot, int) else slot.constant
    array = arrays.get(slot.array)
    if array is None:
        return 0
    strides = [stride // array.itemsize for stride in array.strides[: len(slot.coefficients)]]
    value = slot.constant + sum(a * b for a, b in zip(slot.coefficients, strides, strict=True))
    return array.ctypes.data + array.itemsize * value if slot.address else value


def run(build, policy, problem, pass_, arrays, out, pieces=1):
    """Run a pass with each stage's items in ``pieces`` calls, the last first; scratch memory starts as NaN in each."""
    find, here = lookup(build)
    program = policy.program(problem, pass_, here.tile(problem.dtype), here)
    reads = {
        "forward": ("x", "weight", "bias"), "grad_input": ("weight", "grad_output"), "grad_weight": ("x", "grad_output")
    }  # fmt: skip
    bound = {name: arrays.get(name) for name in reads[pass_]} | {"out": out}
    bound |= {"packed": allocate(program.packed_bytes), "workspace": allocate(program.workspace_bytes)}
    assert set(bound) <= set(ARRAYS)
    for stage in (*program.prepare, *program.stages):
        args = np.array([_value(stage.args[name], bound) for name in abi.SIGNATURES[stage.kernel]], np.int64)
        kernel = _KERNEL(find(stage.kernel, program.dtype))
        count = min(pieces, stage.items)
        bounds = [stage.items * piece // count for piece in range(count, -1, -1)]
        for end, begin in pairwise(bounds):
            scratch = allocate(program.scratch_bytes)
            kernel(args.ctypes.data, scratch.ctypes.data, begin, end)
    return out


def policies(text):
    """The algorithms under test that do a problem."""
    problem = parse(text)
    return [
        (policy, problem, pass_)
        for policy in (*direct.POLICIES, *depthwise.POLICIES)
        for pass_ in problem.passes
        if policy.refuses(problem, pass_) is None
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("text", [*DIRECT, *DEPTHWISE])
def test_is_exact_and_stays_inside(build, dtype, text, rng):
    for policy, problem, pass_ in policies(f"{text}:{dtype}:bias"):
        arrays = calls.arrays_for(problem, rng, integers=True)
        expected = calls.exact(problem, pass_, arrays)
        for place in (at_page_end, at_page_start):
            guarded = {name: place(array) for name, array in arrays.items()}
            out = run(build, policy, problem, pass_, guarded, place(calls.poisoned_out(problem, pass_)))
            np.testing.assert_array_equal(out, expected, f"{policy.name} {pass_}")


@pytest.mark.parametrize("text", [*DIRECT, *DEPTHWISE[::3]])
def test_bits_do_not_depend_on_how_items_are_shared_out(build, text, rng):
    for policy, problem, pass_ in policies(f"{text}:bias"):
        arrays = calls.arrays_for(problem, rng)
        whole = run(build, policy, problem, pass_, arrays, calls.poisoned_out(problem, pass_))
        for pieces in (3, 1 << 20):
            shared = run(build, policy, problem, pass_, arrays, calls.poisoned_out(problem, pass_), pieces)
            assert whole.tobytes() == shared.tobytes(), f"{policy.name} {pass_} in {pieces} pieces"


@pytest.mark.parametrize(
    "text", ["n1c3k9i13x50f3p1", "n1c4k4i14x22f5s2p2g4", "n2c4k4i13x7f3p1g4", "n1c2k2i15x40f3s3g2"]
)
def test_a_pixel_that_is_not_finite_spoils_what_sees_it(build, text, rng):
    for policy, problem, pass_ in policies(text):
        for at in ((0, 0), (6, 3), (-1, -1), (5, -2)):
            arrays = calls.arrays_for(problem, rng)
            for name in ("x", "grad_output"):
                h, w = (index % size for index, size in zip(at, arrays[name].shape[2:], strict=True))
                arrays[name][:, 1, h, w] = np.nan
            out = run(build, policy, problem, pass_, arrays, calls.poisoned_out(problem, pass_))
            np.testing.assert_array_equal(np.isnan(out), np.isnan(calls.exact(problem, pass_, arrays)))


def test_small_maps_of_many_channels_have_them_in_the_lanes():
    (policy,) = depthwise.POLICIES
    here = Machine("avx2", l1=32 << 10, l2=512 << 10, l3=32 << 20, cores=2)
    for text, kernel in (
        ("n1c960k960i7x7f3x3p1g960", "depthwise_channels_3"),
        ("n1c672k672i14x14f5x5s2p2g672", "depthwise_channels_5"),
        ("n1c5k5i7x7f5x5p2g5", "depthwise_forward"),  # fewer than lanes
        ("n1c64k64i56x56f5x5p2g64", "depthwise_forward"),  # wide
        ("n1c32k64i7x7f3x3p1g32", "depthwise_3x3"),  # several outputs a channel
    ):
        problem = parse(text)
        (stage,) = policy.program(problem, "forward", here.tile(problem.dtype), here).stages
        assert stage.kernel == kernel, text
