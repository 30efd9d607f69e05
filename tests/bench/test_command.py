"""``convforge bench``: what it prints, writes and refuses."""

import signal

import numpy as np
import pytest
from click.testing import CliRunner

from convforge.bench import suite_run
from convforge.bench.report import Report
from convforge.bench.trial import Trial
from convforge.cli import cli

from .reports import GROUPED, SMALL, made_report


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
