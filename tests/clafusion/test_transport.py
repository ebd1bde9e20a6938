"""Neurons moved onto others: the function stays where it can."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib.chain import chain
from hetlib.clafusion import (
    add_layers,
    fuse,
    map_layers,
    transport_neurons,
)
from tests.clafusion.networks import digits, gap, mlp


def test_a_moved_network_of_equal_widths_computes_the_same():
    deep, shallow, images = mlp(10, 10, 6), mlp(10, 6, seed=1), digits()
    balanced = add_layers(map_layers(deep, shallow, images, mapping=[0, 2]))
    assert gap(transport_neurons(deep, balanced, images), deep, images) < 1e-5


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
