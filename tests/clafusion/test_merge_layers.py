"""Merged layers as written out, and exact where no ReLU clips."""

from itertools import combinations, pairwise

import pytest
import torch
from torch import nn

from hetlib.chain import chain
from hetlib.clafusion import (
    fuse,
    map_layers,
    merge_layers,
)
from tests.clafusion.networks import digits, mlp, pictures, plain, run
from tests.clafusion.plain import X, close, perceptron, plain_fusion, plain_merge, weights


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


def test_only_linear_layers_merge():
    with pytest.raises(ValueError, match="only linear layers merge"):
        fuse([plain("vgg13"), plain("vgg11")], pictures(2, 3, 32, 32), balance="merge")


@pytest.mark.parametrize("relu", ["sum", "majority", "average"])
def test_merging_as_written_out(relu):
    deep, shallow = perceptron(9, 8, 7, 6, 4, seed=5), perceptron(9, 7, 5, seed=6)
    for taken in combinations(range(5), 3):
        merged = plain_merge(weights(deep), taken, relu)
        found = map_layers(deep, shallow, X, mapping=taken, pins=(0, 0))
        close(weights(merge_layers(found, X, relu)), merged)
        fused = fuse([deep, shallow], X, balance="merge", relu=relu, mapping=taken, pins=(0, 0), last=True)
        close(weights(fused), plain_fusion(merged, weights(shallow), 0.5, False, True))


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
