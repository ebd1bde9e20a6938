"""How a network is trained, and what came of it: settings and history as plain data."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from math import cos, pi
from typing import Any

from hetlib.checks import check_sequence
from hetlib.errors import finite, known, positive, shown, whole_numbers

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; all that its numbers depend on besides data, weights and seed.

    Attributes
    ----------
    epochs, batch_size : int
        Passes over the data, images per step; the last batch of an epoch may be smaller.
    optimiser : {"sgd", "adamw"}
        SGD uses `momentum`; both use `weight_decay`.
    lr : float
        Highest learning rate.
    schedule : {"steps", "cosine", "one-cycle", "constant", "iterations"}
        "steps" multiplies by `gamma` from each epoch in `milestones` (0-based) on; "cosine" anneals to 0 per step;
        "one-cycle" rises linearly over the first fifth of the steps and falls linearly to 0; "iterations" is "steps"
        with milestones that count optimiser steps, as the released code of amalgamation has it by accident.
    augment : bool
        Random crop with 4 pixels of padding, and horizontal flip.
    precision : {"auto", "fp32", "bf16"}
        "auto" takes bf16 where the device has instructions for it.
    evaluate_every : int
        Epochs between evaluations; the last epoch is always evaluated.
    rates : tuple of (str, float)
        Factors on the learning rate of the parameters whose name begins with a string. Names are those of
        `named_parameters` after "model." or "objective."; the last pair that fits counts, and 1 where none does.
    """

    epochs: int = 10
    batch_size: int = 128
    optimiser: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    augment: bool = True
    precision: str = "auto"
    evaluate_every: int = 1
    rates: tuple[tuple[str, float], ...] = ()

    def __post_init__(self):
        choices = {
            "optimiser": ("sgd", "adamw"),
            "schedule": tuple(SCHEDULES),
            "precision": PRECISIONS,
        }
        for name, valid in choices.items():
            known(name, getattr(self, name), valid)
        for name in ("epochs", "batch_size", "evaluate_every"):
            positive(name, getattr(self, name))
        finite("lr", self.lr, above=0)
        finite("momentum", self.momentum, 0, 1)
        for name in ("weight_decay", "gamma"):
            finite(name, getattr(self, name), 0)
        object.__setattr__(self, "milestones", tuple(whole_numbers("milestones", self.milestones, 0)))
        object.__setattr__(self, "rates", _rates(self.rates))

    def changed(self, **changes: Any) -> "Recipe":
        """The same recipe with some settings replaced; an unknown setting is named with its nearest neighbours."""
        valid = [f.name for f in fields(self)]
        for name in changes:
            known("training setting", name, valid)
        return replace(self, **changes)

    def rate_of(self, name: str) -> float:
        """The factor on the learning rate of a parameter, by its name; see `rates`."""
        return next((factor for start, factor in reversed(self.rates) if name.startswith(start)), 1.0)

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of 0-based optimiser step `step`."""
        return self.lr * SCHEDULES[self.schedule](self, step, steps_per_epoch)


def _rates(given: Iterable[Any]) -> tuple[tuple[str, float], ...]:
    """Pairs of a name and a factor of at least 0; errors name the rates."""
    check_sequence("rates", given, "pairs of a name's beginning and a factor")
    found = []
    for pair in given:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise TypeError(f"rates: a name's beginning and a factor are needed, got {shown(pair)}")
        found.append((pair[0], finite(f"rates: the factor of {pair[0]!r}", pair[1], 0)))
    return tuple(found)


def _steps(recipe: Recipe, step: int, per_epoch: int) -> float:
    return recipe.gamma ** sum(step // per_epoch >= milestone for milestone in recipe.milestones)


def _cosine(recipe: Recipe, step: int, per_epoch: int) -> float:
    return (1 + cos(pi * step / (recipe.epochs * per_epoch))) / 2


def _one_cycle(recipe: Recipe, step: int, per_epoch: int) -> float:
    total = recipe.epochs * per_epoch
    return min((step + 1) / (0.2 * total), (total - step) / (0.8 * total), 1.0)


SCHEDULES: dict[str, Callable[[Recipe, int, int], float]] = {
    "steps": _steps,
    "cosine": _cosine,
    "one-cycle": _one_cycle,
    "constant": lambda recipe, step, per_epoch: 1.0,
    "iterations": lambda recipe, step, per_epoch: _steps(recipe, step, 1),
}


@dataclass
class History:
    """What training printed, had it printed: one entry per epoch, and one per evaluation.

    Attributes
    ----------
    loss, lr : list of float
        Mean training loss (nats) and last learning rate of each epoch.
    evaluated : list of int
        Epochs, counted from 1, after which the network was evaluated.
    top1, top5, top10, test_loss : list of float
        Test accuracy in percent and loss in nats, one entry per evaluation.
    validation : list of float
        Top-1 accuracy in percent on held-out images, one entry per evaluation; empty without such images.
    """

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)
    top1: list[float] = field(default_factory=list)
    top5: list[float] = field(default_factory=list)
    top10: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """Epochs finished."""
        return len(self.loss)

    @property
    def final(self) -> float:
        """Top-1 test accuracy after the last evaluated epoch, in percent; nan if never evaluated."""
        return self.top1[-1] if self.top1 else float("nan")

    @property
    def best(self) -> float:
        """Highest top-1 test accuracy of all evaluations, in percent: chosen on the test set, so optimistic."""
        return max(self.top1, default=float("nan"))

    @property
    def selected(self) -> float:
        """Top-1 test accuracy after the epoch that scored best on held-out images, in percent; nan without them."""
        if not self.validation:
            return float("nan")
        return self.top1[self.validation.index(max(self.validation))]
