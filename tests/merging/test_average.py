"""The average of networks of one shape, and batch norm statistics taken anew."""

import pytest
import torch
from torch import nn

from hetlib.merging import average, repair, update_bn
from tests.clafusion.networks import pictures, settled


def test_statistics_that_cannot_be_taken_leave_the_momentum():
    model = settled("resnet18")
    with pytest.raises(ValueError, match="from 1 images"):
        update_bn(model, pictures(1, 3, 8, 8))
    assert all(norm.momentum == 0.1 for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))


class TwoHeads(nn.Module):
    """An auxiliary head runs only when it is asked for."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x, aside=False):
        return (self.other if aside else self.norm)(self.conv(x))


def test_norms_that_no_image_passes_keep_their_statistics():
    model, images = TwoHeads(), pictures(20, 3, 8, 8)
    model(images * 3 + 1, aside=True)
    before = {name: buffer.clone() for name, buffer in model.other.named_buffers()}
    update_bn(model, images)
    assert int(model.norm.num_batches_tracked) == 1
    for name, buffer in model.other.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_statistics_that_cannot_be_taken_stay():
    model = settled("resnet18")
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with pytest.raises(ValueError, match="from 1 images"):
        update_bn(model, pictures(1, 3, 8, 8))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_statistics_of_single_images_are_refused_by_name():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True))
    with pytest.raises(ValueError, match=r"^1 \(InstanceNorm2d\) keeps running statistics"):
        average([model, model], torch.randn(4, 3, 8, 8))
    with pytest.raises(ValueError, match=r"^1 \(InstanceNorm2d\) keeps running statistics"):
        repair(model, [model], torch.randn(4, 3, 8, 8))
