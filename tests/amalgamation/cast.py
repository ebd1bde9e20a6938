"""What the tests of this folder play with: tiny images with attributes, and tiny networks."""

from copy import deepcopy
from functools import cache

import torch
from torch import nn

from hetlib import zoo
from hetlib.amalgamation import Source, train_source
from hetlib.data import AttributeImages
from hetlib.training import Recipe

NAMES = ("Bangs", "Blurry", "Young", "Male")
RECIPE = Recipe(
    epochs=2,
    batch_size=16,
    optimiser="adamw",
    lr=3e-3,
    weight_decay=0.0,
    schedule="constant",
    augment=False,
    precision="fp32",
)
"""Of students."""


def images(count=48, size=8, seed=0, split="train"):
    """Noise on which each attribute brightens a corner of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count, len(NAMES)), generator=generator)
    pixels = torch.randint(100, (count, 3, size, size), generator=generator)
    half = size // 2
    for number, (y, x) in enumerate(((0, 0), (0, half), (half, 0), (half, half))):
        pixels[:, :, y : y + half, x : x + half] += 80 * labels[:, number, None, None, None]
    return AttributeImages("corners", split, pixels.to(torch.uint8), labels, NAMES, (0.4,) * 3, (0.2,) * 3)


def net(outputs, seed=0, name="resnet8", width=0.125):
    """A network of four taps."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return zoo.build(name, outputs, width=width)


@cache
def trained():
    """Three sources, of which two know Bangs and two Young."""
    known = {"first": ("Bangs", "Blurry"), "second": ("Bangs", "Young", "Male"), "third": ("Young",)}
    recipe = Recipe(epochs=8, batch_size=50, lr=0.1, schedule="one-cycle", augment=False, precision="fp32")
    return [
        train_source(name, net(2 * len(tasks), seed), tasks, images(200), recipe)
        for seed, (name, tasks) in enumerate(known.items(), 1)
    ]


def pool():
    """Copies of the trained sources."""
    return [Source(source.name, deepcopy(source.network), source.tasks) for source in trained()]


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks hold the same numbers."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
