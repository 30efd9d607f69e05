"""Every GPU kernel compiled to PTX and judged by ptxas, which need no GPU: no spills, and the recorded resources."""

import json

import pytest

from . import gpu_resources

RECORD = json.loads(gpu_resources.RECORD.read_text())
LAUNCHES = {} if gpu_resources.missing() else gpu_resources.launches()

pytestmark = pytest.mark.skipif(bool(gpu_resources.missing()), reason=str(gpu_resources.missing()))


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


def test_resources():
    found = gpu_resources.table()
    for name in LAUNCHES:
        for capability, (registers, shared, stack, spills) in found["kernels"][name].items():
            assert (stack, spills) == (0, 0), (name, capability)
            recorded = RECORD["kernels"][name][capability]
            if found["toolkit"] == RECORD["toolkit"]:
                again = f"{name}, {capability}: if that is meant, run python -m tests.gpu_resources"
                assert [registers, shared, stack, spills] == recorded, again
            else:
                assert shared == recorded[1], (name, capability)
                assert registers <= recorded[0] + 16, (name, capability)
