"""What a ring of networks does after every epoch of training: graft, tidy up, and note what it saw."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.chain.nested import flatten, leaves, only
from hetlib.data import sample
from hetlib.errors import finite, positive
from hetlib.grafting.checks import tensors_of
from hetlib.grafting.fits import invalid_filters
from hetlib.grafting.settings import Grafting
from hetlib.kernels.entropy import weight_entropy
from hetlib.kernels.fill import Fill
from hetlib.merging import Ensemble, update_bn
from hetlib.training import Lockstep, Loop, evaluate

STATISTICS = 1024
"""Training images that batch norms take their statistics from."""


@dataclass(frozen=True)
class AfterEpoch:
    """The step between the epochs of a `hetlib.training.Lockstep`: all networks graft, from what they were before.

    Attributes
    ----------
    grafting : Grafting
        What is grafted, and how.
    every : int
        Epochs from one graft to the next.
    update_bn : bool
        Take the running statistics of batch norms anew after a graft: a blend of two networks' statistics is not that
        of the blended network. The release blends them.
    reset_momentum : bool
        Set the optimisers' moments to 0 after a graft; the release keeps them.
    watch : bool
        Also note the accuracy after each graft, as it is and with statistics taken anew: two more evaluations each.

    Raises
    ------
    ValueError
        If `every` is not positive.
    """

    grafting: Grafting = field(default_factory=Grafting)
    every: int = 1
    update_bn: bool = False
    reset_momentum: bool = False
    watch: bool = False

    def __post_init__(self):
        positive("every, the epochs from one graft to the next,", self.every)

    def __call__(self, ring: Lockstep) -> dict[str, Any]:
        """Graft where it is time to; see `noted` for the facts."""
        models = [loop.model for loop in ring.loops]
        before = noted(models, self.grafting.threshold)
        if ring.epochs % self.every:
            return before
        data = ring.loops[0].data
        images = sample(data) if self.grafting.criterion == "activation" else None
        fills = self.grafting(models, images, seed=ring.epochs, epoch=ring.epochs - 1)
        facts = before | {"coefficients": coefficients(fills)}
        if len(models) > 1:
            facts["distance_after"] = distance(models)
        if self.watch:
            facts |= _watched(ring, models)
        if self.update_bn:
            for model in models:
                update_bn(model, sample(data, STATISTICS))
        if self.reset_momentum:
            for loop in ring.loops:
                forget(loop.optimiser)
        return facts


def noted(models: Sequence[nn.Module], threshold: float) -> dict[str, Any]:
    """Facts of networks before a graft.

    Returns
    -------
    dict
        "invalid", the share of invalid filters of each; "entropy", that of each convolution's weight in each, by the
        name of the layer; and of several networks "distance", see `distance`.
    """
    counts = [invalid_filters(model, threshold) for model in models]
    facts: dict[str, Any] = {"invalid": [bad / total if total else 0.0 for bad, total in counts], "entropy": {}}
    layers = [dict(leaves(only(flatten(model), nn.modules.conv._ConvNd))) for model in models]
    if layers[0]:
        found = weight_entropy([layer.weight.detach() for each in layers for layer in each.values()])
        facts["entropy"] = dict(zip(layers[0], found.view(len(models), -1).T.tolist(), strict=True))
    return facts | ({"distance": distance(models)} if len(models) > 1 else {})


@torch.no_grad()
def distance(models: Sequence[nn.Module]) -> float:
    """How far networks are apart: the root mean square distance of their parameters from their mean."""
    total = torch.zeros((), dtype=torch.float64)
    for values in zip(*(model.parameters() for model in models), strict=True):
        stacked = torch.stack([value.double().flatten() for value in values])
        total = total.to(stacked) + (stacked - stacked.mean(0)).square().sum() / len(models)
    return float(total.sqrt())


def coefficients(fills: Sequence[Fill]) -> dict[str, list[float]]:
    """The coefficients of convolutions by layer, one for each network in turn; none where they are not by layer."""
    found: dict[str, list[Tensor]] = {}
    for fill in fills:
        if (
            fill.kind == "convolution"
            and fill.out.dim() > 1
            and isinstance(fill.alpha, Tensor)
            and not fill.alpha.dim()
        ):
            found.setdefault(fill.layer, []).append(fill.alpha)
    if not found:
        return {}
    numbers = torch.stack([torch.stack(each) for each in found.values()]).tolist()  # one wait for all of them
    return dict(zip(found, numbers, strict=True))


def forget(optimiser: torch.optim.Optimizer) -> None:
    """Set an optimiser's moments to 0, in place."""
    for state in optimiser.state.values():
        for value in state.values():
            if isinstance(value, Tensor) and value.dim():
                value.zero_()


def _watched(ring: Lockstep, models: Sequence[nn.Module]) -> dict[str, Any]:
    """Accuracies in percent after the graft: as the networks are, and with statistics of batch norms taken anew."""
    test, precision = ring.loops[0].test, ring.loops[0].recipe.precision
    if test is None:
        return {}
    statistics = sample(ring.loops[0].data, STATISTICS)
    after, renewed = [], []
    for model in models:
        after.append(evaluate(model, test, precision=precision)["top1"])
        copy = deepcopy(model)
        update_bn(copy, statistics)
        renewed.append(evaluate(copy, test, precision=precision)["top1"])
    return {"after": after, "after_update_bn": renewed}


@dataclass(frozen=True)
class Averaging:
    """What grafting is compared with: averages of each network's weights over its own epochs. Nothing is changed.

    Attributes
    ----------
    start : float
        The part of the training after which the plain mean begins (SWA); every epoch from there on counts alike.
    decay : float
        Of the exponential moving average over all epochs (EMA).

    References
    ----------
    Izmailov et al., *Averaging Weights Leads to Wider Optima and Better Generalization*, UAI 2018.
    """

    start: float = 0.75
    decay: float = 0.8

    def __post_init__(self):
        for name in ("start", "decay"):
            finite(name, getattr(self, name), 0, 1)

    @torch.no_grad()
    def __call__(self, ring: Lockstep) -> dict[str, Any]:
        """Take an epoch in; after the last, "swa" and "ema" tell the averages' accuracies, with statistics anew."""
        first = int(self.start * ring.loops[0].recipe.epochs)
        shares = {"ema": 1.0 if ring.epochs == 1 else 1 - self.decay}
        if ring.epochs > first:
            shares["swa"] = 1 / (ring.epochs - first)
        for name, share in shares.items():
            for k, loop in enumerate(ring.loops):
                for key, value in tensors_of(loop.model).items():
                    ring.memory.setdefault(f"{name}.{k}.{key}", value.clone()).lerp_(value, share)
        if not ring.finished:
            return {}
        return {name: [_score(loop, name, k, ring.memory) for k, loop in enumerate(ring.loops)] for name in shares}


def _score(loop: Loop, name: str, k: int, memory: Mapping[str, Tensor]) -> float:
    """The accuracy in percent of an average that is kept."""
    if loop.test is None:
        return float("nan")
    model = deepcopy(loop.model)
    model.load_state_dict(model.state_dict() | {key: memory[f"{name}.{k}.{key}"] for key in tensors_of(model)})
    update_bn(model, sample(loop.data, STATISTICS))
    return evaluate(model, loop.test, precision=loop.recipe.precision)["top1"]


@dataclass(frozen=True)
class Voting:
    """What grafting is compared with: networks that never meet, and vote at the end by the average of their logits."""

    def __call__(self, ring: Lockstep) -> dict[str, Any]:
        """Change nothing; see `noted` for the facts. After the last epoch "accuracy" is the vote's, in percent."""
        test, facts = ring.loops[0].test, noted([loop.model for loop in ring.loops], Grafting.threshold)
        if not ring.finished or test is None:
            return facts
        voters = Ensemble(loop.model for loop in ring.loops)
        return facts | {"accuracy": evaluate(voters, test, precision=ring.loops[0].recipe.precision)["top1"]}
