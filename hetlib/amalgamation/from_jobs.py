"""Knowledge amalgamation as data: what the networks of other trainings teach, for a `hetlib.lab.Job`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from hetlib.amalgamation.peers import PEERS
from hetlib.amalgamation.settings import Settings
from hetlib.amalgamation.sources import PerTask, Source, covering
from hetlib.amalgamation.stages import Stages
from hetlib.data import Images
from hetlib.errors import known
from hetlib.training import Recipe

WAYS = ("chosen", "all", *PEERS)


def per_attribute(model: nn.Module, network: Callable[[Any], nn.Module], images: Images, recipe: Recipe) -> dict:
    """What sources minimise, as the objective of a `Job` on images with attributes."""
    return {"objective": PerTask([2] * (images.num_classes // 2))}


@dataclass(frozen=True)
class AmalgamateFrom:
    """What a student learns from the networks of other trainings, without labels.

    Attributes
    ----------
    teachers : tuple of Job
        Trainings whose data names their tasks: "faces:Bangs,Blurry", "cifar100:main 1/2,side 1/4".
    wanted : tuple of str
        Tasks, in the order of the student's heads.
    way : str
        "chosen": each image is taught by one teacher of each task, as `Settings.rule` says; with one wanted task
        that is the paper's stage 1, with several `customise`'s method "direct". "all": every teacher teaches all
        images, as components do in stage 2; each wanted task has one. Or a peer: "distillation", "layer-wise",
        "common-features".
    settings : Settings
    seed : int
        Draws bridges and random choices.

    Raises
    ------
    ValueError
        For an unknown way. In training as `customise`, or if, for "all", several teachers know one wanted task.
    """

    teachers: tuple[Any, ...]
    wanted: tuple[str, ...]
    way: str = "chosen"
    settings: Settings = field(default_factory=Settings)
    seed: int = 0

    def __post_init__(self):
        known("way to learn from teachers", self.way, WAYS)

    @property
    def rehearsed(self) -> "AmalgamateFrom":
        """The same at equal cost where the teachers have not learned anything yet: images are dealt out at random."""
        rule = "average" if self.settings.rule == "average" else "random"
        return replace(self, settings=self.settings.changed(rule=rule))

    @property
    def costs(self) -> str:
        """A word for what decides how long a step takes and how many an epoch has."""
        return f"{self.way}, average" if self.settings.rule == "average" else self.way

    def __call__(self, model: nn.Module, network: Callable[[Any], nn.Module], images: Images, recipe: Recipe) -> dict:
        """Keyword arguments for `fit`; `network` gives the network of a job."""
        pool = [
            Source(f"source {n}", network(job), {task: job.load("test").tasks[task] for task in tasks_of(job)})
            for n, job in enumerate(self.teachers, 1)
        ]
        self.settings.check([source.name for source in pool], self.wanted)
        stages = Stages(covering(pool, self.wanted), images, self.settings, self.seed, {}, False)
        if self.way in PEERS:
            return stages.teaching(model, recipe, self.way)
        if self.way == "all":
            return stages.merging(model, stages.of_target(_only(stages)), recipe)
        member = torch.cat([stages.choose(task) for task in self.wanted], 1)
        return stages.merging(model, stages.of_target(), recipe, member)


def tasks_of(job: Any) -> tuple[str, ...]:
    """The tasks that the network of a job knows; ValueError if its data names none."""
    _, _, names = job.data.partition(":")
    if not names:
        raise ValueError(f"{job.label}: names no tasks in its data, as in faces:Bangs,Young")
    return tuple(names.split(","))


def _only(stages: Stages) -> dict[str, nn.Module]:
    """For every wanted task the one network that knows it and nothing else."""
    for task, sources in stages.sources.items():
        if len(sources) > 1 or len(sources[0].tasks) > 1:
            names = ", ".join(source.name for source in sources)
            raise ValueError(f"{task}: all images are taught by one teacher that knows this task alone, got {names}")
    return {task: sources[0].network for task, sources in stages.sources.items()}
