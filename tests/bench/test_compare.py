"""compare: what it says of algorithms that are right, wrong, or not for the problem."""

import json
from dataclasses import replace

import numpy as np
import pytest

import convforge as cf
from convforge import filters, registry
from convforge.bench import ceilings
from convforge.bench.trial import Trial, operands
from convforge.registry import Algorithm

SMALL = "n2c4k6i9x11f3x3p1"
PNG = b"\x89PNG\r\n\x1a\n"


def quickly(problem, **settings):
    return cf.compare(problem, **{"rounds": 1, "budget": 0.01, **settings})


def _lazy(out):
    out.flat[17] = np.nan


def _unbounded(out):
    out.flat[17] = np.inf


def _sloppy(out):
    out *= np.float32(1.001)


SPOILERS = {"lazy": _lazy, "unbounded": _unbounded, "sloppy": _sloppy}


@pytest.fixture
def doubtful(monkeypatch):
    """Three algorithms in the registry that do not keep the error that they state."""
    honest = registry.ALGORITHMS[-1].policy
    records = tuple(Algorithm(replace(honest, name=name, error=lambda *_: 1e-6), "numpy") for name in SPOILERS)
    monkeypatch.setattr(registry, "ALGORITHMS", (*records, *registry.ALGORITHMS))
    enter = Trial.enter

    def spoiled(trial, algorithm, mode):
        entry = enter(trial, algorithm, mode)
        spoil = SPOILERS.get(algorithm.name, lambda out: None)
        return replace(entry, run=lambda: (entry.run(), spoil(trial.out)))

    monkeypatch.setattr(Trial, "enter", spoiled)


def answers(problem, pass_="forward"):
    """What the registry says of each (algorithm, backend): None, or the first reason of those of that name."""
    found = {}
    for name, backend, reason in cf.algorithms(problem, pass_):
        key = name, backend
        found[key] = None if reason is None else found.get(key, reason)
    return found


def test_every_algorithm_has_a_row_in_every_pass():
    found = quickly(SMALL)
    expected = {(pass_, *key) for pass_ in cf.parse(SMALL).passes for key in answers(SMALL, pass_)}
    assert {(row.pass_, row.algorithm, row.backend) for row in found.rows} == expected
    assert len(found.rows) == len(expected)
    assert found.ok


def test_rows_that_ran_are_timed_and_right():
    for row in quickly(SMALL).rows:
        if row.status != "ok":
            continue
        assert row.low <= row.seconds <= row.high
        assert row.rounds >= 1
        assert row.flops_per_second == pytest.approx(cf.parse(SMALL).flops("forward") / row.seconds)
        assert 0 <= row.error <= row.error_limit
        assert row.workspace_bytes >= 0
        assert row.copy_share > 0
        assert (row.peak_share is None) == (ceilings.peak_backend() is None)


def test_refusals_come_with_the_registrys_reason():
    problem = "n1c4k4i8x8f1x1s2"
    found = quickly(problem, passes=["forward"])
    reasons = {(row.algorithm, row.backend): row.reason for row in found.rows}
    assert reasons == answers(problem)
    assert "refused" in {row.status for row in found.rows}
    assert all(row.seconds is None and row.error is None for row in found.rows if row.status == "refused")


def test_auto_is_what_a_plan_takes():
    found = quickly(SMALL)
    chosen = {row.pass_: (row.algorithm, row.backend) for row in found.rows if row.chosen}
    assert chosen == cf.plan(SMALL, passes=cf.parse(SMALL).passes).algorithms


def test_tolerance_moves_what_auto_takes():
    found = quickly("n1c16k16i24x24f3x3p1:float64", passes=["forward"], backends=["numpy"], tolerance=1e-30)
    assert [row.algorithm for row in found.rows if row.chosen] == ["reference"]


@pytest.mark.usefixtures("doubtful")
def test_no_speed_without_a_green_error():
    found = quickly(SMALL, passes=["forward"], algorithms=[*SPOILERS, "reference"])
    rows = {row.algorithm: row for row in found.rows}
    assert not found.ok
    assert [rows[name].status for name in SPOILERS] == ["failed"] * 3
    assert all(rows[name].seconds is None and rows[name].flops_per_second is None for name in SPOILERS)
    assert rows["sloppy"].error == pytest.approx(1e-3, rel=0.01)
    assert "beyond" in rows["sloppy"].reason
    assert "unwritten" in rows["lazy"].reason
    assert "infinity" in rows["unbounded"].reason
    assert rows["reference"].status == "ok"
    assert "failed: forward lazy/numpy" in str(found)
    json.loads(found.to_json())


def test_wrong_indices_fail(monkeypatch):
    from convforge.kernels.numpy import reference

    right = reference.max_pool
    problem = cf.parse("max:n1c2i6x6f2x2:indices")
    answers = iter(range(100))

    def shifted(problem, x):
        # the oracle asks twice, for the operands and for the trial; what comes later is the algorithm
        values, indices = right(problem, x)
        return values, indices + (next(answers) >= 2)

    monkeypatch.setattr(reference, "max_pool", shifted)
    found = quickly(problem, passes=["forward"], algorithms=["reference"])
    assert [row.status for row in found.rows] == ["failed"]
    assert "indices" in found.rows[0].reason


def test_order_is_ok_by_time_then_the_others():
    rank = {"ok": 0, "failed": 1, "refused": 2}
    rows = [row for row in quickly(SMALL).rows if row.pass_ == "grad_input"]
    keys = [(rank[row.status], row.seconds or float("inf")) for row in rows]
    assert keys == sorted(keys)


def test_given_arrays_are_used_and_errors_scaled_for_them():
    """On a constant image Sobel gives 0 inside: an error relative to the result would mean nothing."""
    x = np.full((1, 1, 40, 50), 0.7, np.float32)
    found = quickly("n1c1k1i40x50f3x3p1", passes=["forward"], x=x, weight=filters.named("sobel_x"))
    assert found.ok
    assert found.error_scale == "absolute"
    with pytest.raises(ValueError, match="x must be finite"):
        quickly("n1c1k1i40x50f3x3p1", x=np.full_like(x, np.nan))
    with pytest.raises(ValueError, match="weight must have shape"):
        quickly("n1c1k1i40x50f3x3p1", weight=x)


def test_bias_is_no_part_of_the_scale():
    """Errors are stated before the bias: a huge one must not hide them."""
    problem = cf.parse("n1c4k6i9x11f3x3p1:bias")
    arrays = operands(problem)
    arrays["bias"] = np.full(6, 1e6, np.float32)
    running = Trial(problem, "forward", arrays)
    error = running.error(running.enter(registry.ALGORITHMS[-1], "prepared"))
    assert error > 1e-4


def test_functional_mode_and_filters():
    found = quickly(SMALL, passes=["forward", "grad_weight"], backends=["numpy"], mode="functional")
    assert [(row.pass_, row.algorithm) for row in found.rows] == [
        ("forward", "reference"),
        ("grad_weight", "reference"),
    ]
    assert found.mode == "functional"
    family = quickly(SMALL, passes=["forward"], algorithms=["winograd"])
    assert {row.algorithm for row in family.rows} == {"winograd_f2", "winograd_f3", "winograd_f4", "winograd_f6"}


def test_threads_hold_inside_only():
    before = cf.get_num_threads()
    assert quickly(SMALL, passes=["forward"], num_threads=1, backends=["numpy"]).threads == 1
    assert cf.get_num_threads() == before


def test_pools():
    found = quickly("max:n2c3i13x14f3x3s2p1:indices")
    assert found.ok
    assert {row.pass_ for row in found.rows} == {"forward", "grad_input"}
    assert quickly("avg:n2c3i13x14f3x3s2p1:exclude_pad").ok


def test_json_holds_everything():
    found = quickly("resnet50:conv5_reduce", passes=["forward"], backends=["numpy"])
    data = json.loads(found.to_json())
    assert data["title"] == "resnet50:conv5_reduce"
    assert data["problem"] == "n1c2048k512i7x7f1x1"
    assert data["rows"][0]["pass"] == "forward"
    assert data["rows"][0]["seconds"] == found.rows[0].seconds
    assert data["host"]["isa"] == registry.machine().isa


def test_table_names_every_row_and_fits_a_terminal():
    found = quickly(SMALL)
    lines = str(found).splitlines()
    assert lines[0] == SMALL
    for row in found.rows:
        if row.status == "ok":
            assert any(line.split()[:2] == [row.algorithm, row.backend] for line in lines)
        else:
            assert any(line.startswith("refused:") and line.endswith(row.reason) for line in lines)
    table = lines[2 : next(i for i, line in enumerate(lines) if line.startswith(("refused", "time:")))]
    assert max(map(len, table)) <= 80


def test_plot_is_a_png(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "found.png"
    found = quickly(SMALL, backends=["numpy"])
    found.plot(str(path))
    assert path.read_bytes().startswith(PNG)
    with pytest.raises(ValueError, match="must end in one of"):
        found.plot(str(tmp_path / "found.xyz"))


def test_progress_goes_up_to_one():
    told = []
    quickly(SMALL, backends=["numpy"], progress=lambda what, fraction: told.append((fraction, what)))
    assert told == sorted(told, key=lambda each: each[0])
    assert told[-1][0] == pytest.approx(1)
    assert "oracle" in told[0][1]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"passes": ["backward"]}, ValueError, "pass must be one of forward, grad_input, grad_weight"),
        ({"passes": "forward"}, TypeError, "passes must be a sequence"),
        ({"algorithms": ["fast"]}, ValueError, "algorithm must be one of"),
        ({"algorithms": [1]}, TypeError, "algorithm must be a string"),
        ({"backends": ["torch"]}, ValueError, "backend must be one of"),
        ({"algorithms": ["im2col"], "backends": ["numpy"]}, ValueError, "no algorithm is registered"),
        ({"mode": "hot"}, ValueError, "mode must be one of"),
        ({"rounds": 0}, ValueError, "rounds must be an int of at least 1"),
        ({"rounds": True}, ValueError, "rounds must be an int"),
        ({"budget": 0}, ValueError, "budget must be a positive"),
        ({"budget": float("nan")}, ValueError, "budget must be a positive"),
        ({"tolerance": -1}, ValueError, "tolerance must be a positive"),
        ({"num_threads": 0}, ValueError, "num_threads must be at least 1"),
    ],
)
def test_bad_arguments(settings, error, message):
    with pytest.raises(error, match=message):
        cf.compare(SMALL, **settings)


@pytest.mark.parametrize(
    ("problem", "error", "message"),
    [
        ("n0c1k1i8f3", ValueError, "at least one image"),
        ("nonsense", ValueError, "problem string"),
        (3, TypeError, "problem"),
    ],
)
def test_bad_problems(problem, error, message):
    with pytest.raises(error, match=message):
        cf.compare(problem)


def test_a_pool_takes_no_weight():
    with pytest.raises(ValueError, match="takes no weight"):
        quickly("max:n1c1i8x8f2x2", weight=np.ones((1, 1, 2, 2), np.float32))
