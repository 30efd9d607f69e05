"""Every GPU kernel compiled to PTX and judged by ptxas, which need no GPU: no spills, and the recorded resources."""

import json

import pytest

from . import gpu_resources

RECORD = json.loads(gpu_resources.RECORD.read_text())
LAUNCHES = {} if gpu_resources.missing() else gpu_resources.launches()

pytestmark = [
    pytest.mark.skipif(bool(gpu_resources.missing()), reason=str(gpu_resources.missing())),
    # one worker of xdist, for each would compile all kernels
    pytest.mark.xdist_group("gpu_resources"),
]


@pytest.fixture(scope="module")
def found():
    return gpu_resources.table()


def test_the_record_names_every_kernel():
    assert set(RECORD["kernels"]) == set(LAUNCHES)


def test_every_factory_is_compiled():
    from importlib import import_module

    compiled = {(launch.module, launch.kernel) for launch, _ in LAUNCHES.values()}
    factories = {
        (name, word)
        for name in {launch.module for launch, _ in LAUNCHES.values()}
        for word, value in vars(import_module(f"convforge.kernels.cuda.{name}")).items()
        if hasattr(value, "cache_info") and value.__module__.endswith(f".{name}") and not word.startswith("_")
    }
    assert factories == compiled


@pytest.mark.parametrize("name", LAUNCHES)
def test_resources(name, found):
    for capability, (registers, shared, stack, spills) in found["kernels"][name].items():
        assert (stack, spills) == (0, 0), capability
        recorded = RECORD["kernels"][name][capability]
        if found["toolkit"] == RECORD["toolkit"]:
            again = f"{capability}: if that is meant, run python -m tests.gpu_resources"
            assert [registers, shared, stack, spills] == recorded, again
        else:
            assert shared == recorded[1], capability
            assert registers <= recorded[0] + 16, capability
