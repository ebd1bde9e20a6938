"""Weights that follow plans, and shapes that do not fit."""

import pytest
import torch

from hetlib.clafusion import (
    fuse_weights,
)
from hetlib.clafusion.weights import transport_inputs, transport_outputs


def test_weights_whose_shapes_do_not_fit_the_plans():
    eye = torch.eye(3) / 3
    with pytest.raises(ValueError, match=r"layer 0: \(3, 4\) moves to \(3, 4\), not \(3, 5\)"):
        fuse_weights([torch.ones(3, 4)] * 2, [torch.ones(3, 5)] * 2, [eye])
    with pytest.raises(ValueError, match=r"shape \(2, 4\) does not take in 3"):
        transport_inputs(torch.ones(2, 4), [eye])
    with pytest.raises(ValueError, match=r"shape \(2, 4\) does not put out 3"):
        transport_outputs(torch.ones(2, 4), eye)
