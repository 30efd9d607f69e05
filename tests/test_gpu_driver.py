"""What is said of the GPUs of a machine, or of their absence: against a driver that is not there."""

import ctypes
import json

import pytest
from click.testing import CliRunner

import convforge as cf
from convforge import registry
from convforge.cli import cli
from convforge.kernels import cuda as kernels
from convforge.runtime import gpu


class Driver:
    """As much of libcuda as is asked; ``attributes`` by CUDA's numbers."""

    def __init__(self, status=0, count=1, capability=(8, 0)):
        self.status = status
        self.count = count
        self.attributes = {13: 1_410_000, 16: 108, 36: 1_215_000, 37: 5120, 38: 40 << 20, 75: capability[0],
                           76: capability[1]}  # fmt: skip

    def cuInit(self, flags):  # noqa: N802
        return self.status

    def cuGetErrorName(self, status, name):  # noqa: N802
        name._obj.value = b"CUDA_ERROR_UNKNOWN"

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = self.count

    def cuDeviceGet(self, device, number):  # noqa: N802
        device._obj.value = number

    def cuDeviceGetName(self, name, size, device):  # noqa: N802
        name.value = b"NVIDIA Imaginary"

    def cuDeviceTotalMem_v2(self, nbytes, device):  # noqa: N802
        nbytes._obj.value = 40 << 30

    def cuDeviceGetAttribute(self, value, which, device):  # noqa: N802
        value._obj.value = self.attributes[which]

    def cuCtxGetDevice(self, number):  # noqa: N802
        return 201


@pytest.fixture
def driver(monkeypatch):
    def install(found):
        monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
        monkeypatch.setattr(gpu, "library", lambda: found)
        gpu.devices.cache_clear()
        registry.backend_missing.cache_clear()
        monkeypatch.setattr(kernels, "find_spec", lambda name: object())

    yield install
    gpu.devices.cache_clear()
    registry.backend_missing.cache_clear()


def absent():
    raise OSError("libcuda.so.1: cannot open shared object file")


def test_no_driver(driver, monkeypatch):
    driver(None)
    monkeypatch.setattr(gpu, "library", absent)
    assert "there is no NVIDIA driver (libcuda.so.1" in gpu.missing()
    assert gpu.visible() == ()


def test_a_driver_that_does_not_start(driver):
    driver(Driver(status=999))
    assert "does not start (CUDA_ERROR_UNKNOWN): check nvidia-smi" in gpu.missing()
    assert gpu.visible() == ()


@pytest.mark.parametrize("found", [Driver(status=100), Driver(count=0)], ids=["error", "none"])
def test_no_gpu(driver, found, monkeypatch):
    driver(found)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "sees no GPU: check nvidia-smi, and CUDA_VISIBLE_DEVICES (7)" in gpu.missing()


def test_a_gpu_that_is_too_old(driver):
    driver(Driver(capability=(6, 1)))
    assert "has compute capability 6.1, the kernels need 7.5 or later" in gpu.missing()


def test_a_gpu(driver):
    driver(Driver())
    assert gpu.missing() is None
    found = gpu.current()
    assert found == gpu.Gpu("NVIDIA Imaginary", (8, 0), 108, 1.41e9, 1.5552e12, 40 << 20, 40 << 30)
    assert found.peak("float32") == pytest.approx(19.5e12, rel=0.01)
    assert found.peak("float64") == pytest.approx(9.7e12, rel=0.01)


def test_clocks_that_are_not_told(driver):
    silent = Driver()
    silent.attributes |= {13: 0, 36: 0}
    driver(silent)
    assert gpu.current().clock == gpu.TYPICAL.clock
    assert gpu.current().bandwidth == gpu.TYPICAL.bandwidth


def test_numba_cuda_is_missing(monkeypatch):
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    assert "numba-cuda is not installed: pip install 'convforge[cuda13]'" in kernels.available()


def test_info_lists_gpus(driver):
    driver(Driver())
    text = CliRunner().invoke(cli, ["info"]).stdout
    assert "gpu 0      NVIDIA Imaginary, compute capability 8.0, 108 multiprocessors, 40 GiB, 1555 GB/s" in text
    found = json.loads(CliRunner().invoke(cli, ["info", "--json"]).stdout)
    assert found["gpus"][0]["name"] == "NVIDIA Imaginary"
    assert found["backends"]["cuda"] is None


def test_asked_for_by_name_it_says_what_is_missing(driver, monkeypatch):
    driver(None)
    monkeypatch.setattr(gpu, "library", absent)
    with pytest.raises(cf.UnsupportedProblem, match="there is no NVIDIA driver"):
        cf.plan("n1c1k1i4x4f3x3", backend="cuda")


def test_bench_says_what_is_missing(driver, monkeypatch):
    driver(None)
    monkeypatch.setattr(gpu, "library", absent)
    done = CliRunner().invoke(cli, ["bench", "resnet50", "--backend", "cuda"])
    assert done.exit_code == 2
    assert "--backend cuda needs a GPU: there is no NVIDIA driver" in done.output


def test_auto_takes_no_gpu(driver):
    driver(Driver())
    found = registry.candidates(cf.parse("n64c64k64i56x56f3x3p1"), "forward")
    assert all(each.reason for each in found if each.algorithm.backend == "cuda")
    assert registry.choose(cf.parse("n64c64k64i56x56f3x3p1"), "forward").backend != "cuda"


def test_arrays_that_32_bits_cannot_index_are_refused(driver):
    driver(Driver())
    reasons = [reason for _, backend, reason in cf.algorithms("n4096c256k1i64x64f1x1") if backend == "cuda"]
    assert all("4294967296 elements is more than" in reason for reason in reasons)


def test_policies_need_no_device():
    """Costs, errors and programs of every policy, on a device that is only described."""
    from convforge.algorithms.cuda import POLICIES

    for text in ("n2c8k8i9x9f3x3p1", "max:n2c8i9x9f3x3", "avg:n2c8i9x9f3x3"):
        problem = cf.parse(text)
        for policy in POLICIES:
            for pass_ in policy.passes:
                if problem.kind in policy.kinds and policy.refuses(problem, pass_) is None:
                    assert 0 < policy.cost(problem, pass_, "prepared", gpu.TYPICAL) < 1
                    assert 0 <= policy.error(problem, pass_) < 1e-4
                    program = policy.program(problem, pass_, gpu.TYPICAL)
                    for launch in program.launches:
                        assert ctypes.c_int32(launch.grid[0]).value == launch.grid[0]
                        assert max(launch.grid[1:]) <= 65535
