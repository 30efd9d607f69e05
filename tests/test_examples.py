"""The programs in examples/ run as they stand, and find what they are there to find."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *arguments, folder):
    """What an example prints, run as a process in a folder of its own; on one thread, as other tests may be running."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "PerformanceWarning" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_help(name, tmp_path):
    assert "usage:" in run(name, "--help", folder=tmp_path)


def test_edges_of_a_photograph(tmp_path):
    assert "638 x 425 pixels" in run("photo_edges.py", folder=tmp_path)
    edges = np.asarray(Image.open(tmp_path / "edges.png")).astype(float)
    grey = load_sample_image("china.jpg").astype(float) @ (0.299, 0.587, 0.114)
    horizontal, vertical = (np.gradient(grey, axis=axis)[1:-1, 1:-1] for axis in (1, 0))
    # another estimate of the same gradient
    assert edges.shape == horizontal.shape
    assert np.corrcoef(edges.ravel(), np.hypot(horizontal, vertical).ravel())[0, 1] > 0.9


def test_edges_of_a_file(tmp_path):
    step = np.zeros((12, 10), np.uint8)
    step[:, 5:] = 255
    Image.fromarray(step).save(tmp_path / "step.png")
    run("photo_edges.py", "step.png", "--output", "found.png", folder=tmp_path)
    found = np.asarray(Image.open(tmp_path / "found.png"))
    assert found.shape == (10, 8)
    assert found[:, 3:5].min() == 255
    assert found[:, :3].max() == found[:, 5:].max() == 0


def test_filter_is_learned(tmp_path):
    printed = run("learn_filter.py", folder=tmp_path)
    *_, first, second, third, largest = printed.splitlines()
    learned = [[float(number) for number in re.findall(r"-?\d+\.\d*", row)] for row in (first, second, third)]
    np.testing.assert_allclose(learned, [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], atol=1e-3)
    assert float(largest.split()[-1]) < 1e-3


def test_digits_are_recognised(tmp_path):
    printed = run("digits_cnn.py", folder=tmp_path)
    assert float(re.search(r"test accuracy ([\d.]+)%", printed)[1]) >= 97
    assert float(re.search(r"trained in ([\d.]+) s", printed)[1]) < 60


@pytest.mark.parametrize("shape", [(0, 1, 0), (2, 3, 2)])
def test_other_architectures_learn(shape, tmp_path):
    n, m, k = shape
    printed = run("digits_cnn.py", "-n", n, "-m", m, "-k", k, "--epochs", 2, folder=tmp_path)
    first, last = (float(loss) for loss in re.findall(r"loss ([\d.]+)", printed))
    assert last < first


def test_bad_architecture(tmp_path):
    with pytest.raises(AssertionError, match="N and K must not be negative"):
        run("digits_cnn.py", "-n", -1, folder=tmp_path)
