"""Amalgamation's experiments: sources that know several attributes, components that merge those of one, and targets.

`ARMS` are the paper's way, the same with other rules for choosing teachers, the peers, and a network that is trained
with labels. All targets of a seed learn from the same sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hetlib.amalgamation import (
    GROUPS,
    RECIPE,
    SOURCE,
    AmalgamateFrom,
    Settings,
    attributes_of,
    per_attribute,
    sources_of,
)
from hetlib.errors import unknown
from hetlib.lab import Job
from hetlib.lab.presets import SEEDS
from hetlib.training import Recipe

WIDER = 90 / 64
"""How many times as wide as a component the target is, in the paper's experiment with attributes."""
ABLATIONS = ("bridges free", "norms frozen", "joint", "steps every iteration")
"""The arms that are trained at the first seed alone, but at preset "paper"."""


@dataclass(frozen=True)
class Arm:
    """How a target learns.

    Attributes
    ----------
    way : str
        "components": from components, which learn from images shared out among their sources by `Settings.rule`.
        "chosen": from all sources at once, likewise. "labels": from labels, without any teacher. Or a peer.
    settings : Settings
    schedule : str
        Of the learning rate; "iterations" is the released one, by accident.
    """

    way: str = "components"
    settings: Settings = field(default_factory=Settings)
    schedule: str = "steps"


ARMS = {
    "amalgamation": Arm(),
    "random teacher": Arm(settings=Settings(rule="random")),
    "every teacher": Arm(settings=Settings(rule="average")),
    "surest by labels": Arm(settings=Settings(rule="oracle")),
    "without components": Arm("chosen"),
    "distillation": Arm("distillation"),
    "layer-wise": Arm("layer-wise"),
    "common features": Arm("common-features"),
    "labels": Arm("labels"),
    "bridges free": Arm(settings=Settings(norm=0.0)),
    "norms frozen": Arm(settings=Settings(freeze_norms=True)),
    "joint": Arm(settings=Settings(joint=True)),
    "steps every iteration": Arm(schedule="iterations"),
}


@dataclass(frozen=True)
class Setting:
    """What a preset trains: images and how many (0: all), the network of sources and components, its width, recipes."""

    data: str
    model: str
    width: float
    source: Recipe
    recipe: Recipe
    count: int = 0


def setting(preset: str, data: str = "", width: float = 0.0, epochs: int = 0) -> Setting:
    """What a preset trains.

    Parameters
    ----------
    preset : {"smoke", "classroom", "reduced", "paper"}
        How big. "reduced" is a short schedule on the first 10,000 photographs of CelebA at 64 pixels.
    data : str
        Images with attributes; empty takes the preset's own: rendered faces, or CelebA.
    width : float
        Of every hidden layer of sources and components, as a factor; 0 takes the preset's own.
    epochs : int
        Of every training; 0 takes the preset's own.

    Raises
    ------
    ValueError
        For an unknown preset.
    """
    if preset not in SEEDS:
        raise unknown("preset", preset, SEEDS)
    if preset == "paper":
        long = {} if not epochs else {"epochs": epochs}
        return Setting(data or "celeba", "resnet18", width or 1.0, SOURCE.changed(**long), RECIPE.changed(**long))
    length = epochs or {"smoke": 2, "classroom": 6, "reduced": 10}[preset]
    source = Recipe(epochs=length, lr=0.1, batch_size=32, schedule="one-cycle", augment=False, evaluate_every=length)
    recipe = RECIPE.changed(
        epochs=length, lr=5e-3, batch_size=32, milestones=_milestones(length), augment=False, evaluate_every=length
    )
    if preset == "reduced":
        big = {"augment": True, "batch_size": 64}
        recipe = recipe.changed(lr=1e-3, **big)
        return Setting(data or "celeba-10k", "resnet18", width or 0.25, source.changed(**big), recipe)
    count = {"smoke": 200, "classroom": 1000}[preset] if data in ("", "faces") else 0
    return Setting(data or "faces", "resnet8", width or 0.125, source, recipe, count)


def _milestones(epochs: int) -> tuple[int, ...]:
    """After which epochs the rate is halved: the paper's, in proportion to its 50 epochs."""
    return tuple(dict.fromkeys(max(1, round(milestone / 50 * epochs)) for milestone in RECIPE.milestones))


@cache
def source_jobs(chosen: Setting, group: str, seed: int) -> dict[int, Job]:
    """The trainings of a group's sources, by their number in the paper's scripts; the same objects whenever asked."""
    return {
        number: _job(chosen, known, chosen.source, 1000 * number + seed, objective=per_attribute)
        for number, known in sources_of(group).items()
    }


def component(chosen: Setting, group: str, wanted: str, arm: Arm, seed: int) -> Job:
    """The training that merges the sources of one attribute."""
    teachers = tuple(job for job in source_jobs(chosen, group, seed).values() if wanted in attributes_of(job))
    number = 1 + list(GROUPS[group]).index(wanted)
    return _student(
        chosen, (wanted,), arm, AmalgamateFrom(teachers, (wanted,), settings=arm.settings, seed=seed), number
    )


def target(chosen: Setting, group: str, arm: Arm, seed: int) -> Job:
    """The training of a network for all wanted attributes of a group."""
    wanted, wide = tuple(GROUPS[group]), replace(chosen, width=WIDER * chosen.width)
    if arm.way == "labels":
        return _job(wide, wanted, chosen.recipe, _seed(seed), objective=per_attribute)
    if arm.way == "components":
        teachers = tuple(component(chosen, group, each, arm, seed) for each in wanted)
        return _student(wide, wanted, arm, AmalgamateFrom(teachers, wanted, "all", arm.settings, seed))
    teachers = tuple(source_jobs(chosen, group, seed).values())
    return _student(wide, wanted, arm, AmalgamateFrom(teachers, wanted, arm.way, arm.settings, seed))


def _student(chosen: Setting, wanted: Sequence[str], arm: Arm, learning: AmalgamateFrom, number: int = 0) -> Job:
    recipe = chosen.recipe.changed(schedule=arm.schedule)
    return _job(chosen, wanted, recipe, _seed(learning.seed, number), objective=learning)


def _seed(seed: int, number: int = 0) -> int:
    """Of the student with a number: all targets of a seed have one, and so the same initial weights and data order."""
    return 1000 * (100 + number) + seed


def _job(chosen: Setting, known: Sequence[str], recipe: Recipe, seed: int, **objective: Any) -> Job:
    return Job(
        model=chosen.model,
        data=f"{chosen.data}:{','.join(known)}",
        recipe=recipe,
        seed=seed,
        options={"width": chosen.width},
        data_options={"count": chosen.count} if chosen.count else {},
        **objective,
    )


def jobs(
    preset: str,
    seeds: Sequence[int] | None = None,
    data: str = "",
    group: str = "hair",
    width: float = 0.0,
    epochs: int = 0,
    arms: Sequence[str] = (),
) -> dict[tuple[str, int], Job]:
    """All targets by arm and seed; what they learn from comes with them. Parameters as for `setting`.

    Without `arms` all are there; those of `ABLATIONS` are trained at the first seed only, but at "paper".

    Raises
    ------
    ValueError
        For an unknown preset, group or arm.
    """
    chosen = setting(preset, data, width, epochs)
    for kind, names, valid in (("group", [group], GROUPS), ("arm", arms, ARMS)):
        for name in names:
            if name not in valid:
                raise unknown(kind, name, valid)
    numbers = list(range(SEEDS[preset]) if seeds is None else seeds)
    found: dict[tuple[str, int], Job] = {}
    for name in arms or ARMS:
        few = numbers[:1] if name in ABLATIONS and preset != "paper" else numbers
        found |= {(name, seed): target(chosen, group, ARMS[name], seed) for seed in few}
    return found
