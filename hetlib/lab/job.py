"""A training described as plain data, and what its result depends on."""

from dataclasses import asdict, dataclass, field
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hetlib import data, zoo
from hetlib.data import Images
from hetlib.errors import unknown
from hetlib.lab.code import code_of
from hetlib.tlv import Crossover
from hetlib.training import Distillation, Recipe

METHODS = ("hmt", "tlv", "baselines", "clafusion")
LATER = ("partners", "teacher", "distil")
"""Fields that jobs did not always have: left out of descriptions where they are not used."""


@dataclass(frozen=True)
class Job:
    """One training, complete enough that its description is the key under which its result is kept.

    Attributes
    ----------
    model : str
        Name for `hetlib.zoo.build`.
    data : str
        Name for `hetlib.data.load`; its test split is evaluated on.
    recipe : Recipe
        Settings of the training.
    seed : int
        Seed of the initial weights, of the data order and of the augmentation.
    options, data_options : dict
        Keyword arguments for `build`, and for `load` of the training images; the test images are always all.
    source : Job, optional
        The training whose network feeds this one before it starts.
    transfer : dict or None
        Keyword arguments for the transfer from `source`; None feeds nothing.
    method : str
        The module of hetlib whose `transfer` is called; "clafusion" fuses, and is given the training images too.
    crossover : dict or None
        Keyword arguments for `hetlib.tlv.Crossover` in training, with the network of `source` as its support;
        None trains without.
    partners : tuple of Job
        Further trainings, whose networks "clafusion" fuses with that of `source`.
    teacher, distil : Job and dict, optional
        The training whose network teaches this one, and alpha and temperature for `hetlib.training.Distillation`.

    Raises
    ------
    ValueError
        For an unknown method, a setting out of range, and a field that lacks another one which it needs.
    """

    model: str
    data: str
    recipe: Recipe
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    data_options: dict[str, Any] = field(default_factory=dict)
    source: "Job | None" = None
    transfer: dict[str, Any] | None = field(default_factory=dict)
    method: str = "hmt"
    crossover: dict[str, Any] | None = None
    partners: tuple["Job", ...] = ()
    teacher: "Job | None" = None
    distil: dict[str, Any] | None = None

    def __post_init__(self):
        object.__setattr__(self, "partners", tuple(self.partners))
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if self.crossover is not None:
            if self.source is None:
                raise ValueError(f"{self.label}: crossover needs a source, whose features are crossed over")
            Crossover(None, steps=1, **self.crossover)  # a wrong setting is told at once
        if self.partners and (self.method != "clafusion" or not self.fed):
            raise ValueError(f"{self.label}: partners need a source, and the method 'clafusion' to be fused with it")
        if (self.teacher is None) != (self.distil is None):
            raise ValueError(f"{self.label}: teacher and distil (alpha and temperature) need each other")
        if self.distil is not None:
            Distillation(nn.Identity(), **self.distil)

    @property
    def label(self) -> str:
        """A short name for people: what is trained on what, and how it started."""
        models = [each.model for each in (self.source, *self.partners) if each is not None]
        start = f" from {' + '.join(models)} ({self._way()})" if models else ""
        taught = "" if self.teacher is None else f" taught by {self.teacher.model}"
        return f"{self.model} on {self.data}{start}{taught}, seed {self.seed}"

    def _way(self) -> str:
        transfer = [] if self.transfer is None else [self.transfer.get("order") or self.method]
        return " + ".join(transfer + ["crossover"] * (self.crossover is not None))

    @property
    def fed(self) -> bool:
        """Whether a transfer from other networks comes before the training."""
        return self.source is not None and self.transfer is not None

    @property
    def needs(self) -> tuple["Job", ...]:
        """The trainings whose networks this one takes, and which come before it."""
        return tuple(each for each in (self.source, *self.partners, self.teacher) if each is not None)

    @property
    def description(self) -> dict[str, Any]:
        """All fields as plain data, by which results are kept and found again."""
        return asdict(self, dict_factory=_used_fields)

    def load(self, split: str) -> Images:
        """The images of a split."""
        return _load(self.data, split, tuple(sorted(self.data_options.items())) if split == "train" else ())

    def build(self) -> nn.Module:
        """The untrained network with the weights that the seed gives; the global generator is left as it was."""
        images = self.load("test")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return zoo.build(self.model, images.num_classes, images.shape[0], **self.options)


def _used_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: fact for name, fact in pairs if name not in LATER or fact}


@lru_cache(maxsize=4)
def _load(name: str, split: str, options: tuple[tuple[str, Any], ...]) -> Images:
    return data.load(name, split, **dict(options))


def uses(job: Job) -> tuple[ModuleType, ...]:
    """The code a result depends on: change any of it, comments apart, and the result is computed anew."""
    return code_of(*_parts(job))


def _parts(job: Job) -> set[str]:
    optional = {
        job.method: job.fed,
        "tlv.crossover": job.crossover is not None,
        "training.objectives": job.distil is not None,
    }
    own = {"data", "training", "zoo"} | {name for name, taken in optional.items() if taken}
    return own.union(*map(_parts, job.needs))
