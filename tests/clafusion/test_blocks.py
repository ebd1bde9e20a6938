"""What fusion cannot move is refused by name."""

import pytest
import torch
from torch import nn

from hetlib.clafusion import (
    fuse,
    neuron_plans,
)
from tests.clafusion.networks import pictures


class Scaled(nn.Module):
    """A parameter of its own, in no layer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x):
        return x * self.scale.roll(1).view(-1, 1, 1)


STRANGERS = {
    "LayerNorm": lambda: nn.LayerNorm([8, 8, 8]),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(8, 8, 3, padding=1),
    "Scaled": Scaled,
    "pixel_shuffle": lambda: nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2)),
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
        with pytest.raises(ValueError, match="channels of 0 cannot be moved: they meet the network's input"):
            fuse([network(first), network(first)], images)


class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.first(x).relu().flip(1)
        return self.head(self.second(x).relu().mean((2, 3)))


def test_channels_that_the_forward_rearranges_are_refused():
    with pytest.raises(ValueError, match=r"the channels of first cannot be moved: .*flip"):
        neuron_plans(Turned(), Turned(), pictures(20, 3, 16, 16))
