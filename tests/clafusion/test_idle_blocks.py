"""Networks of which only the deep one has residual blocks in some places: there the blocks are idle."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from hetlib.chain import eval_chain
from hetlib.clafusion import add_layers, fuse, layer_costs, map_layers, merge_layers
from hetlib.clafusion.hmt_variants import stack
from hetlib.merging import update_bn
from tests.clafusion.networks import gap, pictures, plain, run


class Residual(nn.Module):
    def __init__(self, *layers, relu=False):
        super().__init__()
        self.inside, self.end = nn.Sequential(*layers), nn.ReLU() if relu else nn.Identity()

    def forward(self, x):
        return self.end(x + self.inside(x))


class Gated(nn.Module):
    def __init__(self, width, narrow):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.fc1, self.fc2 = nn.Conv2d(width, narrow, 1), nn.Conv2d(narrow, width, 1)

    def forward(self, x):
        x = self.depthwise(x).relu()
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


def conv(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride)


def two_stages(first, second, width=6, seed=0, block="plain", relu=True):
    """A convolution, `first` blocks, one with a stride, `second` blocks, and the classifier."""
    torch.manual_seed(seed)
    inside = {
        "plain": lambda: [conv(width, width + 1), nn.ReLU(), conv(width + 1, width)],
        "gated": lambda: [Gated(width, width - 2), nn.Conv2d(width, width, 1)],
    }["gated" if block == "gated" else "plain"]
    blocks = [[Residual(*inside(), relu=block == "relu") for _ in range(count)] for count in (first, second)]
    begin, end = ([nn.ReLU()] * relu for _ in range(2))
    head = nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Sigmoid(), nn.Flatten(), nn.Linear(width, 10)
    layers = conv(3, width), *begin, *blocks[0], conv(width, width, 2), *end, *blocks[1], *head
    return nn.Sequential(*layers).double()


def images():
    return pictures(20, 3, 8, 8).double()


@pytest.mark.parametrize("block", ["plain", "gated", "relu"])
@pytest.mark.parametrize("width", [4, 6, 9])
@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, 1)])
def test_idle_blocks_change_nothing(counts, width, block):
    deep, shallow = two_stages(2, 1, block=block), two_stages(*counts, width, seed=1, block=block)
    found = map_layers(deep, shallow, images())
    assert [len(group.deep) for group in found.alignments] == [1, 2, 1, 1]
    assert [len(group.shallow) for group in found.alignments] == [1, counts[0], 1, counts[1]]
    assert gap(add_layers(found), shallow, images()) == 0
    assert gap(fuse([deep, shallow], images(), step=1.0), shallow, images()) == 0
    assert run(fuse([deep, shallow], images()), images()).isfinite().all()


def test_layers_are_cut_where_only_the_deep_network_has_blocks():
    torch.manual_seed(0)
    nets = []
    for count in (1, 0):
        blocks = [Residual(conv(6, 6), nn.ReLU(), conv(6, 6)) for _ in range(count)]
        body = conv(3, 6), nn.ReLU(), conv(6, 6), nn.ReLU(), *blocks, conv(6, 6), nn.ReLU()
        nets.append(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)).double())
    found = map_layers(*nets, images())
    assert [[block.name for block in group.shallow] for group in found.alignments] == [["0", "2"], [], ["4"]]
    assert str(found).splitlines() == ["1 legal map", "0=0  2=2", "4.inside=+", "5=4"]
    assert gap(add_layers(found, images()), nets[1], images()) == 0


@pytest.mark.parametrize("measure", ["cka", "debiased", "neurons", "wasserstein", "cca", "index"])
def test_costs_without_columns(measure):
    costs = layer_costs(two_stages(2, 1), two_stages(0, 1), images(), measure)
    assert [tuple(cost.shape) for cost in costs] == [(1, 1), (2, 0), (1, 1), (1, 1)]
    assert {cost.dtype for cost in costs} == {torch.float64}


@pytest.mark.parametrize("mapping", ["align", "chain", "random", [0, 3, 5]])
def test_maps_beside_an_empty_group(mapping):
    found = map_layers(two_stages(2, 2), two_stages(0, 1), images(), mapping=mapping, pins=(0, 0))
    picks = [group.picks for group in found.alignments]
    assert [len(each) for each in picks] == [1, 0, 1, 1]
    assert found.alignments[1].legal == 1
    if isinstance(mapping, list):
        assert picks == [(0,), (), (0,), (1,)]
        with pytest.raises(ValueError, match=r"mapping: \[2\] must increase from 3 to 3"):
            map_layers(two_stages(2, 2), two_stages(0, 1), images(), mapping=[0, 2, 5])


def test_stacking_beside_an_empty_group():
    deep, shallow = two_stages(2, 1), two_stages(0, 1, 4, seed=1)
    for variant in ("only", "average", "transport", "add"):
        assert run(stack(deep, shallow, images(), variant), images()).isfinite().all()


def test_idle_blocks_do_not_merge():
    found = map_layers(two_stages(2, 1), two_stages(0, 1), images())
    with pytest.raises(ValueError, match=r"^only linear layers merge, not 2.inside.0, 2.inside.2, 3.inside.0"):
        merge_layers(found, images())


def test_a_block_that_clips_what_passes_by_is_refused():
    deep, shallow = (two_stages(*counts, block="relu", relu=False) for counts in ((2, 1), (0, 0)))
    with pytest.raises(ValueError, match="with layers added, the shallow one is off by"):
        fuse([deep, shallow], images())


def test_blocks_without_a_place_are_named():
    with pytest.raises(ValueError, match=r"nothing in the deep one stands beside 4.inside of the shallow one"):
        fuse([two_stages(2, 0), two_stages(0, 1)], images())
    first = nn.Sequential(Residual(conv(3, 3), nn.ReLU(), conv(3, 3)), *two_stages(0, 0)).double()
    with pytest.raises(ValueError, match=r"channels of 0.inside.2 cannot be moved: they meet the network's input"):
        fuse([first, two_stages(0, 0)], images())


def test_the_first_layer_that_differs_is_named():
    large, small = torchvision.models.mobilenet_v3_large, torchvision.models.mobilenet_v3_small
    message = (
        r"layers that differ are features\.2\.block\.0\.0 \(conv in stage 0\) and "
        r"features\.1\.block\.0\.0 \(depthwise in stage 1\)$"
    )
    with pytest.raises(ValueError, match=message):
        map_layers(large(num_classes=10), small(num_classes=10), pictures(4, 3, 32, 32))


def test_linear_layers_that_one_network_lacks_are_named():
    deep, shallow = two_stages(1, 1), two_stages(0, 0)
    longer = nn.Sequential(*[*deep][:-1], nn.Linear(6, 6), nn.ReLU(), deep[-1]).double()
    with pytest.raises(ValueError, match=r"layers that differ are 10 \(linear in stage 2\) and nothing$"):
        fuse([longer, shallow], images())


@pytest.mark.parametrize("width", [1 / 16, 1 / 8])
def test_a_resnet_without_the_first_stage(width):
    deep, shallow = plain("resnet34").double(), plain("resnet8", 1, width=width).double()
    found = map_layers(deep, shallow, images())
    assert [len(group.shallow) for group in found.alignments] == [1, 0, 1, 1, 1]
    assert gap(add_layers(found, images()), shallow, images()) == 0


def test_efficientnets():
    small = pictures(4, 3, 32, 32).double()
    nets = []
    for seed, build in enumerate((torchvision.models.efficientnet_b1, torchvision.models.efficientnet_b0)):
        torch.manual_seed(seed)
        model = build(num_classes=10).double()
        update_bn(model, small + 1)
        nets.append(eval_chain(model, small))
    found, shallow = map_layers(*nets, small), nets[1].model
    empty = [[block.name for block in group.deep] for group in found.alignments if not group.shallow]
    assert empty == [["features.1.1.block"], ["features.7.1.block"]]
    assert gap(add_layers(found, small), shallow, small) == 0
    anew = copy.deepcopy(shallow)
    update_bn(anew, small)
    assert gap(anew, shallow, small) > 1e-3
    assert gap(fuse(nets, small, step=1.0), anew, small) < 1e-12
    assert run(fuse(nets, small), small).isfinite().all()
