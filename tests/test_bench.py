"""bench: who takes part, who is timed, and what a report says of it."""

import hashlib
import importlib.util
import json
import re
import signal
import threading
import time
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from convforge import models, parse, registry
from convforge.algorithms import reference
from convforge.bench import contest, functional, layers, neighbours, peers, settling, suite_run
from convforge.bench.contest import Rules
from convforge.bench.families import FAMILIES, family
from convforge.bench.layers import Layer
from convforge.bench.report import Case, Report, Score, html, summary, text
from convforge.bench.report.movement import movement
from convforge.bench.table import without_colours
from convforge.bench.trial import Trial, operands
from convforge.cli import cli

from . import fake_peer

SMALL = "n1c2k3i6x7f3x3p1:bias"
GROUPED = "n1c4k4i5x5f3x3g2"
QUICK = Rules(rounds=2, budget=0.01)


@pytest.fixture(autouse=True)
def _only_fake_peers(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {"fake": "tests.fake_peer", "absent": "tests.absent_peer"})


@pytest.fixture
def _nothing_to_compile(monkeypatch):
    """Without Numba's algorithms, which compile for a minute where they are not cached."""
    kept = tuple(each for each in registry.ALGORITHMS if each.backend != "numba")
    monkeypatch.setattr(registry, "ALGORITHMS", kept)


def report_on(*names, rules=QUICK, counts=(1,)):
    found = [each for name in names for each in layers.named(name)]
    run = suite_run.prepare(found, rules, counts)
    return run.report(list(run.cases()))


def score(case, name):
    return next(each for each in case.scores if each.name == name)


def made(layer, ours, theirs, noise=0.01, threads=1, **more):
    """A case of one contender against one peer, with these milliseconds."""

    def timed(name, library, role, spent, **rest):
        seconds = spent * 1e-3
        low, high = seconds * (1 - noise), seconds * (1 + noise)
        return Score(name, library, role, "ok", None, seconds=seconds, low=low, high=high, rounds=7, error=1e-7,
                     error_limit=1e-5, **rest)  # fmt: skip

    scores = [timed("convforge", "convforge", "ours", ours, algorithm="direct/cython")]
    scores += [timed(f"{name} fast", name, "peer", spent) for name, spent in theirs.items()]
    settings = {"problem": SMALL, "family": "3x3", **more}
    return Case(layer, threads=threads, flops=10**9, least_bytes=10**6, peak_flops=2e11, copy_bandwidth=1e10,
                others=0.0, scores=tuple(scores), **settings)  # fmt: skip


def made_report(*cases, **more):
    host = {"cpu": "one", "isa": "avx2", "cores": 2}
    given = {
        "mode": "prepared",
        "pass_": "forward",
        "settings": {},
        "host": host,
        "peers": {"torch": "2"},
        "missing": {},
    }
    return Report(**{**given, "cases": cases, **more})


# ---- who takes part ----


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


@pytest.mark.usefixtures("_nothing_to_compile")
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


# ---- what is timed on ----


def test_families():
    wanted = {
        "3x3": "n1c64k64i56x56f3x3p1", "3x3 batch": "n8c64k64i56x56f3x3p1", "1x1": "n1c512k1024i28x28f1x1s2",
        "other dense": "n1c3k64i224x224f3x3p1", "depthwise": "n1c144k144i56x56f3x3s2p1g144",
        "grouped": "n1c128k128i56x56f3x3p1g32", "dilated": "n1c64k64i28x28f3x3p2d2",
        "filters": "n1c3k3i1080x1920f5x5p2g3", "tiny": "n1c1k6i28x28f5x5:bias", "pooling": "max:n1c64i112x112f3x3s2p1",
    }  # fmt: skip
    assert {name: family(parse(problem)) for name, problem in wanted.items()} == {name: name for name in wanted}
    assert [each.name for each in FAMILIES] == list(wanted)


def test_suites_layers_and_problems_by_name():
    assert all(each.problem.n == 4 for each in layers.named("alexnet", 4))
    kinds = [each.problem.kind for each in layers.named("alexnet", pools=True)]
    assert kinds.count("max") == 3
    assert {each.problem.kind for each in layers.named("alexnet")} == {"conv"}
    assert layers.named("resnet50:conv2_x") == [Layer("resnet50:conv2_x", models.layer("resnet50:conv2_x"))]
    everything = layers.named("all")
    assert len(layers.unique(everything)) < len(everything)  # networks share layers


def test_filters_are_the_ones_they_are_named_after():
    found = {each.name: each for each in layers.named("filters")}
    for name in layers._WEIGHTS:
        assert found[name].weight().shape == found[name].problem.weight_shape
    assert found["filters:row9"].weight() is None
    # the same problem on another filter is another layer
    box = Layer("filters:box15", found["filters:gaussian5"].problem)
    assert len(layers.unique([found["filters:gaussian5"], box, box])) == 2


def test_drawn_layers_are_the_same_for_a_seed():
    many = layers.drawn(60, 7, 2)
    assert layers.drawn(20, 7, 2) == many[:20]
    assert layers.drawn(20, 8, 2) != many[:20]
    assert all(each.problem.n == 2 for each in many)
    assert {family(each.problem) for each in many} >= {"3x3", "1x1", "depthwise", "other dense"}


# ---- the machine ----


def test_settling_waits_for_threads_that_run():
    settling.settle()
    assert not settling._others_running()
    # one long call without the GIL, for which a thread would sleep in between
    worker = threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha256", b"password", b"salt", 4_000_000))
    worker.start()
    while worker.is_alive() and not settling._others_running():
        time.sleep(1e-3)
    begin = time.perf_counter()
    settling.settle()
    waited = time.perf_counter() - begin
    still = worker.is_alive()
    worker.join()
    assert still
    assert waited >= settling._LONGEST


def test_what_others_use_is_a_share():
    share = neighbours.watch()
    time.sleep(0.05)
    assert 0 <= share() <= 1.5  # clock ticks are coarse


# ---- summaries ----


def test_summary_by_family_and_library():
    cases = [
        made("a", 1.0, {"torch": 2.0, "ncnn": 4.0}),
        made("b", 1.0, {"torch": 8.0}),
        made("c", 1.0, {"torch": 0.5}, family="1x1"),
        made("p", 1.0, {"torch": 0.1}, family="pooling"),
    ]
    lines = {line.family.name: line for line in summary.by_family(cases, "convforge")}
    assert lines["3x3"].mean == pytest.approx(4)
    assert (lines["3x3"].worst, lines["3x3"].worst_layer) == (pytest.approx(2), "a")
    assert lines["all"].mean == pytest.approx(2)  # pools do not count
    assert lines["all"].count == 3
    found = summary.by_library(cases, "convforge")
    assert found["3x3"] == {"torch": pytest.approx(4), "ncnn": pytest.approx(4)}
    assert list(found) == ["3x3", "1x1", "pooling", "all"]


def test_disturbed_cases_are_warned_of():
    report = made_report(made("a", 1, {"torch": 1}), replace(made("b", 1, {"torch": 1}), others=0.6))
    printed = without_colours(text.render(report))
    assert "during 1 of 2 contests, 60% during b on 1 thread" in printed
    assert "60% during b" in html.page(report)
    assert "disturbed" not in without_colours(text.render(replace(report, cases=report.cases[:1])))


# ---- movement ----


def test_only_what_is_beyond_the_noise_has_moved():
    old = made_report(made("a", 1, {"torch": 2}), made("b", 1, {"torch": 2}), made("c", 1, {"torch": 2}, noise=0.2))
    new = made_report(made("a", 1.2, {"torch": 2}), made("b", 1.01, {"torch": 2}), made("c", 1.2, {"torch": 2}))
    found = movement(old, new)
    assert [(each.case.layer, each.beyond_noise) for each in found.moves] == [("a", True), ("c", False), ("b", False)]
    assert found.moves[0].change == pytest.approx(1 / 1.2)
    assert "1 of 3 moved beyond the noise" in without_colours(text.render_movement(found))


def test_a_slower_machine_moves_nothing():
    old, new = made_report(made("a", 1, {"torch": 2})), made_report(made("a", 3, {"torch": 6}))
    (move,) = movement(old, new).moves
    assert not move.beyond_noise
    assert move.change == pytest.approx(1)


def test_the_yardstick_is_a_peer_of_both_or_the_peak():
    old = made_report(made("a", 1, {"torch": 2, "ncnn": 1.5}))
    new = made_report(made("a", 1, {"torch": 2, "openvino": 1}))
    (move,) = movement(old, new).moves
    assert (move.yardstick, move.before, move.after) == ("torch fast", pytest.approx(2), pytest.approx(2))
    (move,) = movement(made_report(made("a", 4, {})), made_report(made("a", 5, {}))).moves
    assert (move.yardstick, move.change) == ("peak", pytest.approx(0.8))


def test_layers_of_one_report_and_other_machines_are_said():
    old = made_report(made("a", 1, {"torch": 2}), made("b", 1, {"torch": 2}))
    host = {"cpu": "two", "isa": "avx2", "cores": 2}
    new = made_report(
        made("a", 1, {"torch": 2}), made("a", 1, {"torch": 2}, threads=2), host=host, peers={"torch": "3"}
    )
    found = movement(old, new)
    assert found.gone == (f"b {SMALL} on 1",)
    assert found.new == (f"a {SMALL} on 2",)
    assert found.notes == ("cpu: one then, two now", "torch: 2 then, 3 now")


def test_other_work_is_not_compared():
    with pytest.raises(ValueError, match="mode is prepared, and this run's is functional"):
        movement(made_report(), made_report(mode="functional"))


# ---- files ----


@pytest.mark.usefixtures("_nothing_to_compile")
def test_json_round_trip():
    report = report_on(SMALL, GROUPED, rules=replace(QUICK, variants=True))
    again = Report.from_json(report.to_json())
    assert again.cases == report.cases
    assert again.to_json() == report.to_json()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data.update(kind="compare"), "not what"),
        (lambda data: data.update(format=99), "format is 99"),
        (lambda data: data.pop("cases"), "damaged"),
        (lambda data: data.update(more=1), "damaged"),
        (lambda data: data["cases"][0].pop("flops"), "damaged"),
        (lambda data: data["cases"][0]["scores"][0].update(role="judge"), "unknown role"),
        (lambda data: data["cases"][0]["scores"][0].update(seconds="fast"), "no positive number"),
        (lambda data: data.update(cases=[3]), "damaged"),
    ],
)
def test_a_damaged_report_is_refused(spoil, message):
    data = json.loads(made_report(made("a", 1, {"torch": 2})).to_json())
    spoil(data)
    with pytest.raises(ValueError, match=message):
        Report.from_json(json.dumps(data))


class _Tags(HTMLParser):
    """Every tag closed, and what any of them would load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "link", "iframe", "img", "object")

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else():
    cases = [made("a<b", 1, {"torch": 2, "ncnn": 4}), made("c", 3, {"torch": 1}, family="1x1")]
    page = html.page(made_report(*cases, *(replace(each, threads=2) for each in cases), missing={"scipy": "<none>"}))
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.loads == []
    assert "http" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert "a&lt;b" in page
    assert "<none>" not in page
    drawings = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    assert len(drawings) == 6  # three for each count of threads
    bars = [ElementTree.fromstring(each).findall("rect") for each in drawings]
    assert [len(each) for each in bars] == [2, 0, 0, 2, 0, 0]


def test_a_page_of_a_real_run_without_peers():
    report = report_on(SMALL, GROUPED)
    tags = _Tags()
    tags.feed(html.page(replace(report, peers={}, cases=report.cases[1:])))
    assert tags.open == []


# ---- the command ----


def run(*arguments):
    return CliRunner().invoke(cli, ["bench", *arguments])


def test_the_command_prints_writes_and_compares(tmp_path):
    path, page = tmp_path / "new.json", tmp_path / "new.html"
    result = run(SMALL, "--threads", "1", "--budget", "0.01", "--json", str(path), "--html", str(page))
    assert result.exit_code == 0, result.output
    assert "best peer / convforge, 1 thread" in result.stdout
    assert "peers: fake 1.2" in result.stdout
    assert "missing: absent" in result.stdout
    assert page.read_text().startswith("<!doctype html>")
    report = Report.from_json(path.read_text())
    assert [case.layer for case in report.cases] == [SMALL]

    result = run("--from", str(path), "--compare", str(path), "--json", "-")
    assert result.exit_code == 0, result.output
    assert Report.from_json(result.stdout) == report
    result = run("--from", str(path), "--compare", str(path))
    assert "0 of 1 moved beyond the noise" in result.stdout


def test_random_layers_without_peers():
    result = run("--random", "2", "--seed", "5", "--peer", "none", "--threads", "1", "--budget", "0.01", "--json", "-")
    report = Report.from_json(result.stdout)
    assert [case.layer for case in report.cases] == ["random:5:0", "random:5:1"]
    assert not report.peers


def test_an_interrupt_keeps_what_is_done(monkeypatch, tmp_path):
    cases = suite_run.Run.cases

    def interrupted(self, progress=None):
        yield next(cases(self, progress))
        raise KeyboardInterrupt

    monkeypatch.setattr(suite_run.Run, "cases", interrupted)
    path = tmp_path / "part.json"
    result = run(SMALL, GROUPED, "--threads", "1", "--budget", "0.01", "--json", str(path))
    assert result.exit_code == 128 + signal.SIGINT
    assert len(Report.from_json(path.read_text()).cases) == 1


def test_a_wrong_result_of_ours_ends_with_1(monkeypatch):
    monkeypatch.setattr(Trial, "distance", lambda self, values: np.inf)
    result = run(SMALL, "--threads", "1", "--budget", "0.01")
    assert result.exit_code == 1
    assert "a result of ours is wrong" in result.stderr


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Reports and no reports, in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "functional.json").write_text(made_report(mode="functional").to_json())
    (tmp_path / "text.json").write_text("not { json")
    (tmp_path / "other.json").write_text('{"comparisons": []}')


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a SUITE"),
        (("resnet5",), "resnet50"),
        (("resnet50:conv9",), "conv9"),
        (("n1c2",), "a suite is one of"),
        (("n0c2k3i6x7f3x3",), "no images"),
        (("n1c2k3i6f3",), "not 2-D"),
        ((SMALL, "--threads", "many"), "--threads takes a number or all"),
        ((SMALL, "--threads", "0"), "threads must be from 1"),
        ((SMALL, "--threads", "4096"), "threads must be from 1"),
        ((SMALL, "--peer", "caffe"), "a peer is one of"),
        ((SMALL, "--backend", "fortran"), "backend must be one of"),
        ((SMALL, "--tolerance", "-1"), "tolerance"),
        (("max:n1c2i6x6f2x2", "--pass", "grad_weight"), "grad_weight"),
        ((SMALL, "--compare", "none.json"), "cannot be read"),
        ((SMALL, "--compare", "text.json"), "is no report: it is no JSON"),
        ((SMALL, "--compare", "other.json"), "is no report: it is not what"),
        ((SMALL, "--compare", "functional.json"), "not the same work"),
        (("--from", "text.json"), "is no report"),
        ((SMALL, "--from", "functional.json"), "--from runs nothing"),
        ((SMALL, "--html", "no/such/folder.html"), "there is no directory"),
    ],
)
def test_bad_input_takes_one_line_and_runs_nothing(arguments, message, monkeypatch):
    monkeypatch.setattr(suite_run.Run, "cases", lambda *_: pytest.fail("it ran"))
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
