"""Data sets as tensors: images stay uint8 on one device, crops and flips are one batched gather.

`shapes-source` and `shapes-target` are rendered (`hetlib.shapes`) and `digits` comes with scikit-learn: those three
need no network and no file. The others are read from torchvision's folder layout (`hetlib.published`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hetlib import published, shapes
from hetlib.errors import unknown
from hetlib.files import checksum
from hetlib.parts import class_split as class_split  # these too
from hetlib.parts import few_shot as few_shot
from hetlib.parts import skill_split
from hetlib.published import DataMissing as DataMissing  # part of this module's interface

# As HMT's protocol normalises CIFAR-10 and CIFAR-100 alike.
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
OPTIONS = ("count", "seed", "noise", "clutter")
HELD_OUT = "-40k"
SKILLS = ("special", "general")
SPECIAL_LABEL = 4
RAW = "-raw"


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
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"Images({self.name}/{self.split}: {len(self)} of {size}, {self.num_classes} classes)"

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

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> "Images":
        """The images at `indices`, in that order, with all class names kept."""
        index = torch.as_tensor(indices, dtype=torch.int64, device=self.images.device)
        return replace(self, images=self.images[index], labels=self.labels[index])


def names() -> list[str]:
    """Every name that `load` knows."""
    cifar = ["cifar10", "cifar100", "sub-cifar100", "cifar10-40k", "cifar100-40k"]
    skills = [f"{whole}-{part}" for whole in ("digits", "mnist") for part in SKILLS]
    return ["shapes-source", "shapes-target", "digits", *cifar, "mnist", *skills, *(f"mnist-{p}{RAW}" for p in SKILLS)]


def splits(name: str) -> tuple[str, ...]:
    """The parts of a data set: "train" and "test", and for TLV's protocol "validation"."""
    return ("train", "validation", "test") if name.endswith(HELD_OUT) else ("train", "test")


def load(
    name: str,
    split: str = "train",
    root: str | os.PathLike | None = None,
    download: bool = False,
    **options: Any,
) -> Images:
    """Load a data set by name.

    Parameters
    ----------
    name : str
        One of `names()`. `sub-cifar100` is HMT's: 1,000 of CIFAR-100's training images and its whole test set.
        `cifar10-40k` and `cifar100-40k` are TLV's: 40,000 of the training images, and 10,000 held out.
        `mnist-special` and `mnist-general` are CLAFusion's (see `skill_split`, label 4); with `-raw`, pixels go from 0
        to 255, as its released code has them.
    split : {"train", "validation", "test"}
        Which part; "validation" of TLV's only.
    root : path-like, optional
        Folder in torchvision's layout; default `$HETLIB_DATA`, else `data`.
    download : bool
        Let torchvision download what is missing.
    **options
        For the two rendered sets, what `hetlib.shapes.render` takes: `count`, `seed`, `noise`, `clutter`.

    Returns
    -------
    Images
        On the CPU.

    Raises
    ------
    ValueError
        For an unknown name, split or option; the nearest valid ones are named.
    DataMissing
        If a file is missing; the message names it and says how to get it.
    DamagedFile
        If a file is not, byte for byte, the published one.
    """
    if name not in names():
        raise unknown("data set", name, names())
    if split not in splits(name):
        raise unknown(f"split of {name}", split, splits(name))
    rendered = name.startswith("shapes-")
    for option in options:
        if not rendered or option not in OPTIONS:
            raise unknown(f"option of {name}", option, OPTIONS if rendered else ["(none)"])
    if name.endswith(RAW):
        return replace(load(name.removesuffix(RAW), split, root, download), name=name, mean=(0.0,), std=(1 / 255,))
    whole, _, part = name.rpartition("-")
    if part in SKILLS:
        found = skill_split(load(whole, split, root, download), SPECIAL_LABEL)[SKILLS.index(part)]
        return replace(found, name=name)
    if rendered:
        return _shapes(name, split, **options)
    if name == "digits":
        return _digits(split)
    where, published_as = folder(root), name.removeprefix("sub-").removesuffix(HELD_OUT)
    if download:
        published.download(published_as, where)
    if name == "mnist":
        return Images(name, split, *published.mnist(where, split), (0.1307,), (0.3081,))
    file = "test" if split == "test" else "train"
    data = Images(name, split, *published.cifar(published_as, where, file), CIFAR_MEAN, CIFAR_STD)
    return data if file == "test" or name == published_as else data.subset(published.part(name, split))


def folder(root: str | os.PathLike | None = None) -> Path:
    """Where the published data sets are looked for: `root`, else `$HETLIB_DATA`, else `data`."""
    return Path(root or os.environ.get("HETLIB_DATA") or "data")


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
    centre, spread = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (mean, std))
    return (images / 255).sub_(centre).div_(spread).to(dtype, memory_format=memory_format)


def _shapes(name: str, split: str, **options: Any) -> Images:
    vocabulary = name.removeprefix("shapes-")
    images, labels = shapes.render(vocabulary, split, **options)
    return Images(name, split, images, labels, shapes.classes(vocabulary), shapes.MEAN, shapes.STD)


def _digits(split: str) -> Images:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    kept = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    index = kept[split == "test"]
    images = torch.from_numpy((pixels[index] * 255 / 16).round().astype(np.uint8)).view(-1, 1, 8, 8)
    return Images("digits", split, images, torch.from_numpy(labels[index]), tuple("0123456789"), (0.3053,), (0.3760,))
