"""What must hold of aligning, balancing and fusing whatever the networks, and what is refused by name."""

import copy
import itertools
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetlib import zoo
from hetlib.chain import chain, eval_chain, evaluating, read
from hetlib.clafusion import (
    add_layers,
    fuse,
    fuse_weights,
    layer_costs,
    map_layers,
    merge_layers,
    neuron_plans,
    transfer,
    transport_neurons,
)
from hetlib.clafusion.weights import transport_inputs, transport_outputs
from hetlib.data import load
from hetlib.match import legal_maps
from hetlib.merging import update_bn

STUDENT = [64, 64, "M", 64, 64, "M", 128, 128, "M", 256, 256, "M", 256, 512, "M"]


def build(name, seed=0, **options):
    """A network whose biases and batch norms are anything but idle."""
    torch.manual_seed(seed)
    model = zoo.build(name, 10, **options)
    with torch.no_grad():
        for key, value in [*model.named_parameters(), *model.named_buffers()]:
            if key.endswith("bias"):
                value.normal_(0, 0.1)
            elif value.ndim == 1 and value.is_floating_point() and "mean" not in key:
                value.uniform_(0.7, 1.4)
            elif value.ndim == 1 and value.is_floating_point():
                value.normal_(0, 0.1)
    return model


def mlp(*hidden, seed=0, bias=True, in_features=16):
    return build("mlp", seed, in_channels=1, in_features=in_features, hidden=hidden, bias=bias)


def plain(name, seed=0, width=1 / 16, **options):
    return build(name, seed, width=width, **{"bn": False, "bias": False} | options)


def pictures(*shape, seed=9):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def digits(count=40):
    return pictures(count, 1, 4, 4)


def run(model, images):
    with evaluating(model):
        return model(images)


def gap(one, other, images):
    return (run(one, images) - run(other, images)).abs().max().item()


def permuted(model, seed=1):
    """A copy whose channels stand in another order, whatever moves together moving together."""
    generator = torch.Generator().manual_seed(seed)
    copied = copy.deepcopy(model)
    state = copied.state_dict()
    for group in chain(copied).axes:
        if group.fixed is None:
            group.permute_(state, torch.randperm(group.size, generator=generator))
    copied.load_state_dict(state)
    return copied


# A network and its own permuted copy


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


def test_a_shortcut_that_pads_is_followed_untied():
    model, images = plain("resnet20", width=1 / 4), pictures(16, 3, 16, 16)
    fused = fuse([model, permuted(model)], images)
    assert gap(model, fused, images) < 1e-4 * run(model, images).abs().max().item()
    with pytest.raises(ValueError, match=r"layer2.0.conv2.weight.* cannot be tied"):
        fuse([model, permuted(model)], images, tie=True)


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


def test_plans_are_the_permutation():
    model, images = mlp(12, 9), digits()
    other = copy.deepcopy(model)
    state, order = other.state_dict(), torch.randperm(12, generator=torch.Generator().manual_seed(3))
    next(group for group in chain(other).axes if group.size == 12).permute_(state, order)
    other.load_state_dict(state)
    first, second = neuron_plans(model, other, images)
    assert torch.equal(first.argmax(0), order)
    assert torch.equal(second, torch.eye(9) / 9)


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


# Maps


@given(
    m=st.integers(1, 7), n=st.integers(1, 7), first=st.integers(0, 2), last=st.integers(0, 2), seed=st.integers(0, 99)
)
def test_maps_keep_their_pins_and_order(m, n, first, last, seed):
    m, n = max(m, n), min(m, n)
    deep, shallow = (mlp(*[4] * depth, bias=False, in_features=4) for depth in (m, n))
    images, pins = pictures(6, 1, 2, 2), (first, last)
    if n > 1 and not legal_maps(m, n, pins):
        with pytest.raises(ValueError, match="no map keeps the pins"):
            map_layers(deep, shallow, images, mapping="random", pins=pins, seed=seed)
        return
    found = map_layers(deep, shallow, images, mapping="random", pins=pins, seed=seed)
    picks = list(found.alignments[0].picks)
    first = min(first, n)
    last = min(last, n - first)
    assert picks == sorted(set(picks))
    assert picks[:first] == list(range(first))
    assert picks[n - last :] == list(range(m - last, m))
    assert 0 <= picks[0] <= picks[-1] < m
    assert found.legal == legal_maps(m, n, (first, last))


@pytest.mark.parametrize("measure", ["cka", "debiased", "neurons", "wasserstein", "cca", "index"])
def test_the_map_is_the_cheapest_of_all(measure):
    deep, shallow = mlp(12, 9, 8, 7, 6), mlp(11, 8, 5, seed=1)
    found = map_layers(deep, shallow, digits(), measure=measure)
    (cost,) = layer_costs(deep, shallow, digits(), measure)
    assert cost.shape == (5, 3)
    legal = [picks for picks in itertools.combinations(range(5), 3) if picks[0] == 0 and picks[-1] == 4]
    assert found.legal == len(legal) == 3
    best = min(sum(cost[i, k] for k, i in enumerate(picks)) for picks in legal)
    assert sum(cost[i, k] for k, i in enumerate(found.alignments[0].picks)) == pytest.approx(float(best))


# Added layers change nothing


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("picks", [p for p in itertools.combinations(range(5), 3) if p[0] == 0])
def test_layers_added_to_a_perceptron_change_nothing(bias, picks):
    deep, shallow = mlp(12, 9, 8, 7, 6, bias=bias), mlp(11, 9, 5, seed=1, bias=bias)
    balanced = add_layers(map_layers(deep, shallow, digits(), mapping=picks))
    assert gap(balanced, shallow, digits()) == 0
    widths = [layer.module.weight.shape[0] for layer in chain(balanced).layers]
    assert len(widths) == 6
    assert [widths[i] for i in picks] == [11, 9, 5]


@pytest.mark.parametrize("bias", [False, True])
def test_layers_added_to_a_vgg_change_nothing(bias):
    deep, shallow, images = plain("vgg13", bias=bias), plain("vgg11", 1, bias=bias), pictures(8, 3, 32, 32)
    balanced = add_layers(map_layers(deep, shallow, images))
    assert gap(balanced, shallow, images) == 0
    assert len(chain(balanced).layers) == len(chain(deep).layers)


def test_widths_of_the_balanced_vgg_are_the_papers():
    half = [64, "M", 64, "M", 128, 128, "M", 256, 256, "M", 256, 512, "M"]
    shallow = zoo.build("vgg11", 10, widths=half, bn=False, bias=False)
    images = pictures(2, 3, 32, 32)
    balanced = add_layers(map_layers(zoo.build("vgg13", 10, bn=False, bias=False), shallow, images))
    widths = [layer.module.weight.shape[0] for layer in chain(balanced).layers[:-1]]
    assert widths == [width for width in STUDENT if width != "M"]
    assert gap(balanced, shallow, images) == 0


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("width", [1 / 16, 1 / 8])
def test_blocks_added_to_a_resnet_change_nothing(bias, width):
    deep, shallow = plain("resnet34", bias=bias), plain("resnet18", 1, width=width, bias=bias)
    images = pictures(8, 3, 16, 16)
    assert gap(add_layers(map_layers(deep, shallow, images)), shallow, images) == 0


@pytest.mark.parametrize(
    ("names", "options", "size"),
    [
        (("resnet34", "resnet18"), {"width": 1 / 16}, 16),
        (("vgg13", "vgg11"), {"width": 1 / 16}, 32),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_layers_with_batch_norm_change_nothing_but_rounding(names, options, size):
    deep, shallow = (build(name, i, **options).eval() for i, name in enumerate(names))
    images = pictures(4, 3, size, size)
    balanced = add_layers(map_layers(deep, shallow, images))
    torch.testing.assert_close(run(balanced, images), run(shallow, images), rtol=1e-5, atol=1e-5)


def test_layers_of_two_networks_stay_apart():
    """The balanced network shares no tensor with those it was made of."""
    deep, shallow = mlp(12, 9, 8), mlp(11, 5, seed=1)
    balanced = add_layers(map_layers(deep, shallow, digits()))
    owned = {parameter.data_ptr() for model in (deep, shallow) for parameter in model.parameters()}
    assert not owned & {parameter.data_ptr() for parameter in balanced.parameters()}


# The two ends of the step


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


def test_a_moved_network_of_equal_widths_computes_the_same():
    deep, shallow, images = mlp(10, 10, 6), mlp(10, 6, seed=1), digits()
    balanced = add_layers(map_layers(deep, shallow, images, mapping=[0, 2]))
    assert gap(transport_neurons(deep, balanced, images), deep, images) < 1e-5


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


# Different widths


@given(factor=st.integers(2, 3), seed=st.integers(0, 5))
def test_rows_keep_the_function_where_duplicates_merge(factor, seed):
    """A network whose every neuron stands there several times, its outgoing weight shared among the copies."""
    narrow = mlp(6, 5, seed=seed)
    wide = mlp(6 * factor, 5 * factor, seed=seed)
    layers = [[layer.module for layer in chain(model).layers] for model in (narrow, wide)]
    with torch.no_grad():
        for i, (one, other) in enumerate(zip(*layers, strict=True)):
            copies = 1 if i == 2 else factor
            weight = one.weight.repeat(copies, 1)
            other.weight.copy_(weight if i == 0 else weight.repeat(1, factor) / factor)
            other.bias.copy_(one.bias.repeat(copies))
    images = digits()
    assert gap(narrow, wide, images) < 1e-5
    assert gap(transport_neurons(wide, narrow, images, input_side="rows"), narrow, images) < 1e-4
    assert gap(fuse([wide, narrow], images, input_side="rows"), narrow, images) < 1e-4
    released = chain(transport_neurons(wide, narrow, images)).layers
    for layer, one in zip(released[1:], layers[0][1:], strict=True):
        torch.testing.assert_close(layer.module.weight * factor, one.weight, rtol=1e-4, atol=1e-5)


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


# More than two


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


# Merged layers


@pytest.mark.parametrize("relu", ["sum", "majority", "average"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("picks", [(0, 1), (0, 3), (1, 2), (2, 3)])
def test_merging_is_exact_where_no_relu_clips(relu, bias, picks):
    deep, shallow = mlp(12, 9, 8, 7, bias=bias), mlp(12, 7, seed=1, bias=bias)
    with torch.no_grad():
        for parameter in deep.parameters():
            parameter.abs_()
    images = digits().abs()
    merged = merge_layers(map_layers(deep, shallow, images, mapping=picks), images, relu)
    torch.testing.assert_close(run(merged, images), run(deep, images), rtol=1e-4, atol=1e-4)
    assert len(chain(merged).layers) == 3


def test_merged_networks_fuse():
    deep, shallow, images = mlp(12, 9, 8, 7), mlp(10, 6, seed=1), digits()
    fused = fuse([deep, shallow], images, balance="merge", relu="average")
    shapes = [[layer.module.weight.shape for layer in chain(model).layers] for model in (fused, shallow)]
    assert shapes[0] == shapes[1]


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "many"}, "unknown scheme 'many'"),
        ({"balance": "pad"}, "unknown balance 'pad'"),
        ({"step": 1.5}, "step 1.5"),
        ({"step": float("nan")}, "step nan"),
        ({"measure": "ckaa"}, "unknown measure 'ckaa': did you mean 'cka'"),
        ({"mapping": "dp"}, "unknown mapping 'dp'"),
        ({"metric": "l2"}, "unknown metric 'l2'"),
        ({"by": "gradients"}, "unknown source of costs 'gradients'"),
        ({"input_side": "both"}, "unknown side 'both'"),
        ({"relu": "max"}, "unknown ReLU approximation 'max'"),
        ({"tie": True, "by": "weights"}, "cannot be tied"),
        ({"pins": (-1, 1)}, r"pins \(-1, 1\)"),
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
        (lambda: mlp(6, 5, in_features=25), r"differ in inputs: fc1.weight \(12, 16\), fc1.weight \(6, 25\)"),
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


@pytest.mark.parametrize("last", ["M", 8])
def test_pools_that_differ(last):
    """Behind the last convolution too: the balanced network has the pools of the deep one."""
    deep = zoo.build("vgg13", 10, widths=[8, "M", 8, "M", 8, 8, 8])
    shallow = zoo.build("vgg11", 10, widths=[8, "M", 8, "M", 8, "M"] + [last] * (last == 8))
    with pytest.raises(ValueError, match=r"maxpool2d, maxpool2d, relu.*maxpool2d, maxpool2d, maxpool2d, relu.*same"):
        fuse([deep, shallow], pictures(2, 3, 32, 32))


def test_activations_that_differ():
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 10))
    with pytest.raises(ValueError, match=r"\(Sequential\) has relu, and the shallow one \(Sequential\) tanh"):
        fuse([mlp(12, 9), smooth], digits())


def test_groups_that_differ():
    images = pictures(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"5 groups \(1 from conv1.*4 groups \(1 from conv1"):
        map_layers(plain("resnet34"), plain("resnet8"), images)


def test_a_group_longer_in_the_shallow_network():
    deep = zoo.build("vgg13", 10, widths=[8, "M", 8, 8, 8, "M"])
    shallow = zoo.build("vgg11", 10, widths=[8, 8, "M", 8, "M"])
    with pytest.raises(ValueError, match="no group may be longer"):
        fuse([deep, shallow], pictures(2, 3, 32, 32))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_and_images_that_are_not_finite(value):
    models, images = [mlp(12, 9), mlp(10, 6, seed=1)], digits()
    spoilt = images.clone()
    spoilt[0] = value
    with pytest.raises(ValueError, match=r"the images hold NaN or infinity"):
        fuse(models, spoilt)
    with pytest.raises(ValueError, match=r"fc1 puts out NaN or infinity"):
        neuron_plans(models[0], models[0], spoilt)
    with torch.no_grad():
        chain(models[1]).layers[1].module.weight[0, 0] = value
    with pytest.raises(ValueError, match=r"fc2.weight of network 2 holds NaN or infinity"):
        fuse(models, images)


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


def test_plans_need_equal_depth():
    with pytest.raises(ValueError, match="balance them first"):
        neuron_plans(mlp(12, 9, 7), mlp(10, 6), digits())
    with pytest.raises(ValueError, match="3 and 2 weights, 2 plans: balance"):
        fuse_weights([torch.eye(3)] * 3, [torch.eye(3)] * 2, [torch.eye(3)] * 2)


def test_weights_whose_shapes_do_not_fit_the_plans():
    eye = torch.eye(3) / 3
    with pytest.raises(ValueError, match=r"layer 0: \(3, 4\) moves to \(3, 4\), not \(3, 5\)"):
        fuse_weights([torch.ones(3, 4)] * 2, [torch.ones(3, 5)] * 2, [eye])
    with pytest.raises(ValueError, match=r"shape \(2, 4\) does not take in 3"):
        transport_inputs(torch.ones(2, 4), [eye])
    with pytest.raises(ValueError, match=r"shape \(2, 4\) does not put out 3"):
        transport_outputs(torch.ones(2, 4), eye)


def test_a_bias_on_one_side_alone():
    with pytest.raises(ValueError, match=r"only one of the two networks has fc1.bias"):
        fuse([mlp(12, 9), mlp(10, 6, bias=False)], digits())


def test_a_batch_norm_on_one_side_alone():
    with pytest.raises(ValueError, match="batch norm"):
        fuse([plain("resnet34"), plain("resnet18", bn=True)], pictures(2, 3, 16, 16))


def test_layers_that_cannot_be_idle():
    strided = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 2, padding="same"), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)),
    )
    shallow = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    images = pictures(2, 3, 8, 8)
    with pytest.raises(ValueError, match="2 has no partner and cannot be the identity"):
        fuse([strided, shallow], images)
    smooth = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 4, 3, padding=1), nn.GELU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)),
    )
    shallow[1] = nn.GELU()
    with pytest.raises(ValueError, match=r"2 has no partner, and .* stands before it: an identity needs a ReLU there"):
        fuse([smooth, shallow], images)


def test_only_linear_layers_merge():
    with pytest.raises(ValueError, match="only linear layers merge"):
        fuse([plain("vgg13"), plain("vgg11")], pictures(2, 3, 32, 32), balance="merge")


def test_a_projection_has_no_idle_block():
    images = pictures(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"layer2\.\d.*the first unit of each group is pinned"):
        map_layers(plain("resnet34"), plain("resnet18"), images, mapping=[0, 0 + 1, 2, 5, 6, 8, 9, 14, 15])


def test_grouped_convolutions_are_named():
    def grouped():
        return nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
        )

    with pytest.raises(ValueError, match="2 is a grouped convolution"):
        fuse([grouped(), grouped()], pictures(2, 3, 8, 8))


def test_a_last_layer_inside_a_block():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, images):
            flat = images.flatten(1)
            return flat + self.two(self.one(flat).relu())

    with pytest.raises(ValueError, match="two is the last layer and in a residual block"):
        fuse([Residual(), Residual()], digits())


class Split(nn.Module):
    """Lays two layers' channels side by side."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.last = nn.Linear(16, 6), nn.Linear(16, 6), nn.Linear(12, 10)

    def forward(self, images):
        flat = images.flatten(1)
        return self.last(torch.cat([self.one(flat), self.other(flat)], 1))


class Deciding(nn.Module):
    """Looks at values."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(16, 10)

    def forward(self, images):
        return self.one(images.flatten(1)) if images.sum() > 0 else images


def test_networks_that_cannot_be_read_are_named():
    with pytest.raises(ValueError, match=r"last takes in channels from cat.* \(cat\)"):
        fuse([Split(), Split()], digits())
    with pytest.raises(ValueError, match="cannot read Deciding"):
        fuse([Deciding(), Deciding()], digits())


def test_a_target_of_another_shape():
    data = load("digits")
    models = [build("mlp", i, in_channels=1, in_features=64, hidden=h) for i, h in enumerate([(12, 9, 7), (8, 6)])]
    wide = build("mlp", 2, in_channels=1, in_features=64, hidden=(8, 8, 7))
    before = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    with pytest.raises(ValueError, match=r"fc3.weight: the result has \(6, 8\), the target \(7, 8\)"):
        transfer(models, wide, data, samples=20)
    assert all(torch.equal(tensor, before[name]) for name, tensor in wide.state_dict().items())


# Networks of torchvision


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
