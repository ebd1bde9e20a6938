"""Filter grafting's experiments: rings of networks, and controls that take as much training.

`ARMS` are the released settings (slr, dlr, numbers of networks, A and c, scions, levels) and controls: a single network
at each rate and schedule, plain averaging, ensembles, averages over a network's own epochs, and one network trained as
long as all of a ring together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import torch

from hetlib import zoo
from hetlib.chain import convolutions
from hetlib.grafting import AfterEpoch, Averaging, Grafting, Voting, initial_rates, invalid_filters
from hetlib.kernels.entropy import weight_entropy
from hetlib.lab import Group, Job, presets
from hetlib.parameters import place
from hetlib.training import Recipe

RELEASED = (0.3, 0.6, 0.9)
"""After which parts of the training the learning rate falls to a tenth, at "slr"."""
REAL = ("reduced", "paper")
SEEDS = presets.SEEDS | {"classroom": 5}
WATCHED = "k4"
"""The arm whose accuracy is also noted right after each graft, at the first seed."""
FEW_IMAGES = 1000
"""Training images of `reduced`, as many of each class."""


@dataclass(frozen=True)
class Arm:
    """How many networks train side by side, and what happens between their epochs.

    Attributes
    ----------
    between : AfterEpoch, Averaging, Voting or None
        None trains single networks.
    networks : int
        How many, with weights, data order and, at "dlr", learning rates of their own.
    rates : {"slr", "dlr", "half rate", "cosine", "first of 2", "first of 4"}
        "slr": one rate, falling in steps. "dlr": different rates, each annealed by a cosine. The others are for single
        networks: half the rate of "slr"; that rate annealed by a cosine; what the first of 2 or 4 has at "dlr".
    times : int
        How many times the epochs of the others.
    ablation : bool
        Whether the arm is trained at the first seed alone, at the presets without photographs.
    same_start : bool
        Whether all networks start from the same weights.
    """

    between: Any = None
    networks: int = 1
    rates: str = "slr"
    times: int = 1
    ablation: bool = False
    same_start: bool = False


def _graft(networks: int = 2, rates: str = "dlr", ablation: bool = False, every: int = 1, **how: Any) -> Arm:
    own = {name: how.pop(name) for name in ("update_bn", "reset_momentum") if name in how}
    return Arm(AfterEpoch(Grafting(**how), every=every, **own), networks, rates, ablation=ablation)


MAIN = {
    "baseline": Arm(),
    "half rate": Arm(rates="half rate"),
    "cosine": Arm(rates="cosine"),
    "first of 2, alone": Arm(rates="first of 2"),
    "first of 4, alone": Arm(rates="first of 4"),
    "ensemble2": Arm(Voting(), 2, "dlr"),
    "2 times as long": Arm(Averaging(), rates="cosine", times=2),
    "average": _graft(a=0.0),
    "slr": _graft(rates="slr"),
    "dlr": _graft(),
    "ensemble4": Arm(Voting(), 4, "dlr"),
    "4 times as long": Arm(rates="cosine", times=4),
    "average of 4": _graft(4, a=0.0),
    "k4": _graft(4),
}
"""Trained at every seed."""
ABLATIONS = {
    "a0_c100": _graft(a=0.0, c=100.0, ablation=True),
    "average, slr": _graft(rates="slr", a=0.0, ablation=True),
    **{f"a0.4_c{c:g}": _graft(c=c, ablation=True) for c in (1.0, 5.0, 10.0, 50.0, 100.0)},
    **{f"a{a:g}_c100": _graft(a=a, c=100.0, ablation=True) for a in (0.2, 0.6, 0.8, 1.0)},
    "not rounded": _graft(decimals=None, ablation=True),
    "by l1": _graft(criterion="l1", ablation=True),
    "by activation": _graft(criterion="activation", ablation=True),
    "by filter": _graft(level="filter", ablation=True),
    "mean of 4": _graft(4, level="network", ablation=True),
    "noise": _graft(scion="noise", ablation=True),
    "internal": _graft(scion="internal", ablation=True),
    "aligned": _graft(align=True, ablation=True),
    "every 5 epochs": _graft(every=5, ablation=True),
    "statistics anew": _graft(update_bn=True, ablation=True),
    "same start": Arm(AfterEpoch(), 2, "dlr", ablation=True, same_start=True),
    "momentum reset": _graft(reset_momentum=True, ablation=True),
    **{f"k{k}": _graft(k, ablation=True) for k in (3, 6, 8)},
    "ensemble6": Arm(Voting(), 6, "dlr", ablation=True),
}
ARMS = MAIN | ABLATIONS
FEW = (*MAIN, "average, slr", "by filter")
"""The arms that the tests train."""


@dataclass(frozen=True)
class Setting:
    """What a preset trains: the network, its options, the data, and the recipe of a single network."""

    model: str
    data: str
    recipe: Recipe
    options: dict[str, Any] = field(default_factory=dict)
    few: int = 0


def setting(preset: str, data: str = "", model: str = "", width: float = 0.0, epochs: int = 0) -> Setting:
    """What a preset trains.

    Parameters
    ----------
    preset : {"smoke", "classroom", "reduced", "paper"}
        How big. "reduced" is a short schedule on 1,000 of CIFAR's training images, few enough for networks to learn
        most of them by heart, as they do in the paper's 200 epochs.
    data : str
        Training set; empty takes the preset's own: scikit-learn's digits, or CIFAR-10.
    model : str
        Network; empty takes the preset's own, one of the paper's family.
    width : float
        Of every hidden layer, as a factor; 0 takes the preset's own.
    epochs : int
        Of a single network; 0 takes the preset's own.
    """
    real = preset in REAL
    length = epochs or {"smoke": 2, "classroom": 25, "reduced": 40, "paper": 200}[preset]
    milestones = tuple(round(part * length) for part in RELEASED)
    recipe = Recipe(epochs=length, lr=0.1, schedule="steps", milestones=milestones)
    if not real:
        # Digits are neither shifted nor mirrored; a test set of 360 images would cost more than the training.
        recipe = recipe.changed(batch_size=50, augment=False, evaluate_every=5)
    if preset == "reduced":
        recipe = recipe.changed(batch_size=64, evaluate_every=10)
    data = data or ("cifar10" if real else "digits")
    return Setting(
        model or {"paper": "resnet32", "reduced": "resnet20"}.get(preset, "resnet8"),
        data,
        recipe,
        {"width": width or {"paper": 1.0, "reduced": 0.5}.get(preset, 0.25)},
        {"paper": 0, "reduced": FEW_IMAGES // (100 if data == "cifar100" else 10)}.get(preset, 20),
    )


def job(chosen: Setting, arm: Arm, seed: int, watch: bool = False) -> Job | Group:
    """The training of one arm: a job, or the group of a ring; `watch` notes accuracies after each graft, too."""
    recipes = _recipes(chosen.recipe, arm)
    few = {"per_class": chosen.few, "draw": seed} if chosen.few else {}
    jobs = tuple(
        Job(
            model=chosen.model,
            data=chosen.data,
            recipe=recipe,
            # Networks of one ring differ in all that a seed draws; the first network of every arm is the same.
            seed=seed if arm.same_start else 1000 * k + seed,
            order=1000 * k + seed if arm.same_start else None,
            options=chosen.options,
            data_options=few,
        )
        for k, recipe in enumerate(recipes)
    )
    if arm.between is None:
        return jobs[0]
    between = arm.between
    if watch and isinstance(between, AfterEpoch):
        jobs = tuple(replace(one, recipe=one.recipe.changed(evaluate_every=1)) for one in jobs)
        between = AfterEpoch(between.grafting, between.every, between.update_bn, between.reset_momentum, watch=True)
    return Group(jobs=jobs, between=between)


def _recipes(recipe: Recipe, arm: Arm) -> list[Recipe]:
    """The recipe of each network of an arm."""
    if arm.times > 1:
        longer = tuple(arm.times * milestone for milestone in recipe.milestones)
        recipe = recipe.changed(epochs=arm.times * recipe.epochs, milestones=longer)
    if arm.rates == "dlr":
        return [recipe.changed(lr=lr, schedule="cosine") for lr in initial_rates(recipe.lr, arm.networks)]
    alone = {"half rate": recipe.changed(lr=recipe.lr / 2), "cosine": recipe.changed(schedule="cosine")}
    for k in (2, 4):
        alone[f"first of {k}"] = recipe.changed(lr=initial_rates(recipe.lr, k)[0], schedule="cosine")
    return [alone.get(arm.rates, recipe)] * arm.networks


def jobs(
    preset: str,
    seeds: Sequence[int] | None = None,
    data: str = "",
    model: str = "",
    width: float = 0.0,
    epochs: int = 0,
    arms: Sequence[str] = (),
) -> dict[tuple[str, int], Job | Group]:
    """All trainings by arm and seed; parameters as for `setting`, seeds by default the preset's own.

    Without `arms`, those of `MAIN` are trained at every seed, and those of `ABLATIONS` at the first; `paper` trains all
    at every seed, `reduced` only `MAIN`. With `model` "mobilenetv2", "vgg16" and so on, and `data` "cifar10" or
    "cifar100", they are the tables of the release's README.
    """
    chosen = setting(preset, data, model, width, epochs)
    numbers = list(range(SEEDS[preset]) if seeds is None else seeds)
    found: dict[tuple[str, int], Job | Group] = {}
    for name in arms or {"smoke": FEW, "reduced": MAIN}.get(preset, ARMS):
        few = numbers[:1] if ARMS[name].ablation and preset not in REAL else numbers
        watched = numbers[:1] if name == WATCHED else []
        found |= {(name, seed): job(chosen, ARMS[name], seed, watch=seed in watched) for seed in few}
    return found


def published(folder: str | PathLike) -> dict[str, dict[str, float]]:
    """What grafting looks at, in networks that others have trained alone and to the end on CIFAR-10.

    Parameters
    ----------
    folder : path-like
        Holds `cifar10_resnet20.pt` and `cifar10_resnet32.pt` as published by chenyaofo/pytorch-cifar-models; below the
        project's folder, unless absolute.

    Returns
    -------
    dict
        By network: "filters", "invalid", how many of them are, and "entropy", the mean over its convolutions.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    """
    found = {}
    for name in ("resnet20", "resnet32"):
        model = zoo.build(name)
        kept = torch.load(place(folder) / f"cifar10_{name}.pt", weights_only=True)
        model.load_state_dict(model.state_dict() | kept)  # counts of batches are not kept there
        invalid, filters = invalid_filters(model)
        entropies = weight_entropy([layer.weight.detach() for _, layer in convolutions(model)])
        found[name] = {"filters": filters, "invalid": invalid, "entropy": float(entropies.mean())}
    return found


def accuracy(arm: Arm, result: Any, which: str = "final") -> float:
    """The test accuracy in percent that an arm is judged by.

    That of the vote where there is one, and of the ring's first network otherwise, before the last graft, as released;
    `which` is "final" (after the last epoch), "best" (chosen on the test set, so optimistic), or "swa" or "ema", the
    averages over the epochs of a single network.
    """
    if which in ("swa", "ema"):
        return result.facts[-1][which][0]
    return result.facts[-1]["accuracy"] if isinstance(arm.between, Voting) else getattr(result.history, which)
