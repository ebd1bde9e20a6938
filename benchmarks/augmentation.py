"""Random crop and flip of a batch in one gather, beside one image after the other and beside torchvision on PIL."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Bar, faster, milliseconds, within
from hetlib.data import augment, normalise

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
PAD = 4
BATCH = 128


def run() -> Iterator[Bar]:
    """Measure both bars.

    Against torchvision on PIL, 8.7x was measured first and 9x since; the bar is at about half, so that a noisy machine
    does not flap. Against slices of tensors nothing is gained on a CPU, where an operation costs a microsecond: that
    bar only says that nothing much is lost. What the gather saves there is launches on a GPU (`tests/test_counts.py`).
    """
    images = torch.randint(256, (8 * BATCH, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert_equal(images)
    batches, pictures = images.split(BATCH), to_pil(images)
    generator, transform = torch.Generator().manual_seed(0), plain_transform()
    ours, one_by_one = milliseconds(
        lambda: [augment(batch, generator) for batch in batches],
        lambda: [crop_and_flip(batch, draws(len(batch), generator)) for batch in batches],
    )
    pipeline, pil = milliseconds(
        lambda: [normalise(augment(batch, generator), MEAN, STD) for batch in batches],
        lambda: [torch.stack([transform(p) for p in pictures[i : i + BATCH]]) for i in range(0, len(images), BATCH)],
    )
    name = f"of {len(images)} images at 32x32"
    yield within(
        f"crop and flip {name}", "one gather a batch", "a loop of tensor slices", ours, one_by_one, at_most=1.5
    )
    yield faster(f"crop, flip, normalise {name}", "one gather a batch", "torchvision on PIL", pipeline, pil, at_least=4)


def assert_equal(images: Tensor) -> None:
    """Assert that `augment` and `normalise` give what a loop, and torchvision on PIL, give for the same draws."""
    from torchvision.transforms import functional as tf

    ours = augment(images, torch.Generator().manual_seed(1), PAD)
    chosen = draws(len(images), torch.Generator().manual_seed(1))
    assert torch.equal(ours, crop_and_flip(images, chosen))
    theirs = []
    for picture, top, left, flip in zip(to_pil(images), *chosen, strict=True):
        crop = tf.crop(tf.pad(picture, [PAD]), top, left, *images.shape[2:])
        theirs.append(tf.normalize(tf.to_tensor(tf.hflip(crop) if flip else crop), MEAN, STD))
    assert torch.equal(normalise(ours, MEAN, STD), torch.stack(theirs))


def draws(n: int, generator: torch.Generator) -> tuple[list[int], list[int], list[int]]:
    """Top, left and flip of every image, drawn as `augment` draws them."""
    top, left = torch.randint(2 * PAD + 1, (2, n), generator=generator).tolist()
    return top, left, torch.randint(2, (n,), generator=generator).tolist()


def crop_and_flip(images: Tensor, chosen: tuple[list[int], list[int], list[int]]) -> Tensor:
    """Pad, crop and mirror one image after the other."""
    height, width = images.shape[2:]
    padded = torch.nn.functional.pad(images, (PAD, PAD, PAD, PAD))
    out = torch.empty_like(images)
    for i, (top, left, flip) in enumerate(zip(*chosen, strict=True)):
        crop = padded[i, :, top : top + height, left : left + width]
        out[i] = crop.flip(-1) if flip else crop
    return out


def to_pil(images: Tensor) -> list:
    """As torchvision's data sets keep and return images."""
    from PIL import Image

    return [Image.fromarray(picture) for picture in np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())]


def plain_transform():
    """The transform of HMT's released training scripts, and of most others for CIFAR."""
    from torchvision import transforms

    steps = (transforms.RandomCrop(32, PAD), transforms.RandomHorizontalFlip())
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
