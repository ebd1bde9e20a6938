"""CLAFusion as sentences: equal to the bit to its steps written out, and mixed with the steps of other papers."""

import copy

import pytest
import torch
from torch import nn

from hetlib.baselines import ByBlocks, ByScore, Overlay
from hetlib.chain import chain
from hetlib.clafusion import (
    Align,
    Transport,
    add_layers,
    fuse,
    fuse_weights,
    map_layers,
    merge_layers,
    neuron_plans,
    transport_neurons,
)
from hetlib.clafusion.hmt_variants import stack
from hetlib.clafusion.weights import transport_outputs
from hetlib.hmt import ByPosition, Cyclic, resize
from hetlib.merging import update_bn
from hetlib.tlv import ByRatio, ByVariance, LinearStatistics
from hetlib.transfer import SameName, Transfer
from tests.clafusion.networks import digits, mlp, pictures, settled

PLAIN = {"bn": False, "bias": False}


def same(one, other):
    here, there = one.state_dict(), other.state_dict()
    return here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


@torch.no_grad()
def written_out(source, target, images, step, **options):
    """OTFusion layer by layer: plans, weights, then biases, gains and shifts; batch norm statistics at the end."""
    layers, theirs = chain(source).layers, chain(target).layers
    plans = neuron_plans(source, target, images, **options)
    weights = [[layer.module.weight for layer in side] for side in (layers, theirs)]
    moved = fuse_weights(*weights, plans, 0.0, feeds=chain(source).feeds())
    mixed = lambda new, own: step * own + (1 - step) * new
    fused = copy.deepcopy(target)
    for i, (layer, weight) in enumerate(zip(layers, moved, strict=True)):
        fused.get_submodule(layer.name).weight = nn.Parameter(mixed(weight, weights[1][i]))
        for owner, key in ((layer.name, "bias"), (layer.norm, "weight"), (layer.norm, "bias")):
            vector = getattr(source.get_submodule(owner), key) if owner else None
            if vector is None:
                continue
            vector = transport_outputs(vector, plans[i]) if i < len(plans) else vector
            getattr(fused.get_submodule(owner), key).copy_(mixed(vector, getattr(target.get_submodule(owner), key)))
    update_bn(fused, images)
    return fused


@pytest.mark.parametrize("options", [{}, PLAIN], ids=["batch norm", "plain"])
@pytest.mark.parametrize("how", [{}, {"tie": True}, {"by": "weights", "last": True}], ids=str)
def test_residual_networks_fuse_as_written_out(options, how):
    deep, shallow, images = settled("resnet34", **options), settled("resnet18", 1, **options), pictures(20, 3, 32, 32)
    balanced = add_layers(map_layers(deep, shallow, images), images)
    wanted = written_out(deep, balanced, images, 0.3, **how)
    assert same(fuse([deep, shallow], images, step=0.3, **how), wanted)
    assert same(transport_neurons(deep, balanced, images, 0.3, **how), wanted)
    Transfer(SameName(), (Transport(**how),), 0.3)(deep, balanced, images)
    update_bn(balanced, images)
    assert same(balanced, wanted)


@pytest.mark.parametrize("balance", ["add", "merge"])
def test_perceptrons_fuse_as_written_out(balance):
    deep, shallow, images = mlp(14, 12, 9, 7), mlp(12, 8, seed=1), digits()
    found = map_layers(deep, shallow, images)
    if balance == "add":
        wanted = written_out(deep, add_layers(found, images), images, 0.5)
    else:
        wanted = written_out(merge_layers(found, images), shallow, images, 0.5)
    assert same(fuse([deep, shallow], images, balance=balance), wanted)


@pytest.mark.parametrize("deeper_is_fed", [True, False])
def test_stacking_is_hmts_fit_on_the_alignment(deeper_is_fed):
    deep, shallow = settled("resnet34", **PLAIN), settled("resnet18", 1, width=1 / 4, **PLAIN)
    images = pictures(20, 3, 32, 32)
    source, target = (shallow, deep) if deeper_is_fed else (deep, shallow)
    wanted, fed = copy.deepcopy(target), copy.deepcopy(target)
    found = map_layers(deep, shallow, images)
    for layer in found.deep.layers:
        if layer.kind == "conv" and layer.name in found.pairs:
            names = (found.pairs[layer.name], layer.name)
            giver, taker = names if deeper_is_fed else names[::-1]
            weight = wanted.get_submodule(taker).weight
            weight.data.copy_(resize(source.get_submodule(giver).weight.detach(), weight.shape))
    report = Transfer(Align(convolutions=True), (Cyclic(),))(source, fed, images)
    assert same(fed, wanted)
    assert len(report.matched) == 17
    if deeper_is_fed:
        assert same(stack(deep, shallow, images), wanted)


@pytest.mark.parametrize("fit", [Cyclic(), ByVariance(), Overlay(), Overlay("trace")], ids=str)
@pytest.mark.parametrize("blend", [0.0, 0.5])
def test_every_fit_follows_the_alignment(fit, blend):
    deep, shallow, images = settled("resnet34", **PLAIN), settled("resnet18", 1, **PLAIN), pictures(8, 3, 32, 32)
    before = copy.deepcopy(deep)
    report = Transfer(Align("cka", pins=(1, 1)), (fit,), blend)(shallow, deep, images)
    assert len(report.matched) >= 17
    assert not same(before, deep)
    with torch.no_grad():
        assert deep(images).isfinite().all()


def test_what_is_not_paired_keeps_its_values():
    deep, other, images = settled("resnet18", **PLAIN), settled("resnet18", 1, **PLAIN), pictures(8, 3, 32, 32)
    before = copy.deepcopy(other.state_dict())
    Transfer(Align(convolutions=True), (Transport(),))(deep, other, images)
    kept = {name for name, value in other.state_dict().items() if torch.equal(value, before[name])}
    assert {"linear.weight", "layer2.0.downsample.0.weight"} <= kept
    assert "layer1.0.conv1.weight" not in kept


@pytest.mark.parametrize(
    ("match", "says"),
    [
        (ByRatio(), r"\S+ cannot move onto \S+: neurons move between layers of one name"),
        (ByPosition("shuffle"), "cannot move onto"),
        (ByScore(), "cannot move onto"),
        (ByBlocks(), "cannot move onto"),
        (SameName(), "balance them first"),
        (Align(), "cannot move onto"),
    ],
    ids=str,
)
def test_neurons_do_not_move_between_networks_of_unequal_depth(match, says):
    deep, shallow, images = settled("resnet34", **PLAIN), settled("resnet18", 1, **PLAIN), pictures(8, 3, 32, 32)
    before = copy.deepcopy(deep.state_dict())
    with pytest.raises(ValueError, match=says):
        Transfer(match, (Cyclic(), Transport()))(shallow, deep, images)
    assert all(torch.equal(value, before[name]) for name, value in deep.state_dict().items())


def test_steps_that_need_images_ask_for_them():
    deep, shallow = mlp(14, 12, 9, 7), mlp(12, 9, 8, seed=1)
    with pytest.raises(ValueError, match="measure 'cka' compares layers on images"):
        Transfer(Align(), (Overlay(),))(shallow, deep)
    with pytest.raises(ValueError, match="activations are compared on images"):
        Transfer(SameName(), (Transport(),))(deep, copy.deepcopy(deep))
    assert Transfer(Align("neurons"), (Overlay(),))(shallow, deep).matched
    assert Transfer(SameName(), (Transport(by="weights"),))(deep, mlp(10, 9, 8, 7)).matched


def test_a_random_map_is_drawn_from_the_transfers_seed():
    deep, shallow = mlp(9, 9, 9, 9, 9, 9), mlp(9, 9, 9, seed=1)

    def pairs(match, seed):
        return [row.source for row in Transfer(match, (Overlay(),))(shallow, copy.deepcopy(deep), seed=seed)]

    drawn = Align(mapping="random", pins=(0, 0))
    assert pairs(drawn, 1) == pairs(drawn, 1)
    assert len({tuple(pairs(drawn, seed)) for seed in range(8)}) > 1
    fixed = Align(mapping="random", pins=(0, 0), seed=3)
    assert pairs(fixed, 1) == pairs(fixed, 2)


def test_a_head_from_statistics_joins_moved_neurons():
    deep, other, images = settled("resnet18"), settled("resnet18", 1), pictures(8, 3, 32, 32)
    report = Transfer(SameName(), (Transport(), LinearStatistics()))(deep, other, images)
    assert "drawn" in next(row.done for row in report if row.target == "linear")
