"""An epoch of ResNet-20 at 32x32 with crop and flip, beside the DataLoader, PIL and fp32 loop of the releases."""

from collections.abc import Iterator
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.augmentation import MEAN, STD, assert_equal, plain_transform, to_pil
from benchmarks.harness import Bar, faster, has_matrix_units, milliseconds
from hetlib import zoo
from hetlib.data import Images
from hetlib.training import Recipe, fit

BATCH, STEPS = 128, 5
RECIPE = Recipe(epochs=1, batch_size=BATCH, schedule="constant", lr=0.1, momentum=0.9, weight_decay=5e-4)


class Pictures(Dataset):
    """PIL images transformed one at a time, as torchvision's data sets do it."""

    def __init__(self, data: Images, transform):
        self.pictures, self.labels, self.transform = to_pil(data.images), data.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def run() -> Iterator[Bar]:
    """Measure the bar: at least 1.2 times the images per CPU second, at least twice with bf16 matrix units."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (BATCH * STEPS, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (len(images),), generator=generator)
    data = Images("random", "train", images, labels, tuple("0123456789"), MEAN, STD)
    assert_equal(images[:BATCH])
    assert_same_training(data.subset(range(3 * BATCH)))
    model, plain = zoo.build("resnet20"), zoo.build("resnet20")
    pictures = Pictures(data, plain_transform())
    times = fast, slow = milliseconds(
        lambda: fit(model, data, recipe=RECIPE),
        lambda: plain_epoch(plain, DataLoader(pictures, BATCH, shuffle=True, num_workers=0)),
        repeats=5,
    )
    ours, theirs = (f"{len(images) / time * 1e3:.0f} images per CPU-second" for time in times)
    name = f"ResNet-20 at 32x32, {STEPS} steps of {BATCH}"
    bar = 2.0 if has_matrix_units() else 1.2
    yield faster(name, f"fit: {ours}", f"DataLoader, PIL, fp32: {theirs}", fast, slow, bar)


def plain_epoch(model: nn.Module, loader: DataLoader) -> float:
    """One epoch as the released codes train; gives the mean loss."""
    optimiser = torch.optim.SGD(model.parameters(), RECIPE.lr, RECIPE.momentum, weight_decay=RECIPE.weight_decay)
    model.train()
    total, seen = 0.0, 0
    for images, labels in loader:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
        total += loss.item() * len(labels)
        seen += len(labels)
    return total / seen


def assert_same_training(data: Images) -> None:
    """Assert that both loops end in the same loss and weights, for the same order and without augmentation.

    The networks compute in float64: in float32 a few steps amplify rounding, which differs between memory layouts, to
    percents of the way the weights went, and that would hide a wrong step.
    """
    from torchvision import transforms

    start = zoo.build("resnet20").double()
    start.register_forward_pre_hook(lambda model, inputs: inputs[0].double())
    ours, plain = deepcopy(start), deepcopy(start)
    history = fit(ours, data, recipe=RECIPE, augment=False, precision="fp32", seed=0)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    loss = plain_epoch(plain, DataLoader(Pictures(data, transform), BATCH, sampler=order))
    torch.testing.assert_close(history.loss[0], loss, rtol=1e-6, atol=0)
    for (name, found), expected in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-10), f"{name} went another way"
