"""Images in folders, read from disk a batch at a time: ImageNet, and whatever else is laid out as it is.

``FOLDER/train/CLASS/*.jpeg`` and ``FOLDER/val/CLASS/*.jpeg``, as torchvision's ImageFolder has them.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hetlib.data.images import Images, positions
from hetlib.errors import known

PREFIX = "imagefolder:"
SPLITS = {"train": "train", "test": "val"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet."""
SIZE, RESIZED = 224, 256
Crop = Callable[[Any], Any]
"""Takes and gives an image of PIL's."""


class Files:
    """Image files that are indexed and split as a tensor of images would be, and read when they are asked for.

    Parameters
    ----------
    paths : sequence of Path
        The files.
    device : torch.device or str
        Where batches go.
    """

    def __init__(self, paths: Sequence[Path], device: torch.device | str = "cpu"):
        self.paths, self.device = list(paths), torch.device(device)
        self.shape = (len(self.paths), 3, SIZE, SIZE)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.read(indices.tolist(), [_centre] * len(indices))

    def to(self, device: torch.device | str) -> "Files":
        """The same files, whose batches go to another device."""
        return Files(self.paths, device)

    def split(self, size: int) -> Iterator[Tensor]:
        """All images, so many at a time."""
        for indices in torch.arange(len(self)).split(size):
            yield self[indices]

    def read(self, indices: Sequence[int], crops: Sequence[Crop]) -> Tensor:
        """Read files, several at once, and crop each its own way: uint8, (n, 3, 224, 224)."""
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(_read, [self.paths[index] for index in indices], crops))
        return torch.stack(found).to(self.device)


@dataclass(frozen=True, eq=False)
class Folder(Images):
    """Labelled images on disk; only the batch at hand is in memory.

    In place of a tensor `images` holds `Files`. Images that are changed at random are cropped to a random part of 8 to
    100 % of their area, resized to 224x224, and mirrored half of the time; others are resized to 256 and cropped in the
    middle.
    """

    smallest: ClassVar[float] = 0.08
    """Of its area, what a random part of an image has at least."""

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over the names and sizes of the files, not their content."""
        paths = self._files.paths
        return hashlib.sha256("".join(f"{path} {path.stat().st_size}\n" for path in paths).encode()).hexdigest()

    @property
    def _files(self) -> Files:
        files: Any = self.images
        return files

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The images at `indices`; see the class."""
        if generator is None:
            return self._files[indices]
        draws = torch.rand(len(indices), 5, generator=generator, device=generator.device).tolist()
        crops = [RandomCrop(area, ratio, x, y, flip, self.smallest) for area, ratio, x, y, flip in draws]
        return self._files.read(indices.tolist(), crops)

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> "Folder":
        """The images at `indices`, in that order, with all class names kept."""
        index = positions(indices, len(self))
        files: Any = Files([self._files.paths[n] for n in index.tolist()], self._files.device)
        return replace(self, images=files, labels=self.labels[index.to(self.labels.device)])


@dataclass(frozen=True)
class RandomCrop:
    """A random part of an image at 224x224, maybe mirrored: torchvision's RandomResizedCrop and flip.

    Attributes
    ----------
    area, ratio, left, top, mirrored : float
        Uniform draws from 0 to 1. A part that is higher or wider than the image is cut to it; torchvision draws again.
    smallest : float
        The share of the image's area that the part has at area 0.
    """

    area: float
    ratio: float
    left: float
    top: float
    mirrored: float
    smallest: float = 0.08

    def __call__(self, image: Any) -> Any:
        """The part of an image, 224x224."""
        from torchvision.transforms.functional import hflip, resized_crop

        width, height = image.size
        area = (self.smallest + (1 - self.smallest) * self.area) * width * height
        ratio = (3 / 4) ** (1 - 2 * self.ratio)
        w, h = min(width, round((area * ratio) ** 0.5)), min(height, round((area / ratio) ** 0.5))
        x, y = int(self.left * (width - w + 1)), int(self.top * (height - h + 1))
        part = resized_crop(image, y, x, h, w, [SIZE, SIZE])
        return hflip(part) if self.mirrored < 0.5 else part


def load(name: str, split: str) -> Folder:
    """Find the images of a folder; none is read yet.

    Parameters
    ----------
    name : str
        "imagefolder:" and the folder.
    split : {"train", "test"}
        The test images are those in val/.

    Raises
    ------
    ValueError
        If the folder is not laid out as expected, or a class of one part is none of the other.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    known(f"split of {name}", split, SPLITS)
    root = Path(name.removeprefix(PREFIX))
    classes = {part: _classes(root, part) for part in SPLITS.values()}
    if differing := sorted(set(classes["train"]) ^ set(classes["val"])):
        raise ValueError(f"{root}: class {differing[0]!r} is not in both train/ and val/")
    names = classes[SPLITS[split]]
    numbers = {each: number for number, each in enumerate(names)}
    try:
        found = make_dataset(root / SPLITS[split], numbers, IMG_EXTENSIONS)
    except FileNotFoundError as error:
        raise ValueError(f"{root} is no ImageFolder: {error}") from error
    files: Any = Files([Path(path) for path, _ in found])
    return Folder(name, split, files, torch.tensor([label for _, label in found]), tuple(names), MEAN, STD)


def _classes(root: Path, part: str) -> list[str]:
    folder = root / part
    found = sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    if not found:
        expected = "train/ and val/, each with a folder of images for every class"
        raise ValueError(f"{root} is no ImageFolder: expected {expected}, but found no class in {folder}")
    return found


def _centre(image: Any) -> Any:
    from torchvision.transforms.functional import center_crop, resize

    return center_crop(resize(image, [RESIZED]), [SIZE, SIZE])


def _read(path: Path, crop: Crop) -> Tensor:
    from PIL import Image

    with Image.open(path) as image:
        return torch.from_numpy(np.array(crop(image.convert("RGB")))).permute(2, 0, 1).contiguous()
