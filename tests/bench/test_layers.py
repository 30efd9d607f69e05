"""What is timed on: families, suites, named layers, filters, drawn layers."""

from convforge import models, parse
from convforge.bench import layers
from convforge.bench.families import FAMILIES, family
from convforge.bench.layers import Layer


def test_families():
    wanted = {
        "3x3": "n1c64k64i56x56f3x3p1", "3x3 batch": "n8c64k64i56x56f3x3p1", "1x1": "n1c512k1024i28x28f1x1s2",
        "other dense": "n1c3k64i224x224f3x3p1", "depthwise": "n1c144k144i56x56f3x3s2p1g144",
        "grouped": "n1c128k128i56x56f3x3p1g32", "dilated": "n1c64k64i28x28f3x3p2d2",
        "filters": "n1c3k3i1080x1920f5x5p2g3", "tiny": "n1c1k6i28x28f5x5:bias", "pooling": "max:n1c64i112x112f3x3s2p1",
    }  # fmt: skip
    assert {name: family(parse(problem)) for name, problem in wanted.items()} == {name: name for name in wanted}
    assert [each.name for each in FAMILIES] == list(wanted)


def test_suites_layers_and_problems_by_name():
    assert all(each.problem.n == 4 for each in layers.named("alexnet", 4))
    kinds = [each.problem.kind for each in layers.named("alexnet", pools=True)]
    assert kinds.count("max") == 3
    assert {each.problem.kind for each in layers.named("alexnet")} == {"conv"}
    assert layers.named("resnet50:conv2_x") == [Layer("resnet50:conv2_x", models.layer("resnet50:conv2_x"))]
    everything = layers.named("all")
    assert len(layers.unique(everything)) < len(everything)  # networks share layers


def test_filters_are_the_ones_they_are_named_after():
    found = {each.name: each for each in layers.named("filters")}
    for name in layers._WEIGHTS:
        assert found[name].weight().shape == found[name].problem.weight_shape
    assert found["filters:row9"].weight() is None
    # the same problem on another filter is another layer
    box = Layer("filters:box15", found["filters:gaussian5"].problem)
    assert len(layers.unique([found["filters:gaussian5"], box, box])) == 2


def test_drawn_layers_are_the_same_for_a_seed():
    many = layers.drawn(60, 7, 2)
    assert layers.drawn(20, 7, 2) == many[:20]
    assert layers.drawn(20, 8, 2) != many[:20]
    assert all(each.problem.n == 2 for each in many)
    assert {family(each.problem) for each in many} >= {"3x3", "1x1", "depthwise", "other dense"}
