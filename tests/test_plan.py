"""Plans: choosing, explaining, prepared weights, workspaces, pickling, the cache behind the functions."""

import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest

import convforge as cf
from convforge import reference_warning, registry
from convforge.plan_cache import PlanCache

PROBLEM = "n2c16k24i14x14f3x3p1"


def _operands(rng, plan):
    p = plan.problem
    return tuple(rng.standard_normal(shape).astype(p.dtype) for shape in (p.input_shape, p.weight_shape))


def test_plan_takes_problem_string_and_layer(rng):
    assert cf.plan(PROBLEM).problem == cf.plan(cf.parse(PROBLEM)).problem == cf.parse(PROBLEM)
    assert cf.plan("resnet50:conv2_x").problem.kernel == (3, 3)


def test_plan_equals_function(rng):
    plan = cf.plan(PROBLEM, algorithm="im2col", passes=("forward", "grad_input", "grad_weight"))
    x, weight = _operands(rng, plan)
    y = cf.conv2d(x, weight, padding=1, algorithm="im2col")
    np.testing.assert_array_equal(plan(x, weight), y)
    np.testing.assert_array_equal(
        plan.grad_input(y, weight), cf.conv2d_grad_input(x.shape, weight, y, padding=1, algorithm="im2col")
    )
    np.testing.assert_array_equal(
        plan.grad_weight(x, y), cf.conv2d_grad_weight(x, weight.shape, y, padding=1, algorithm="im2col")
    )


def test_prepared_weight_is_a_snapshot(rng):
    plan = cf.plan(PROBLEM, passes=("forward", "grad_input"))
    x, weight = _operands(rng, plan)
    y = plan(x, weight)
    prepared = plan.prepare_weight(weight)
    weight[...] = np.nan
    np.testing.assert_array_equal(plan(x, prepared), y)
    with pytest.raises(ValueError, match="read-only"):
        prepared.weight[...] = 0
    assert all(not each.flags.writeable for each in prepared.packed.values())
    assert prepared.nbytes >= weight.nbytes
    again = pickle.loads(pickle.dumps(prepared))
    np.testing.assert_array_equal(plan(x, again), y)


def test_prepared_weight_of_another_plan_is_refused(rng):
    plan = cf.plan(PROBLEM, algorithm="im2col")
    x, weight = _operands(rng, plan)
    other = cf.plan(PROBLEM, algorithm="direct").prepare_weight(weight)
    with pytest.raises(ValueError, match="prepared by a plan of other algorithms"):
        plan(x, other)


def test_plan_pickles(rng):
    plan = cf.plan(PROBLEM, passes=("forward", "grad_weight"), algorithm="direct")
    again = pickle.loads(pickle.dumps(plan))
    x, weight = _operands(rng, plan)
    assert again.algorithms == plan.algorithms
    np.testing.assert_array_equal(again(x, weight), plan(x, weight))


def test_workspace_is_reused(rng, monkeypatch):
    from convforge.runtime import executor

    plan = cf.plan(PROBLEM, algorithm="im2col")
    x, weight = _operands(rng, plan)
    out = plan(x, weight)
    monkeypatch.setattr(executor, "allocate", lambda nbytes: pytest.fail("a second workspace was allocated"))
    plan(x, weight, out=out)
    assert plan.workspace_bytes > 0


def test_explain_names_every_candidate():
    text = cf.plan(PROBLEM).explain()
    for name, backend, _ in cf.algorithms(PROBLEM):
        assert f"{name}/{backend}" in text
    assert "refused: " in text
    assert "modelled" in text


def test_algorithms_gives_reasons():
    listed = cf.algorithms("n1c8k8i10x10f7x7")
    reasons = {(name, backend): reason for name, backend, reason in listed}
    assert reasons["reference", "numpy"] is None
    assert "3x3" in reasons["winograd_f4", "cython"]
    assert len(listed) == len(reasons) == 19
    with pytest.raises(ValueError, match="pass must be one of"):
        cf.algorithms("max:n1c1i4x4f2", "grad_weight")


def test_named_algorithm_that_refuses(rng):
    x, weight = np.ones((1, 2, 8, 8), np.float32), np.ones((2, 2, 7, 7), np.float32)
    with pytest.raises(cf.UnsupportedProblem, match="3x3"):
        cf.conv2d(x, weight, algorithm="winograd_f4")
    with pytest.raises(cf.UnsupportedProblem, match="winograd"):
        cf.conv2d(x, weight, algorithm="winograd")
    with pytest.raises(cf.UnsupportedProblem):
        cf.conv2d(x, weight, algorithm="im2col", backend="numpy")


def test_tolerance_decides(rng):
    names = {}
    for tolerance in (1e-4, 3e-7):
        allowed = registry.candidates(cf.parse(PROBLEM), "forward", tolerance=tolerance)
        names[tolerance] = {each.algorithm.name for each in allowed if each.reason is None}
    assert "winograd_f6" in names[1e-4]
    assert "winograd_f6" not in names[3e-7]
    with pytest.raises(cf.UnsupportedProblem, match="tolerance"):
        cf.plan(PROBLEM, algorithm="winograd_f6", tolerance=1e-9)


def test_family_name_chooses_a_member():
    ((name, _),) = cf.plan(PROBLEM, algorithm="winograd").algorithms.values()
    assert name in ("winograd_f2", "winograd_f3", "winograd_f4", "winograd_f6")


def test_reference_is_the_last_resort_and_warns_once(monkeypatch, rng):
    x = rng.standard_normal((1, 2, 9)).astype(np.float32)
    problem = cf.parse("n1c2k3i9f3")
    assert problem.ndim == 1
    warned = reference_warning._warned
    monkeypatch.setattr(warned, "is_set", lambda: False)
    with pytest.warns(cf.PerformanceWarning, match="reference") as caught:
        plan = cf.plan(problem)
    assert caught[0].filename == __file__
    assert plan(x, np.ones((3, 2, 3), np.float32)).shape == (1, 3, 7)
    monkeypatch.undo()
    warned.set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cf.plan(problem)


def test_cache_keys_carry_types():
    x, weight = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 3, 3), np.float32)
    cf.conv2d(x, weight, stride=(1, 1), tolerance=1.0)
    with pytest.raises(TypeError, match="stride"):
        cf.conv2d(x, weight, stride=(1.0, 1.0), tolerance=1.0)
    with pytest.raises(TypeError, match="stride"):
        cf.conv2d(x, weight, stride=(True, True), tolerance=1.0)
    with pytest.raises(TypeError, match="tolerance"):
        cf.conv2d(x, weight, stride=(1, 1), tolerance=True)


def test_cache_is_bounded():
    class Fake:
        workspace_bytes = 1 << 20

    cache = PlanCache(4 << 20)
    entries = [cache.entry(key, Fake) for key in range(50)]
    plans = [entry() for entry in entries]
    assert len(cache) == 3
    kept = cache.entry(49, lambda: pytest.fail("the newest plan was dropped"))
    assert kept() is entries[49]() is plans[49]
    # one that was dropped is made again, and the least recently used one goes instead
    entries[47]()
    again = entries[0]()
    assert again is not plans[0]
    assert again is entries[0]() is cache.entry(0, Fake)()
    assert [entry.plan is not None for entry in (entries[47], entries[48], entries[49])] == [True, False, True]
    assert len(cache) == 3
    cache.clear()
    assert len(cache) == 0
    assert entries[0].plan is None


def test_cache_entries_of_a_key_share_its_plan():
    class Fake:
        workspace_bytes = 0

    cache = PlanCache(1 << 20)
    first, second = cache.entry("key", Fake), cache.entry("key", Fake)
    assert first() is second() is first()
    assert len(cache) == 1


def test_a_plan_that_cannot_be_made_is_not_kept():
    cache = PlanCache(1 << 20)
    entry = cache.entry("key", lambda: (_ for _ in ()).throw(ValueError("no plan")))
    for _ in range(2):
        with pytest.raises(ValueError, match="no plan"):
            entry()
    assert len(cache) == 0


def test_verbose_prints_a_line_per_dispatch():
    code = (
        "import numpy as np, convforge as cf;"
        "cf.conv2d(np.ones((1, 2, 8, 8), np.float32), np.ones((2, 2, 3, 3), np.float32), algorithm='im2col')"
    )
    for value, lines in (("1", 1), ("0", 0)):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "CONVFORGE_VERBOSE": value}, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        assert len(done.stderr.splitlines()) == lines
        if lines:
            assert "n1c2k2i8x8f3x3" in done.stderr
            assert "im2col/" in done.stderr
            assert "µs" in done.stderr


def test_out_may_not_overlap(rng):
    memory = rng.standard_normal(2 * 16 * 14 * 14 * 3).astype(np.float32)
    plan = cf.plan("n2c16k16i14x14f3x3p1")
    x = memory[: 2 * 16 * 14 * 14].reshape(2, 16, 14, 14)
    weight = np.ones((16, 16, 3, 3), np.float32)
    with pytest.raises(ValueError, match="out must not overlap x"):
        plan(x, weight, out=x)
    with pytest.raises(ValueError, match="out must not overlap x"):
        cf.conv2d_grad_weight(
            x, weight.shape, np.ones((2, 16, 12, 12), np.float32), out=memory[:2304].reshape(16, 16, 3, 3)
        )
