"""The published data sets, read from torchvision's own folder layout.

Every file is checked against its published md5 before it is opened, so that a damaged download is named instead of
learnt from, and so that no pickle is loaded but the ones CIFAR's authors made.
"""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hetlib.files import DamagedFile

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


def cifar(name: str, root: Path, split: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Read CIFAR-10 or CIFAR-100.

    Parameters
    ----------
    name : {"cifar10", "cifar100"}
        Which one.
    root : Path
        Holds `cifar-10-batches-py` or `cifar-100-python`.
    split : {"train", "test"}
        Which part.

    Returns
    -------
    tuple
        Images, uint8, (n, 3, 32, 32); fine labels, int64, (n,); class names.

    Raises
    ------
    DataMissing, DamagedFile
        Naming the file.
    """
    folder, files, key = {
        "cifar10": ("cifar-10-batches-py", CIFAR10, "label"),
        "cifar100": ("cifar-100-python", CIFAR100, "fine_label"),
    }[name]

    def unpickle(part: str) -> list[dict]:
        contents = (_read(name, root / folder / file, md5) for file, md5 in files[part].items())
        return [pickle.loads(content, encoding="latin1") for content in contents]

    batches, (names,) = unpickle(split), unpickle("names")
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = [label for batch in batches for label in batch[f"{key}s"]]
    return torch.from_numpy(images), torch.tensor(labels), tuple(names[f"{key}_names"])


def part(name: str, split: str) -> np.ndarray:
    """Which of CIFAR's 50,000 training images a protocol uses: after one NumPy shuffle, those at one end of it.

    `sub-cifar100` trains on the first 1,000 of seed 1 (HMT); the sets called `-40k` train on the first 40,000
    of seed 2 and validate on the rest (TLV).
    """
    order = np.arange(50_000)
    np.random.RandomState(1 if name == "sub-cifar100" else 2).shuffle(order)
    if name == "sub-cifar100":
        return order[:1000]
    return order[:40_000] if split == "train" else order[40_000:]


def mnist(root: Path, split: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Read MNIST from `root`/MNIST/raw; otherwise as `cifar`, with images of shape (n, 1, 28, 28)."""
    pixels, labels = (_read("mnist", root / "MNIST" / "raw" / file, md5) for file, md5 in MNIST[split].items())
    images = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    targets = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    return torch.from_numpy(images.copy()), torch.from_numpy(targets), tuple("0123456789")


def download(name: str, root: Path) -> None:
    """Let torchvision fetch whatever "cifar10", "cifar100" or "mnist" lacks.

    Raises
    ------
    DataMissing
        If that fails; the message says why.
    """
    from torchvision import datasets

    fetch = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "mnist": datasets.MNIST}[name]
    try:
        fetch(root, download=True)
    except (OSError, RuntimeError) as error:
        raise DataMissing(f"{name} could not be downloaded to {root}: {error}") from error


def _read(name: str, path: Path, md5: str) -> bytes:
    if not path.is_file():
        raise DataMissing(
            f"{name} needs {path}, which is missing. Get it with `hetlib data get {name}`, or put it under "
            "$HETLIB_DATA in torchvision's layout, or use the embedded data: DATA=shapes-target."
        )
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DamagedFile(
            f"{path} is truncated or altered: its md5 is {found}, expected {md5}. "
            f"Delete it and run `hetlib data get {name}`."
        )
    return content
