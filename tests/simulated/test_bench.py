"""The parts of ``compare`` and ``bench`` that are a GPU's: their times mean nothing under the simulator."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import convforge as cf
from convforge.bench import device
from convforge.bench.layers import Layer
from convforge.cli import cli
from convforge.problem import parse
from convforge.runtime.gpu import TYPICAL

DEPTHWISE = Layer("depthwise", parse("n1c2k2i4x5f3x3p1g2"))


class FakePeer(device.NoPeer):
    """Twice the same way to do a pass, one of them counted."""

    def __init__(self):
        self.seen = []

    def calls(self, problem, pass_):
        return {"cuDNN": lambda arrays: self.seen.append(id(arrays)), "TF32": lambda arrays: None}


def test_compare_shows_copies_and_kernels_apart():
    found = cf.compare("n1c2k2i4x5f3x3p1g2", algorithms=["direct"], backends=["cuda"], rounds=1, budget=0.01)
    assert found.ok
    assert {row.pass_ for row in found.rows} == {"forward", "grad_input", "grad_weight"}
    for row in found.rows:
        assert 0 < row.kernel_seconds < 10 * row.seconds
        assert row.copy_seconds > 0
    assert "on the GPU" in str(found)
    assert "of copies there and back" in str(found)


def test_compare_takes_half_precision():
    found = cf.compare("max:n1c2i4x5f2x2:indices:float16", backends=["cuda"], rounds=1, budget=0.01)
    assert found.ok
    assert [row.pass_ for row in found.rows if row.status == "ok"] == ["forward", "grad_input"]


def test_rows_have_ratios_to_the_first_way():
    peer = FakePeer()
    rows = list(device.run([DEPTHWISE], ("forward", "grad_input", "grad_weight"), TYPICAL, peer, rounds=2))
    assert [row.pass_ for row in rows] == ["forward", "grad_input", "grad_weight"]
    for row in rows:
        assert row.reason is None
        assert row.error <= row.error_limit
        assert row.ratio == row.peers["cuDNN"] / row.seconds
        assert 0 < row.peak_share < 1
        assert 0 < row.bandwidth_share < 1
    mean = device.geometric_mean(rows)
    assert mean == pytest.approx(np.prod([row.ratio for row in rows]) ** (1 / 3))
    assert f"{mean:.2f}" in device.render(rows, TYPICAL)


def test_sets_of_arrays_outgrow_the_cache_and_take_turns(monkeypatch):
    assert device.set_count(parse("n32c64k64i56x56f3x3p1"), TYPICAL) == 2
    assert device.set_count(parse("n128c64k64i112x112f3x3p1"), TYPICAL) == 1
    peer = FakePeer()
    monkeypatch.setattr(device, "set_count", lambda problem, gpu: 3)
    list(device.run([DEPTHWISE], ("forward",), TYPICAL, peer, rounds=3))
    assert len(set(peer.seen)) == 3


def test_what_is_wrong_is_not_timed(monkeypatch):
    monkeypatch.setattr(FakePeer, "exact", lambda self, problem, pass_, arrays: np.full(problem.output_shape, 7.0))
    (row,) = device.run([DEPTHWISE], ("forward",), TYPICAL, FakePeer(), rounds=1)
    assert row.seconds is None
    assert row.reason.startswith("wrong: its error")
    assert row.ratio is None


def test_what_is_refused_is_named():
    (row,) = device.run([Layer("3-D", parse("n1c2k2i3x4x5f2"))], ("forward",), TYPICAL, FakePeer(), rounds=1)
    assert "1-D and 2-D" in row.reason
    assert device.geometric_mean([row]) is None


def test_command(tmp_path):
    path = tmp_path / "gpu.json"
    done = CliRunner().invoke(
        cli, ["bench", "n1c2k2i4x5f3x3p1g2", "--backend", "cuda", "--peer", "none", "--json", str(path)]
    )
    assert done.exit_code == 0, done.output
    assert "n1c2k2i4x5f3x3p1g2" in done.output
    found = json.loads(path.read_text())
    assert found["peer"] == "none"
    assert found["rows"][0]["algorithm"] == "direct"
    done = CliRunner().invoke(cli, ["bench", "resnet50", "--backend", "cuda", "--html", str(tmp_path / "a.html")])
    assert done.exit_code == 2
    assert "--backend cuda goes alone" in done.output
