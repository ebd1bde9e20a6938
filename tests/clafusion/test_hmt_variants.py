"""HMT's copy between networks of different depth."""

import pytest
import torch

from hetlib import zoo
from hetlib.chain import chain
from hetlib.clafusion import Align
from hetlib.clafusion.hmt_variants import InOrder, stack
from hetlib.transfer import Context, Pair
from tests.clafusion.plain import X, perceptron


def test_stacked_layers_are_those_of_the_released_map():
    deep, shallow = (zoo.build(name, 10, width=1 / 32, bn=False, bias=False) for name in ("resnet34", "resnet18"))
    images = torch.randn(4, 3, 16, 16)
    convolutions = [layer.name for layer in chain(deep).layers if layer.kind == "conv"]
    for match, wanted in (
        (Align(convolutions=True), [0, 1, 2, 5, 6, 7, 8, 13, 14, 15, 16, 25, 26, 27, 28, 31, 32]),
        (InOrder(), list(range(17))),
    ):
        pairs = match(Context(shallow, deep, images))
        assert [convolutions.index(pair.target) for pair in pairs] == wanted
        assert match(Context(deep, shallow, images)) == [Pair(pair.source, pair.target) for pair in pairs]
    state = torch.get_rng_state()
    first, again, other = (stack(deep, shallow, images, order="random", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    same = lambda a, b: all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert same(first, again)
    assert not same(first, other)
    with pytest.raises(ValueError, match="no convolution"):
        stack(perceptron(5, 4), perceptron(5), X)
