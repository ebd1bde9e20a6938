"""HMT's copy between networks of different depth."""

import pytest
import torch

from hetlib import zoo
from hetlib.clafusion import (
    map_layers,
)
from hetlib.clafusion.hmt_variants import partners, stack
from tests.clafusion.plain import X, perceptron


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
