"""The command line: what it prints, what it writes, and how it refuses."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from convforge import registry
from convforge.bench.trial import Trial
from convforge.cli import cli
from convforge.version import __version__

SMALL = "n1c2k3i6x7f3x3p1"
QUICK = ("--backend", "numpy", "--rounds", "1", "--budget", "0.01")
PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments):
    return CliRunner().invoke(cli, arguments)


def refused(*arguments):
    """The one line with which a command refuses."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.fixture
def picture(tmp_path):
    """A grey picture that is dark on the left and bright on the right."""
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "edge.png"
    image.fromarray(np.repeat(np.array([[0] * 9 + [255] * 7], np.uint8), 12, axis=0)).save(path)
    return str(path)


def test_compare_prints_one_table_per_problem():
    result = run("compare", SMALL, "tiny:digits_pool", *QUICK)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    headings = [line for line in result.stdout.splitlines() if "i6x7" in line or "i8x8" in line]
    assert headings == [SMALL, "tiny:digits_pool  max:n1c32i8x8f2x2s2"]
    assert result.stdout.count("reference") == 5
    assert result.stdout.count("operations of the direct sum") == 1


def test_passes_algorithms_and_threads():
    result = run("compare", SMALL, "--pass", "forward", "--pass", "grad_weight", "--algorithm", "reference",
                 "--threads", "1", "--json", "-", *QUICK)  # fmt: skip
    (found,) = json.loads(result.stdout)["comparisons"]
    assert [(row["pass"], row["algorithm"]) for row in found["rows"]] == [
        ("forward", "reference"), ("grad_weight", "reference"),
    ]  # fmt: skip
    assert found["threads"] == 1


def test_json_on_standard_output_is_all_there_is():
    result = run("compare", SMALL, *QUICK, "--json", "-")
    (found,) = json.loads(result.stdout)["comparisons"]
    assert found["problem"] == SMALL
    assert {row["status"] for row in found["rows"]} == {"ok"}
    assert all(row["seconds"] > 0 and row["error"] <= row["error_limit"] for row in found["rows"])


def test_files_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    result = run("compare", SMALL, *QUICK, "--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png"))
    assert result.exit_code == 0, result.output
    assert "reference" in result.stdout
    assert json.loads((tmp_path / "a.json").read_text())["comparisons"][0]["title"] == SMALL
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_a_picture_is_filtered_to_its_own_size(picture):
    result = run("compare", "--image", picture, "--filter", "gaussian_4", *QUICK, "--json", "-")
    (found,) = json.loads(result.stdout)["comparisons"]
    assert found["problem"] == "n1c1k1i12x16f4x4p1_2"
    assert found["title"] == f"gaussian_4 on {picture}"
    assert found["error_scale"] == "absolute"


def test_the_pictures_pixels_are_what_is_filtered(picture):
    from convforge.bench.pictures import filtered

    job = filtered(picture, "sobel_x")
    np.testing.assert_allclose(job.x[0, 0, 5], [0] * 9 + [1] * 7, atol=1e-6)
    assert job.x.dtype == np.float32


def test_sample_photographs():
    pytest.importorskip("sklearn")
    result = run(
        "compare", "--image", "sample:china", "--filter", "sobel_x", "--pass", "forward", *QUICK, "--json", "-"
    )
    assert json.loads(result.stdout)["comparisons"][0]["problem"] == "n1c1k1i427x640f3x3p1"


def test_picture_and_problem_together(picture):
    result = run("compare", SMALL, "--image", picture, "--filter", "box_3", *QUICK, "--json", "-")
    assert [found["title"] for found in json.loads(result.stdout)["comparisons"]] == [SMALL, f"box_3 on {picture}"]


def test_an_error_beyond_the_stated_one_ends_with_1(monkeypatch):
    enter = Trial.enter

    def spoiled(trial, algorithm, mode):
        entry = enter(trial, algorithm, mode)
        object.__setattr__(entry, "run", lambda: None)
        return entry

    monkeypatch.setattr(Trial, "enter", spoiled)
    result = run("compare", SMALL, *QUICK)
    assert result.exit_code == 1
    assert "failed: forward reference/numpy: NaN in the output" in result.stdout
    assert result.stderr == "3 failed: the error is beyond what the algorithm states\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["name a PROBLEM", "--image"]),
        (("nonsense",), ["'nonsense'", "n1c64k64i56x56f3x3p1", "SUITE:LAYER", "resnet50"]),
        (("n1c3k4i8",), ["'n1c3k4i8'", "f are missing"]),
        (("resnet50:conv2_y",), ["'conv2_y'", "conv2_x"]),
        (("resnet5:conv2_x",), ["resnet5", "resnet50"]),
        (("n1c3k4i8f3g2",), ["groups must divide"]),
        (("n0c1k1i8f1",), ["no images"]),
        ((SMALL, "--pass", "sideways"), ["pass must be one of forward"]),
        (("max:n1c1i8f2", "--pass", "grad_weight"), ["pass must be one of forward, grad_input"]),
        ((SMALL, "--algorithm", "magic"), ["algorithm must be one of", "'magic'"]),
        ((SMALL, "--backend", "torch"), ["backend must be one of", "'torch'"]),
        ((SMALL, "--backend", "numpy", "--algorithm", "im2col"), ["im2col", "numpy"]),
        ((SMALL, "--threads", "0"), ["--threads", "0"]),
        ((SMALL, "--threads", "two"), ["--threads", "two"]),
        ((SMALL, "--rounds", "0"), ["--rounds"]),
        ((SMALL, "--budget", "0"), ["--budget"]),
        ((SMALL, "--budget", "nan"), ["budget", "nan"]),
        ((SMALL, "--tolerance", "-1"), ["tolerance must be a positive", "-1"]),
        ((SMALL, "--mode", "warm"), ["--mode", "prepared"]),
        ((SMALL, "--json", "/no/such/folder/a.json"), ["--json", "/no/such/folder"]),
        ((SMALL, "--plot", "/no/such/folder/a.png"), ["--plot", "/no/such/folder"]),
        ((SMALL, "--json", "/"), ["--json", "directory"]),
        (("--image", "nowhere.png", "--filter", "sobel_x"), ["no picture 'nowhere.png'"]),
        (("--image", __file__, "--filter", "sobel_x"), ["cannot be read as a picture"]),
        (("--image", "sample:moon", "--filter", "sobel_x"), ["sample:china", "sample:moon"]),
        (("--image", "sample:china", "--filter", "sobol"), ["sobel_x", "'sobol'"]),
        (("--image", "sample:china"), ["--image and --filter go together"]),
        ((SMALL, "--filter", "sobel_x"), ["--image and --filter go together"]),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, words):
    line = refused("compare", *arguments)
    assert all(word in line for word in words), line


def test_a_plot_of_no_known_kind(tmp_path):
    pytest.importorskip("matplotlib")
    assert "must end in one of" in refused("compare", SMALL, "--plot", str(tmp_path / "a.xyz"))


def test_a_problem_too_large_for_memory():
    line = refused("compare", "n1000000c1000k1i1000x1000f1x1", *QUICK)
    assert "llocate" in line


@pytest.mark.parametrize("arguments", [("frobnicate",), ("compare", SMALL, "--frob"), ("cache",), ("cache", "melt")])
def test_unknown_words(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.output


def test_info():
    result = run("info")
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["isa"].startswith(registry.machine().isa)
    assert lines["numpy"] == "available"
    assert {"machine", "threads", "cython", "numba", "cache"} <= lines.keys()


def test_info_says_why_a_backend_is_missing(monkeypatch):
    monkeypatch.setattr(
        registry, "backend_missing", lambda backend: "no compiler was found" if backend == "cython" else None
    )
    assert "cython     no compiler was found\n" in run("info").stdout
    found = json.loads(run("info", "--json").stdout)
    assert found["backends"] == {"numpy": None, "numba": None, "cython": "no compiler was found", "cuda": None}
    assert found["machine"]["isa"] in found["isas"]


def test_cache_info_and_clear(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVFORGE_CACHE_DIR", str(tmp_path))
    (tmp_path / "kernel.o").write_bytes(b"123")
    (tmp_path / "notes.txt").write_text("mine")
    assert json.loads(run("cache", "info", "--json").stdout) == {"path": str(tmp_path), "files": 1, "bytes": 3}
    assert str(tmp_path) in run("cache", "info").stdout
    assert run("cache", "clear").stdout == "1 file deleted\n"
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]
    assert json.loads(run("cache", "info", "--json").stdout)["files"] == 0


def test_cache_warm_compiles_what_it_lists(monkeypatch):
    from convforge.runtime import cache

    seen = []

    def warm(dtypes):
        for dtype in dtypes:
            seen.append(dtype)
            yield "peak", dtype, 0.25

    monkeypatch.setattr(cache, "warm", warm)
    monkeypatch.setattr(registry, "backend_missing", lambda backend: None)
    result = run("cache", "warm", "--dtype", "float64")
    assert result.exit_code == 0
    assert seen == ["float64"]
    assert "float64  peak" in result.stdout
    assert "1 kernel in 0.2 s" in result.stdout
    monkeypatch.setattr(registry, "backend_missing", lambda backend: "numba not installed")
    assert "numba not installed" in refused("cache", "warm")


def test_help_and_version():
    assert run("--version").stdout == f"convforge, version {__version__}\n"
    for command in ([], ["compare"], ["info"], ["cache"], ["cache", "warm"]):
        result = run(*command, "--help")
        assert result.exit_code == 0
        assert max(map(len, result.stdout.splitlines())) <= 80


def module(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "convforge", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **options,
    )  # fmt: skip


def test_python_m_convforge_in_a_plain_terminal():
    """An encoding without µ, and no terminal: the table is there all the same."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with module("compare", SMALL, *QUICK, env=environment) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == ""
    assert "reference" in out


def test_a_reader_that_leaves_is_no_error():
    with module("compare", SMALL, SMALL, *QUICK) as process:
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=120)
    assert "Traceback" not in err
    assert "Exception" not in err


def test_ctrl_c_is_one_word():
    def heed_interrupts():  # which a shell's job in the background hands down as ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    environment = {**os.environ, "CONVFORGE_VERBOSE": "1"}
    with module(
        "compare", SMALL, "--backend", "numpy", "--rounds", "1000000", "--budget", "1e6", env=environment,
        preexec_fn=heed_interrupts,
    ) as process:  # fmt: skip
        assert SMALL in process.stderr.readline()  # a call was made: it is at work
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err


def test_parsing_loads_nothing_heavy():
    heavy = ("numba", "llvmlite", "matplotlib", "rich", "PIL")
    code = f"import sys, convforge.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
