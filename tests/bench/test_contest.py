"""Who takes part in a contest, who is timed, and by what rules."""

import importlib.util
import re
from dataclasses import replace

import numpy as np
import pytest

from convforge import models
from convforge.algorithms import reference
from convforge.bench import contest, functional, peers, suite_run
from convforge.bench.report import Score, summary, text
from convforge.bench.table import without_colours
from convforge.bench.trial import Trial, operands

from . import fake_peer
from .reports import GROUPED, QUICK, SMALL, report_on


def score(case, name):
    return next(each for each in case.scores if each.name == name)


def test_the_right_are_timed_and_the_wrong_are_not():
    (case,) = report_on(SMALL).cases
    assert [each.name for each in case.ours] == ["convforge"]
    own, right = score(case, "convforge"), score(case, "fake")
    assert own.status == right.status == "ok"
    assert own.error <= own.error_limit
    assert right.low <= right.seconds <= right.high
    assert case.best_peer is right
    assert case.ratio(own) == right.seconds / own.seconds
    for name, reason in [("bfloat16", "its error is 4"), ("lazy", "nan"), ("crash", "ZeroDivisionError")]:
        wrong = score(case, f"fake {name}")
        assert (wrong.status, wrong.seconds) == ("failed", None)
        assert re.search(reason, wrong.reason)
    last = case.scores[-1]
    assert (last.name, last.status, last.reason) == ("fake", "failed", "RuntimeError: no more memory")


def test_a_peer_that_refuses_leaves_no_ratio():
    (case,) = report_on(GROUPED).cases
    assert score(case, "fake").reason == "it does no groups"
    assert case.best_peer is None
    assert case.ratio(case.ours[0]) is None


def test_a_missing_peer_is_named_with_what_to_install():
    report = report_on(SMALL)
    assert report.peers == {"fake": "1.2"}
    assert "pip install 'convforge[peers]'" in report.missing["absent"]


def test_every_peer_is_told_the_threads(monkeypatch):
    monkeypatch.setattr(fake_peer, "pinned", [])
    report = report_on(SMALL, counts=(1, suite_run.threads.get_num_threads()))
    assert fake_peer.pinned == [case.threads for case in report.cases]


@pytest.mark.parametrize("mode", ["prepared", "functional"])
@pytest.mark.parametrize("pass_", ["forward", "grad_input", "grad_weight"])
def test_modes_and_passes(mode, pass_):
    (case,) = report_on(SMALL, rules=replace(QUICK, mode=mode, pass_=pass_)).cases
    assert case.ours[0].status == "ok"
    assert case.ratio(case.ours[0]) > 0


def test_a_row_for_each_backend():
    (case,) = report_on(SMALL, rules=replace(QUICK, backends=("auto", "numpy"))).cases
    assert [each.name for each in case.ours] == ["convforge", "convforge numpy"]
    assert case.ours[1].algorithm == "reference/numpy"


@pytest.mark.usefixtures("nothing_to_compile")
def test_regret_is_against_the_best_variant():
    (case,) = report_on(SMALL, rules=replace(QUICK, variants=True)).cases
    variants = [each for each in case.scores if each.role == "variant"]
    assert "reference/numpy" in {each.name for each in variants}
    assert case.regret(case.ours[0]) >= 1
    found = summary.regrets([case])
    assert found.count == 1
    assert found.median == case.regret(case.ours[0])


def test_what_is_ours_and_wrong_fails_the_report(monkeypatch):
    monkeypatch.setattr(Trial, "distance", lambda self, values: 1e-3)
    report = report_on(SMALL)
    assert not report.ok
    assert report.cases[0].ours[0].status == "failed"
    assert "its error is 1.0e-03" in without_colours(text.render(report))


def test_hopeless_contenders_get_few_rounds(monkeypatch):
    seconds = {"a": 1.0, "b": 2.0, "c": 9.0, "ours": 100.0}
    monkeypatch.setattr(contest, "_estimate", lambda call: seconds[call])
    entrants = [
        contest._Entrant(
            Score(name, name, "ours" if name == "ours" else "peer", "ok"), peers.Contender(name, name, None)
        )
        for name in seconds
    ]
    assert contest._rounds(entrants, 7) == [7, 7, 2, 7]


@pytest.mark.parametrize(
    "problem", [p for p in models.corpus() if p.ndim == 2 and p.n and p.dtype == "float32"], ids=str
)
def test_functional_calls_do_the_problem(problem):
    arrays = operands(problem)
    for pass_ in problem.passes:
        result = functional.call(problem, pass_, arrays)()
        values, _ = result if isinstance(result, tuple) else (result, None)
        expected = reference.run(problem, pass_, arrays)
        expected = expected[0] if isinstance(expected, tuple) else expected
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-3)


def test_every_peer_has_its_module():
    known = {"torch", "onnxruntime", "openvino", "ncnn", "opencv", "scipy"}
    for name in known:
        assert importlib.util.find_spec(f"convforge.bench.peers.{name}") is not None
