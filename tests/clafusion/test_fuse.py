"""Fusing whatever the networks: a permuted copy is found, ends are ends, and what is refused is named."""

import copy
import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hetlib import data, zoo
from hetlib.chain import chain, eval_chain, read
from hetlib.clafusion import (
    add_layers,
    fuse,
    layer_costs,
    map_layers,
    merge_layers,
    neuron_plans,
    transport_neurons,
)
from hetlib.data import sample
from hetlib.merging import update_bn
from tests.clafusion.networks import build, digits, gap, mlp, permuted, pictures, plain, run, settled
from tests.clafusion.plain import X, close, perceptron, plain_fusion, weights


@pytest.mark.parametrize(
    ("model", "images"),
    [
        (mlp(12, 9, 7), digits()),
        (mlp(12, 9, 7, bias=False), digits()),
        (plain("vgg11"), pictures(16, 3, 32, 32)),
        (plain("vgg11", bias=True), pictures(16, 3, 32, 32)),
    ],
    ids=["mlp", "mlp without biases", "vgg", "vgg with biases"],
)
@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "correlation"])
def test_a_chain_fused_with_its_permuted_copy_is_itself(model, images, tie, metric):
    other = permuted(model)
    size = run(model, images).abs().max().item()
    assert gap(model, other, images) < 1e-5 * size
    assert gap(model, fuse([model, other], images, tie=tie, metric=metric), images) < 1e-4 * size
    assert gap(model, fuse([model, other], images, scheme="naive"), images) > 1e-2 * size


@pytest.mark.parametrize("name", ["resnet34", "resnet20"])
@pytest.mark.parametrize("tie", [False, True])
def test_a_residual_network_fused_with_its_permuted_copy_is_itself(name, tie):
    """Untied too: with every stream in one order, each of its layers finds that order by itself."""
    options = {"width": 1 / 4, "shortcut": "B"} if name == "resnet20" else {}
    model, images = plain(name, **options), pictures(16, 3, 16, 16)
    other = permuted(model)
    size = run(model, images).abs().max().item()
    assert gap(model, other, images) < 1e-5 * size
    assert gap(model, fuse([model, other], images, tie=tie), images) < 1e-4 * size
    assert gap(model, fuse([model, other], images, scheme="naive"), images) > 1e-2 * size


@pytest.mark.parametrize("tie", [False, True])
def test_a_shortcut_that_pads_is_followed(tie):
    model, images = plain("resnet20", width=1 / 4), pictures(16, 3, 16, 16)
    fused = fuse([model, permuted(model)], images, tie=tie)
    assert gap(model, fused, images) < 1e-4 * run(model, images).abs().max().item()


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize(("name", "width"), [("resnet18", 1 / 16), ("mobilenetv2", 1 / 4)])
def test_batch_norms_follow_their_channels(name, width, tie):
    model, images = build(name, width=width), pictures(16, 3, 16, 16)
    update_bn(model, images)
    fused = fuse([model, permuted(model)], images, tie=tie)
    assert gap(model, fused, images) < 1e-3 * run(model, images).abs().max().item()


def test_weights_too_find_the_permutation():
    model, images = mlp(12, 9, 7, bias=False), digits()
    assert gap(model, fuse([model, permuted(model)], images, by="weights"), images) < 1e-5


def test_the_last_layer_is_matched_if_asked():
    """Classes in another order are put back; left alone they are mixed."""
    model, images = mlp(12, 9), digits()
    other = copy.deepcopy(model)
    last, order = chain(other).layers[-1].module, torch.randperm(10, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        last.weight.copy_(last.weight[order])
        last.bias.copy_(last.bias[order])
    assert gap(other, fuse([model, other], images, last=True), images) < 1e-5
    assert gap(other, fuse([model, other], images), images) > 1e-2


def test_each_network_is_run_once_where_there_is_one_map():
    deep, shallow, images = plain("resnet34"), plain("resnet18", 1), pictures(4, 3, 16, 16)
    calls = []
    for model in (deep, shallow):
        model.conv1.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    fuse([deep, shallow], images)
    assert calls == [1, 1, 2, 2, 4, 4], "looks at whether they take images and balance, and the run"


@pytest.fixture
def traced(monkeypatch):
    """The networks that are traced, in order."""
    models, trace = [], read.trace
    monkeypatch.setattr(read, "trace", lambda model, example: models.append(model) or trace(model, example))
    return models


@pytest.mark.parametrize("options", [{}, {"by": "weights", "tie": False}, {"tie": True}, {"pins": (1, 0)}])
def test_each_network_is_traced_once(traced, options):
    deep, shallow, images = plain("resnet34"), plain("resnet18", 1), pictures(4, 3, 16, 16)
    fuse([deep, shallow], images, **options)
    assert traced[:2] == [deep, shallow]
    assert len(traced) == 3, "the third is the balanced network"
    fuse([deep, shallow, copy.deepcopy(shallow)], images)
    assert len(traced) == 3 + 5


def test_a_chain_in_place_of_a_network_is_not_traced(traced):
    deep, shallow = (eval_chain(plain(name)) for name in ("resnet34", "resnet18"))
    images = pictures(4, 3, 16, 16)
    traced.clear()
    balanced = eval_chain(add_layers(map_layers(deep, shallow, images), images))
    layer_costs(deep, shallow, images)
    neuron_plans(deep, balanced, images)
    transport_neurons(deep, balanced, images)
    assert traced == [balanced.model]


@pytest.mark.parametrize("kind", ["mlp", "vgg", "resnet"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_ends_are_the_balanced_and_the_moved_network(kind, bias):
    if kind == "mlp":
        deep, shallow, images = mlp(12, 9, 7, bias=bias), mlp(10, 6, seed=1, bias=bias), digits()
    else:
        names = {"vgg": ("vgg13", "vgg11"), "resnet": ("resnet34", "resnet18")}[kind]
        deep, shallow = (plain(name, i, bias=bias) for i, name in enumerate(names))
        images = pictures(4, 3, 32, 32)
    balanced = add_layers(map_layers(deep, shallow, images))
    assert gap(fuse([deep, shallow], images, step=1), shallow, images) == 0
    start, moved = fuse([deep, shallow], images, step=0), transport_neurons(deep, balanced, images)
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), moved.parameters(), strict=True))
    half = fuse([deep, shallow], images, step=0.25)
    for now, one, other in zip(half.parameters(), moved.parameters(), balanced.parameters(), strict=True):
        torch.testing.assert_close(now, 0.75 * one + 0.25 * other)


def test_networks_and_modes_stay_as_they_were():
    deep, shallow, images = build("resnet34", width=1 / 16).train(), build("resnet18", 1, width=1 / 16), digits()
    images = pictures(6, 3, 16, 16)
    shallow.eval()
    before = [{name: tensor.clone() for name, tensor in m.state_dict().items()} for m in (deep, shallow)]
    fuse([deep, shallow], images)
    for model, state in zip((deep, shallow), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in deep.modules())
    assert not any(module.training for module in shallow.modules())


@pytest.mark.parametrize(("wide", "narrow"), [((12, 9), (5, 4)), ((5, 4), (12, 9)), ((7, 7), (5, 9))])
@pytest.mark.parametrize("side", ["columns", "rows"])
@pytest.mark.parametrize("options", [{}, {"reg": 0.05}, {"by": "weights"}, {"after_relu": True, "metric": "squared"}])
def test_any_widths_fuse(wide, narrow, side, options):
    deep, shallow = mlp(*wide), mlp(*narrow, seed=1)
    fused = fuse([deep, shallow], digits(), input_side=side, **options)
    assert [layer.module.weight.shape for layer in chain(fused).layers] == [
        layer.module.weight.shape for layer in chain(shallow).layers
    ]
    assert run(fused, digits()).isfinite().all()


def test_a_half_as_wide_resnet_fuses_either_way_round():
    images = pictures(6, 3, 16, 16)
    for widths in ((1 / 16, 1 / 32), (1 / 32, 1 / 16)):
        deep, shallow = (plain(f"resnet{n}", n, width=width) for n, width in zip((34, 18), widths, strict=True))
        for tie in (False, True):
            fused = fuse([deep, shallow], images, tie=tie)
            assert len(chain(fused).layers) == 37
            assert run(fused, images).isfinite().all()


@pytest.mark.parametrize("count", [3, 4])
def test_many_are_moved_onto_the_first_and_averaged(count):
    images = digits()
    models = [mlp(12, 9, 8, 7), *(mlp(12, 7, seed=i) for i in range(1, count))]
    balanced = [add_layers(map_layers(models[0], other, images)) for other in models[1:]]
    moved = [transport_neurons(other, models[0], images) for other in balanced]
    fused = fuse(models, images, step=0.9)
    for parameters in zip(fused.parameters(), models[0].parameters(), *(m.parameters() for m in moved), strict=True):
        torch.testing.assert_close(parameters[0], sum(parameters[1:]) / count)


@pytest.mark.parametrize("count", [3, 4])
def test_iterative_halves_what_was_there(count):
    images = digits()
    models = [mlp(12, 9, 7, seed=i, bias=False) for i in range(count)]
    fused = [layer.module.weight.detach() for layer in chain(models[0]).layers]
    so_far = copy.deepcopy(models[0])
    for other in models[1:]:
        theirs = [layer.module.weight.detach() for layer in chain(other).layers]
        plans = neuron_plans(other, so_far, images)
        tied = [None, *(plan / plan.sum(0) for plan in plans)]
        out = [*tied[1:], torch.eye(10)]
        fused = [
            0.5 * (out[i].T @ (weight if i == 0 else weight @ tied[i])) + 0.5 * fused[i]
            for i, weight in enumerate(theirs)
        ]
        for layer, weight in zip(chain(so_far).layers, fused, strict=True):
            layer.module.weight.data.copy_(weight)
    found = fuse(models, images, scheme="iterative")
    for layer, weight in zip(chain(found).layers, fused, strict=True):
        torch.testing.assert_close(layer.module.weight.detach(), weight)


@pytest.mark.parametrize("count", [2, 3])
def test_naive_is_the_mean(count):
    images = digits()
    models = [mlp(12, 9, 7, seed=i) for i in range(count)]
    fused = fuse(models, images, scheme="naive")
    for parameters in zip(fused.parameters(), *(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(parameters[0], sum(parameters[1:]) / count)


def test_a_network_and_its_permuted_copies_are_still_it():
    model, images = plain("resnet34"), pictures(16, 3, 16, 16)
    copies = [permuted(model, seed) for seed in range(1, 3)]
    size = run(model, images).abs().max().item()
    for scheme in ("many-to-one", "iterative"):
        assert gap(model, fuse([model, *copies], images, scheme=scheme), images) < 1e-4 * size


def test_merged_networks_fuse():
    deep, shallow, images = mlp(12, 9, 8, 7), mlp(10, 6, seed=1), digits()
    fused = fuse([deep, shallow], images, balance="merge", relu="average")
    shapes = [[layer.module.weight.shape for layer in chain(model).layers] for model in (fused, shallow)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "many"}, "unknown scheme 'many'"),
        ({"balance": "pad"}, "unknown balance 'pad'"),
        ({"step": 1.5}, "step, .* got 1.5"),
        ({"step": float("nan")}, "step, .* got nan"),
        ({"measure": "ckaa"}, "unknown measure 'ckaa': did you mean 'cka'"),
        ({"mapping": "dp"}, "unknown mapping 'dp'"),
        ({"metric": "l2"}, "unknown metric 'l2'"),
        ({"by": "gradients"}, "unknown source of costs 'gradients'"),
        ({"input_side": "both"}, "unknown side 'both'"),
        ({"relu": "max"}, "unknown ReLU approximation 'max'"),
        ({"tie": True, "by": "weights"}, "cannot be tied"),
        ({"pins": (-1, 1)}, "pins: whole numbers of at least 0"),
        ({"mapping": [0]}, "each of 2 shallow ones"),
        ({"mapping": [2, 1]}, r"\[2, 1\] must increase from 0 to 2"),
        ({"mapping": [0, 3]}, r"\[0, 3\] must increase from 0 to 2"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_fuse_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        fuse([mlp(12, 9, 7), mlp(10, 6, seed=1)], digits(), **options)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: zoo.build("mlp", 7, 1, in_features=16, hidden=(6, 5)),
            r"differ in classes: fc4.weight \(10, 7\), fc3.weight \(7, 5\)",
        ),
        (
            lambda: mlp(6, 5, in_features=25),
            r"network 2 does not take images of shape \(1, 4, 4\): mlp takes 25 numbers",
        ),
    ],
)
def test_networks_for_other_tasks(other, message):
    with pytest.raises(ValueError, match=message):
        fuse([mlp(12, 9, 7), other()], digits())


def test_too_few_networks():
    with pytest.raises(ValueError, match="1 network"):
        fuse([mlp(6, 5)], digits())
    with pytest.raises(ValueError, match="3 networks"):
        fuse([mlp(6, 5)] * 3, digits(), balance="merge")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_and_images_that_are_not_finite(value):
    models, images = [mlp(12, 9), mlp(10, 6, seed=1)], digits()
    spoilt = images.clone()
    spoilt[0] = value
    with pytest.raises(ValueError, match=r"the images hold NaN or infinity"):
        fuse(models, spoilt)
    with pytest.raises(ValueError, match=r"the images hold NaN or infinity"):
        neuron_plans(models[0], models[0], spoilt)
    with torch.no_grad():
        chain(models[1]).layers[1].module.weight[0, 0] = value
    with pytest.raises(ValueError, match=r"fc2.weight of network 2 holds NaN or infinity"):
        fuse(models, images)
    with pytest.raises(ValueError, match=r"fc2 puts out NaN or infinity"):
        neuron_plans(models[1], models[1], images)


def test_constant_neurons_fuse():
    deep, shallow, images = mlp(12, 9, 7), mlp(10, 6, seed=1), digits()
    with torch.no_grad():
        for model in (deep, shallow):
            layer = chain(model).layers[0].module
            layer.weight.zero_()
            layer.bias.zero_()
    for options in ({}, {"metric": "correlation"}, {"metric": "cosine"}):
        assert all(p.isfinite().all() for p in fuse([deep, shallow], images, **options).parameters())
    with pytest.warns(UserWarning, match="fc1 puts out the same for all images"):
        fuse([deep, shallow], images, pins=(0, 0))


def test_too_few_images_for_the_debiased_estimate():
    with pytest.raises(ValueError, match="3 samples, at least 4"):
        fuse([mlp(12, 9, 8, 7), mlp(10, 9, 6, seed=1)], digits(3), measure="debiased")


def test_the_wrong_way_round_is_put_right_and_said():
    deep, shallow, images = mlp(12, 9, 7), mlp(10, 6, seed=1), digits()
    with pytest.warns(UserWarning, match="network 2 has 4"):
        swapped = fuse([shallow, deep], images, step=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        straight = fuse([deep, shallow], images, step=0.3)
    assert all(torch.equal(a, b) for a, b in zip(swapped.parameters(), straight.parameters(), strict=True))


def test_naive_needs_equal_widths():
    with pytest.raises(ValueError, match=r"fc1.weight: \(10, 16\) and \(12, 16\)"):
        fuse([mlp(12, 9, 7), mlp(10, 6, seed=1)], digits(), scheme="naive")


def test_a_bias_on_one_side_alone():
    with pytest.raises(ValueError, match=r"only one of the two networks has fc1.bias"):
        fuse([mlp(12, 9), mlp(10, 6, bias=False)], digits())


def test_a_batch_norm_on_one_side_alone():
    with pytest.raises(ValueError, match="batch norm"):
        fuse([plain("resnet34"), plain("resnet18", bn=True)], pictures(2, 3, 16, 16))


class Deciding(nn.Module):
    """Looks at values."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(16, 10)

    def forward(self, images):
        return self.one(images.flatten(1)) if images.sum() > 0 else images


def test_networks_that_cannot_be_read_are_named():
    with pytest.raises(ValueError, match="cannot read Deciding"):
        fuse([Deciding(), Deciding()], digits())


def slim(name, seed=0):
    """A network of torchvision; a VGG's 4,096 neurons, whose plans take minutes, are 32."""
    model = build(f"torchvision/{name}", seed)
    if name.startswith("vgg"):
        for place, sizes in {0: (25088, 32), 3: (32, 32), 6: (32, 10)}.items():
            model.classifier[place] = nn.Linear(*sizes)
    return model


@pytest.mark.parametrize(
    "names",
    [("resnet34", "resnet18"), ("vgg13_bn", "vgg11_bn"), ("mobilenet_v2", "mobilenet_v2")],
    ids=lambda names: names[0],
)
def test_torchvisions_networks_fuse(names):
    models, images = [slim(name, i) for i, name in enumerate(names)], pictures(6, 3, 32, 32)
    fused, balanced = fuse(models, images), add_layers(map_layers(*models, images))
    assert run(fused, images).isfinite().all()
    torch.testing.assert_close(run(balanced, images), run(models[1], images), rtol=1e-5, atol=1e-5)
    shapes = [[layer.module.weight.shape for layer in chain(model).layers] for model in (fused, balanced)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("hidden", [((7, 6, 5), (7, 6, 5)), ((12, 9, 6), (7, 6, 4)), ((7, 6, 4), (12, 9, 6))])
@pytest.mark.parametrize("by", ["activations", "weights"])
@pytest.mark.parametrize("last", [True, False])
def test_perceptrons_fuse_as_written_out(hidden, by, last):
    one, other = perceptron(*hidden[0], seed=1), perceptron(*hidden[1], seed=2)
    fused = fuse([one, other], X, step=0.3, by=by, last=last)
    close(weights(fused), plain_fusion(weights(one), weights(other), 0.3, by == "weights", last))


def test_pins_that_leave_no_map_are_refused():
    deep, shallow = perceptron(9, 8, 7, 6, 4), perceptron(9, 7, 5)
    with pytest.raises(ValueError, match=r"3 blocks from fc1 on into 5 from fc1 on: no map keeps the pins \(2, 2\)"):
        fuse([deep, shallow], X, pins=(2, 2))


def test_images_of_another_size_are_told():
    one, other = perceptron(9, 8, 7), perceptron(9, 8, seed=1)
    with pytest.raises(ValueError, match=r"network 1 does not take images of shape \(1, 3, 3\)"):
        fuse([one, other], torch.randn(5, 1, 3, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"fc1.weight of network 2 is torch.float32"):
        fuse([one, other.float()], X)


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
    model = Dropping(16, 9, 8, 5).train()
    before = torch.get_rng_state()
    assert gap(fuse([model, model], digits(30)), copy.deepcopy(model), digits(30)) < 1e-5
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


@pytest.mark.parametrize("options", [{}, {"by": "weights"}, {"balance": "merge"}, {"metric": "correlation"}])
def test_autocast_changes_nothing(options):
    models = mlp(9, 8, 7, 6), mlp(8, 7, seed=1)
    alone = fuse(models, digits(30), **options)
    with torch.autocast("cpu", torch.bfloat16):
        found = fuse(models, digits(30), **options)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), alone.parameters(), strict=True))


def test_frozen_parents_have_a_child_that_trains():
    deep, shallow = (mlp(*hidden).requires_grad_(False) for hidden in ((9, 8, 7), (8, 7)))
    images = digits(30)
    found = map_layers(deep, shallow, images)
    made = [
        fuse([deep, shallow], images),
        fuse([deep, deep, shallow], images),
        fuse([deep, deep], images, scheme="naive"),
    ]
    made += [add_layers(found), merge_layers(found, images), transport_neurons(deep, deep, images)]
    assert all(parameter.requires_grad for model in made for parameter in model.parameters())
    assert not any(parameter.requires_grad for model in (deep, shallow) for parameter in model.parameters())


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
        model(pictures(20, 3, 16, 16))
    with pytest.raises(ValueError, match="differ in what they do: with layers added, the shallow one"):
        fuse([deep, shallow], pictures(20, 3, 16, 16))


def test_linear_classifiers_are_averaged():
    models = [nn.Sequential(nn.Flatten(), nn.Linear(16, 5)) for _ in range(2)]
    fused = fuse(models, digits(30), step=0.25)
    torch.testing.assert_close(fused[1].weight, models[0][1].weight.lerp(models[1][1].weight, 0.25))


def test_images_that_are_too_few_are_told():
    deep, shallow = settled("resnet34"), settled("resnet18", 1)
    with pytest.raises(ValueError, match="no images"):
        fuse([deep, shallow], pictures(0, 3, 16, 16), by="weights")
    with pytest.raises(ValueError, match="batch norms cannot take statistics from 1 images"):
        fuse([deep, shallow], pictures(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"count, .*, got 0"):
        sample(data.load("shapes-source", count=60), 0)


def test_shapes_that_do_not_fit_are_told_by_the_layer():
    models = [zoo.build("plainnet5", kernel_size=size, width=1 / 8) for size in (5, 3)]
    with pytest.raises(ValueError, match=r"\w+: \(.*, 5, 5\) moves to \(.*, 5, 5\), not \(.*, 3, 3\)"):
        fuse(models, pictures(8, 3, 32, 32))


def test_statistics_that_are_not_finite_are_named():
    deep, shallow = settled("vgg13"), settled("vgg11", 1)
    norm = next(layer.norm for layer in chain(shallow).layers)
    shallow.get_submodule(norm).running_var.fill_(torch.nan)
    with pytest.raises(ValueError, match=f"{norm}.running_var of network 2 holds NaN"):
        fuse([deep, shallow], pictures(8, 3, 32, 32))


def test_one_image_does_not_count_as_a_layer_without_variation():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fuse([mlp(9, 8, 7), mlp(8, 7, seed=1)], digits(30)[:1], measure="wasserstein", pins=(1, 0))


def test_a_view_of_rows_is_followed_by_the_images_and_what_never_runs_stays():
    class Net(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv, self.spare = nn.Conv2d(1, width, 3, padding=1), nn.ConvTranspose2d(2, 2, 3)
            self.fc = nn.Linear(16 * width, 3)

        def forward(self, x):
            return self.fc(self.conv(x).relu().view(-1, self.fc.in_features))

    torch.manual_seed(0)
    deep, shallow, x = Net(6), Net(4), torch.randn(20, 1, 4, 4)
    fused = fuse([deep, shallow], x)
    assert fused(x).shape == (20, 3)
    assert torch.equal(fused.spare.weight, deep.spare.weight)
    one = fuse([deep, copy.deepcopy(deep)], x)
    torch.testing.assert_close(one(x), deep(x))


def test_what_is_made_under_inference_mode_can_be_trained():
    deep, shallow, images = mlp(6, 5), mlp(6), digits()
    with torch.inference_mode():
        made = [fuse([deep, shallow], images), fuse([deep, shallow], images, balance="merge")]
        made.append(add_layers(map_layers(deep, shallow, images)))
    for network in made:
        assert not any(parameter.is_inference() for parameter in network.parameters())
        network(images).sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("pins", [(1, 1), (0, 1)])
def test_pins_are_advised_only_where_they_help(pins):
    deep, shallow = zoo.build("torchvision/resnet50"), zoo.build("torchvision/resnet18")
    with pytest.raises(ValueError, match=r"has 4 layers and a projection, .* 2 and a bare shortcut") as refused:
        map_layers(deep, shallow, None, pins=pins, measure="index")
    assert "pins" not in str(refused.value)
