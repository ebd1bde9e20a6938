"""Filter grafting: networks trained side by side blend their weights into one another after every epoch.

Meng, Cheng, Li, Xu, Ji, Sun, Lu, *Filter Grafting for Deep Neural Networks*, CVPR 2020 (arXiv 2001.05868), after its
released code.

>>> GRAFT = Transfer(SameName(), (Copy(),), ByEntropy())     # one network of the ring takes from the one before it
>>> Grafting()([first, second, third])                       # the whole ring, in place, all at once
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from math import cos, pi
from typing import Any

from torch import Tensor, nn

from hetlib.checks import check_sequence
from hetlib.errors import finite, known, positive
from hetlib.grafting.after_epoch import AfterEpoch, Averaging, Voting
from hetlib.grafting.blends import ByEntropy, ByNorm
from hetlib.grafting.fits import CopyByActivation, CopyByScale, Internal, Noise, invalid_filters
from hetlib.grafting.settings import Grafting
from hetlib.kernels.graft import coefficient
from hetlib.training import Recipe

__all__ = [
    "AfterEpoch",
    "Averaging",
    "ByEntropy",
    "ByNorm",
    "CopyByActivation",
    "CopyByScale",
    "Grafting",
    "Internal",
    "Noise",
    "Voting",
    "coefficient",
    "graft",
    "initial_rates",
    "invalid_filters",
    "recipes",
]
RELEASED = Recipe(epochs=200, lr=0.1, weight_decay=5e-4, schedule="steps", milestones=(60, 120, 180))
"""How the release trains on CIFAR: SGD with momentum 0.9, batches of 128, a tenth of the rate every 60 epochs."""


def graft(
    states: Sequence[Mapping[str, Tensor]] | Sequence[nn.Module],
    a: float = 0.4,
    c: float = 500.0,
    *,
    images: Tensor | None = None,
    seed: int = 0,
    epoch: int = 0,
    **settings: Any,
) -> list[dict[str, Tensor]]:
    """One graft of a ring: what the state dict of every network becomes, all from what they were before.

    Network i keeps a share of itself and takes the rest from network i - 1, the first from the last. Integers (the
    number of batches that a batch norm has seen) are kept.

    Parameters
    ----------
    states : sequence of state dicts, or of nn.Module
        Two or more of one architecture; unchanged. State dicts go by the released rule: a new coefficient at every key
        that holds "conv", which the following keys take over. In networks every convolution has its own, whatever it is
        called; ``named=True`` asks for the released rule.
    a, c : float
        Range and steepness of the coefficients, see `ByEntropy`.
    images, seed, epoch
        See `Grafting.plan`.
    **settings
        Any other attribute of `Grafting`.

    Returns
    -------
    list of dict of str to Tensor
        One new state dict for each.

    Raises
    ------
    ValueError
        As `Grafting` and `Grafting.plan`.

    References
    ----------
    Meng et al., CVPR 2020, and the released code.
    """
    for name in settings:
        known("setting of a graft", name, [each.name for each in fields(Grafting)])
    check_sequence("networks", states, "networks, or of their state dicts")
    how = Grafting(a, c, **settings)
    grafted = [_copied(each) if isinstance(each, Mapping) else deepcopy(each) for each in states]
    how(grafted, images, seed, epoch)
    return [each.state_dict() if isinstance(each, nn.Module) else each for each in grafted]


def initial_rates(lr: float, k: int) -> list[float]:
    """The initial learning rates of K networks that shall differ: half a cosine, from small to `lr`.

    Parameters
    ----------
    lr : float
        Of the last network, the highest.
    k : int
        How many networks.

    References
    ----------
    The released code: ``lr * (1 + cos(pi * (K - i) / K)) / 2`` for i = 1 ... K.
    """
    positive("k, the number of networks,", k)
    finite("lr", lr, above=0)
    return [lr * (1 + cos(pi * (k - i) / k)) / 2 for i in range(1, k + 1)]


def recipes(preset: str, k: int, recipe: Recipe = RELEASED) -> list[Recipe]:
    """The recipes of a ring's networks, by one of the two released presets.

    Parameters
    ----------
    preset : {"slr", "dlr"}
        "slr": one learning rate for all, in steps. "dlr": different ones (`initial_rates`), annealed by a cosine.
    k : int
        How many networks.
    recipe : Recipe
        Everything else; its `lr` is the highest.
    """
    known("preset of learning rates", preset, ("slr", "dlr"))
    positive("k, the number of networks,", k)
    if preset == "slr":
        return [recipe] * k
    return [recipe.changed(lr=lr, schedule="cosine") for lr in initial_rates(recipe.lr, k)]


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in state.items()}
