"""Amalgamation's experiments: sources that know several tasks, components that merge those of one, and targets.

`ARMS` are the paper's way, the same with other rules for choosing teachers, also in as many steps as it takes to learn
every image from every teacher, the peers, and a network that is trained with labels. All targets of a seed learn from
the same sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hetlib.amalgamation import (
    CLASSES,
    GROUPS,
    RECIPE,
    SOURCE,
    AmalgamateFrom,
    Settings,
    per_attribute,
    sources_of,
    tasks_of,
)
from hetlib.errors import unknown
from hetlib.lab import Job
from hetlib.lab.presets import SEEDS
from hetlib.training import Recipe

OWN = {
    (False, False): ("faces", "resnet8", 0.125),
    (False, True): ("shapes-source", "resnet8", 0.125),
    (True, False): ("celeba-10k", "torchvision/resnet18", 0.25),
    (True, True): ("cifar100", "resnet8", 0.25),
}
"""Images, network and width of presets that replace the paper's own: by whether it is "reduced", and has classes."""
COUNT = {("smoke", False): 200, ("smoke", True): 800, ("classroom", False): 1000, ("classroom", True): 4000}
"""Training images where they are rendered, by preset and whether they have classes."""
ABLATIONS = ("bridges free", "norms frozen", "joint", "steps every iteration")
"""The arms that are trained at the first seed alone, but at preset "paper"."""
REDUCED = ("amalgamation", "random teacher", "without components", "distillation", "labels")
"""The arms of preset "reduced", whose trainings are long."""


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
    "surest, more steps": Arm(settings=Settings(epoch="all")),
    "random, more steps": Arm(settings=Settings(rule="random", epoch="all")),
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
    """What a preset trains.

    Attributes
    ----------
    group : str
        What is wanted; see `hetlib.amalgamation.GROUPS`.
    data : str
        Images, `count` of them; 0: all.
    model : str
        Network of sources, components and target.
    width, wide : float
        Of hidden layers, as a factor: in sources and components, and in the target.
    source, recipe : Recipe
        Of sources, and of students.
    """

    group: str
    data: str
    model: str
    width: float
    wide: float
    source: Recipe
    recipe: Recipe
    count: int = 0

    @property
    def with_labels(self) -> Any:
        """What is minimised where there are labels; of classes one cross-entropy over those of all tasks."""
        return None if self.group == CLASSES else per_attribute

    @property
    def wanted(self) -> tuple[str, ...]:
        """The tasks of the target, in the order of its heads."""
        return tuple(GROUPS[self.group])

    def job(self, known: Sequence[str], recipe: Recipe, seed: int, width: float, objective: Any) -> Job:
        """A training on some tasks."""
        return Job(
            model=self.model,
            data=f"{self.data}:{','.join(known)}",
            recipe=recipe,
            seed=seed,
            options={"width": width},
            data_options={"count": self.count} if self.count else {},
            objective=objective,
        )


def setting(
    preset: str, data: str = "", group: str = "hair", width: float = 0.0, epochs: int = 0, wide: float = 0.0
) -> Setting:
    """What a preset trains.

    Parameters
    ----------
    preset : {"smoke", "classroom", "reduced", "paper"}
        How big. "reduced" is a short schedule on the first 10,000 photographs of CelebA at 64 pixels.
    data : str
        Images, with attributes unless the group is "classes"; empty takes the preset's own: rendered faces or CelebA,
        and for classes rendered shapes or CIFAR-100. The paper's aircraft and cars cannot be read: at "paper" name it.
    group : str
        What is wanted, one of `hetlib.amalgamation.GROUPS`.
    width : float
        Of every hidden layer of sources and components, as a factor; 0 takes the preset's own.
    epochs : int
        Of every training; 0 takes the preset's own.
    wide : float
        Of every hidden layer of the target, as a factor; 0 takes the paper's share of `width`.

    Raises
    ------
    ValueError
        For an unknown preset or group, and if no data is named for classes at "paper".
    """
    for kind, name, valid in (("preset", preset, SEEDS), ("group", group, GROUPS)):
        if name not in valid:
            raise unknown(kind, name, valid)
    if preset == "paper":
        return _paper(group, data, width, epochs, wide)
    length = epochs or (2 if preset == "smoke" else 6)
    source = Recipe(epochs=length, lr=0.1, batch_size=32, schedule="one-cycle", augment=False, evaluate_every=length)
    recipe = RECIPE.changed(
        epochs=length, lr=5e-3, batch_size=32, milestones=_milestones(length), augment=False, evaluate_every=length
    )
    if preset == "reduced":
        big = {"augment": True, "batch_size": 64}
        source, recipe = source.changed(**big), recipe.changed(lr=1e-3, **big)
    own, model, own_width = OWN[preset == "reduced", group == CLASSES]
    count = COUNT.get((preset, group == CLASSES), 0) if data in ("", own) else 0
    width = width or own_width
    return Setting(group, data or own, model, width, wide or _wider(group) * width, source, recipe, count)


def _paper(group: str, data: str, width: float, epochs: int, wide: float) -> Setting:
    source, recipe = SOURCE, RECIPE
    if group == CLASSES:
        if not data:
            raise ValueError("preset paper: the paper's aircraft and cars cannot be read; name other data, as cifar100")
        source = SOURCE.changed(epochs=300, lr=1e-3, batch_size=64, milestones=(10, 20, 30))
        recipe = RECIPE.changed(epochs=300, lr=5e-4, milestones=(20, 50, 100))
    if epochs:
        source, recipe = source.changed(epochs=epochs), recipe.changed(epochs=epochs)
    width = width or 1.0
    return Setting(
        group, data or "celeba", "torchvision/resnet18", width, wide or _wider(group) * width, source, recipe
    )


def _wider(group: str) -> float:
    return (72 if group == CLASSES else 90) / 64


def _milestones(epochs: int) -> tuple[int, ...]:
    """After which epochs the rate is halved: the paper's, in proportion to its 50 epochs."""
    return tuple(dict.fromkeys(max(1, round(milestone / 50 * epochs)) for milestone in RECIPE.milestones))


@cache
def source_jobs(chosen: Setting, seed: int) -> dict[int, Job]:
    """The trainings of a group's sources, by their number in the paper's scripts; the same objects whenever asked."""
    return {
        number: chosen.job(known, chosen.source, 1000 * number + seed, chosen.width, chosen.with_labels)
        for number, known in sources_of(chosen.group).items()
    }


def component(chosen: Setting, wanted: str, arm: Arm, seed: int) -> Job:
    """The training that merges the sources of one task."""
    teachers = tuple(job for job in source_jobs(chosen, seed).values() if wanted in tasks_of(job))
    number = 1 + chosen.wanted.index(wanted)
    return _student(
        chosen, arm, AmalgamateFrom(teachers, (wanted,), settings=_settings(chosen, arm), seed=seed), number
    )


def target(chosen: Setting, arm: Arm, seed: int) -> Job:
    """The training of a network for all wanted tasks of a group."""
    if arm.way == "labels":
        return chosen.job(chosen.wanted, chosen.recipe, _seed(seed), chosen.wide, chosen.with_labels)
    if arm.way == "components":
        teachers, way = tuple(component(chosen, each, arm, seed) for each in chosen.wanted), "all"
    else:
        teachers, way = tuple(source_jobs(chosen, seed).values()), arm.way
    return _student(chosen, arm, AmalgamateFrom(teachers, chosen.wanted, way, _settings(chosen, arm), seed))


def _settings(chosen: Setting, arm: Arm) -> Settings:
    """Of classes, as released, sources teach images of those only that they know."""
    return replace(arm.settings, own_images=True) if chosen.group == CLASSES else arm.settings


def _student(chosen: Setting, arm: Arm, learning: AmalgamateFrom, number: int = 0) -> Job:
    recipe, width = chosen.recipe.changed(schedule=arm.schedule), chosen.width if number else chosen.wide
    return chosen.job(learning.wanted, recipe, _seed(learning.seed, number), width, learning)


def _seed(seed: int, number: int = 0) -> int:
    """Of the student with a number: all targets of a seed have one, and so the same initial weights and data order."""
    return 1000 * (100 + number) + seed


def jobs(
    preset: str,
    seeds: Sequence[int] | None = None,
    data: str = "",
    group: str = "hair",
    width: float = 0.0,
    epochs: int = 0,
    wide: float = 0.0,
    arms: Sequence[str] = (),
) -> dict[tuple[str, int], Job]:
    """All targets by arm and seed; what they learn from comes with them. Parameters as for `setting`.

    Without `arms` all are there, at "reduced" those of `REDUCED`; those of `ABLATIONS` are trained at the first seed
    only, but at "paper".

    Raises
    ------
    ValueError
        For an unknown preset, group or arm.
    """
    chosen = setting(preset, data, group, width, epochs, wide)
    for name in arms:
        if name not in ARMS:
            raise unknown("arm", name, ARMS)
    numbers = list(range(SEEDS[preset]) if seeds is None else seeds)
    found: dict[tuple[str, int], Job] = {}
    for name in arms or (REDUCED if preset == "reduced" else ARMS):
        few = numbers[:1] if name in ABLATIONS and preset != "paper" else numbers
        found |= {(name, seed): target(chosen, ARMS[name], seed) for seed in few}
    return found
