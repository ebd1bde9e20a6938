"""What fusion cannot move is told by name, and plain references agree where the released vectors are silent."""

from itertools import combinations, pairwise

import numpy as np
import ot
import pytest
import torch
from torch import nn

from hetlib import data, zoo
from hetlib.chain import chain
from hetlib.clafusion import add_layers, fuse, layer_costs, map_layers, merge_layers, transfer
from hetlib.clafusion.hmt_variants import partners, stack
from hetlib.merging import update_bn

X = torch.randn(30, 1, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def perceptron(*hidden, seed=0, bias=False, inputs=8):
    torch.manual_seed(seed)
    return zoo.build("mlp", 10, 1, hidden=hidden, in_features=inputs, bias=bias).double()


def weights(model):
    return [layer.module.weight.detach() for layer in chain(model).layers]


def outputs(ws):
    values, h = [], X.flatten(1)
    for w in ws:
        values.append(h @ w.T)
        h = values[-1].relu()
    return values


def plain_fusion(ours, theirs, step, by_weights, last):
    """OTFusion written out, with the released code's correction; bias-free perceptrons."""
    transport, fused = None, []
    for i, (w0, w1, a0, a1) in enumerate(zip(ours, theirs, outputs(ours), outputs(theirs), strict=True)):
        moved = w0 if transport is None else w0 @ transport
        if last or i < len(ours) - 1:
            cost = torch.cdist(moved, w1) if by_weights else torch.cdist(a0.T, a1.T)
            n, m = cost.shape
            plan = torch.from_numpy(ot.emd(np.ones(n) / n, np.ones(m) / m, cost.numpy()))
            transport = plan / (plan.sum(0) + 1e-7)
            moved = transport.T @ moved
        fused.append((1 - step) * moved + step * w1)
    return fused


def plain_merge(ws, kept, relu):
    acts, factor, merged = outputs(ws), None, []
    for i, w in enumerate(ws):
        w = w if factor is None else w @ factor
        if i in kept or i == len(ws) - 1:
            merged.append(w)
            factor = None
            continue
        active = (acts[i] > 0).double().mean(0)
        diagonal = {"sum": (acts[i].sum(0) >= 0).double(), "majority": (active >= 0.5).double(), "average": active}
        factor = diagonal[relu][:, None] * w
    return merged


def close(mine, reference):
    for one, other in zip(mine, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [((7, 6, 5), (7, 6, 5)), ((12, 9, 6), (7, 6, 4)), ((7, 6, 4), (12, 9, 6))])
@pytest.mark.parametrize("by", ["activations", "weights"])
@pytest.mark.parametrize("last", [True, False])
def test_perceptrons_fuse_as_written_out(hidden, by, last):
    one, other = perceptron(*hidden[0], seed=1), perceptron(*hidden[1], seed=2)
    fused = fuse([one, other], X, step=0.3, by=by, last=last)
    close(weights(fused), plain_fusion(weights(one), weights(other), 0.3, by == "weights", last))


@pytest.mark.parametrize("relu", ["sum", "majority", "average"])
def test_merging_as_written_out(relu):
    deep, shallow = perceptron(9, 8, 7, 6, 4, seed=5), perceptron(9, 7, 5, seed=6)
    for taken in combinations(range(5), 3):
        merged = plain_merge(weights(deep), taken, relu)
        found = map_layers(deep, shallow, X, mapping=taken, pins=(0, 0))
        close(weights(merge_layers(found, X, relu)), merged)
        fused = fuse([deep, shallow], X, balance="merge", relu=relu, mapping=taken, pins=(0, 0), last=True)
        close(weights(fused), plain_fusion(merged, weights(shallow), 0.5, False, True))


def test_layer_costs_as_written_out():
    deep, shallow = perceptron(9, 8, 7, 6, 4, seed=5), perceptron(9, 7, 5, seed=6)
    ours, theirs = outputs(weights(deep))[:-1], outputs(weights(shallow))[:-1]
    even = lambda a: np.full(a.shape[1], 1 / a.shape[1])
    moved = [[ot.emd2(even(a), even(b), torch.cdist(a.T, b.T).numpy()) for b in theirs] for a in ours]
    torch.testing.assert_close(
        layer_costs(deep, shallow, X, "wasserstein")[0], torch.tensor(moved, dtype=torch.float64)
    )
    places = torch.arange(5.0)[:, None] - torch.arange(3.0)
    torch.testing.assert_close(layer_costs(deep, shallow, X, "index")[0], places.square().double())


def test_stacked_layers_are_those_of_the_released_map():
    deep, shallow = (zoo.build(name, 10, width=1 / 32, bn=False, bias=False) for name in ("resnet34", "resnet18"))
    images = torch.randn(4, 3, 16, 16)
    found = map_layers(deep, shallow, images)
    convolutions = [layer.name for layer in found.deep.layers if layer.kind == "conv"]
    places = [convolutions.index(name) for name in partners(found)]
    assert places == [0, 1, 2, 5, 6, 7, 8, 13, 14, 15, 16, 25, 26, 27, 28, 31, 32]
    assert [convolutions.index(name) for name in partners(found, "chain")] == list(range(17))
    state = torch.get_rng_state()
    first, again, other = (stack(deep, shallow, images, order="random", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    same = lambda a, b: all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert same(first, again)
    assert not same(first, other)
    with pytest.raises(ValueError, match="no convolution"):
        stack(perceptron(5, 4), perceptron(5), X)


class Scaled(nn.Module):
    """A parameter of its own, in no layer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x):
        return x * self.scale.view(-1, 1, 1)


STRANGERS = {
    "GroupNorm": lambda: nn.GroupNorm(2, 8),
    "PReLU": lambda: nn.PReLU(8),
    "LayerNorm": lambda: nn.LayerNorm([8, 8, 8]),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(8, 8, 3, padding=1),
    "Scaled": Scaled,
    "channel_shuffle": lambda: nn.ChannelShuffle(2),
    "BatchNorm2d": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8)),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_cannot_be_moved_is_named(name):
    def network():
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), STRANGERS[name](), nn.ReLU(), *head)

    with pytest.raises(ValueError, match=rf"(?i){name.replace('_', '_?')}|mixes channels"):
        fuse([network(), network()], torch.randn(4, 3, 8, 8))


def test_depthwise_layers_that_cannot_follow_are_named():
    def network(first):
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(10)
        model = nn.Sequential(first, nn.ReLU(), nn.Conv2d(first.out_channels, 8, 1), nn.ReLU(), *head)
        model(torch.randn(1, 3, 8, 8))
        return model

    images = torch.randn(4, 3, 8, 8)
    for first in (nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 6, 3, groups=3)):
        with pytest.raises(ValueError, match=r"0 is (depthwise on the network's input|a grouped convolution)"):
            fuse([network(first), network(first)], images)


def test_merging_refuses_what_it_would_lose():
    deep, shallow = (
        nn.Sequential(
            nn.Flatten(),
            *(layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), norm(o), act())),
            nn.Linear(widths[-1], 10),
        ).double()
        for widths, norm, act in (((8, 7, 6, 5), nn.Identity, nn.Tanh), ((8, 7, 5), nn.Identity, nn.Tanh))
    )
    with pytest.raises(ValueError, match="no ReLU follows"):
        fuse([deep, shallow], X, balance="merge", mapping=(0, 2))
    normed = [
        nn.Sequential(nn.Flatten(), nn.Linear(8, 7), nn.BatchNorm1d(7), nn.ReLU(), *more, nn.Linear(7, 10)).double()
        for more in ((nn.Linear(7, 7), nn.ReLU()), ())
    ]
    with pytest.raises(ValueError, match="have a batch norm"):
        fuse(normed, X, balance="merge")


def test_merging_keeps_biases_under_a_classifier_without():
    deep = perceptron(7, 6, 5, bias=True)
    deep.fc4.bias = None
    shallow = perceptron(7, 6, bias=True, seed=1)
    shallow.fc3.bias = None
    with torch.no_grad():
        for name in ("fc1", "fc2", "fc3"):  # no ReLU clips anything, so merging is exact
            layer = deep.get_submodule(name)
            layer.weight.abs_()
            layer.bias.fill_(3)
    images = X.abs()
    merged = merge_layers(map_layers(deep, shallow, images, mapping=(0, 1), pins=(0, 0)), images)
    torch.testing.assert_close(merged(images), deep(images))


def test_an_inserted_batch_norm_stays_an_identity_when_statistics_are_renewed():
    torch.manual_seed(0)
    deep, shallow = (zoo.build(name, 10, width=1 / 8) for name in ("vgg13", "vgg11"))
    images = torch.randn(32, 3, 32, 32)
    for model in (deep, shallow):
        update_bn(model, images)
        model.eval()
    balanced = add_layers(map_layers(deep, shallow, images), images).eval()
    with torch.no_grad():
        torch.testing.assert_close(balanced(images), shallow(images), rtol=1e-3, atol=1e-4)
        update_bn(balanced, images)
        # Batches are normalised by variances over n, running ones are over n - 1: with 128 values 0.4 % remain.
        torch.testing.assert_close(balanced(images), shallow(images), rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(
            fuse([deep, shallow], images, step=1.0)(images), shallow(images), rtol=1e-2, atol=1e-3
        )


def test_pins_that_leave_no_map_are_refused():
    deep, shallow = perceptron(9, 8, 7, 6, 4), perceptron(9, 7, 5)
    with pytest.raises(ValueError, match=r"3 units from fc1 on into 5 from fc1 on: no map keeps the pins \(2, 2\)"):
        fuse([deep, shallow], X, pins=(2, 2))


def test_images_of_another_size_are_told():
    one, other = perceptron(9, 8, 7), perceptron(9, 8, seed=1)
    with pytest.raises(ValueError, match=r"network 1 does not take images of shape \(1, 3, 3\)"):
        fuse([one, other], torch.randn(5, 1, 3, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"fc1.weight of network 2 is torch.float32"):
        fuse([one, other.float()], X)


def test_reports_name_where_layers_come_from():
    images = data.load("digits").subset(range(40))
    make = lambda hidden: zoo.build("mlp", 10, 1, hidden=hidden, in_features=64, bias=False)
    source, target = make((9, 8, 7)), make((9, 9, 8, 8, 7))
    report = transfer([source], target, images, samples=20, mapping=(0, 2, 4))
    assert {row.target: row.source for row in report if row.source} == {
        "fc1": "fc1",
        "fc3": "fc2",
        "fc5": "fc3",
        "fc6": "fc4",
    }
    deep = make((9, 9, 8, 8, 7))
    with pytest.warns(UserWarning, match="the deepest is taken for the first"):
        report = transfer([source, deep], make((9, 9, 8, 8, 7)), images, samples=20, mapping=(0, 2, 4))
    assert [row.source for row in report] == [f"fc{i}" for i in range(1, 7)]
    report = transfer([deep, source], make((9, 8, 7)), images, samples=20, balance="merge", mapping=(0, 2, 4))
    assert not report.matched
    with pytest.raises(ValueError, match=r"fc1.weight: the result has \(9, 64\), the target \(5, 64\)"):
        transfer([deep, source], make((5, 9, 8, 8, 7)), images, samples=20, mapping=(0, 2, 4))
    small = [zoo.build(name, 12, width=1 / 32, bn=False, bias=False) for name in ("resnet34", "resnet18", "resnet34")]
    shapes = data.load("shapes-target", count=48)
    report = transfer(small[:2], small[2], shapes, samples=4, hmt="only", order="chain")
    assert len(report.matched) == 17
    assert report.method == "HMT, only"


def test_layers_that_say_nothing_or_nonsense_are_named():
    deep, shallow = perceptron(9, 8, 7, 6, seed=1), perceptron(9, 7, seed=2)
    with torch.no_grad():
        deep.fc3.weight.zero_()
        with pytest.warns(UserWarning, match="fc3 puts out the same for all images"):
            costs = layer_costs(deep, shallow, X)[0]
        assert costs[2].eq(1).all()
        deep.fc2.weight.fill_(1e308)
    with pytest.raises(ValueError, match="fc2 puts out NaN or infinity"):
        layer_costs(deep, shallow, X, "wasserstein")
    with pytest.raises(ValueError, match="at least 4 are needed"):
        layer_costs(deep, shallow, X[:3], "debiased")
