"""Knowledge distillation, by which one network teaches another, and ensembles, in which many vote.

Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015 (arXiv 1503.02531), on the scale of the code
released with Nguyen et al., *On Cross-Layer Alignment for Model Fusion of Heterogeneous Neural Networks*, 2021.
"""

import hashlib
from copy import deepcopy
from math import isfinite
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetlib.files import checksum


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float, temperature: float
) -> Tensor:
    """How far a student is from its teacher, and from the labels: alpha T² mean(q (log q - log p)) + (1 - alpha) CE.

    With q and p the softmax of the teacher's and of the student's logits over the temperature T. The mean is over
    images and classes, as in the released code, whose alpha and T are tuned to it; the Kullback-Leibler divergence of
    Hinton et al. (`torch.nn.functional.kl_div` with reduction "batchmean") is as many times larger as there are
    classes. CE is the cross-entropy with the labels, at temperature 1.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor of shape (B, C)
        No gradient reaches the teacher's. Half precision is computed in float32.
    labels : Tensor of shape (B,)
        int64.
    alpha : float
        Weight of the teacher, 0 to 1; the labels have the rest.
    temperature : float
        T: the higher, the more the teacher's small probabilities count.

    Returns
    -------
    Tensor of shape ()
        In nats.

    Raises
    ------
    ValueError
        If alpha is not from 0 to 1, the temperature not positive and finite, or the logits differ in shape.
    """
    _check(alpha, temperature)
    if student_logits.dim() != 2 or student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise ValueError(f"student and teacher must give logits (batch, classes) of one shape, got {shapes}")
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    student, teacher = student_logits.to(wide), teacher_logits.detach().to(wide)
    log_p, log_q = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    distance = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) / student.shape[1]
    return alpha * temperature**2 * distance + (1 - alpha) * F.cross_entropy(student, labels)


def _check(alpha: float, temperature: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}")
    if not (temperature > 0 and isfinite(temperature)):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")


class Distilled(nn.Module):
    """A student in training, whose loss is `distillation_loss`; otherwise the student and nothing else.

    `hetlib.training.fit` trains it, and sees to it that teacher and student look at the same, augmented images.

    Parameters
    ----------
    student : nn.Module
        The network that is trained.
    teacher : nn.Module
        Gives logits of as many classes; a frozen copy of it, in evaluation mode, is kept.
    alpha, temperature : float
        As for `distillation_loss`.

    Raises
    ------
    ValueError
        If alpha or temperature are out of range; in training, if the logits differ in shape.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, alpha: float, temperature: float):
        super().__init__()
        _check(alpha, temperature)
        self.student, self.alpha, self.temperature = student, alpha, temperature
        # Not a submodule: it is neither trained nor saved, and `train()` must not wake its batch norms and dropouts.
        self._teacher = (deepcopy(teacher).eval().requires_grad_(False),)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The student's logits."""
        return self.student(*inputs)

    def training_loss(self, images: Tensor, labels: Tensor, *alongside: Tensor) -> Tensor:
        """The loss of a batch.

        Parameters
        ----------
        images : Tensor of shape (B, channels, height, width)
            Normalised.
        labels : Tensor of shape (B,)
        *alongside : Tensor of shape (B, ...)
            For a student that takes more than images, such as a `hetlib.crossover.Crossover`.

        Returns
        -------
        Tensor of shape ()
        """
        with torch.no_grad():
            taught = self._teacher[0](images)
        return distillation_loss(self.student(images, *alongside), taught, labels, self.alpha, self.temperature)

    def extra_repr(self) -> str:
        """The settings, and the teacher by a checksum over its layers and weights: they tell one run from another."""
        teacher = self._teacher[0]
        digest = hashlib.sha256((repr(teacher) + checksum(teacher.state_dict())).encode()).hexdigest()[:16]
        return f"alpha={self.alpha}, temperature={self.temperature}, teacher={digest}"

    def _apply(self, fn: Any, recurse: bool = True) -> "Distilled":
        self._teacher[0]._apply(fn)
        return super()._apply(fn, recurse)
