"""CelebA: photographs of faces with forty attributes.

`celeba` is the official set in torchvision's layout, read from disk a batch at a time. `celeba-10k` is its first 10,000
images at 72x88, kept in memory: the same folder holds them as WebP with the first 10,000 rows of two lists.

References
----------
Liu et al., *Deep Learning Face Attributes in the Wild*, ICCV 2015.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hetlib.data.folders import MEAN, STD, Files, Folder
from hetlib.data.images import AttributeImages
from hetlib.data.published import DataMissing
from hetlib.files import DamagedFile

OFFICIAL, SMALL = "celeba", "celeba-10k"
FOLDER, PICTURES = "celeba", "img_align_celeba"
ATTRIBUTES, IDENTITIES = "list_attr_celeba.txt", "identity_CelebA.txt"
MD5 = {ATTRIBUTES: "529fe9c0dbe28fed46cdb09d0a41049d", IDENTITIES: "6680ccb280aae94070f56fa3be7e1817"}
"""Of the lists of `celeba-10k`; torchvision knows the official ones."""
LARGEST = 64
"""Pixels that `celeba-10k` has to offer."""
TEST_SHARE = 0.2
"""Of the people of `celeba-10k`, all of whom are in the official training set."""


class Photographs(AttributeImages, Folder):
    """Photographs on disk, read as `hetlib.data.folders.Folder` says.

    Those that are changed at random are cropped to 81 to 100 % of their area: knowledge amalgamation's protocol.
    """

    smallest = 0.81


def official(root: Path, split: str) -> Photographs:
    """Find the photographs of the official set; none is read yet.

    Parameters
    ----------
    root : Path
        Holds the folder `celeba`.
    split : {"train", "validation", "test"}
        A part of the official partition.

    Raises
    ------
    DataMissing, DamagedFile
        Naming the file.
    """
    from torchvision.datasets import CelebA

    for _, md5, file in CelebA.file_list:
        if file.endswith(".txt"):
            _read(OFFICIAL, root / FOLDER / file, md5)
    folder = _pictures(OFFICIAL, root)
    found = CelebA(root, "valid" if split == "validation" else split, target_type="attr")
    files: Any = Files(_existing(OFFICIAL, folder, found.filename))
    names = tuple(name for name in found.attr_names if name)  # the line of names ends in a blank
    return Photographs(OFFICIAL, split, files, found.attr, names, MEAN, STD)


def small(root: Path, split: str, size: int = LARGEST) -> AttributeImages:
    """Read the first 10,000 photographs, split so that nobody is in both parts.

    Parameters
    ----------
    root : Path
        Holds the folder `celeba`.
    split : {"train", "test"}
        The test photographs are those of a fifth of the people, drawn once and for all.
    size : int
        Height and width, at most 64: the middle of a photograph of 72x88 pixels. At less it is shrunk first.

    Raises
    ------
    ValueError
        If the size is out of range.
    DataMissing, DamagedFile
        Naming the file.
    """
    if not 1 <= size <= LARGEST:
        raise ValueError(f"{SMALL} has images of up to {LARGEST}x{LARGEST} pixels, got size {size}")
    lists = {file: _read(SMALL, root / FOLDER / file, md5).decode().splitlines() for file, md5 in MD5.items()}
    folder = _pictures(SMALL, root)
    _, header, *rows = lists[ATTRIBUTES]
    people = torch.tensor([int(row.split()[1]) for row in lists[IDENTITIES]])
    chosen = _of_split(people, split)
    files = [f"{Path(rows[n].split()[0]).stem}.webp" for n in chosen.tolist()]
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(partial(_picture, size=size), _existing(SMALL, folder, files)))
    labels = torch.tensor([[int(word) > 0 for word in row.split()[1:]] for row in rows], dtype=torch.int64)
    return AttributeImages(SMALL, split, torch.stack(pictures), labels[chosen], tuple(header.split()), MEAN, STD)


def _of_split(people: Tensor, split: str) -> Tensor:
    """Where the photographs of a part are."""
    everybody = people.unique()
    order = torch.randperm(len(everybody), generator=torch.Generator().manual_seed(0))
    tested = torch.isin(people, everybody[order[: round(TEST_SHARE * len(everybody))]])
    return (tested if split == "test" else ~tested).nonzero().flatten()


def _picture(path: Path, size: int) -> Tensor:
    from PIL import Image
    from torchvision.transforms.functional import center_crop, resize

    with Image.open(path) as image:
        # the margin that is cut off is the protocol's, 256 to 224, but for what saves resampling at 64
        cropped = center_crop(resize(image.convert("RGB"), [size * 9 // 8]), [size])
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1)


def _read(name: str, path: Path, md5: str) -> bytes:
    if not path.is_file():
        raise _missing(name, path)
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        other = SMALL if name == OFFICIAL else OFFICIAL
        raise DamagedFile(
            f"{path} is not that of {name}: its md5 is {found}, expected {md5}. It is truncated, altered, or of "
            f"another version, such as {other}: one folder cannot hold both."
        )
    return content


def _pictures(name: str, root: Path) -> Path:
    folder = root / FOLDER / PICTURES
    if not folder.is_dir():
        raise _missing(name, folder)
    return folder


def _existing(name: str, folder: Path, files: list[str]) -> list[Path]:
    here = {path.name for path in folder.iterdir()}
    for file in files:
        if file not in here:
            raise _missing(name, folder / file)
    return [folder / file for file in files]


def _missing(name: str, path: Path) -> DataMissing:
    return DataMissing(
        f"{name} needs {path}, which is missing. It cannot be downloaded from here: put it under $HETLIB_DATA in "
        "torchvision's layout (data/README.md says which files), or use the embedded faces: DATA=faces."
    )
