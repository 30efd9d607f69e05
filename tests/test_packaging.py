"""What is installed: its version, its type marker, and what importing it costs."""

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import convforge as cf

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

_LOADED = """
import json, sys
import numpy
before = set(sys.modules)
import convforge
{more}
print(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))
"""


def loaded(more=""):
    """Modules that ``import numpy`` loads in a fresh process, and those that ``import convforge`` adds."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED.format(more=more)], capture_output=True, text=True, check=True
    )  # fmt: skip
    before, added = json.loads(done.stdout)
    return before, added


def third_party(modules):
    """Packages beyond Python, NumPy and convforge; a compiled module brings Cython's own names along."""
    packages = {name.partition(".")[0] for name in modules}
    return {
        name
        for name in packages - set(sys.stdlib_module_names) - {"convforge", "numpy"}
        if not name.startswith(("cython_", "_cython_"))
    }


def test_import_loads_nothing_optional():
    _, added = loaded()
    assert third_party(added) == set()


def test_import_costs_less_than_numpys():
    """Twice NumPy's import is the bound; modules are counted, for a shared machine's clock says nothing."""
    before, added = loaded()
    assert len(added) < len(before)


def test_import_loads_no_kernels():
    _, added = loaded()
    for part in ("kernels.cython", "kernels.numba", "bench", "cli", "models", "filters"):
        assert f"convforge.{part}" not in added


def test_a_call_through_cython_loads_no_numba():
    if cf.registry.backend_missing("cython"):
        pytest.skip("the compiled kernels are missing")
    _, added = loaded("convforge.conv2d(*(numpy.ones((1, 1, 4, 4), 'f'),) * 2, backend='cython')")
    assert not {"numba", "llvmlite"} & third_party(added)


def test_every_public_name_is_there():
    assert sorted(set(cf.__all__)) == cf.__all__
    for name in cf.__all__:
        assert getattr(cf, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = cf.nonsense


def test_version_has_one_source():
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "convforge.version.__version__"}
    try:
        assert metadata.version("convforge") == cf.__version__
    except metadata.PackageNotFoundError:
        pytest.skip("run from the source tree, not installed")


def test_type_marker_ships():
    assert (Path(cf.__file__).parent / "py.typed").is_file()
    assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"]["convforge"]


def test_module_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "convforge", "--version"], capture_output=True, text=True, check=True)
    assert cf.__version__ in done.stdout
