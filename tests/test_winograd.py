"""Winograd's matrices are exact, generated code computes them, and the kernels keep what their policy promises."""

import re
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

import convforge as cf
from convforge.algorithms.lowering import correlations, phases
from convforge.algorithms.winograd import lanes, policy, programs
from convforge.algorithms.winograd.transforms import default_points, shortened, transforms
from convforge.kernels import codegen
from convforge.kernels.abi import WINOGRAD
from convforge.plan import Plan
from convforge.registry import ALGORITHMS
from convforge.runtime.machine import Machine, machine

from . import calls

KERNELS = [each for each in ALGORITHMS if each.name.startswith("winograd") and each.backend != "cuda"]
SIZES = [*((m, r, 1) for m, r in product(range(1, 9), range(1, 6))), (12, 3, 1)]
SIZES += [(m, r, stride) for m, stride, r in product((1, 2, 4), (2, 3), (3, 5, 7))]
FAMILY = {each.name: transforms(*each) for each in WINOGRAD}
F2 = next(each for each in WINOGRAD if each.name == "f2")
F6 = next(each for each in WINOGRAD if each.name == "f6")
SHORTENED = {f"winograd_{each.name}" for each in WINOGRAD if each.short}
LANES = (2, 4, 8, 16)


def _is_exact(t):
    """Sum over i of A[i][j] G[i][l] B[k][i] is 1 where k = j * stride + l, else 0: what a correlation is."""
    for j, tap, k in product(range(t.m), range(t.r), range(t.alpha)):
        total = sum(t.output[j][i] * t.scale[i] * t.weight[i][tap] * t.input[i][k] for i in range(t.alpha))
        if total != (k == j * t.stride + tap):
            return False
    return True


@pytest.mark.parametrize(("m", "r", "stride"), SIZES)
def test_matrices_are_exact(m, r, stride):
    assert _is_exact(transforms(m, r, stride))


def test_any_distinct_points_do():
    assert _is_exact(transforms(4, 3, 1, (Fraction(3), Fraction(1, 7), Fraction(-2), Fraction(0), Fraction(5))))


@pytest.mark.parametrize("points", [(0, 1), (0, 1, 1), (0, 1, -1, 2)])
def test_points_must_fit(points):
    with pytest.raises(ValueError, match=r"F\(2, 3\) needs 3 distinct finite points"):
        transforms(2, 3, 1, tuple(map(Fraction, points)))


@pytest.mark.parametrize(("m", "larger"), [(4, 6), (3, 4), (1, 2), (5, 6)])
def test_shorter_tiles_take_weights_of_larger_ones(m, larger):
    """Of the larger one's G g those of the first points and infinity."""
    whole = transforms(larger, 3)
    t = shortened(m, whole)
    kept = [*range(t.alpha - 1), whole.alpha - 1]
    rng = np.random.default_rng(m)
    d, g = ([Fraction(int(value)) for value in rng.integers(-9, 10, size)] for size in (t.alpha, 3))
    u = [whole.scale[i] * sum(a * b for a, b in zip(whole.weight[i], g, strict=True)) for i in kept]
    v = [sum(a * b for a, b in zip(row, d, strict=True)) for row in t.input]
    y = [sum(a * b * c for a, b, c in zip(row, u, v, strict=True)) for row in t.output]
    assert y == [sum(d[j + i] * g[i] for i in range(3)) for j in range(m)]
    assert t.code == 1000 * larger + 100 * m + 31


def test_shorter_tiles_must_be_shorter():
    for m, whole in ((6, transforms(6, 3)), (0, transforms(2, 3)), (1, transforms(2, 3, 2))):
        with pytest.raises(ValueError, match="is not within F"):
            shortened(m, whole)


@pytest.mark.parametrize(("m", "r"), [(0, 3), (2, 0)])
def test_sizes_must_be_positive(m, r):
    with pytest.raises(ValueError, match="m >= 1 and r >= 1"):
        transforms(m, r)


@pytest.mark.parametrize(("stride", "points"), [(0, None), (4, None), (2, (Fraction(0), Fraction(1), Fraction(2)))])
def test_strides_must_fit(stride, points):
    with pytest.raises(ValueError, match=rf"F\(2, 3\) needs a stride from 1 to 3.*not {stride}"):
        transforms(2, 3, stride, points)


def test_the_kernels_know_the_sizes_of_the_matrices():
    for each in WINOGRAD:
        t = FAMILY[each.name]
        assert (each.alpha, each.step) == (t.alpha, t.stride * t.m)
        assert each.halo == each.alpha - each.step <= each.step


def test_constants_are_exact_in_binary():
    """Only the row factors of G are rounded."""
    for t in FAMILY.values():
        for row in (*t.input, *t.weight, *t.output):
            assert all(Fraction(np.float32(float(value)).item()) == value for value in row)


def test_default_points_come_in_pairs():
    for count in range(1, 14, 2):
        points = default_points(count)
        assert len(set(points)) == count
        assert set(points) == {-point for point in points}


def _evaluated(program, inputs):
    values = {f"d{j}": value for j, value in enumerate(inputs)}
    for step in program.steps:
        values[step.name] = step.factor * values[step.a] + (values[step.b] if step.b else 0)
    return [values[name] if name else 0 for name in program.outputs]


@pytest.mark.parametrize(("m", "r", "stride"), SIZES)
def test_programs_compute_their_matrices(m, r, stride):
    for matrix in codegen.products(transforms(m, r, stride)).values():
        program = codegen.straight(matrix)
        for j in range(program.inputs):
            unit = [Fraction(int(i == j)) for i in range(program.inputs)]
            assert _evaluated(program, unit) == [row[j] for row in matrix]


def test_programs_are_short():
    """Pairs of points share their even and odd parts, and each step is one fused multiply-add."""
    lengths = {
        name: [len(codegen.straight(codegen.products(t)[which]).steps) for which in ("input", "weight", "output")]
        for name, t in FAMILY.items()
    }
    assert lengths == {
        "f2": [4, 3, 4], "f3": [11, 5, 8], "f4": [12, 6, 12], "f6": [24, 9, 20], "f4_5x5": [24, 15, 16],
        "f2_s2": [2, 1, 4], "f4_s2": [15, 3, 16],
    }  # fmt: skip
    gradients = {
        which: [len(codegen.straight(codegen.products(FAMILY[name])[which]).steps) for name in ("f2", "f4", "f6")]
        for which in ("grad_output", "grad_weight")
    }
    assert gradients == {"grad_output": [2, 8, 18], "grad_weight": [4, 10, 14]}


class _Numbers:
    """The vector vocabulary on plain numbers."""

    @staticmethod
    def broadcast(x):
        return Fraction(x)

    @staticmethod
    def fma(a, b, c):
        return a * b + c

    @staticmethod
    def add(a, b):
        return a + b

    @staticmethod
    def sub(a, b):
        return a - b

    @staticmethod
    def mul(a, b):
        return a * b


@pytest.mark.parametrize("t", FAMILY.values(), ids=FAMILY)
def test_sources_compute_their_matrices(t, rng):
    header = codegen.c_header([t], [])
    for name, matrix in codegen.products(t).items():
        inputs = [Fraction(int(value)) for value in rng.integers(-9, 10, len(matrix[0]))]
        expected = [sum(a * b for a, b in zip(row, inputs, strict=True)) for row in matrix]
        names = {"v": _Numbers}
        exec(codegen.python_source(name, codegen.straight(matrix)), names)
        assert list(names[name](*inputs)) == expected
        assert _run_c(header, f"winograd_{name}", inputs) == expected


def _run_c(header, function, inputs):
    """Evaluate a function of straight-line C, whose assignments are Python's but for types, casts and braces."""
    body = header.partition(f"void {function}(")[2].partition("break;")[0].partition(": {")[2]
    body = body.replace("(real)", "").replace("vec ", "").replace(";", "")
    body = re.sub(r"(\d+\.\d+(?:e-?\d+)?)", r"Fraction(\1)", body)
    names = {"d": inputs, "o": [None] * 9, "Fraction": Fraction}
    exec("\n".join(line.strip() for line in body.splitlines()), names)
    return [value for value in names["o"] if value is not None]


def _shuffled(program, vectors):
    values = {f"d{j}": list(vector) for j, vector in enumerate(vectors)}
    for step in program.steps:
        both = values[step.a] + values[step.b]
        values[step.name] = [both[i] for i in step.indices]
    return [values[name] for name in program.outputs]


@pytest.mark.parametrize(("m", "lanes"), [*product(range(1, 9), LANES)])
def test_interleaving(m, lanes):
    rows = np.arange(m * lanes).reshape(m, lanes)
    phases = rows.reshape(lanes, m).T
    np.testing.assert_array_equal(_shuffled(codegen.deinterleave(m, lanes), rows), phases)
    np.testing.assert_array_equal(_shuffled(codegen.interleave(m, lanes), phases), rows)


@pytest.mark.parametrize(("lanes", "part"), [(2, 2), (4, 2), (8, 2), (4, 4), (8, 4), (16, 4)])
def test_transposing(lanes, part):
    rows = np.arange(lanes * lanes).reshape(lanes, lanes)
    program = codegen.transpose(lanes, part)
    np.testing.assert_array_equal(_shuffled(program, rows), rows.T)
    assert len(program.steps) == lanes * (lanes.bit_length() - 1)


def test_shuffles_are_few():
    """Eight lanes are done as two halves; each step is one instruction of AVX2."""
    for make in (codegen.deinterleave, codegen.interleave):
        assert {m: len(make(m, 8).steps) for m in (2, 4, 6, 8)} == {2: 4, 4: 12, 6: 30, 8: 32}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("c", [1, 16, 160])
@pytest.mark.parametrize(
    ("window", "pass_"),
    [*product(("f3x3p1", "f5x5p1"), ("forward", "grad_input")), ("f3x3p1", "grad_weight"), ("f3x3s2p1", "forward")],
)
def test_error_stays_within_the_model(window, pass_, c, dtype, rng):
    problem = cf.parse(f"n1c{c}k{c}i13x20{window}:{dtype}")
    arrays = calls.arrays_for(problem, rng)
    expected = _exact(problem, pass_, arrays)
    for kernel in KERNELS:
        if kernel.refuses(problem, pass_) is None:
            error = calls.relative_error(calls.run(kernel, problem, pass_, arrays), expected)
            assert error <= kernel.error(problem, pass_) < 16 * error, kernel


def _exact(problem, pass_, arrays):
    """In float64, or for float64 in long doubles, by matrix products."""
    wide = np.longdouble if problem.dtype == "float64" else np.float64
    x, w, y = (arrays[name].astype(wide) for name in ("x", "weight", "grad_output"))
    (height, width), (stride, _) = problem.output, problem.stride
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    result = {"forward": np.zeros(problem.output_shape, wide), "grad_weight": np.zeros(problem.weight_shape, wide)}
    result["grad_input"] = np.zeros(padded.shape, wide)
    for i, j in product(range(problem.kernel[0]), range(problem.kernel[1])):
        rows, columns = (slice(first, first + stride * size, stride) for first, size in ((i, height), (j, width)))
        window = (slice(None), slice(None), rows, columns)
        if pass_ == "forward":
            result[pass_] += np.tensordot(padded[window], w[:, :, i, j], (1, 1)).transpose(0, 3, 1, 2)
        elif pass_ == "grad_input":
            result[pass_][window] += np.tensordot(y, w[:, :, i, j], (1, 0)).transpose(0, 3, 1, 2)
        else:
            result[pass_][:, :, i, j] = np.tensordot(y, padded[window], ((0, 2, 3), (0, 2, 3)))
    return result[pass_][:, :, 1:-1, 1:-1] if pass_ == "grad_input" else result[pass_]


def test_the_default_tolerance_admits_the_large_tiles():
    from convforge.registry import DEFAULT_TOLERANCE

    for dtype, c in product(("float32", "float64"), (64, 512)):
        for kernel in KERNELS:
            assert kernel.error(cf.parse(f"n1c{c}k{c}i28x28f3x3p1:{dtype}"), "forward") <= DEFAULT_TOLERANCE[dtype]


@pytest.mark.parametrize("isa", ["avx512", "avx2", "neon"])
def test_channels_are_in_the_lanes_where_tiles_would_leave_many_idle(isa):
    here = Machine(isa, 32 << 10, 1 << 20, 32 << 20, 2)
    tile = here.tile("float32")

    def chosen(text):
        (r,) = correlations(cf.parse(text), "forward")
        return lanes.by_channels(F6, r, tile, 1, 4, here)

    assert chosen("n1c512k512i14x14f3x3p1") == (isa != "neon")  # 9 tiles
    assert chosen("n1c128k128i28x28f3x3p1") == (isa != "neon")  # 25 tiles
    assert not chosen("n1c128k128i46x46f3x3p1g32")  # 64 tiles of 4 channels
    assert not chosen("n1c128k128i900x900f3x3p1")  # rows that the second cache could not hold


def _cases(texts, passes, kernels=KERNELS):
    """Each kernel with each problem and pass that it does."""
    return [
        pytest.param(kernel, text, pass_, id=f"{kernel}-{text}-{pass_}")
        for kernel, text, pass_ in product(kernels, texts, passes)
        if kernel.policy.refuses(cf.parse(text), pass_) is None
    ]


@pytest.mark.parametrize(
    ("kernel", "text", "pass_"),
    _cases(
        (
            "n2c5k37i13x50f3x3p1", "n3c4k8i9x5f3x3p0g2", "n1c3k9i31x8f3x3p2_0x0_3", "n2c5k9i13x50f5x5p2",
            "n2c5k9i13x50f3x3s2p1_0", "n1c5k9i13x50f3x3p2x3d2x3", "n1c130k53i9x26f3x3p1",
        ),
        ("forward", "grad_input"),
    ),
)  # fmt: skip
def test_bits_do_not_depend_on_how_the_tiles_are_cut(kernel, text, pass_, rng, monkeypatch):
    """Fused or in two stages, whatever the blocks: the same sums in the same order, with tiles or channels in lanes."""
    problem = cf.parse(text)
    if reason := kernel.refuses(problem, pass_):
        pytest.skip(reason)
    m = int(kernel.name[-1])
    arrays = {**calls.arrays_for(problem, rng), "bias": None}
    exact = calls.exact(problem, pass_, arrays)
    (whole,) = correlations(problem, pass_)
    r = phases(whole)
    tile = machine().tile(problem.dtype)
    vectors = -(-r.n * -(-r.output[0] // m) * -(-r.output[1] // m) // tile.lanes)
    for channels in (False, True) if lanes.takes_channels(tile, problem.itemsize) else (False,):
        monkeypatch.setattr(programs, "by_channels", lambda *_, channels=channels: channels)
        monkeypatch.setattr(programs, "shorter", lambda *_: lanes.WHOLE)
        results = []
        for blocks, k_block, c_block in ((1, 16, 0), (2, 64, 2), (vectors, 32, 1)):
            if blocks > vectors or vectors / blocks > 16:
                continue
            if channels:
                c_block *= tile.lanes
                blocks = 1 if r is not whole else blocks  # a dilated image is not cut
            cut = programs.Blocking(blocks, k_block, c_block, channels)
            monkeypatch.setattr(programs, "blocking", lambda *_, cut=cut: cut)
            monkeypatch.setattr(programs, "unprepared", lambda *_, cut=cut: cut if cut.c_block else None)
            results.append(calls.run(kernel, problem, pass_, arrays))
            np.testing.assert_array_equal(results[-1], results[0])
        assert calls.relative_error(results[0], exact) <= kernel.error(problem, pass_)


def _prefer_shorter(monkeypatch):
    """Tiles end with shorter ones wherever they can, as if those took no time."""
    monkeypatch.setattr(programs, "seconds", lambda *arguments: 0.0 if len(arguments) > 6 else 1.0)


@pytest.mark.parametrize(
    ("kernel", "text", "pass_"),
    _cases(
        ("n1c5k37i13x10f3x3p1", "n3c34k8i7x14f3x3p1g2", "n5c4k9i10x21f3x3p2_0x0_1", "n2c130k20i15x10f3x3:float64"),
        ("forward", "grad_input"),
        [each for each in KERNELS if each.name in SHORTENED],
    ),
)  # fmt: skip
def test_shorter_tiles(kernel, text, pass_, rng, monkeypatch):
    """Rows and columns end with them, of the same weights; bits do not depend on blocks, or when weights are made."""
    problem = cf.parse(text)
    if reason := kernel.refuses(problem, pass_):
        pytest.skip(reason)
    here = machine()
    tile = here.tile(problem.dtype)
    f = next(each for each in WINOGRAD if each.name == kernel.name.split("_")[1])
    if not lanes.takes_channels(tile, problem.itemsize):
        pytest.skip("this machine has no kernels with channels in the lanes")
    (r,) = correlations(problem, pass_)
    short = lanes.shorter(f, r)
    assert max(short) > 0
    _prefer_shorter(monkeypatch)
    arrays = {**calls.arrays_for(problem, rng), "bias": None}
    results = []
    for least, times in ((1, 1), (1000, 1), (1, 4), (1000, 4)):  # fused, and in two stages, of few and of many blocks
        monkeypatch.setattr(programs, "_FUSED_ITEMS", least)
        monkeypatch.setattr(programs, "even_items", lambda count, _, times=times: times * count)
        program = kernel.policy.program(problem, pass_, tile, here)
        for stage in program.stages:
            assert (stage.args["short_h"], stage.args["short_w"]) == short
        assert len(program.stages) == (1 if least == 1 else 2)
        plan = Plan(problem, (pass_,), kernel.name, kernel.backend)
        results.append(calls.call(plan, pass_, {**arrays, "weight": plan.prepare_weight(arrays["weight"])}))
    results.append(calls.run(kernel, problem, pass_, arrays))
    for each in results[1:]:
        np.testing.assert_array_equal(each, results[0])
    assert calls.relative_error(results[0], calls.exact(problem, pass_, arrays)) <= kernel.error(problem, pass_)


def test_shorter_tiles_take_the_fewest_products():
    for text, short in (
        ("n1c4k4i14x14f3x3p1", (2, 2)),
        ("n1c4k4i28x13f3x3p1", (1, 2)),
        ("n1c4k4i12x24f3x3p1", (0, 0)),
        ("n1c4k4i28x28f3x3p2d2", (0, 0)),
    ):
        (r,) = correlations(cf.parse(text), "forward")
        assert lanes.shorter(F6, r) == short
        assert lanes.shorter(F2, r) == (0, 0)


@pytest.mark.parametrize(
    ("kernel", "text", "pass_"),
    _cases(
        (
            "n1c259k310i9x9f3x3p1", "n1c130k160i9x9f5x5p2", "n1c200k260i9x9f3x3s2p1", "n1c230k350i9x9f3x3p2d2",
        ),
        ("forward", "grad_input"),
    ),
)  # fmt: skip
def test_bits_do_not_depend_on_when_weights_are_transformed(kernel, text, pass_, rng):
    """Beforehand, or a block of output channels at a time just before its products."""
    problem = cf.parse(text)
    if reason := kernel.refuses(problem, pass_):
        pytest.skip(reason)
    here = machine()
    program = kernel.policy.program(problem, pass_, here.tile(problem.dtype), here)
    assert program.unprepared
    arrays = {**calls.arrays_for(problem, rng), "bias": None}
    plan = Plan(problem, (pass_,), kernel.name, kernel.backend)
    direct = calls.call(plan, pass_, arrays)
    prepared = calls.call(plan, pass_, {**arrays, "weight": plan.prepare_weight(arrays["weight"])})
    np.testing.assert_array_equal(direct, prepared)
    assert calls.relative_error(direct, calls.exact(problem, pass_, arrays)) <= kernel.error(problem, pass_)


@pytest.mark.parametrize(
    ("kernel", "text", "pass_"),
    _cases(
        (
            "n2c3k5i17x23f3x3p1:bias", "n2c3k5i17x23f5x5p2:bias", "n2c3k5i17x23f3x3s2p1:bias",
            "n2c3k5i17x23f3x3p3d3:bias",
        ),
        ("forward",),
    ),
)  # fmt: skip
@pytest.mark.parametrize("lane", ["tiles", "channels", "shorter"])
def test_non_finite_outputs_leave_the_others_alone(kernel, text, pass_, lane, rng, monkeypatch):
    """Tiles around a NaN are repaired output by output; what the NaN does not reach keeps its value."""
    problem = cf.parse(text)
    if reason := kernel.refuses(problem, pass_):
        pytest.skip(reason)
    tile = machine().tile(problem.dtype)
    takes_channels = lanes.takes_channels(tile, problem.itemsize)
    monkeypatch.setattr(programs, "by_channels", lambda *_: lane == "channels" and takes_channels)
    if lane == "shorter":
        _prefer_shorter(monkeypatch)
    else:
        monkeypatch.setattr(programs, "shorter", lambda *_: lanes.WHOLE)
    arrays = {**calls.arrays_for(problem, rng), "bias": np.arange(problem.k, dtype=problem.dtype)}
    clean = calls.run(kernel, problem, pass_, arrays)
    arrays["x"][1, 2, 8, 11] = np.nan
    y = calls.run(kernel, problem, pass_, arrays)
    reached = np.isnan(calls.exact(problem, pass_, arrays))
    assert reached[0].sum() == 0 < reached[1].sum() < reached[1].size // 2
    np.testing.assert_array_equal(np.isnan(y), reached)
    np.testing.assert_array_equal(y[0], clean[0])
    np.testing.assert_allclose(y[~reached], clean[~reached], rtol=1e-3, atol=1e-3)


def test_refusals_name_what_is_wrong():
    for text, reason in (
        ("n1c4k4i9x9f5x5", "kernels of 3x3 with stride 1, 3x3 with stride 2, not of 5x5 with stride 1x1"),
        ("n1c4k4i9x9f3x3s1x2", "not of 3x3 with stride 1x2"),
        ("n1c4k4i9x9f3x3s2d1x2", "made for a dilation of 1"),
        ("n1c4k4i9f3", "2-D, the problem is 1-D"),
        ("max:n1c4i9x9f3x3", "does not pool"),
    ):
        assert reason in policy.refuses(policy.FAMILIES[2], cf.parse(text), "forward")
    for m, text, pass_ in (
        (2, "n1c4k4i9x9f3x3s2", "grad_input"),
        (4, "n1c4k4i9x9f5x5", "grad_weight"),
        (6, "n1c4k4i9x9f3x3d2", "grad_weight"),
    ):
        assert pass_.split("_")[1] in policy.refuses(policy.FAMILIES[m], cf.parse(text), pass_)
        assert policy.refuses(policy.FAMILIES[m], cf.parse(text), "forward") is None


@pytest.mark.parametrize("channels", [False, True], ids=["tiles", "channels"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_dilated_batches_in_parts(kernel, channels, rng, monkeypatch):
    """Phases, or transforms, of a part of the batch at a time where all would take too much memory: the same bits."""
    problem = cf.parse("n6c8k9i12x13f3x3p2d2x3")
    if reason := kernel.refuses(problem, "forward"):
        pytest.skip(reason)
    here = machine()
    tile = here.tile(problem.dtype)
    if channels and not lanes.takes_channels(tile, problem.itemsize):
        pytest.skip("this machine has no kernels with channels in the lanes")
    monkeypatch.setattr(programs, "by_channels", lambda *_: channels)
    monkeypatch.setattr(programs, "shorter", lambda *_: lanes.WHOLE)
    (r,) = correlations(problem, "forward")
    f = next(each for each in WINOGRAD if each.name == kernel.name.split("_")[1])
    image = programs._image_bytes(f, r, tile, 4) if channels else programs.phase_bytes(r, 4)
    first = f"winograd_{f.name}_channels_input" if channels else "split_phases"
    arrays = calls.arrays_for(problem, rng)
    expected = calls.run(kernel, problem, "forward", arrays)
    for most, parts in ((image, 6), (6 * image, 1), (2 * image, 3)):
        monkeypatch.setattr(programs, "_PHASE_BYTES", most)
        stages = kernel.policy.program(problem, "forward", tile, here).stages
        assert [stage.kernel for stage in stages].count(first) == parts
        np.testing.assert_array_equal(calls.run(kernel, problem, "forward", arrays), expected)
    monkeypatch.undo()
    large = cf.parse("n64c64k64i56x56f3x3p2d2")
    assert kernel.policy.program(large, "forward", tile, here).workspace_bytes < 64 << 20
