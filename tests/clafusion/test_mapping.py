"""Which layers stand beside which: pins, order, the cheapest map, and networks that have none."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetlib import zoo
from hetlib.clafusion import (
    fuse,
    layer_costs,
    map_layers,
)
from hetlib.match import legal_maps
from tests.clafusion.networks import digits, mlp, pictures, plain, settled


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
    message = r"5 groups \(1 from conv1.*4 groups \(1 from conv1.* layer4.0, whose shortcut is not bare"
    with pytest.raises(ValueError, match=message):
        map_layers(plain("resnet34"), plain("resnet20", shortcut="B"), images)


def test_a_group_longer_in_the_shallow_network():
    deep = zoo.build("vgg13", 10, widths=[8, "M", 8, 8, 8, "M"])
    shallow = zoo.build("vgg11", 10, widths=[8, 8, "M", 8, "M"])
    with pytest.raises(ValueError, match="no group may be longer"):
        fuse([deep, shallow], pictures(2, 3, 32, 32))


def test_a_projection_has_no_idle_block():
    images = pictures(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"layer2\.\d.*; layer2\.0 can, where pins=\(1, \.\.\.\)"):
        map_layers(plain("resnet34"), plain("resnet18"), images, mapping=[0, 0 + 1, 2, 5, 6, 8, 9, 14, 15])


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


def test_maps_by_hand_may_be_tensors():
    deep, shallow = mlp(9, 8, 7), mlp(8, 7, seed=1)
    wanted = map_layers(deep, shallow, digits(30), mapping=[0, 2]).pairs
    assert map_layers(deep, shallow, digits(30), mapping=torch.tensor([0, 2])).pairs == wanted


def test_blocks_with_padded_shortcuts_stay_first():
    deep, shallow = settled("resnet32"), settled("resnet20", 1)
    with pytest.raises(ValueError, match=r"layer2.1 of .* a bare shortcut, layer2.0 of .* pads or pools: only"):
        map_layers(deep, shallow, pictures(20, 3, 16, 16), mapping=[0, 1, 2, 3, 7, 8, 9, 11, 12, 13], pins=(0, 0))
