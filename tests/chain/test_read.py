"""What `chain` reads, against what we know of the networks."""

import copy
import warnings
from collections import Counter

import pytest
import torch
from torch import nn

from hetlib import zoo
from hetlib.chain import chain, convolutions
from tests.chain.networks import Net, conv, supported


@pytest.mark.parametrize(
    ("name", "layers", "convs", "longest", "stages"),
    [
        ("torchvision/resnet18", 21, 17, 17, [1, 4, 5, 5, 5, 1]),
        ("torchvision/resnet50", 54, 49, 49, [1, 11, 13, 19, 9, 1]),
        ("torchvision/vgg11", 11, 8, 8, [1, 1, 2, 2, 2, 3]),
        ("torchvision/vgg16_bn", 16, 13, 13, [2, 2, 3, 3, 3, 3]),
        ("torchvision/mobilenet_v2", 53, 52, 52, None),
        ("torchvision/squeezenet1_1", 26, 26, 18, None),
        ("torchvision/densenet121", 121, 120, 120, [1, 13, 25, 49, 32, 1]),
        ("mlp", 4, 0, 0, [4]),
        ("plainnet5", 5, 4, 4, [1, 1, 1, 1, 1]),
        ("resnet8", 11, 7, 7, [1, 3, 3, 3, 1]),
        ("resnet20", 20, 19, 19, [7, 6, 6, 1]),
        ("resnet34", 37, 33, 33, [7, 9, 13, 7, 1]),
        ("mobilenetv2", 58, 53, 53, None),
    ],
)
def test_layers_and_stages_of_known_networks(name, layers, convs, longest, stages):
    model, images, _ = supported(name)
    for found in (chain(model), chain(model, images)):
        assert (len(found.layers), len(found.convolutions()), len(found.longest())) == (layers, convs, longest)
        assert [(layer.name, layer.module) for layer in found.convolutions()] == convolutions(model)
        assert not any(layer.kind == "shortcut" for layer in found.longest())
        if stages:
            counts = Counter(layer.stage for layer in found.layers)
            assert [counts[stage] for stage in range(len(stages))] == stages


def test_kinds_blocks_norms_and_shortcuts_of_resnet18():
    found = chain(supported("torchvision/resnet18")[0])
    layers = {layer.name: layer for layer in found.layers}
    assert Counter(layer.kind for layer in found.layers) == {"conv": 17, "shortcut": 3, "linear": 1}
    assert (layers["conv1"].block, layers["fc"].block) == (None, None)
    assert [layers[f"layer{s}.{b}.conv2"].block for s in range(1, 5) for b in range(2)] == list(range(8))
    assert layers["layer2.0.downsample.0"].block == layers["layer2.0.conv1"].block
    assert layers["layer1.0.conv2"].norm == "layer1.0.bn2"
    assert layers["fc"].norm is None
    assert [shortcut.kind for shortcut in found.shortcuts] == ["identity"] * 2 + ["projection", "identity"] * 3
    assert [s.layers for s in found.shortcuts if s.layers] == [(f"layer{n}.0.downsample.0",) for n in (2, 3, 4)]
    first = found.shortcuts[0]
    assert (first.start, first.end, first.block) == ("maxpool", "add", 0)


def test_kinds_and_blocks_of_mobilenet_v2():
    found = chain(supported("torchvision/mobilenet_v2")[0])
    assert Counter(layer.kind for layer in found.layers) == {"conv": 35, "depthwise": 17, "linear": 1}
    assert {shortcut.kind for shortcut in found.shortcuts} == {"identity"}
    assert len(found.shortcuts) == 10
    assert sum(layer.block is not None for layer in found.layers) == 30


def test_shortcuts_without_parameters_are_told_from_identities():
    kinds = [shortcut.kind for shortcut in chain(zoo.build("resnet20")).shortcuts]
    assert kinds == ["identity"] * 3 + (["plain"] + ["identity"] * 2) * 2


def test_a_path_through_squeezenet_is_a_path():
    names = [layer.name for layer in chain(supported("torchvision/squeezenet1_1")[0]).longest()]
    assert names[:3] == ["features.0", "features.3.squeeze", "features.3.expand1x1"]
    assert not any("expand3x3" in name for name in names)


def block(**modules):
    """One residual block; modules are registered in the order given."""

    def rule(m, x):
        x = m.stem(x)
        return m.fc((m.b(m.a(x).relu()) + m.proj(x)).relu().mean((2, 3)))

    return Net(rule, **modules)


def test_order_of_execution_and_of_registration_differ():
    model = block(
        fc=nn.Linear(8, 2), b=conv(8, 8), proj=conv(4, 8, 1, stride=2), a=conv(4, 8, stride=2), stem=conv(3, 4)
    )
    found = chain(model)
    assert [layer.name for layer in found.layers] == ["stem", "a", "b", "proj", "fc"]
    assert [layer.name for layer in found.convolutions()] == ["b", "proj", "a", "stem"]
    assert [layer.name for layer in found.longest()] == ["stem", "a", "b"]
    assert [layer.kind for layer in found.layers] == ["conv", "conv", "conv", "shortcut", "linear"]
    assert [layer.block for layer in found.layers] == [None, 0, 0, 0, None]
    assert [layer.stage for layer in found.layers] == [0, 1, 1, 1, 2]
    assert found.shortcuts[0].layers == ("proj",)


def test_of_two_single_convolutions_the_smaller_kernel_is_the_shortcut():
    rule = lambda m, x: m.end((m.skip(x) + m.main(x)).relu())
    found = chain(Net(rule, skip=conv(3, 4, 1), main=conv(3, 4), end=conv(4, 2)))
    assert [layer.kind for layer in found.layers] == ["shortcut", "conv", "conv"]
    assert [layer.name for layer in found.longest()] == ["main", "end"]
    twins = chain(Net(rule, skip=conv(3, 4), main=conv(3, 4), end=conv(4, 2)))
    assert {layer.kind for layer in twins.layers} == {"conv"}
    assert twins.shortcuts == ()


def test_a_layer_called_twice_stands_at_its_first_call():
    model = Net(lambda m, x: m.b(m.a(m.b(m.stem(x)))), stem=conv(3, 4), a=conv(4, 4), b=conv(4, 4))
    assert [layer.name for layer in chain(model).layers] == ["stem", "b", "a"]
    assert [layer.name for layer in chain(model).longest()] == ["stem", "b", "a"]


def test_decisions_on_shapes_need_an_example():
    def rule(m, x):
        n, _, height, _ = x.shape
        y = m.one(x)
        if height > 8:
            y = m.two(y)
        return m.fc(y.mean((2, 3)).reshape(n, -1))

    model = Net(rule, one=conv(3, 4), two=conv(4, 4), fc=nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"cannot read Net.*its own forward, \w+\.py:\d+: `if height > 8:`.*example="):
        chain(model)
    for size, names in ((16, ["one", "two", "fc"]), (8, ["one", "fc"])):
        found = chain(model, torch.zeros(1, 3, size, size))
        assert [layer.name for layer in found.layers] == names
        assert {group.fixed for group in found.axes} == {None, "network input", "network output"}


def test_decisions_on_values_are_refused_and_named():
    gate = Net(lambda m, x: x if x.sum() > 0 else -x)
    model = nn.Sequential(conv(3, 4), gate, conv(4, 2))
    for example in (None, torch.zeros(1, 3, 8, 8)):
        with pytest.raises(ValueError, match=r"module '1', \w+\.py:\d+: .*x\.sum\(\) > 0.*pass a submodule"):
            chain(model, example)
    assert len(chain(nn.Sequential(model[0], model[2])).layers) == 2


def test_an_example_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"module 'features\.0'.*\(1, 8, 8\)"):
        chain(zoo.build("vgg8", width=0.125), torch.zeros(1, 1, 8, 8))


def test_networks_without_layers_are_named():
    with pytest.raises(ValueError, match="ReLU calls no Conv2d or Linear"):
        chain(nn.ReLU())


def test_reading_changes_nothing_and_runs_no_hook():
    model = Net(lambda m, x: m.fc(m.norm(m.conv(x) + torch.ones(1)).mean((2, 3))),
                conv=conv(3, 4), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, 2)).train()  # fmt: skip
    seen = []
    model.conv.register_forward_hook(lambda *args: seen.append(args))
    before, names = copy.deepcopy(model.state_dict()), set(vars(model))
    for example in (None, torch.ones(1, 3, 8, 8)):
        found = chain(model, example)
        assert [layer.name for layer in found.layers] == ["conv", "fc"]
        assert "the tensor _tensor_constant0 takes part directly" in {group.fixed for group in found.axes}
    assert not seen
    assert set(vars(model)) == names
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_zoo_networks_without_norms_are_read():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("vgg11", "resnet18"):
            found = chain(zoo.build(name, width=0.125, bn=False, bias=False))
            assert {layer.norm for layer in found.layers} == {None}


def test_a_graph_read_with_an_example_takes_any_number_of_images():
    def rule(m, x):
        n, c, h, w = m.conv(x).shape
        rows = m.conv(x).view(n, c, h * w).mean(2)
        return m.fc(rows.view(x.size(0), -1) if x.shape[-1] == 8 else rows)

    model = Net(rule, conv=conv(3, 5), fc=nn.Linear(5, 2))
    found = chain(model, torch.zeros(1, 3, 8, 8))
    images = torch.randn(7, 3, 8, 8)
    interpreted = torch.fx.Interpreter(model, graph=found.graph).run(images)
    torch.testing.assert_close(interpreted, model(images))
    assert [group.size for group in found.axes if not group.fixed] == [5]
