"""Data sets as tensors: images stay uint8 on one device, crops and flips are one batched gather.

Real sets are read from torchvision's own folder layout, every file checked against its published md5 before it is
opened. `shapes-source` and `shapes-target` are rendered (`hetlib.shapes`), `digits` comes with scikit-learn: those
three need no network and no file.
"""

import hashlib
import os
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hetlib import shapes
from hetlib.errors import unknown
from hetlib.files import DamagedFile, checksum

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # as HMT's protocol normalises

CIFAR10 = {
    "train": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
    "names": {"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
}
CIFAR100 = {
    "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
    "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    "names": {"meta": "7973b15100ade9c7d40fb424638fde48"},
}
MNIST = {
    "train": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    },
    "test": {
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
}


class DataMissing(FileNotFoundError):
    """A data set's file is not there, and downloading was not allowed or failed."""


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
    return ["shapes-source", "shapes-target", "digits", "cifar10", "cifar100", "sub-cifar100", "mnist"]


def load(
    name: str,
    split: str = "train",
    root: str | os.PathLike | None = None,
    download: bool = False,
    **options: float,
) -> Images:
    """Load a data set by name.

    Parameters
    ----------
    name : str
        One of `names()`. `sub-cifar100` is HMT's: 1,000 of CIFAR-100's training images and its whole test set.
    split : {"train", "test"}
        Which part.
    root : path-like, optional
        Folder in torchvision's layout; default `$HETLIB_DATA`, else `data`.
    download : bool
        Let torchvision download what is missing.
    **options
        For the two rendered sets, what `hetlib.shapes.render` takes: `count`, `seed`, `noise`, ...

    Returns
    -------
    Images
        On the CPU.

    Raises
    ------
    ValueError
        For an unknown name or split.
    TypeError
        For an option the data set does not have.
    DataMissing
        If a file is missing; the message names it and says how to get it.
    DamagedFile
        If a file is not, byte for byte, the published one.
    """
    if name not in names():
        raise unknown("data set", name, names())
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    if name.startswith("shapes-"):
        return _shapes(name, split, **options)
    if options:
        raise TypeError(f"data set {name!r} has no options, got {', '.join(options)}")
    folder = Path(root or os.environ.get("HETLIB_DATA") or "data")
    if download and name != "digits":
        _download(name, folder)
    match name:
        case "digits":
            return _digits(split)
        case "mnist":
            return _mnist(folder, split)
        case "cifar10":
            return _cifar(name, folder / "cifar-10-batches-py", CIFAR10, split)
    data = _cifar(name, folder / "cifar-100-python", CIFAR100, split)
    return data.subset(sub_cifar100_indices()) if (name, split) == ("sub-cifar100", "train") else data


def sub_cifar100_indices() -> np.ndarray:
    """The 1,000 of CIFAR-100's 50,000 training images that HMT trains on (spec A2): NumPy seed 1, one shuffle."""
    order = np.arange(50_000)
    np.random.RandomState(1).shuffle(order)  # noqa: NPY002 (the released protocol's generator)
    return order[:1000]


def class_split(data: Images, groups: Iterable[Sequence[int]]) -> list[Images]:
    """Divide a data set into parts that share no class, each labelled from 0 in the order its group lists.

    Parameters
    ----------
    data : Images
        What to divide.
    groups : iterable of sequences of int
        The labels of each part, for instance `[range(0, 50), range(50, 100)]`.

    Returns
    -------
    list of Images
        One for each group.

    Raises
    ------
    ValueError
        If a label does not exist or is listed twice.
    """
    parts = [list(group) for group in groups]
    listed = [label for part in parts for label in part]
    wrong = [label for label in listed if not 0 <= label < data.num_classes]
    if wrong or len(set(listed)) < len(listed):
        problem = f"labels {wrong} are outside 0..{data.num_classes - 1}" if wrong else "a label is listed twice"
        raise ValueError(f"the classes of {data.name} cannot be split like this: {problem}")
    return [_keep(data, part) for part in parts]


def few_shot(data: Images, per_class: int, seed: int = 0) -> Images:
    """Draw `per_class` images of every class without replacement, in random order.

    Raises
    ------
    ValueError
        If a class has fewer images; the message names it.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=generator)
    labels = data.labels.cpu()[order]
    chosen = torch.zeros(len(data), dtype=torch.bool)
    for label, title in enumerate(data.classes):
        places = (labels == label).nonzero().flatten()[:per_class]
        if len(places) < per_class:
            raise ValueError(f"{data.name} has {len(places)} images of class {title!r}, not {per_class}")
        chosen[places] = True
    return data.subset(order[chosen])


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
    draw = {"generator": generator, "device": generator.device}
    top, left = torch.randint(2 * pad + 1, (2, n), **draw).to(images.device)
    mirrored = torch.randint(2 if flip else 1, (n, 1, 1, 1), **draw).to(images.device, torch.bool)
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    crops = windows[torch.arange(n, device=images.device), :, top, left]
    return torch.where(mirrored, crops.flip(-1), crops) if flip else crops


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


def _keep(data: Images, labels: list[int]) -> Images:
    rank = torch.full((data.num_classes,), -1)
    rank[labels] = torch.arange(len(labels))
    relabelled = rank.to(data.labels.device)[data.labels]
    part = replace(data, labels=relabelled, classes=tuple(data.classes[label] for label in labels))
    return part.subset((relabelled >= 0).nonzero().flatten())


def _shapes(name: str, split: str, **options) -> Images:
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
    return Images("digits", split, images, torch.from_numpy(labels[index]), _digit_names(), (0.3053,), (0.3760,))


def _mnist(root: Path, split: str) -> Images:
    pixels, labels = (_read("mnist", root / "MNIST" / "raw" / file, md5) for file, md5 in MNIST[split].items())
    images = torch.from_numpy(np.frombuffer(pixels, np.uint8, offset=16).copy()).view(-1, 1, 28, 28)
    targets = torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))
    return Images("mnist", split, images, targets, _digit_names(), (0.1307,), (0.3081,))


def _cifar(name: str, folder: Path, files: dict[str, dict[str, str]], split: str) -> Images:
    def unpickle(part: str) -> list[dict]:
        # the md5 has been checked, so these are the published pickles and nothing else is ever unpickled
        return [pickle.loads(_read(name, folder / file, md5), encoding="latin1") for file, md5 in files[part].items()]

    batches, (meta,) = unpickle(split), unpickle("names")
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = [label for batch in batches for label in batch.get("fine_labels", batch.get("labels"))]
    titles = tuple(meta.get("fine_label_names", meta.get("label_names")))
    return Images(name, split, torch.from_numpy(images), torch.tensor(labels), titles, CIFAR_MEAN, CIFAR_STD)


def _digit_names() -> tuple[str, ...]:
    return tuple("0123456789")


def _read(name: str, path: Path, md5: str) -> bytes:
    if not path.is_file():
        raise DataMissing(
            f"{name} needs {path}, which is missing. Get it with `hetlib data get {name}`, or put it under "
            "$HETLIB_DATA in torchvision's layout, or use the embedded data: DATA=shapes."
        )
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DamagedFile(
            f"{path} is truncated or altered: its md5 is {found}, expected {md5}. Delete it and get it again."
        )
    return content


def _download(name: str, root: Path) -> None:
    from torchvision import datasets

    kinds = {"cifar10": datasets.CIFAR10, "mnist": datasets.MNIST}
    try:
        kinds.get(name, datasets.CIFAR100)(root, download=True)
    except (OSError, RuntimeError) as error:
        raise DataMissing(f"{name} could not be downloaded to {root}: {error}") from error
