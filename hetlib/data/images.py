"""Labelled images as tensors: they stay uint8 on one device; crops and flips are one batched gather."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf

import numpy as np
import torch
from torch import Tensor

from hetlib.checks import check_sequence
from hetlib.errors import finite_numbers, known, of_kind, positive, seed_of, shown, whole
from hetlib.files import checksum

HAS = ("no", "yes")
"""The classes of a task that asks for one attribute."""


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images on one device.

    Attributes
    ----------
    name, split : str
        What was loaded.
    images : Tensor
        uint8, (n, channels, height, width).
    labels : Tensor
        int64, (n,), from 0 to `num_classes` - 1.
    classes : tuple of str
        The name of each label.
    mean, std : tuple of float
        Per channel, of pixels scaled to [0, 1]; what `normalise` takes.
    tasks : mapping of str to tuple of str
        For every task its classes; together all classes, in their order. Empty where classes are not divided.
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self):
        if not hasattr(self.images, "shape") or len(self.images.shape) != 4:  # a folder's are not in memory
            raise ValueError(f"images must be uint8 and (n, channels, height, width), got {shown(self.images)}")
        if isinstance(self.images, Tensor) and self.images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8, as `normalise` takes them, got {shown(self.images)}")
        of_kind("labels", self.labels, Tensor)
        whole = not (self.labels.is_floating_point() or self.labels.is_complex() or self.labels.dtype == torch.bool)
        if not whole or self.labels.shape[:1] != self.images.shape[:1]:
            raise ValueError(f"labels must be {len(self.images)} whole numbers (int64), got {shown(self.labels)}")
        check_sequence("classes", self.classes, "names")
        for title in self.classes:
            of_kind("classes: each name", title, str)
        for name, values, above in (("mean", self.mean, -inf), ("std", self.std, 0)):
            if len(finite_numbers(name, values, above=above)) not in (1, self.images.shape[1]):
                raise ValueError(f"{name} must have one number per channel, of {self.images.shape[1]}: {values}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"{type(self).__name__}({self.name}/{self.split}: {len(self)} of {size}, {self.num_classes} classes)"

    @property
    def num_classes(self) -> int:
        """How many labels there are."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over pixels and labels: two data sets are the same when this is."""
        return checksum({"images": self.images, "labels": self.labels})

    def to(self, device: torch.device | str) -> "Images":
        """The same data on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The images at `indices`, uint8; changed at random (see `augment`) if there is a generator to draw from."""
        return self.images[indices] if generator is None else augment(self.images[indices], generator)

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> "Images":
        """The images at `indices`, in that order, with all class names kept; see `positions`."""
        index = positions(indices, len(self)).to(self.images.device)
        return replace(self, images=self.images[index], labels=self.labels[index])

    def scored(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What a network's answers to some images are scored by: rows of logits, and the right column of each.

        Where classes are divided into tasks, those of other tasks than an image's own do not count.
        """
        if not self.tasks:
            return logits, labels
        sizes = torch.tensor([len(titles) for titles in self.tasks.values()], device=labels.device)
        task = torch.arange(len(sizes), device=labels.device).repeat_interleave(sizes)
        return logits.masked_fill(task != task[labels].unsqueeze(1), -torch.inf), labels


@dataclass(frozen=True, eq=False)
class AttributeImages(Images):
    """Images with several labels each: for every attribute, whether the image has it.

    Attributes
    ----------
    labels : Tensor
        int64, (n, attributes), 1 where an image has an attribute and 0 where not.
    classes : tuple of str
        The name of each attribute, in the order of the columns. Each is a task of the classes "no" and "yes".
    """

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "tasks", dict.fromkeys(self.classes, HAS))

    def __repr__(self) -> str:
        whole = super().__repr__()
        return whole.replace(f"{self.num_classes} classes)", f"{len(self.attributes)} attributes)")

    @property
    def num_classes(self) -> int:
        """How many logits a network gives of an image: for each attribute one for no and one for yes."""
        return 2 * len(self.classes)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The name of each attribute."""
        return self.classes

    def keep(self, names: Sequence[str]) -> "AttributeImages":
        """The same images with some of the attributes, in the given order; ValueError for one that is not there."""
        columns = torch.tensor([self._column(name) for name in names], device=self.labels.device)
        return replace(self, labels=self.labels[:, columns], classes=tuple(names))

    def task(self, name: str) -> Images:
        """The same images with a single label each, whether they have one attribute; raises as `keep`."""
        column = self.labels[:, self._column(name)]
        return Images(self.name, self.split, self.images, column, HAS, self.mean, self.std)

    def scored(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Every attribute of every image counts: its two logits are a row."""
        return logits.unflatten(1, (labels.shape[1], -1)).flatten(0, 1), labels.flatten()

    def _column(self, name: str) -> int:
        known(f"attribute of {self.name}", name, self.classes)
        return self.classes.index(name)


def positions(given: Tensor | np.ndarray | Sequence[int], count: int) -> Tensor:
    """Positions among so many images as int64: whole numbers as they are, or where a mask is true.

    Raises
    ------
    ValueError
        For fractions, numbers outside 0 to `count` - 1, a mask of another length, or more than one axis.
    """
    if not isinstance(given, Tensor | np.ndarray):
        check_sequence("indices of images", given, "whole numbers, or a mask")
        if any(isinstance(each, str | Iterable) for each in given):
            raise ValueError(f"indices of images are whole numbers on one axis, or a mask, got {shown(given)}")
    index = torch.as_tensor(given)
    if index.dim() != 1:
        raise ValueError(f"indices of images have one axis, got shape {tuple(index.shape)}")
    if index.dtype == torch.bool:
        if len(index) != count:
            raise ValueError(f"a mask of {len(index)} does not say which of {count} images are meant")
        return index.nonzero().flatten()
    if not len(index):
        return index.to(torch.int64)
    if index.is_floating_point() or index.is_complex():
        raise ValueError(f"indices of images are whole numbers or a mask, got {index.dtype}")
    low, high = (int(end) for end in index.aminmax())
    if low < 0 or high >= count:
        raise ValueError(f"indices from {low} to {high} do not all stand for one of {count} images, 0 to {count - 1}")
    return index.to(torch.int64)


def augment(images: Tensor, generator: torch.Generator, pad: int = 4, flip: bool = True) -> Tensor:
    """Crop every image at its own random place after padding with zeros, and mirror half of them.

    The whole batch is gathered at once from overlapping windows of the padded batch, which is the same, pixel for
    pixel, as padding, cropping and flipping one image after the other.

    Parameters
    ----------
    images : Tensor
        (n, channels, height, width), any type, any device.
    generator : torch.Generator
        Where the random numbers come from; the same state gives the same crops on any device.
    pad : int
        Pixels of zeros on each side; the crop keeps the image's size. 0 leaves images where they are.
    flip : bool
        Mirror left to right with probability 1/2.

    Returns
    -------
    Tensor
        Like `images`, in new memory.
    """
    of_kind("images", images, Tensor)
    if images.ndim != 4:
        raise ValueError(f"images must be (n, channels, height, width), got {shown(images)}")
    pad = whole("pad", pad, 0)
    n, _, height, width = images.shape
    own = generator.device
    top, left = torch.randint(2 * pad + 1, (2, n), generator=generator, device=own).to(images.device)
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    crops = windows[torch.arange(n, device=images.device), :, top, left]
    if not flip:
        return crops
    mirrored = torch.randint(2, (n, 1, 1, 1), generator=generator, device=own).to(images.device, torch.bool)
    return torch.where(mirrored, crops.flip(-1), crops)


def normalise(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Tensor:
    """Scale uint8 pixels to [0, 1], subtract `mean` and divide by `std`, channel by channel.

    The arithmetic is torchvision's (`ToTensor`, `Normalize`) in float32, rounded once when `dtype` is narrower.

    Parameters
    ----------
    images : Tensor
        uint8, (n, channels, height, width).
    mean, std : sequence of float
        One per channel, in units of [0, 1].
    dtype : torch.dtype
        Type of the result.
    memory_format : torch.memory_format
        Layout of the result; changing it in the same step as the type saves a pass over memory.

    Returns
    -------
    Tensor
        (n, channels, height, width).
    """
    mean, std = finite_numbers("mean", mean), finite_numbers("std", std, above=0)
    if not {len(mean), len(std)} <= {1, images.shape[1]}:
        raise ValueError(f"mean {mean} and std {std} must have one number per channel, of {images.shape[1]}")
    centre, spread = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (mean, std))
    return (images / 255).sub_(centre).div_(spread).to(dtype, memory_format=memory_format)


def sample(data: Images, count: int = 200, seed: int = 21) -> Tensor:
    """Draw the images that layers and neurons are compared on: normalised, not augmented, float32.

    Parameters
    ----------
    data : Images
        The training images.
    count : int
        How many, without repetition; all if there are no more.
    seed : int
        Of the draw. 21 is the number of the released runs, whose images, drawn with augmentation, are others.

    Returns
    -------
    Tensor of shape (count, channels, height, width)
    """
    of_kind("data", data, Images)
    positive("count, how many images to draw,", count)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed_of(seed)))[:count]
    return normalise(data.images[order.to(data.images.device)], data.mean, data.std)
