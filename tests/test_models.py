"""Named layers have the shapes of their papers, and the corpus meets every edge that it promises."""

import pytest

from convforge.models import corpus, layer, suite, suites
from convforge.problem import parse


def test_layers_by_name():
    assert str(layer("resnet50:conv2_x")) == "n1c64k64i56x56f3x3p1"
    assert str(layer("resnet50:conv3_reduce")) == "n1c512k128i28x28f1x1"
    assert str(layer("mobilenetv2:3_dw", batch=8)) == "n8c144k144i56x56f3x3p1g144"
    assert layer("vgg16:conv3_x").flops() == 2 * 256 * 256 * 9 * 56 * 56


@pytest.mark.parametrize("name", suites())
def test_suites(name):
    layers = suite(name, batch=3)
    assert layers
    for which, problem in layers.items():
        assert problem.n == 3
        assert layer(f"{name}:{which}", 3) == problem
        assert parse(str(problem)) == problem
    assert len(set(layers.values())) == len(layers), "layers of one shape stand once"


# multiply-adds of the convolutions of whole networks: the tables hold every shape, these say how often each occurs
TOTALS = {
    "alexnet": (dict.fromkeys(("conv1", "conv2", "conv3", "conv4", "conv5"), 1), 0.666e9),
    "vgg16": (
        {"conv1_1": 1, "conv1_2": 1, "conv2_1": 1, "conv2_2": 1, "conv3_1": 1, "conv3_x": 2, "conv4_1": 1, "conv4_x": 2,
         "conv5_x": 3},
        15.35e9,
    ),
    "resnet50": (
        {"conv1": 1, "conv2_reduce_first": 1, "conv2_x": 3, "conv2_expand": 4, "conv2_reduce": 2,
         "conv3_reduce_first": 1, "conv3_down": 1, "conv3_shortcut": 1, "conv3_reduce": 3, "conv3_x": 3,
         "conv3_expand": 4, "conv4_reduce_first": 1, "conv4_down": 1, "conv4_shortcut": 1, "conv4_reduce": 5,
         "conv4_x": 5, "conv4_expand": 6, "conv5_reduce_first": 1, "conv5_down": 1, "conv5_shortcut": 1,
         "conv5_reduce": 2, "conv5_x": 2, "conv5_expand": 3},
        4.087e9,
    ),
    "mobilenetv2": (
        {"conv0": 1, "1_dw": 1, "1_project": 1, "2_expand": 1, "2_dw_s2": 1, "2_project": 1, "3_expand": 2, "3_dw": 1,
         "3_project": 1, "4_dw_s2": 1, "4_project": 1, "5_expand": 3, "5_dw": 2, "5_project": 2, "7_dw_s2": 1,
         "7_project": 1, "8_expand": 4, "8_dw": 4, "8_project": 3, "11_project": 1, "12_expand": 3, "12_dw": 2,
         "12_project": 2, "14_dw_s2": 1, "14_project": 1, "15_expand": 3, "15_dw": 3, "15_project": 2, "17_project": 1,
         "conv18": 1},
        0.2995e9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOTALS)
def test_operations_of_whole_networks(name):
    counts, total = TOTALS[name]
    layers = suite(name)
    assert set(counts) == {which for which, problem in layers.items() if problem.kind == "conv"}
    assert sum(count * layers[which].flops() / 2 for which, count in counts.items()) == pytest.approx(total, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5:conv2_x", "no suite is called 'resnet5': did you mean resnet50"),
        ("resnet50:conv2x", "no layer of resnet50 is called 'conv2x': did you mean conv2_x"),
        ("resnet50", "no layer of resnet50 is called '': there are conv1, maxpool"),
        ("zzz", "no suite is called 'zzz': there are alexnet"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        layer(name)


def test_bad_arguments():
    with pytest.raises(TypeError, match="a layer's name must be a str"):
        layer(3)
    with pytest.raises(TypeError, match="batch must be an int"):
        suite("vgg16", batch=1.0)
    with pytest.raises(ValueError, match="no suite is called 'vgg': did you mean vgg16"):
        suite("vgg")


def test_corpus_is_small_and_without_doubles():
    assert len(set(corpus())) == len(corpus())
    assert max(problem.flops() for problem in corpus()) < 1e6
    assert {problem.ndim for problem in corpus()} == {1, 2, 3}
    assert {problem.dtype for problem in corpus()} == {"float32", "float64"}


CONV_EDGES = {
    "empty batch": lambda p: p.n == 0,
    "one pixel": lambda p: p.input == (1, 1),
    "bias": lambda p: p.bias,
    "depthwise": lambda p: p.groups == p.c == p.k > 1,
    "several outputs a channel": lambda p: p.groups == p.c < p.k and p.c > 1,
    "groups": lambda p: 1 < p.groups < p.c,
    "stride beyond the kernel": lambda p: p.stride[0] > p.kernel[0],
    "uneven padding": lambda p: any(before != after for before, after in p.padding),
    "padding beyond the kernel": lambda p: max(p.padding[0]) >= p.kernel[0],
    "dilation and stride": lambda p: p.dilation[0] > 1 and p.stride[0] > 1,
    "a pixel that nothing reads": lambda p: (p.input[0] + sum(p.padding[0]) - p.kernel[0]) % p.stride[0] > 0,
    "strides 1": lambda p: p.stride[0] == 1,
    "strides 2": lambda p: p.stride[0] == 2,
    "strides 3": lambda p: p.stride[0] == 3,
    "strides 4": lambda p: p.stride[0] == 4,
    **{f"{tail} columns over {lanes}": lambda p, lanes=lanes, tail=tail: p.output[-1] % lanes == tail
       for lanes in (4, 8, 16, 24, 48) for tail in (0, 1, lanes - 1)},
}  # fmt: skip
POOL_EDGES = {
    "empty batch": lambda p: p.n == 0,
    "ceil_mode adds a window": lambda p: p.ceil_mode and _without_ceil(p) != p.output,
    "windows overlap": lambda p: p.stride[0] < p.kernel[0],
    "windows leave gaps": lambda p: p.stride[0] > p.kernel[0],
    "uneven padding": lambda p: any(before != after for before, after in p.padding),
}


def _without_ceil(p):
    return tuple(
        (i + sum(pad) - d * (f - 1) - 1) // s + 1
        for i, pad, d, f, s in zip(p.input, p.padding, p.dilation, p.kernel, p.stride, strict=True)
    )


@pytest.mark.parametrize("edge", CONV_EDGES)
def test_corpus_meets_conv_edges(edge):
    assert any(CONV_EDGES[edge](problem) for problem in corpus() if problem.kind == "conv")


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("edge", POOL_EDGES)
def test_corpus_meets_pool_edges(edge, kind):
    assert any(POOL_EDGES[edge](problem) for problem in corpus() if problem.kind == kind)
