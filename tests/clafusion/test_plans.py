"""Transport plans against permutations that are known."""

import copy

import pytest
import torch

from hetlib.chain import chain
from hetlib.clafusion import (
    fuse_weights,
    neuron_plans,
)
from tests.clafusion.networks import digits, mlp


def test_plans_are_the_permutation():
    model, images = mlp(12, 9), digits()
    other = copy.deepcopy(model)
    state, order = other.state_dict(), torch.randperm(12, generator=torch.Generator().manual_seed(3))
    next(group for group in chain(other).axes if group.size == 12).permute_(state, order)
    other.load_state_dict(state)
    first, second = neuron_plans(model, other, images)
    assert torch.equal(first.argmax(0), order)
    assert torch.equal(second, torch.eye(9) / 9)


def test_plans_need_equal_depth():
    with pytest.raises(ValueError, match="balance them first"):
        neuron_plans(mlp(12, 9, 7), mlp(10, 6), digits())
    with pytest.raises(ValueError, match="3 and 2 weights, 2 plans: balance"):
        fuse_weights([torch.eye(3)] * 3, [torch.eye(3)] * 2, [torch.eye(3)] * 2)
