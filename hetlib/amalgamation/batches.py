"""Which images each teacher teaches, and how the batches of a step are made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from hetlib.errors import known, positive, whole_numbers
from hetlib.training import Loop

EPOCHS = ("largest", "shortest", "all", "released")


def batch_sizes(lengths: Sequence[int], largest: int = 64) -> tuple[list[int], int]:
    """How many images of each subset a step takes: in proportion to the subsets, and `largest` of the largest one.

    Parameters
    ----------
    lengths : sequence of int
        Images of each subset.
    largest : int
        Batch size of the largest subset.

    Returns
    -------
    sizes : list of int
        Of each subset, at least 1.
    iterations : int
        Whole batches of the largest subset, at least 1.

    Raises
    ------
    ValueError
        If there are no subsets, or one is empty, which is named by its number.
    """
    lengths, largest = whole_numbers("the lengths of the subsets", lengths), positive("largest", largest)
    if not lengths:
        raise ValueError("no subset to make batches of")
    for number, length in enumerate(lengths):
        if length < 1:
            raise ValueError(f"subset {number} of {tuple(lengths)} holds no images: no batch can be made of it")
    iterations = max(1, max(lengths) // largest)
    longest = max(lengths)
    return [largest if length == longest else max(1, length // iterations) for length in lengths], iterations


@dataclass(frozen=True)
class OfEachSubset:
    """Batches for `hetlib.training.Loop`: every step takes some images of each subset, one subset after the other.

    The loop's only rows are of shape (images, subsets) and true where an image belongs to a subset. Each subset is gone
    through in an order drawn anew, and begun again when it is used up, so that all steps are of equal size.

    Attributes
    ----------
    sizes : tuple of int
        Images of each subset in a step.
    epoch : {"largest", "shortest", "all", "released"}
        How long an epoch is: one pass over the largest subset; one over that which is used up first, as released for
        classes; as many steps as batches of all images, as released for attributes; or two passes over that which is
        used up first, where the released code for attributes stops with an error.
    """

    sizes: tuple[int, ...]
    epoch: str = "largest"

    def __post_init__(self):
        if not whole_numbers("sizes", self.sizes, 1):
            raise ValueError("sizes: there is no subset to make batches of")
        known("length of an epoch", self.epoch, EPOCHS)

    def steps(self, lengths: Sequence[int], images: int) -> int:
        """Steps of an epoch, for subsets of these lengths out of so many images."""
        passes = [ceil(length / size) for length, size in zip(lengths, self.sizes, strict=True)]
        if self.epoch == "largest":
            return passes[max(range(len(passes)), key=lambda number: lengths[number])]
        if self.epoch == "all":
            return ceil(images / max(self.sizes))
        return min(passes) * (2 if self.epoch == "released" else 1)

    def __call__(self, loop: Loop) -> Sequence[Tensor]:
        """The batches of the loop's next epoch, each as indices of images."""
        (member,) = loop.rows
        subsets = [torch.nonzero(column)[:, 0] for column in member.T]
        steps = self.steps([len(subset) for subset in subsets], len(member))
        parts = [
            _endless(subset, steps * size, loop.generator).view(steps, size)
            for subset, size in zip(subsets, self.sizes, strict=True)
        ]
        return torch.cat(parts, 1).unbind()


def _endless(subset: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many images of a subset: all of them in random order, then all of them in another, and so on."""
    draw = lambda: subset[torch.randperm(len(subset), generator=generator, device=subset.device)]
    return torch.cat([draw() for _ in range(ceil(count / len(subset)))])[:count]
