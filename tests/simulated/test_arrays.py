"""Arrays that are on the GPU already: of whose library they are, of what layout, on which stream."""

import ctypes

import numpy as np
import pytest

import convforge as cf
from convforge import device_arrays
from convforge.kernels.cuda import memory
from convforge.kernels.cuda.memory import SimulatedArray

WEIGHT = (3, 2, 3, 3)


def on_device(array):
    return SimulatedArray(np.array(array))


def on_host(array):
    assert isinstance(array, SimulatedArray)
    return array.array


@pytest.fixture
def x(rng):
    return rng.standard_normal((2, 2, 5, 6)).astype("f")


@pytest.fixture
def weight(rng):
    return rng.standard_normal(WEIGHT).astype("f")


@pytest.fixture
def launched(monkeypatch):
    """The streams that kernels were sent to, and those that were waited for."""
    found = []
    monkeypatch.setattr("convforge.runtime.device_executor._numba_stream", lambda handle: found.append(handle) or 0)
    monkeypatch.setattr(memory, "wait_for", lambda producer, consumer: found.append((producer, consumer)))
    monkeypatch.setattr(memory, "synchronize", lambda handle: found.append("synchronize"))
    return found


def test_forward_and_gradients(x, weight, rng):
    expected = cf.conv2d(x, weight, padding=1)
    gradient = rng.standard_normal(expected.shape).astype("f")
    device = [on_device(each) for each in (x, weight, gradient)]
    np.testing.assert_allclose(on_host(cf.conv2d(device[0], device[1], padding=1)), expected, rtol=1e-4, atol=1e-5)
    grads = cf.conv2d_backward(device[2], device[0], device[1], padding=1)
    for found, wanted in zip(grads, cf.conv2d_backward(gradient, x, weight, padding=1), strict=True):
        np.testing.assert_allclose(on_host(found), wanted, rtol=1e-4, atol=1e-4)
    found = cf.conv2d_grad_input(x.shape, device[1], device[2], padding=1)
    np.testing.assert_array_equal(on_host(found), on_host(grads[0]))
    found = cf.conv2d_grad_weight(device[0], WEIGHT, device[2], padding=1)
    np.testing.assert_array_equal(on_host(found), on_host(grads[1]))


def test_pools(x):
    y, indices = cf.max_pool2d(on_device(x), 2, return_indices=True)
    expected, places = cf.max_pool2d(x, 2, return_indices=True)
    np.testing.assert_array_equal(on_host(y), expected)
    np.testing.assert_array_equal(on_host(indices), places)
    found = cf.max_pool2d_backward(y, indices, x.shape)
    np.testing.assert_array_equal(on_host(found), cf.max_pool2d_backward(expected, places, x.shape))
    found = cf.avg_pool2d_backward(cf.avg_pool2d(on_device(x), 2), x.shape, 2)
    wanted = cf.avg_pool2d_backward(cf.avg_pool2d(x, 2), x.shape, 2)
    np.testing.assert_allclose(on_host(found), wanted, rtol=1e-5)


def test_indices_outside_the_plane_are_not_followed(x):
    y, indices = cf.max_pool2d(x, 2, return_indices=True)
    indices[0, 0, 0, 0], indices[0, 0, 0, 1] = 10**6, -3
    found = on_host(cf.max_pool2d_backward(on_device(y), on_device(indices), x.shape))
    assert np.isfinite(found).all()


def test_one_image_and_out(x, weight):
    expected = cf.conv2d(x[0], weight)
    out = on_device(np.full(expected.shape, np.nan, "f"))
    assert cf.conv2d(on_device(x[0]), on_device(weight), out=out) is out
    np.testing.assert_allclose(on_host(out), expected, rtol=1e-4, atol=1e-5)
    assert on_host(cf.conv2d(on_device(x[0]), on_device(weight))).shape == expected.shape


LAYOUTS = {
    "transposed": lambda a: np.ascontiguousarray(a.swapaxes(2, 3)).swapaxes(2, 3),
    "channels_last": lambda a: np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "every_second_column": lambda a: np.repeat(a, 2, 3)[..., ::2],
    "negative_rows": lambda a: a[:, :, ::-1].copy()[:, :, ::-1],
    "one_for_all_channels": lambda a: np.broadcast_to(a[:, :1], a.shape),
}


@pytest.mark.parametrize(
    ("algorithm", "layout"), [*(("direct", each) for each in LAYOUTS), ("im2col", "channels_last")]
)  # fmt: skip
def test_layouts(layout, algorithm, x, weight):
    given = LAYOUTS[layout](x)
    expected = cf.conv2d(np.ascontiguousarray(given), weight, padding=1, backend="numpy")
    out = LAYOUTS[layout](np.full(expected.shape, np.nan, "f")) if layout != "one_for_all_channels" else None
    result = cf.conv2d(
        SimulatedArray(given), on_device(weight), padding=1, algorithm=algorithm,
        out=None if out is None else SimulatedArray(out),
    )  # fmt: skip
    np.testing.assert_allclose(on_host(result), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["transposed", "negative_rows"])
def test_layouts_of_weights_and_gradients(layout, x, weight, rng):
    make = LAYOUTS[layout]
    gradient = rng.standard_normal((2, 3, 3, 4)).astype("f")
    wanted = cf.conv2d_backward(gradient, x, weight)
    given = [SimulatedArray(make(each)) for each in (gradient, x, weight)]
    for found, expected in zip(cf.conv2d_backward(*given), wanted, strict=True):
        np.testing.assert_allclose(on_host(found), expected, rtol=1e-4, atol=1e-4)


def test_numpy_arrays_are_copied_only_when_asked(x, weight, launched):
    cf.conv2d(x, weight)
    assert launched == []
    cf.conv2d(x, weight, backend="cuda")
    assert launched[-1] == "synchronize"


def test_device_arrays_are_not_waited_for(x, weight, launched):
    cf.conv2d(on_device(x), on_device(weight))
    assert launched
    assert "synchronize" not in launched


class Stream:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __cuda_stream__(self):
        return (0, self.address)


class Older:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


STREAMS = [Stream(address=77), Older(cuda_stream=77), Older(ptr=77), Older(handle=ctypes.c_void_p(77)), 77]


@pytest.mark.parametrize("stream", STREAMS, ids=["protocol", "torch", "cupy", "numba", "address"])
def test_stream_is_honoured(stream, x, weight, launched):
    cf.conv2d(on_device(x), on_device(weight), stream=stream)
    assert set(launched) == {77}


def test_stream_of_numpy_arrays_is_waited_for(x, weight, launched):
    cf.conv2d(x, weight, backend="cuda", stream=77)
    assert set(launched) == {77, "synchronize"}


def test_kernels_wait_for_the_stream_that_made_an_array(x, weight, launched):
    class Elsewhere(SimulatedArray):
        @property
        def __cuda_array_interface__(self):
            return {**super().__cuda_array_interface__, "stream": 55}

    cf.conv2d(on_device(x), Elsewhere(weight), stream=77)
    assert (55, 77) in launched


def test_bad_streams(x, weight):
    with pytest.raises(TypeError, match="stream must be a CUDA stream of torch, CuPy or Numba"):
        cf.conv2d(on_device(x), on_device(weight), stream="fast")
    with pytest.raises(ValueError, match="stream is for backend='cuda'"):
        cf.conv2d(x, weight, stream=77)


class Exported:
    """An array with DLPack and nothing else, as jax has them; its memory pretends to be on a GPU."""

    def __init__(self, array, device=(2, 0)):
        self.array = array
        self.device = device

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, stream=None):
        assert stream == -1
        capsule = self.array.__dlpack__()
        pointer = device_arrays._capsule_pointer(capsule, b"dltensor")
        tensor = device_arrays._DLTensor.from_address(pointer)
        tensor.device_type, tensor.device_id = self.device
        return capsule


def test_dlpack(x, weight):
    y = cf.conv2d(Exported(x), Exported(np.asfortranarray(weight)))
    np.testing.assert_allclose(on_host(y), cf.conv2d(x, weight), rtol=1e-4, atol=1e-5)


def test_dlpack_of_the_host_is_no_device_array(x, weight):
    with pytest.raises(TypeError, match=r"x must be a numpy\.ndarray, got Exported"):
        cf.conv2d(Exported(x, (1, 0)), weight)


def test_arrays_of_two_devices(x, weight):
    with pytest.raises(ValueError, match="on one GPU, got x on GPU 0, weight on GPU 1"):
        cf.conv2d(Exported(x), Exported(weight, (2, 1)))


def test_host_and_device_are_not_mixed(x, weight):
    with pytest.raises(TypeError, match="weight must be in the GPU's memory like the other arrays of the call"):
        cf.conv2d(on_device(x), weight)
    with pytest.raises(TypeError, match=r"weight must be a numpy\.ndarray, got SimulatedArray; all arrays"):
        cf.conv2d(x, on_device(weight))
    plan = cf.plan("n2c2k3i5x6f3x3")
    with pytest.raises(TypeError, match="with backend='cuda' if it is a plan's"):
        plan(on_device(x), on_device(weight))


def test_wrong_arrays(x, weight):
    with pytest.raises(TypeError, match="weight must have dtype float32, the call's, got float64"):
        cf.conv2d(on_device(x), on_device(weight.astype("d")))
    with pytest.raises(ValueError, match="x must be aligned"):
        cf.conv2d(SimulatedArray(np.frombuffer(b"x" * 241, "f", 60, 1).reshape(1, 2, 5, 6)), on_device(weight))
    with pytest.raises(TypeError, match="byte order"):
        cf.conv2d(on_device(x.astype(">f4")), on_device(weight))
    record = np.zeros(x.shape, np.dtype([("pad", "u1"), ("value", "f4")]))
    with pytest.raises(ValueError, match="strides that are multiples"):
        cf.conv2d(SimulatedArray(record["value"]), on_device(weight))


def test_wrong_out(x, weight):
    plan = cf.plan("n2c2k3i5x6f3x3", backend="cuda")
    read_only = np.empty((2, 3, 3, 4), "f")
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writeable"):
        plan(on_device(x), on_device(weight), out=SimulatedArray(read_only))
    with pytest.raises(ValueError, match="out must not overlap x"):
        plan(SimulatedArray(x), on_device(weight), out=SimulatedArray(x.reshape(-1)[:72].reshape(2, 3, 3, 4)))
    with pytest.raises(ValueError, match="out must not repeat its memory"):
        plan(on_device(x), on_device(weight), out=SimulatedArray(np.lib.stride_tricks.as_strided(
            np.zeros(1, "f"), (2, 3, 3, 4), (0, 0, 0, 0))))  # fmt: skip
    with pytest.raises(ValueError, match=r"out must have shape \(2, 3, 3, 4\)"):
        plan(on_device(x), on_device(weight), out=on_device(np.zeros((2, 3, 4, 4), "f")))


def test_a_gradient_is_not_recorded(x, weight):
    class Tracked(SimulatedArray):
        requires_grad = True

    with pytest.raises(TypeError, match=r"pass x\.detach\(\)"):
        cf.conv2d(Tracked(x), on_device(weight))


@pytest.mark.parametrize("algorithm", ["direct", "winograd_f2"])
def test_prepared_weights(algorithm, rng):
    x = rng.standard_normal((1, 2, 4, 4)).astype("f")
    weight = rng.standard_normal(WEIGHT).astype("f")
    plan = cf.plan("n1c2k3i4x4f3x3", passes=("forward", "grad_input"), algorithm=algorithm, backend="cuda")
    expected = cf.conv2d(x, weight)
    gradient = rng.standard_normal(expected.shape).astype("f")
    changing = on_device(weight)
    prepared = plan.prepare_weight(changing)
    changing.array[...] = np.nan
    np.testing.assert_allclose(plan(x, prepared), expected, rtol=1e-4, atol=1e-4)
    prepared = plan.prepare_weight(weight)
    np.testing.assert_allclose(on_host(plan(on_device(x), prepared)), expected, rtol=1e-4, atol=1e-4)
    wanted = cf.conv2d_grad_input(x.shape, weight, gradient)
    np.testing.assert_allclose(on_host(plan.grad_input(on_device(gradient), prepared)), wanted, rtol=1e-4, atol=1e-4)
    assert prepared.nbytes >= weight.nbytes
    with pytest.raises(TypeError, match="cannot be pickled"):
        prepared.__reduce__()


def test_half_precision(rng):
    x = rng.standard_normal((1, 2, 5, 6)).astype(np.float16)
    weight = rng.standard_normal(WEIGHT).astype(np.float16)
    expected = cf.conv2d(x.astype("d"), weight.astype("d"))
    for y in (cf.conv2d(x, weight, backend="cuda"), on_host(cf.conv2d(on_device(x), on_device(weight)))):
        assert y.dtype == np.float16
        np.testing.assert_allclose(y, expected, rtol=2e-3, atol=2e-3)
    with pytest.raises(TypeError, match="float16 is taken with backend='cuda'"):
        cf.conv2d(x, weight)
    with pytest.raises(cf.UnsupportedProblem, match="its kernels take float32, float64"):
        cf.plan("n1c2k3i5x6f3x3:float16")


def test_out_of_memory_says_what_to_do(x, weight, monkeypatch):
    class Full(Exception):  # noqa: N818 - as Numba's CudaAPIError
        code = 2

    def full(shape, dtype, device):
        raise Full

    monkeypatch.setattr(memory, "numba_array", full)
    with pytest.raises(MemoryError, match=r"GPU 0 is out of memory: .* take a smaller batch"):
        cf.conv2d(x, weight, backend="cuda")


def test_a_driver_that_is_too_old(x, weight, monkeypatch):
    class Refusing:
        def __getitem__(self, where):
            raise RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")

    monkeypatch.setattr("convforge.kernels.cuda.compile._kernel", lambda *key: Refusing())
    plan = cf.plan("n2c2k3i5x6f3x3", algorithm="direct", backend="cuda")
    with pytest.raises(RuntimeError, match="update the driver, or install convforge"):
        plan(x, weight)


def test_bits_do_not_depend_on_layout_or_repetition(rng):
    gradient = rng.standard_normal((2, 3, 5, 6)).astype("f")
    x = rng.standard_normal((2, 4, 5, 6)).astype("f")
    for algorithm in ("direct", "im2col"):
        first = cf.conv2d_grad_weight(x, (3, 4, 3, 3), gradient, padding=1, algorithm=algorithm, backend="cuda")
        again = cf.conv2d_grad_weight(
            SimulatedArray(LAYOUTS["channels_last"](x)), (3, 4, 3, 3), on_device(gradient), padding=1,
            algorithm=algorithm,
        )  # fmt: skip
        np.testing.assert_array_equal(on_host(again), first)
