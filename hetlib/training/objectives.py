"""What training minimises: objectives take the network and a batch and give the loss.

An objective is called as ``objective(model, images, labels, *rows)``. It is an `nn.Module` where it has parameters of
its own, which are then trained with the network's, or a network that it looks at, which is not trained (`Frozen`).

Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015 (arXiv 1503.02531), on the scale of the code
released with Nguyen et al., *On Cross-Layer Alignment for Model Fusion of Heterogeneous Neural Networks*, 2021.
"""

import hashlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetlib.checks import check_network
from hetlib.data import Images
from hetlib.errors import finite
from hetlib.files import checksum
from hetlib.training.check import answers
from hetlib.training.recipe import Recipe

Objective = Callable[..., Tensor]
"""``objective(model, images, labels, *rows) -> loss``: rows are what `hetlib.training.fit` has for each image."""


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of a network's logits (B, C) with the labels (B,), in nats: what `fit` minimises."""
    return F.cross_entropy(answers(model, images), labels)


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
    finite("alpha", alpha, 0, 1)
    finite("temperature", temperature, above=0)


class Frozen(nn.Module):
    """A copy of a network that an objective looks at: always in evaluation mode, and without gradients.

    The copy is neither among the parameters nor in the state dict of the objective that holds it, so that it is not
    trained and not saved. It moves to another device or type with the objective.

    Parameters
    ----------
    network : nn.Module
        What is copied; it is left as it is.

    Attributes
    ----------
    network : nn.Module
        The copy.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        check_network("network", network)
        # In a tuple it is no submodule, and `train()` does not reach its batch norms and dropouts.
        self._network = (deepcopy(network).eval().requires_grad_(False),)

    @property
    def network(self) -> nn.Module:
        """The copy."""
        return self._network[0]

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> Tensor:
        """What the network gives."""
        return self.network(*inputs)

    def extra_repr(self) -> str:
        """A checksum over the network's layers and weights: it tells one training's checkpoint from another's."""
        content = repr(self.network) + checksum(self.network.state_dict())
        return f"{type(self.network).__name__} {hashlib.sha256(content.encode()).hexdigest()[:16]}"

    def _apply(self, fn: Any, recurse: bool = True) -> "Frozen":
        self.network._apply(fn)
        return super()._apply(fn, recurse)


class Distillation(nn.Module):
    """The objective of a student: `distillation_loss` from a teacher that looks at the same, augmented images.

    Parameters
    ----------
    teacher : nn.Module
        Gives logits of as many classes as the student; a frozen copy of it is kept.
    alpha, temperature : float
        As for `distillation_loss`.

    Raises
    ------
    ValueError
        If alpha or temperature are out of range; in training, if the logits differ in shape.
    """

    def __init__(self, teacher: nn.Module, alpha: float, temperature: float):
        super().__init__()
        _check(alpha, temperature)
        check_network("teacher", teacher)
        self.teacher, self.alpha, self.temperature = Frozen(teacher), alpha, temperature

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a student on normalised images (B, channels, height, width) with labels (B,)."""
        taught = self.teacher(images)
        return distillation_loss(model(images), taught, labels, self.alpha, self.temperature)

    def extra_repr(self) -> str:
        """The settings."""
        return f"alpha={self.alpha}, temperature={self.temperature}"


@dataclass(frozen=True)
class DistilFrom:
    """A `Distillation` as data, for a `hetlib.lab.Job`: the teacher is named, and found or trained when it is needed.

    Attributes
    ----------
    teacher : Job
        The training whose network teaches.
    alpha, temperature : float
        As for `distillation_loss`.

    Raises
    ------
    ValueError
        As `Distillation`.
    """

    teacher: Any
    alpha: float
    temperature: float

    def __post_init__(self):
        _check(self.alpha, self.temperature)

    def __call__(self, model: nn.Module, network: Callable[[Any], nn.Module], images: Images, recipe: Recipe) -> dict:
        """Keyword arguments for `fit`; `network` gives the network of a job."""
        return {"objective": Distillation(network(self.teacher), self.alpha, self.temperature)}
