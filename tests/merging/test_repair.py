"""REPAIR gives a fused network its parents' statistics, and changes nothing that it is given."""

import pytest
import torch
from torch import nn

from hetlib import zoo
from hetlib.chain import chain, evaluating
from hetlib.clafusion import add_layers, fuse, map_layers, transport_neurons
from hetlib.merging import average, repair, variances


def build(name, seed, **options):
    torch.manual_seed(seed)
    model = zoo.build(name, 10, **options)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return model


def pictures(*shape, seed=9):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments(model, images):
    """Mean and standard deviation per channel of every hidden layer, behind a hook of its own."""
    seen = {}

    def note(name):
        def hook(_, __, value):
            rows = value.detach().transpose(0, 1).flatten(1)
            seen[name] = torch.stack([rows.mean(1), rows.std(1, correction=0)])

        return hook

    handles = [layer.module.register_forward_hook(note(layer.name)) for layer in chain(model).layers[:-1]]
    with evaluating(model):
        model(images)
    for handle in handles:
        handle.remove()
    return seen


def fused_pair(kind, bias, step):
    if kind == "mlp":
        images = pictures(60, 1, 6, 6)
        options = {"in_channels": 1, "in_features": 36, "bias": bias}
        deep, shallow = (build("mlp", i, hidden=h, **options) for i, h in enumerate([(20, 16, 16, 12), (18, 14)]))
    else:
        images = pictures(12, 3, 32, 32)
        names = {"resnet": ("resnet34", "resnet18"), "vgg": ("vgg13", "vgg11")}[kind]
        deep, shallow = (build(name, i, width=1 / 16, bn=False, bias=bias) for i, name in enumerate(names))
    balanced = add_layers(map_layers(deep, shallow, images))
    parents = [transport_neurons(deep, balanced, images), balanced]
    return transport_neurons(deep, balanced, images, step), parents, images


@pytest.mark.parametrize("kind", ["mlp", "vgg", "resnet"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("step", [0.5, 0.2])
def test_statistics_are_the_parents(kind, bias, step):
    fused, parents, images = fused_pair(kind, bias, step)
    repaired = repair(fused, parents, images, (1 - step, step))
    before, (one, other), after = (
        moments(fused, images),
        [moments(p, images) for p in parents],
        moments(repaired, images),
    )
    assert len(after) == len(chain(fused).layers) - 1
    for name, (mean_now, spread) in after.items():
        wanted = (1 - step) * one[name] + step * other[name]
        varies = before[name][1] > 1e-5
        torch.testing.assert_close(spread[varies], wanted[1][varies], rtol=1e-4, atol=1e-4)
        if bias:
            torch.testing.assert_close(mean_now[varies], wanted[0][varies], rtol=1e-4, atol=1e-4)
    last = chain(fused).layers[-1].name
    assert torch.equal(fused.get_submodule(last).weight, repaired.get_submodule(last).weight)


@pytest.mark.parametrize("bias", [False, True])
def test_what_needs_no_repair_stays(bias):
    model, images = build("vgg11", 0, width=1 / 16, bn=False, bias=bias), pictures(12, 3, 32, 32)
    repaired = repair(model, [model, model], images)
    for one, other in zip(model.parameters(), repaired.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_arguments_stay_and_modes_too():
    fused, parents, images = fused_pair("mlp", True, 0.5)
    models = [fused, *parents]
    states = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
    fused.train()
    repaired = repair(fused, parents, images)
    assert fused.training
    assert repaired.training
    assert not any(module._forward_hooks for model in (*models, repaired) for module in model.modules())
    for model, state in zip(models, states, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_it_undoes_the_variance_collapse():
    images = pictures(60, 1, 6, 6)
    parents = [build("mlp", i, in_channels=1, in_features=36, hidden=(40, 40, 40)) for i in range(2)]
    fused = average(parents, images)
    one, other, before = (variances(model, images) for model in (*parents, fused))
    after = variances(repair(fused, parents, images), images)
    ratios = [[now[name] / ((one[name] + other[name]) / 2) for name in now] for now in (before, after)]
    assert min(ratios[0]) < 0.7
    assert min(ratios[1]) > 0.8
    assert [*after] == [layer.name for layer in chain(fused).layers[:-1]]


def test_variances_are_those_of_the_channels():
    model, images = build("mlp", 0, in_channels=1, in_features=16, hidden=(8, 6)), pictures(30, 1, 4, 4)
    first = chain(model).layers[0]
    with torch.no_grad():
        wanted = first.module(images.flatten(1)).var(0, correction=0).mean()
    assert variances(model, images)[first.name] == pytest.approx(wanted.item(), rel=1e-5)


def test_a_constant_channel_stays():
    model, images = build("mlp", 0, in_channels=1, in_features=16, hidden=(8, 6)), pictures(30, 1, 4, 4)
    dead = build("mlp", 1, in_channels=1, in_features=16, hidden=(8, 6))
    first = chain(dead).layers[0].module
    with torch.no_grad():
        first.weight[3] = 0
        first.bias[3] = 0.25
    repaired = repair(dead, [model, model], images)
    assert all(parameter.isfinite().all() for parameter in repaired.parameters())
    now = chain(repaired).layers[0].module
    assert now.bias[3] == 0.25
    assert now.weight[3].abs().max() == 0


def test_networks_with_batch_norm_get_new_statistics_alone():
    images = pictures(16, 3, 32, 32)
    deep, shallow = (build(name, i, width=1 / 16) for i, name in enumerate(("resnet34", "resnet18")))
    fused = fuse([deep, shallow], images)
    repaired = repair(fused, [fused, fused], images + 1)
    for (name, one), (_, other) in zip(fused.state_dict().items(), repaired.state_dict().items(), strict=True):
        if "running_mean" in name:
            assert not torch.equal(one, other), name
        elif "running" not in name and "num_batches" not in name:
            assert torch.equal(one, other), name
    assert variances(repaired, images + 1)


def test_parents_of_three_have_equal_weights():
    images = pictures(60, 1, 6, 6)
    models = [build("mlp", i, in_channels=1, in_features=36, hidden=(12, 10)) for i in range(3)]
    repaired = repair(average(models, images), models, images)
    seen, after = [moments(model, images) for model in models], moments(repaired, images)
    for name, now in after.items():
        torch.testing.assert_close(now, sum(one[name] for one in seen) / 3, rtol=1e-4, atol=1e-4)


def test_bad_input_is_named():
    images = pictures(8, 1, 4, 4)
    options = {"in_channels": 1, "in_features": 16}
    model = build("mlp", 0, hidden=(8, 6), **options)
    with pytest.raises(ValueError, match="1 weights for 2 parents"):
        repair(model, [model, model], images, [1.0])
    wide = build("mlp", 0, hidden=(9, 6), **options)
    first = chain(model).layers[0].name
    with pytest.raises(ValueError, match=rf"{first}: \(8, 16\) in the fused network and \(9, 16\) in a parent"):
        repair(model, [model, wide], images)
    deep = build("mlp", 0, hidden=(8, 6, 6), **options)
    extra = chain(deep).layers[-1].name
    with pytest.raises(ValueError, match=extra):
        repair(model, [model, deep], images)


def test_repair_needs_parents_and_images():
    model, images = build("mlp", 0, hidden=(6,)), pictures(4, 3, 32, 32)
    for parents, given, says in (([], images, "0 weights for 0 parents"), ([model], images[:0], "no images")):
        with pytest.raises(ValueError, match=says):
            repair(model, parents, given)
