"""What feature crossover adds to a training step, with the support's features worked out once and run every time."""

from collections.abc import Iterator

import torch

from benchmarks.harness import Bar, milliseconds, within
from hetlib import zoo
from hetlib.data import Images
from hetlib.tlv import Crossover, support_features
from hetlib.training import Recipe, fit

BATCH, STEPS = 128, 3
RECIPE = Recipe(epochs=1, batch_size=BATCH, optimiser="adamw", lr=1e-4, augment=False)


def run() -> Iterator[Bar]:
    """Measure the bar: at most 5 % more CPU time for ResNet-18's step; and what running VGG16 in every step costs."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (BATCH * STEPS, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (len(pixels),), generator=generator)
    data = Images("random", "train", pixels, labels, tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)
    support = zoo.build("vgg16", width=0.5).eval()
    features = support_features(support, data)
    assert_same_step(support, data)
    plain, crossed = zoo.build("torchvision/resnet18"), zoo.build("torchvision/resnet18")
    without, cached, run_each_time = milliseconds(
        lambda: fit(plain, data, recipe=RECIPE),
        lambda: fit(crossed, data, recipe=RECIPE, objective=Crossover(None), rows=features),
        lambda: fit(crossed, data, recipe=RECIPE, objective=Crossover(support)),
        repeats=9,
    )
    name, bare = f"crossover in ResNet-18's step, {STEPS} steps of {BATCH} at 32x32", "without crossover"
    yield within(name, "features worked out once", bare, cached, without, 1.05)
    yield within(name, "half-width VGG16 run in every step", bare, run_each_time, without, 1.6)


def assert_same_step(support: torch.nn.Module, data: Images) -> None:
    """Assert that a batch loses as much with features worked out before as with the support run on the spot."""
    losses = []
    rows = support_features(support, data, precision="fp32")
    for how in ({"objective": Crossover(support, p=0.5)}, {"objective": Crossover(None, p=0.5), "rows": rows}):
        torch.manual_seed(0)
        losses += fit(zoo.build("torchvision/resnet18"), data, recipe=RECIPE.changed(precision="fp32"), **how).loss
    assert abs(losses[0] - losses[1]) < 1e-5 * losses[0], f"losses {losses} differ"
