"""Feature crossover: channels of a network's last features replaced, in training, by those of a frozen network.

Duong et al., *Heterogeneous Transfer Learning Using Variance-based Mapping and Pre-trained Feature Crossover*, AICI
2024 (DOI 10.1007/978-3-031-63929-6_21), after its released code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.checks import check_network
from hetlib.data import Images
from hetlib.errors import finite, known, positive
from hetlib.tlv.support import head_of, pooled_features, support_features
from hetlib.training import Frozen, Objective, Recipe, cross_entropy

MASKS = ("batch", "image")
SOURCES = ("features", "mean", "zeros")
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "falling": lambda done: 1.0 - done,
    "rising": lambda done: done,
}


def crossover(features: Tensor, pretrained: Tensor, p: float, uniform: Tensor | None = None) -> Tensor:
    """Replace channels of a network's features by those of a pretrained one, with probability `p` each.

    Parameters
    ----------
    features : Tensor of shape (B, C)
        What the network feeds its last linear layer. Channels that are replaced pass no gradient to it.
    pretrained : Tensor of shape (B, D)
        Features of the same images; of channels beyond the shorter of C and D nothing is replaced.
    p : float
        Probability, 0 to 1.
    uniform : Tensor of shape (min(C, D),) or (B, min(C, D)), optional
        A channel is replaced where this is below `p`; one row serves the whole batch, as in the released code. By
        default drawn, on the CPU, from torch's global generator: one row.

    Returns
    -------
    Tensor of shape (B, C)

    Raises
    ------
    ValueError
        If `p` is not a probability, or a shape does not fit.
    """
    _check_probability(p)
    if features.dim() != 2 or pretrained.dim() != 2 or len(features) != len(pretrained):
        shapes = f"{tuple(features.shape)} and {tuple(pretrained.shape)}"
        raise ValueError(f"features must be (batch, channels) of the same images, got {shapes}")
    shared = min(features.shape[1], pretrained.shape[1])
    uniform = torch.rand(shared) if uniform is None else uniform
    if uniform.shape not in ((shared,), (len(features), shared)):
        raise ValueError(f"uniform must be ({shared},) or ({len(features)}, {shared}), got {tuple(uniform.shape)}")
    replaced = uniform.to(features.device) < p
    mixed = torch.where(replaced, pretrained[:, :shared].detach().to(features), features[:, :shared])
    return torch.cat((mixed, features[:, shared:]), 1)


def _check_probability(p: float) -> None:
    finite("the probability p", p, 0, 1)


class Crossover(nn.Module):
    """An objective with crossover: the network's last features are crossed over with those of a frozen support network.

    While the objective `inner` runs the network, channels of the features in front of its last linear layer are
    replaced by channels of the support's, anew for every batch. Evaluation does not come here, so it is the network's
    alone. Like dropout, this draws from torch's global generator, so `hetlib.training.fit` resumes it to the bit.

    Parameters
    ----------
    support : nn.Module or None
        The network whose features are mixed in, see `pooled_features`; a frozen copy of it is kept and run in every
        batch. None: its features of each image are the first of the `rows`, see `support_features`. If it has fewer
        features (D) than the network (C), only the first D of these are ever replaced.
    p : float
        Probability of each channel to be replaced.
    mask : {"batch", "image"}
        One draw of channels for the whole batch, as in the released code, or one for every image.
    source : {"features", "mean", "zeros"}
        What replaces them: the support's features; their mean over the batch, which says nothing of an image; or
        zeros, which is dropout without rescaling. The last two are controls.
    schedule : {"constant", "falling", "rising"}
        How the probability goes over `steps` batches: p throughout, from p to 0, or from 0 to p.
    steps : int, optional
        Batches of the whole training; a schedule that is not constant needs it.
    inner : callable
        The objective that runs the network, once, such as a `hetlib.training.Distillation`.

    Raises
    ------
    ValueError
        If `p` is no probability, a name is unknown, or a schedule lacks its steps; in training, if the network has no
        linear layer, or its last one does not run exactly once in a batch, or the features are missing.

    References
    ----------
    Duong et al., 2024, released code: p = 0.1, mask "batch", source "features", without schedule. There the support
    also runs in evaluation, and with gradients; neither changes a result.
    """

    def __init__(
        self,
        support: nn.Module | None,
        p: float = 0.1,
        mask: str = "batch",
        source: str = "features",
        schedule: str = "constant",
        steps: int | None = None,
        inner: Objective = cross_entropy,
    ):
        super().__init__()
        choices = (("mask", mask, MASKS), ("source", source, SOURCES), ("schedule", schedule, tuple(SCHEDULES)))
        for kind, name, names in choices:
            known(kind, name, names)
        if steps is not None or schedule != "constant":
            positive(f"the steps of the training, which a {schedule} p needs,", steps)
        _check_probability(p)
        if support is not None:
            check_network("support", support)
        self.support = None if support is None else Frozen(support)
        self.p, self.mask, self.source, self.inner = p, mask, source, inner
        self.schedule, self.steps, self._step = schedule, steps or 1, 0
        self._heads: tuple[Any, Any] = None, None  # in a tuple, so that they are not taken for parts of this module

    @property
    def probability(self) -> float:
        """The probability of the next batch in training."""
        return self.p * SCHEDULES[self.schedule](min(1.0, self._step / self.steps))

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor, *rows: Tensor) -> Tensor:
        """The loss of a batch.

        Parameters
        ----------
        model : nn.Module
            Ends in a linear layer.
        images : Tensor of shape (B, channels, height, width)
        labels : Tensor of shape (B,)
        *rows : Tensor of shape (B, ...)
            Without a support, its features of these images (B, D); then what `inner` takes.

        Returns
        -------
        Tensor of shape ()
        """
        name, head = type(model).__name__, self._head_of(model, images)
        if self.support is not None:
            pretrained = pooled_features(self.support.network, images)
        elif rows:
            pretrained, rows = rows[0], rows[1:]
        else:
            raise ValueError("crossover without a support network needs its features, as the first of the rows")
        calls: list[nn.Module] = []

        def cross(head: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            calls.append(head)
            return (self._crossed(inputs[0], pretrained),)

        hook = head.register_forward_pre_hook(cross)
        try:
            loss = self.inner(model, images, labels, *rows)
        finally:
            hook.remove()
        if len(calls) != 1:
            raise ValueError(f"the last linear layer of {name} ran {len(calls)} times in a batch, not once")
        self._step += 1
        return loss

    def _head_of(self, model: nn.Module, images: Tensor) -> nn.Linear:
        """The last linear layer that runs, looked for once for each network."""
        if self._heads[0] is not model:
            if (head := head_of(model, images)) is None:
                raise ValueError(f"{type(model).__name__} has no linear layer to cross features over in front of")
            self._heads = model, head
        return self._heads[1]

    def _crossed(self, features: Tensor, pretrained: Tensor) -> Tensor:
        if self.source == "mean":
            pretrained = pretrained.mean(0, keepdim=True).expand_as(pretrained)
        elif self.source == "zeros":
            pretrained = torch.zeros_like(pretrained)
        shared = min(features.shape[-1], pretrained.shape[-1])
        rows = () if self.mask == "batch" else (len(features),)
        return crossover(features, pretrained, self.probability, torch.rand(*rows, shared))

    def extra_repr(self) -> str:
        """All settings: they tell one training from another."""
        settings = (self.p, self.mask, self.source, self.schedule, self.steps)
        inner = "" if isinstance(self.inner, nn.Module) else f", inner={self.inner.__qualname__}"
        return "p={}, mask={}, source={}, schedule={}, steps={}".format(*settings) + inner

    def get_extra_state(self) -> Tensor:
        """How many batches the schedule has seen."""
        return torch.tensor(self._step)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from there."""
        self._step = int(state)


@dataclass(frozen=True)
class CrossoverWith:
    """A `Crossover` as data, for a `hetlib.lab.Job`: the support is named, and found or trained when it is needed.

    Where training does not augment its images, the support's features are worked out once.

    Attributes
    ----------
    support : Job
        The training whose network is the support.
    p, mask, source, schedule
        As for `Crossover`.
    inner : callable, optional
        Another objective as data, such as a `hetlib.training.DistilFrom`; by default cross-entropy.

    Raises
    ------
    ValueError
        As `Crossover`.
    """

    support: Any
    p: float = 0.1
    mask: str = "batch"
    source: str = "features"
    schedule: str = "constant"
    inner: Any = None

    def __post_init__(self):
        self._crossover(None, 1, cross_entropy)  # a wrong setting is told at once

    def _crossover(self, support: nn.Module | None, steps: int, inner: Objective) -> Crossover:
        return Crossover(support, self.p, self.mask, self.source, self.schedule, steps, inner)

    def __call__(self, model: nn.Module, network: Callable[[Any], nn.Module], images: Images, recipe: Recipe) -> dict:
        """Keyword arguments for `hetlib.training.fit`; `network` gives the network of a job."""
        inner = {} if self.inner is None else self.inner(model, network, images, recipe)
        support, rows = network(self.support), [*inner.get("rows", ())]
        steps = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
        given = support if recipe.augment else None
        if given is None:
            rows = [support_features(support, images, precision=recipe.precision), *rows]
        return inner | {"objective": self._crossover(given, steps, inner.get("objective", cross_entropy)), "rows": rows}
