"""Networks and surroundings that fusion meets outside of its own notebook: modes, autocast, shortcuts, bad targets."""

import copy
import warnings
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hetlib import data, zoo
from hetlib.chain import chain
from hetlib.clafusion import add_layers, fuse, map_layers, merge_layers, neuron_plans, transfer, transport_neurons
from hetlib.clafusion.hmt_variants import stack
from hetlib.data import sample
from hetlib.merging import repair, update_bn


def pictures(count, size=16, seed=3):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def built(name, seed=0, width=1 / 8, **options):
    torch.manual_seed(seed)
    model = zoo.build(name, width=width, **options)
    update_bn(model, pictures(40, 32, seed + 10))
    return model.eval()


def perceptron(*hidden, seed=0):
    torch.manual_seed(seed)
    return zoo.build("mlp", 5, 3, hidden=hidden, in_features=48)


X, SMALL = pictures(20), pictures(30, 4)


@torch.no_grad()
def gap(one, other, images):
    return (one.eval()(images) - other.eval()(images)).abs().max().item()


class Dropping(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = F.dropout(layer(x).relu(), training=self.training)
        return self.layers[-1](x)


def test_what_is_drawn_in_training_is_not_drawn_here():
    torch.manual_seed(0)
    model = Dropping(48, 9, 8, 5).train()
    before = torch.get_rng_state()
    assert gap(fuse([model, model], SMALL), copy.deepcopy(model), SMALL) < 1e-5
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


@pytest.mark.parametrize("options", [{}, {"by": "weights"}, {"balance": "merge"}, {"metric": "correlation"}])
def test_autocast_changes_nothing(options):
    models = perceptron(9, 8, 7, 6), perceptron(8, 7, seed=1)
    alone = fuse(models, SMALL, **options)
    with torch.autocast("cpu", torch.bfloat16):
        found = fuse(models, SMALL, **options)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), alone.parameters(), strict=True))


def test_frozen_parents_have_a_child_that_trains():
    deep, shallow = (perceptron(*hidden).requires_grad_(False) for hidden in ((9, 8, 7), (8, 7)))
    found = map_layers(deep, shallow, SMALL)
    made = [fuse([deep, shallow], SMALL), fuse([deep, deep, shallow], SMALL), fuse([deep, deep], SMALL, scheme="naive")]
    made += [add_layers(found), merge_layers(found, SMALL), transport_neurons(deep, deep, SMALL)]
    assert all(parameter.requires_grad for model in made for parameter in model.parameters())
    assert not any(parameter.requires_grad for model in (deep, shallow) for parameter in model.parameters())


@pytest.mark.parametrize("options", [{}, {"bn": False, "bias": False}])
def test_padded_shortcuts_follow_the_widths(options):
    deep, shallow = built("resnet32", width=1 / 4, **options), built("resnet20", 1, **options)
    balanced = add_layers(map_layers(deep, shallow, X), X)
    with torch.no_grad():
        most = shallow(X).abs().max().item()
    assert gap(balanced, shallow, X) <= (1e-5 * most if options == {} else 0)
    assert fuse([deep, shallow], X)(X).shape == (20, 10)


def test_blocks_with_padded_shortcuts_stay_first():
    deep, shallow = built("resnet32"), built("resnet20", 1)
    with pytest.raises(ValueError, match=r"layer2.1 of .* a bare shortcut, layer2.0 of .* pads or pools: .*cannot be"):
        map_layers(deep, shallow, X, mapping=[0, 1, 2, 3, 7, 8, 9, 11, 12, 13], pins=(0, 0))


def convolutions(depth, between, pool):
    torch.manual_seed(depth)
    sizes = [3, *[6] * depth]
    layers = [part for a, b in pairwise(sizes) for part in (nn.Conv2d(a, b, 3, padding=1), between())]
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.LazyLinear(5))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1)),
        (nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2)),
        (nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(2)),
    ],
)
def test_what_differs_between_layers_is_refused(one, other):
    deep, shallow = convolutions(3, nn.ReLU, one), convolutions(2, nn.ReLU, other)
    for model in (deep, shallow):
        model(X)
    with pytest.raises(ValueError, match="differ in what they do: with layers added, the shallow one"):
        fuse([deep, shallow], X)


def test_linear_classifiers_are_averaged():
    models = [nn.Sequential(nn.Flatten(), nn.Linear(48, 5)) for _ in range(2)]
    fused = fuse(models, SMALL, step=0.25)
    torch.testing.assert_close(fused[1].weight, models[0][1].weight.lerp(models[1][1].weight, 0.25))


def test_stacked_and_added_norms_have_the_statistics_of_what_reaches_them():
    deep, shallow = built("vgg13"), built("vgg11", 1)
    images = pictures(40, 32)
    fed = stack(deep, shallow, images, "add")
    found = map_layers(deep, shallow, images)
    inserted = [layer.norm for layer in found.deep.layers if layer.name not in found.pairs]
    assert inserted
    for norm in map(fed.get_submodule, inserted):
        torch.testing.assert_close(norm.weight, (norm.running_var + norm.eps).sqrt())
        torch.testing.assert_close(norm.bias, norm.running_mean)
        assert norm.running_mean.any()


def test_a_refused_target_stays_as_it_was():
    train = data.load("shapes-source", count=60)
    sources = [zoo.build(name, train.num_classes, width=1 / 8) for name in ("resnet32", "resnet20")]
    for options in ({"bias": False}, {"shortcut": "B"}):
        target = zoo.build("resnet32", train.num_classes, width=1 / 8, **options)
        before = copy.deepcopy(target.state_dict())
        with pytest.raises(ValueError, match=r": the result has .*nothing"):
            transfer(sources, target, train, samples=20)
        assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_images_that_are_too_few_are_told():
    deep, shallow = built("resnet34"), built("resnet18", 1)
    with pytest.raises(ValueError, match="no images"):
        fuse([deep, shallow], X[:0], by="weights")
    with pytest.raises(ValueError, match="batch norms cannot take statistics from 1 images"):
        fuse([deep, shallow], pictures(1, 8))
    with pytest.raises(ValueError, match="count 0"):
        sample(data.load("shapes-source", count=60), 0)


class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.first(x).relu().flip(1)
        return self.head(self.second(x).relu().mean((2, 3)))


def test_channels_that_the_forward_rearranges_are_refused():
    with pytest.raises(ValueError, match=r"the channels of first cannot be moved: .*flip"):
        neuron_plans(Turned(), Turned(), X)


def test_maps_by_hand_may_be_tensors():
    deep, shallow = perceptron(9, 8, 7), perceptron(8, 7, seed=1)
    wanted = map_layers(deep, shallow, SMALL, mapping=[0, 2]).pairs
    assert map_layers(deep, shallow, SMALL, mapping=torch.tensor([0, 2])).pairs == wanted


def test_shapes_that_do_not_fit_are_told_by_the_layer():
    models = [zoo.build("plainnet5", kernel_size=size, width=1 / 8) for size in (5, 3)]
    with pytest.raises(ValueError, match=r"\w+: \(.*, 5, 5\) moves to \(.*, 5, 5\), not \(.*, 3, 3\)"):
        fuse(models, pictures(8, 32))


def test_repair_needs_parents_and_images():
    model = perceptron(6)
    for parents, images, says in (([], SMALL, "0 weights for 0 parents"), ([model], SMALL[:0], "no images")):
        with pytest.raises(ValueError, match=says):
            repair(model, parents, images)


def test_one_network_is_checked_like_many():
    train, target = data.load("shapes-source", count=60), zoo.build("resnet32", width=1 / 8)
    with pytest.raises(ValueError, match="differ in classes"):
        transfer([zoo.build("resnet20", train.num_classes + 1, width=1 / 8)], target, train, samples=20)
    with pytest.raises(ValueError, match="3 networks: HMT stacks one onto another"):
        transfer([target] * 3, target, train, samples=20, hmt="only")


def test_statistics_that_are_not_finite_are_named():
    deep, shallow = built("vgg13"), built("vgg11", 1)
    norm = next(layer.norm for layer in chain(shallow).layers)
    shallow.get_submodule(norm).running_var.fill_(torch.nan)
    with pytest.raises(ValueError, match=f"{norm}.running_var of network 2 holds NaN"):
        fuse([deep, shallow], pictures(8, 32))


def test_blocks_that_pad_cannot_be_idle():
    deep, shallow = built("resnet32"), built("resnet20", 1)
    found = map_layers(deep, shallow, X)
    stage = found.alignments[2]
    moved = replace(stage, picks=(1, *stage.picks[1:]))
    with pytest.raises(ValueError, match=r"layer2\.0 has no partner, but a shortcut that pads or pools"):
        add_layers(replace(found, alignments=(*found.alignments[:2], moved, *found.alignments[3:])))


def test_an_identity_on_the_input_is_not_held_against_the_map():
    deep, shallow = perceptron(9, 8, 7), perceptron(8, 7, seed=1)
    balanced = add_layers(map_layers(deep, shallow, SMALL, mapping=[1, 2]), SMALL)
    assert gap(balanced, shallow, SMALL) > 1e-3


def test_one_image_does_not_count_as_a_layer_without_variation():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fuse([perceptron(9, 8, 7), perceptron(8, 7, seed=1)], SMALL[:1], measure="wasserstein", pins=(1, 0))


def test_statistics_that_cannot_be_taken_leave_the_momentum():
    model = built("resnet18")
    with pytest.raises(ValueError, match="from 1 images"):
        update_bn(model, pictures(1, 8))
    assert all(norm.momentum == 0.1 for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))


def test_balancing_refuses_images_that_hold_nothing():
    found = map_layers(perceptron(9, 8, 7), perceptron(8, 7, seed=1), SMALL)
    with pytest.raises(ValueError, match="the shallow network puts out NaN or infinity"):
        add_layers(found, SMALL * torch.nan)
