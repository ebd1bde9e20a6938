"""Checks of networks, images and other tensors that are given to a function; `hetlib.errors` has those of numbers.

A check is given what the argument is called. It raises a ValueError, or a TypeError for something of a wrong kind, in
one line that names the argument and shows what was given.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hetlib.errors import of_kind, shown


def check_sequence(what: str, given: Any, words: str) -> None:
    """Raise a TypeError unless something is a sequence of `words`: text, a mapping, a tensor and a network are none."""
    if isinstance(given, str | bytes | Mapping | Tensor | nn.Module) or not isinstance(given, Iterable):
        raise TypeError(f"{what} must be a list of {words}, got {shown(given)}")


def check_network(what: str, value: Any, *, values: bool = False) -> None:
    """Raise a TypeError unless something is a network; with `values`, a ValueError where a tensor of it has none."""
    of_kind(what, value, nn.Module, words="a network (nn.Module)")
    for name, tensor in value.state_dict(keep_vars=True).items() if values else ():
        if isinstance(tensor, Tensor) and (is_lazy(tensor) or tensor.is_meta):
            how = "is lazy: run the network once" if is_lazy(tensor) else "is on meta: move it off"
            raise ValueError(f"{what}: {name} has no values yet, it {how}")


def check_images(what: str, images: Any) -> None:
    """Raise an error unless these are images (N, ...), one at least, all of them finite."""
    of_kind(what, images, Tensor, words="a Tensor of normalised images")
    if images.ndim < 2:
        raise ValueError(f"{what} must be a batch (N, ...), got {shown(images)}")
    if not len(images):
        raise ValueError(f"no images: {what} is {shown(images)}")
    if not images.isfinite().all():
        raise ValueError(f"{what}: the images hold NaN or infinity")


@contextmanager
def taking(who: str, images: Tensor) -> Iterator[None]:
    """Turn what a network says of images that it cannot be run on into a ValueError in one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        plain = f"{who} does not take images of shape {tuple(images.shape[1:])}"
        if not images.is_floating_point():
            plain += f" and {images.dtype}, which may have to be normalised floating-point numbers"
        raise ValueError(f"{plain}: {' '.join(str(error).split())}") from error


def check_real(what: str, value: Any) -> None:
    """Raise a TypeError unless the value is a tensor of real numbers."""
    of_kind(what, value, Tensor)
    if value.is_complex():
        raise TypeError(f"{what} must be real numbers, and these are {value.dtype}, complex ones")


def check_tensors(what: str, given: Any, least: int = 1) -> None:
    """Raise an error unless these are so many tensors of real numbers at least, in a list or the like."""
    check_sequence(what, given, "tensors, such as [x]")
    if len(given) < least:
        raise ValueError(f"{what} must hold at least {least}, got {len(given)}")
    for number, each in enumerate(given):
        check_real(f"{what}[{number}]", each)


def check_floating(what: str, value: Any) -> None:
    """Raise a TypeError unless the value is a tensor of floating-point numbers."""
    check_real(what, value)
    if not value.is_floating_point():
        raise TypeError(f"{what} must be floating-point numbers, and these are {value.dtype}")


def check_labels(what: str, labels: Any, count: int, classes: int) -> None:
    """Raise an error unless these are so many labels of so many classes; of a GPU's, only the shape is looked at."""
    of_kind(what, labels, Tensor)
    if labels.shape != (count,) or labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{what} must be {count} whole numbers (int64), got {shown(labels)}")
    if labels.is_cpu and count:
        found = labels.numpy()  # NumPy's, because torch would count it as a wait for the device
        if found.min() < 0 or found.max() >= classes:
            raise ValueError(f"{what} must be from 0 to {classes - 1}, got some from {found.min()} to {found.max()}")
