"""Bridges: learned 1x1 convolutions that bring a student's and a teacher's features into one space, and their loss."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bridge(nn.Module):
    """Compares a student's features with one teacher's at several taps, and their logits.

    Parameters
    ----------
    student_widths, teacher_widths : sequence of int
        Channels of each tap.
    common_widths : sequence of int, optional
        Channels of the space of each tap in which both are compared. None: the student's features are brought to the
        teacher's widths, and the teacher's are taken as they are, as between components and target.
    scale : bool
        Multiply the student's logits by a learned number m, which starts at 1.

    Attributes
    ----------
    ours, theirs : ModuleList of Conv2d
        1x1 with bias; `theirs` is empty without `common_widths`.

    Raises
    ------
    ValueError
        If the numbers of taps differ.
    """

    def __init__(
        self,
        student_widths: Sequence[int],
        teacher_widths: Sequence[int],
        common_widths: Sequence[int] | None = None,
        scale: bool = True,
    ):
        super().__init__()
        space = teacher_widths if common_widths is None else common_widths
        if not len(student_widths) == len(teacher_widths) == len(space):
            counts = f"{len(student_widths)}, {len(teacher_widths)} and {len(space)}"
            raise ValueError(f"student, teacher and the common space have {counts} taps: they need equally many")
        self.ours = _convolutions(student_widths, space)
        self.theirs = _convolutions([] if common_widths is None else teacher_widths, space)
        self.m = nn.Parameter(torch.ones(1)) if scale else None

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], student_logits: Tensor, teacher_logits: Tensor
    ) -> Tensor:
        """The terms of the loss.

        Parameters
        ----------
        student, teacher : sequences of Tensor of shape (B, channels, height, width)
            Features at the taps. A teacher's of another height or width are resized by averaging to the student's.
        student_logits, teacher_logits : Tensor of shape (B, classes)
            Compared as they are: no softmax, no temperature.

        Returns
        -------
        Tensor of shape (taps + 2,)
            The mean squared difference at each tap, that of the logits, and `row_norm` of the teacher's bridge.

        Raises
        ------
        ValueError
            If the logits differ in shape.
        """
        if student_logits.shape != teacher_logits.shape:
            shapes = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
            raise ValueError(f"student and teacher must give logits of one shape, got {shapes}")
        theirs = self.theirs or [nn.Identity()] * len(self.ours)
        terms = [
            F.mse_loss(own(mine), other(resized(yours, mine)))
            for own, other, mine, yours in zip(self.ours, theirs, student, teacher, strict=True)
        ]
        answer = student_logits if self.m is None else self.m * student_logits
        terms.append(F.mse_loss(answer, teacher_logits))
        return torch.stack([*terms, row_norm(self.theirs) if self.theirs else torch.zeros_like(terms[0])])


def row_norm(bridges: Iterable[Any]) -> Tensor:
    """How far the rows of a teacher's bridges are from unit length: sum over taps of mean_o (sum_i w_oi² - 1)².

    Without it, student and teacher agree best where both bridges are 0.

    Parameters
    ----------
    bridges : iterable of Conv2d
        1x1 convolutions, one at least.

    Returns
    -------
    Tensor of shape ()
    """
    weights = [bridge.weight.flatten(1) for bridge in bridges]
    return torch.stack([(weight.square().sum(1) - 1).square().mean() for weight in weights]).sum()


def resized(feature: Tensor, like: Tensor) -> Tensor:
    """A feature map in the height and width of another, by averaging."""
    height, width = like.shape[2:]
    if feature.shape[2:] == (height, width):
        return feature
    return F.adaptive_avg_pool2d(feature, (height, width))


def _convolutions(inputs: Sequence[int], outputs: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(here, there, 1) for here, there in zip(inputs, outputs, strict=False))
