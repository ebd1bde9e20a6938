"""REPAIR gives a fused network its parents' statistics, and changes nothing that it is given."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from hetlib import zoo
from hetlib.chain import chain, evaluating
from hetlib.clafusion import add_layers, fuse, map_layers, transport_neurons
from hetlib.merging import average, between, repair, variances


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


def test_variances_of_layers_that_share_a_norm_are_each_its_own():
    norm, head = nn.BatchNorm2d(4), (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    layers = nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 4, 3), norm, nn.ReLU()
    model, images = nn.Sequential(*layers, *head).eval(), pictures(20, 3, 8, 8)
    found, value = variances(model, images), images
    for number, layer in enumerate(layers):
        value = layer(value)
        if layer is norm:
            wanted = value.var((0, 2, 3), correction=0).mean().item()
            assert found[str(number - 1)] == pytest.approx(wanted, rel=1e-5)


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
    with pytest.raises(ValueError, match="weights: 2 numbers are needed, got 1"):
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
    for parents, given, says in (([], images, "no parents"), ([model], images[:0], "no images")):
        with pytest.raises(ValueError, match=says):
            repair(model, parents, given)


LAYERS = {
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), (20, 4, 9)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, 2), (20, 4, 4, 4, 3)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (20, 4, 7)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), (20, 4, 5, 5)),
    "Linear over tokens": (lambda: nn.Linear(4, 6), (20, 5, 4)),
    "Linear over as many tokens as channels": (lambda: nn.Linear(4, 6), (20, 6, 4)),
    "Linear over a grid": (lambda: nn.Linear(4, 6), (20, 2, 3, 4)),
}


class OneLayer(nn.Module):
    """A layer of any kind, and a classifier of the means of its channels."""

    def __init__(self, layer, axis=1):
        super().__init__()
        self.layer, self.axis, self.head = layer, axis, nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.layer(x).relu().movedim(self.axis, 1).flatten(2).mean(2))


def channels(value, axis):
    rows = value.detach().movedim(axis, 0).flatten(1).double()
    return rows.mean(1), rows.std(1, correction=0)


@pytest.mark.parametrize("kind", LAYERS)
def test_channels_are_on_the_axis_of_the_layer(kind):
    make, shape = LAYERS[kind]
    axis = -1 if "Linear" in kind else 1
    torch.manual_seed(0)
    a, b = OneLayer(make(), axis), OneLayer(make(), axis)
    images = pictures(*shape) + torch.arange(shape[1]).view(-1, *[1] * (len(shape) - 2))
    after = repair(between(a, b, 0.5), [a, b], images)
    one, other, now = (channels(model.layer(images), axis) for model in (a, b, after))
    torch.testing.assert_close(now[1], (one[1] + other[1]) / 2, rtol=1e-4, atol=1e-5)
    if a.layer.bias is not None:
        torch.testing.assert_close(now[0], (one[0] + other[0]) / 2, rtol=1e-4, atol=1e-5)
    assert variances(a, images) == {"layer": pytest.approx(one[1].square().mean().item(), rel=1e-4)}


def test_a_norm_over_tokens_is_none_over_channels():
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(6, 3)) for _ in range(2))
    images = pictures(20, 5, 4)
    after = repair(between(a, b, 0.5), [a, b], images)
    one, other, now = (channels(model[0](images), -1)[1] for model in (a, b, after))
    torch.testing.assert_close(now, (one + other) / 2, rtol=1e-4, atol=1e-5)


def convolutions(wrap=lambda layer: layer, norm=nn.Identity):
    first, second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    return nn.Sequential(first, norm(), nn.ReLU(), wrap(second), nn.ReLU(), *pooled)


COMPUTED = {
    "weight norm": parametrizations.weight_norm,
    "weight norm, old": weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "a computed bias": lambda layer: parametrizations.weight_norm(layer, "bias", dim=None),
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("how", COMPUTED)
def test_computed_weights_are_refused_in_the_fused_network_and_read_in_parents(how):
    computed, plain, images = convolutions(COMPUTED[how]), convolutions(), pictures(8, 3, 8, 8)
    with pytest.raises(ValueError, match=r"^3\.(weight|bias) .* is computed"):
        repair(computed, [plain, plain], images)
    computed.eval()
    after = repair(plain, [computed, computed], images)
    wanted, now = (channels(model[:4](images), 1) for model in (computed, after))
    torch.testing.assert_close(now, wanted, rtol=1e-4, atol=1e-5)
    assert variances(computed, images)["3"] == pytest.approx(wanted[1].square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("role", ["fused network", "parent"])
@pytest.mark.parametrize(
    "lacking", [lambda: convolutions().to("meta"), lambda: convolutions(lambda _: nn.LazyConv2d(6, 3))]
)
def test_weights_that_are_not_there_are_refused(role, lacking):
    plain, images = convolutions(), pictures(8, 3, 8, 8)
    fused, parent = (lacking(), plain) if role == "fused network" else (plain, lacking())
    with pytest.raises(ValueError, match=rf"^(the|a) {role}: \d\.weight has no values"):
        repair(fused, [parent, parent], images)
    with pytest.raises(ValueError, match="has no values"):
        variances(lacking(), images)


@pytest.mark.parametrize("key", ["weight", "bias"])
def test_one_tensor_of_two_layers_is_not_reset_twice(key):
    def tied():
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        setattr(model[2], key, getattr(model[0], key))
        return model

    with pytest.raises(ValueError, match=rf"^0\.{key} and 2\.{key} are one tensor"):
        repair(tied(), [tied(), tied()], pictures(20, 6))


class Own(nn.Module):
    """A layer of a repository's own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return F.linear(x, self.weight)


@pytest.mark.parametrize("layer", [Own(), nn.RNN(6, 6)])
def test_layers_of_other_kinds_are_named_unless_a_norm_follows(layer):
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), layer, nn.Linear(6, 3))
    for run in (lambda: repair(model, [model], pictures(20, 6)), lambda: variances(model, pictures(20, 6))):
        with pytest.raises(ValueError, match=rf"^2 \({type(layer).__name__}\) has weights of its own"):
            run()
    if isinstance(layer, Own):
        normed = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), layer, nn.BatchNorm1d(6), nn.Linear(6, 3))
        assert [*variances(repair(normed, [normed], pictures(20, 6)), pictures(20, 6))] == ["0"]


class Standardised(nn.Linear):
    """Its own weight is scaled back when it runs."""

    def forward(self, x):
        return F.linear(x, self.weight / self.weight.std(1, keepdim=True), self.bias)


def test_a_subclass_whose_weight_is_scaled_back_is_named():
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(6, 6), nn.ReLU(), Standardised(6, 6), nn.Linear(6, 3)) for _ in range(2))
    with pytest.raises(ValueError, match=r"^2 \(Standardised\)"):
        repair(between(a, b, 0.5), [a, b], pictures(20, 6))


def test_scales_and_shifts_are_no_layers():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.scale, self.place = (
                nn.Linear(4, 6),
                nn.Parameter(torch.rand(6)),
                nn.Parameter(torch.rand(5, 6)),
            )
            self.act, self.norm, self.head = nn.PReLU(6), nn.LayerNorm(6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.norm(self.act((self.a(x) + self.place).transpose(1, 2)).transpose(1, 2) * self.scale))

    torch.manual_seed(0)
    a, b, images = Scaled(), Scaled(), pictures(20, 5, 4)
    after = repair(between(a, b, 0.5), [a, b], images)
    one, other, now = (channels(model.a(images), -1)[1] for model in (a, b, after))
    torch.testing.assert_close(now, (one + other) / 2, rtol=1e-4, atol=1e-5)


def test_a_network_is_repaired_as_it_runs_in_evaluation():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.spare = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            x = self.a(x).relu()
            return (self.b(x), self.spare(x)) if self.training else self.b(x)

    torch.manual_seed(0)
    model, images = Auxiliary(), pictures(20, 4)
    after = repair(model, [copy.deepcopy(model)], images)
    assert [*variances(model, images)] == ["a"]
    assert torch.equal(after.b.weight, model.b.weight)
