"""Data sets by name.

`shapes-source`, `shapes-target` and `faces` are rendered (`hetlib.data.textured_shapes`, `hetlib.data.faces`), and
`digits` comes with scikit-learn: those four need no network and no file. The others are read from torchvision's folder
layout (`hetlib.data.published`, `hetlib.data.celeba`).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hetlib.data import celeba, faces, folders, published, textured_shapes
from hetlib.data.face_attributes import NAMES
from hetlib.data.images import AttributeImages, Images
from hetlib.data.subsets import few_shot, skill_split
from hetlib.data.tasks import of_tasks
from hetlib.errors import finite, known, of_kind, positive, seed_of, unknown

# As HMT's protocol normalises CIFAR-10 and CIFAR-100 alike.
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
OPTIONS = ("count", "seed", "noise", "clutter")
FEW = ("per_class", "draw")
WITH_ATTRIBUTES = {"faces": ("count", "seed", "size", "noise"), celeba.SMALL: ("size",), celeba.OFFICIAL: ()}
"""Sets of images with several labels each, and the options of `load` for them."""
HELD_OUT = "-40k"
SKILLS = ("special", "general")
SPECIAL_LABEL = 4
RAW = "-raw"


def names() -> list[str]:
    """Every name that `load` knows."""
    cifar = ["cifar10", "cifar100", "sub-cifar100", "cifar10-40k", "cifar100-40k"]
    skills = [f"{whole}-{part}" for whole in ("digits", "mnist") for part in SKILLS]
    raw = [f"mnist-{part}{RAW}" for part in SKILLS]
    return ["shapes-source", "shapes-target", "digits", *cifar, "mnist", *skills, *raw, *WITH_ATTRIBUTES]


def splits(name: str) -> tuple[str, ...]:
    """The parts of a data set: "train" and "test", and for TLV's protocol and official CelebA "validation"."""
    whole = name.partition(":")[0]
    three = whole.endswith(HELD_OUT) or whole == celeba.OFFICIAL
    return ("train", "validation", "test") if three else ("train", "test")


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
        One of `names()`, or "imagefolder:<folder>": see `hetlib.data.folders`.
        `sub-cifar100` is HMT's: 1,000 of CIFAR-100's training images and its whole test set.
        `cifar10-40k` and `cifar100-40k` are TLV's: 40,000 of the training images, and 10,000 held out.
        `mnist-special` and `mnist-general` are CLAFusion's (see `skill_split`, label 4); with `-raw`, pixels go from 0
        to 255, as its released code has them.
        `faces`, `celeba` and `celeba-10k` have several labels for each image: they are `AttributeImages`. After a
        colon the attributes that are asked for can stand, as in "faces:Bangs,Young"; otherwise all are there. For the
        others tasks made of some of the classes, as in "cifar100:main 1/2,side 3/4"; see `hetlib.data.tasks.of_tasks`.
    split : {"train", "validation", "test"}
        Which part; "validation" of TLV's and of `celeba` only.
    root : path-like, optional
        Folder in torchvision's layout; default `$HETLIB_DATA`, else `data`.
    download : bool
        Let torchvision download what is missing, CelebA apart.
    **options
        For every set with one label an image `per_class`, to keep so many images of each class, drawn by the seed
        `draw` (`few_shot`). For shapes also what `hetlib.data.textured_shapes.render` takes: `count`, `seed`, `noise`,
        `clutter`; for `faces` what `hetlib.data.faces.render` takes: `count`, `seed`, `size`, `noise`; for `celeba-10k`
        the `size` in pixels.

    Returns
    -------
    Images
        On the CPU.

    Raises
    ------
    ValueError
        For an unknown name, split, option, attribute or task; the nearest valid ones are named.
    DataMissing
        If a file is missing; the message names it and says how to get it.
    DamagedFile
        If a file is not, byte for byte, the published one.
    """
    of_kind("the name of a data set", name, str)
    if root is not None:
        of_kind("root", root, str, os.PathLike)
    if name.startswith(folders.PREFIX):
        return folders.load(name, split)
    name, _, asked = name.partition(":")
    if asked:
        everything = load(name, split, root, download, **options)
        several = everything.keep if isinstance(everything, AttributeImages) else partial(of_tasks, everything)
        return replace(several(asked.split(",")), name=f"{name}:{asked}")
    if name in WITH_ATTRIBUTES:
        _check(name, split, options, WITH_ATTRIBUTES[name])
        return _with_attributes(name, split, folder(root), tuple(sorted(options.items())))
    if name not in names():
        raise unknown("data set", name, [*names(), f"{folders.PREFIX}<folder>"])
    rendered = name.startswith("shapes-")
    _check(name, split, options, (*OPTIONS, *FEW) if rendered else FEW)
    if "per_class" in options:
        rest = {option: value for option, value in options.items() if option not in FEW}
        return few_shot(load(name, split, root, download, **rest), options["per_class"], options.get("draw", 0))
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


def _check(name: str, split: str, options: Mapping[str, Any], valid: Sequence[str]) -> None:
    known(f"split of {name}", split, splits(name))
    for option, value in options.items():
        known(f"option of {name}", option, valid)
        if option in ("count", "per_class", "size"):
            positive(option, value)
        elif option in ("seed", "draw"):
            seed_of(value, option)
        else:
            finite(option, value, 0)


@lru_cache(maxsize=2)
def _with_attributes(name: str, split: str, root: Path, options: tuple[tuple[str, Any], ...]) -> AttributeImages:
    """All attributes of both splits stay in memory: every network of a pool asks for others of the same images."""
    how = dict(options)
    if name == "faces":
        return AttributeImages(name, split, *faces.render(split, **how), NAMES, faces.MEAN, faces.STD)
    return celeba.small(root, split, **how) if name == celeba.SMALL else celeba.official(root, split)


def _shapes(name: str, split: str, **options: Any) -> Images:
    vocabulary = name.removeprefix("shapes-")
    pixels, labels = textured_shapes.render(vocabulary, split, **options)
    classes = textured_shapes.classes(vocabulary)
    return Images(name, split, pixels, labels, classes, textured_shapes.MEAN, textured_shapes.STD)


def _digits(split: str) -> Images:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    kept = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    index = kept[split == "test"]
    images = torch.from_numpy((pixels[index] * 255 / 16).round().astype(np.uint8)).view(-1, 1, 8, 8)
    return Images("digits", split, images, torch.from_numpy(labels[index]), tuple("0123456789"), (0.3053,), (0.3760,))
