"""The average of networks of one shape, and batch norm statistics taken anew."""

import pytest
from torch import nn

from hetlib.merging import update_bn
from tests.clafusion.networks import pictures, settled


def test_statistics_that_cannot_be_taken_leave_the_momentum():
    model = settled("resnet18")
    with pytest.raises(ValueError, match="from 1 images"):
        update_bn(model, pictures(1, 3, 8, 8))
    assert all(norm.momentum == 0.1 for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))
