"""Taps: which layers are compared in which architecture, and that tapping a network changes nothing."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import nn

from hetlib import zoo
from hetlib.amalgamation import ByResolution, taps
from hetlib.amalgamation.taps import tapped
from hetlib.chain import chain, eval_chain
from hetlib.transfer import Context, Pair


@cache
def built(name):
    """One of torchvision's may have a hundred million weights."""
    return zoo.build(name)


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


EXPECTED = {
    "torchvision/resnet18": ("conv1", "layer1.1.conv2", "layer2.1.conv2", "layer3.1.conv2", "layer4.1.conv2"),
    "resnet18": ("conv1", "layer1.1.conv2", "layer2.1.conv2", "layer3.1.conv2", "layer4.1.conv2"),
    "resnet20": ("conv1", "layer1.2.conv2", "layer2.2.conv2", "layer3.2.conv2"),
    "torchvision/vgg11": ("features.0", "features.3", "features.8", "features.13", "features.18"),
    "torchvision/resnet50": ("conv1", "layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_taps_are_the_last_features_of_every_resolution(name):
    found = eval_chain(built(name))
    assert taps(found) == EXPECTED[name]
    assert taps(found, 3) == EXPECTED[name][-3:]


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "densenet121", "efficientnet_b0", "regnet_y_400mf", "shufflenet_v2_x0_5"]
)
def test_any_network_of_torchvision_has_five(name):
    found = eval_chain(zoo.build(f"torchvision/{name}"))
    names = taps(found)
    assert len(names) == 5
    with torch.no_grad():
        features, _ = tapped(found, names)(images(2, 3, 64, 64))
    sizes = [feature.shape[2] for feature in features]
    assert sizes == [32, 16, 8, 4, 2]


@pytest.mark.parametrize("name", ["torchvision/resnet18", "resnet20", "vgg8", "torchvision/mobilenet_v2"])
@pytest.mark.parametrize("training", [False, True])
def test_tapping_changes_neither_logits_nor_gradients(name, training):
    torch.manual_seed(0)
    plain = zoo.build(name)
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain.train(training)
    ours, x = deepcopy(plain), images(3, 3, 64, 64)
    _, logits = tapped(chain(ours), taps(chain(ours)))(x)
    expected = plain(x)
    assert torch.equal(logits, expected)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for own, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad)
    for own, other in zip(ours.buffers(), plain.buffers(), strict=True):
        assert torch.equal(own, other)


def test_the_tap_of_a_block_is_its_sum_before_the_relu():
    torch.manual_seed(0)
    model = zoo.build("torchvision/resnet18").eval()
    seen = {}
    model.conv1.register_forward_hook(lambda module, given, out: seen.update(conv1=out.clone()))
    block = model.layer2[1]
    block.bn2.register_forward_hook(lambda module, given, out: seen.update(branch=out.clone()))
    block.register_forward_pre_hook(lambda module, given: seen.update(shortcut=given[0].clone()))
    block.register_forward_hook(lambda module, given, out: seen.update(after=out.clone()))
    features, _ = tapped(chain(model), taps(chain(model)))(images(2, 3, 64, 64))
    assert torch.equal(features[0], seen["conv1"])
    model(images(2, 3, 64, 64))
    assert torch.equal(features[2], seen["branch"] + seen["shortcut"])
    assert features[2].min() < 0
    assert torch.equal(features[2].relu(), seen["after"])


def test_what_a_layer_takes_in_can_be_tapped_too():
    model = zoo.build("resnet20").eval()
    features, logits = tapped(chain(model), inputs=["linear"])(images(2, 3, 32, 32))
    assert features[0].shape == (2, 64)
    assert torch.equal(model.linear(features[0]), logits)


def test_a_match_pairs_tap_with_tap():
    pairs = ByResolution()(Context(built("torchvision/vgg11"), built("resnet18")))
    assert pairs[0] == Pair("conv1", "features.0")
    assert pairs[4] == Pair("layer4.1.conv2", "features.18")
    assert len(ByResolution(4)(Context(zoo.build("resnet18"), zoo.build("resnet20")))) == 4


def test_networks_with_other_numbers_of_taps_are_named():
    context = Context(zoo.build("resnet18"), zoo.build("resnet20"))
    with pytest.raises(ValueError, match=r"has 4 taps \(conv1, .*has 5 \(conv1, .*take ByResolution\(4\)"):
        ByResolution()(context)


def test_unknown_layers_and_networks_without_convolutions_are_named():
    found = chain(zoo.build("resnet20"))
    with pytest.raises(ValueError, match=r"unknown layer of Sequential 'layer1.0.conv3': did you mean 'layer1.0.conv"):
        tapped(found, ["layer1.0.conv3"])
    with pytest.raises(ValueError, match="5 taps cannot be taken from 0 convolutions"):
        taps(chain(zoo.build("mlp", in_features=12)))
    with pytest.raises(ValueError, match="0 taps cannot be taken"):
        taps(found, 0)
