"""The steps of `customise`: choose sources for images, make networks, train one from its teachers."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import ceil
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.amalgamation.batches import OfEachSubset, batch_sizes
from hetlib.amalgamation.choosing import subsets, task_logits
from hetlib.amalgamation.objective import Amalgamation
from hetlib.amalgamation.peers import PEERS
from hetlib.amalgamation.settings import Settings
from hetlib.amalgamation.sources import Source, about, heads, labelled
from hetlib.amalgamation.teachers import Taught, Teacher
from hetlib.chain import eval_chain
from hetlib.checks import check_network
from hetlib.data import Images, sample
from hetlib.files import DamagedFile, checksum, load_tensors, save_tensors
from hetlib.training import History, Recipe, fit
from hetlib.training.checkpoint import plain
from hetlib.transfer import Context


@dataclass(frozen=True, eq=False)
class Stages:
    """What all steps of one customisation share.

    Attributes
    ----------
    sources : mapping of str to sequence of Source
        For every wanted task those that know it.
    data : Images
        What is learned from; its labels only if the settings ask for them.
    settings : Settings
    seed : int
    folders : mapping of str to path-like
        Where things of the kinds "choice", "component" and "target" are kept; none of a kind that is not there.
    progress : bool
        Whether bars are shown.
    """

    sources: Mapping[str, Sequence[Source]]
    data: Images
    settings: Settings
    seed: int
    folders: Mapping[str, str | PathLike]
    progress: bool

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The classes of every wanted task."""
        return {task: tuple(sources[0].tasks[task]) for task, sources in self.sources.items()}

    @property
    def heads(self) -> dict[str, slice]:
        """For every wanted task, which of the target's logits are its own."""
        return heads(self.classes)

    @property
    def blank(self) -> Images:
        """The data without its labels."""
        return replace(self.data, labels=torch.zeros(len(self.data), dtype=torch.int64))

    def build(self, make: Callable[[int], nn.Module], number: int, outputs: int) -> nn.Module:
        """The network of a number, with random weights of its own; it lies where the sources do."""
        device = next(next(iter(self.sources.values()))[0].network.parameters()).device
        with self._drawn(number):
            made = make(outputs)
        check_network(f"what the function for {'the target' if not number else 'a component'} makes", made)
        return made.to(device)

    def check_taps(self, components: Sequence[nn.Module], target: nn.Module) -> None:
        """Refuse, before anything is trained, networks that the settings' match cannot compare."""
        whole, merged = eval_chain(target), [eval_chain(network) for network in components]
        students = merged or [whole] * len(self.sources)
        for student, sources in zip(students, self.sources.values(), strict=True):
            for source in sources:
                self.settings.match(Context.of(eval_chain(source.network), student, None, 0))
        for teacher in merged:
            self.settings.match(Context.of(teacher, whole, None, 0))

    def choose(self, task: str) -> Tensor:
        """Which images each source of a task teaches, (images, sources) bool; kept in the folder."""
        sources, classes, settings = self.sources[task], self.classes[task], self.settings
        own = about(self.data, classes) if settings.own_images else torch.ones(len(self.data), dtype=torch.bool)
        if settings.rule == "oracle":
            labels = labelled(self.data, task, classes).labels.cpu()
            if len(labels) != int(own.sum()):
                raise ValueError(f"{self.data.name} has images without a label for {task}: the oracle needs own_images")
        else:
            labels = None
        how: dict[str, Any] = {"rule": settings.rule, "labels": labels, "batch_size": 64, "seed": self.seed}
        names = [source.name for source in sources]

        def choose() -> Tensor:
            generator = torch.Generator(self.data.images.device).manual_seed(self.seed)
            drawn = generator if settings.view == "augmented" else None
            data = self.data.subset(own.nonzero()[:, 0])
            logits = task_logits(sources, task, data, drawn, progress=f"choice for {task}" if self.progress else "")
            temperatures = [settings.temperatures.get(name, 1.0) for name in names]
            member = torch.zeros(len(own), len(sources), dtype=torch.bool)
            member[own] = subsets(logits, names=names, temperatures=temperatures, **how)
            return member

        facts = {
            "data": self.data.checksum,
            "sources": [[source.name, checksum(source.network.state_dict())] for source in sources],
            "settings": [
                task,
                settings.rule,
                settings.view,
                settings.own_images,
                dict(settings.temperatures),
                self.seed,
            ],
        }
        return _kept(self._path("choice", task), plain(facts), choose)

    def of_component(self, task: str) -> list[Teacher]:
        """The sources of a task as teachers of its component."""
        return [Teacher(source.name, source.network, source.head(task)) for source in self.sources[task]]

    def of_target(self, components: Mapping[str, nn.Module] | None = None) -> list[Teacher]:
        """The components as teachers of the target; without them all sources, once for every task that they know."""
        found = []
        for task, sources in self.sources.items():
            weight, answers = self.settings.tasks.get(task, 1.0), self.heads[task]
            if components is not None:
                found.append(Teacher(task, components[task], answers=answers, weight=weight))
                continue
            for source in sources:
                found.append(Teacher(f"{source.name}, {task}", source.network, source.head(task), answers, weight))
        return found

    def merging(
        self, student: nn.Module, teachers: Sequence[Teacher], recipe: Recipe, member: Tensor | None = None
    ) -> dict[str, Any]:
        """Keyword arguments for `fit` that amalgamate teachers in a student.

        Each teaches its own images of `member`, (images, teachers) bool; without it, all teach all images.
        """
        how: dict[str, Any] = {}
        rest: dict[str, Any] = {"common": None, "joint": self.settings.one_forward}
        steps = ceil(len(self.data) / recipe.batch_size)
        if member is not None:
            lengths = member.sum(0).tolist()
            sizes, _ = batch_sizes(lengths, recipe.batch_size)
            batches = OfEachSubset(tuple(sizes), self.settings.epoch)
            steps = batches.steps(lengths, len(self.data))
            rest = {"common": self.settings.common, "joint": self.settings.joint, "sizes": sizes}
            how |= {"rows": member, "batches": batches}
            if self.settings.epoch == "released":
                recipe = recipe.changed(epochs=1)
        with self._drawn(-1):
            rest |= {"epochs": recipe.epochs, "steps": steps}
            objective = Amalgamation(student, teachers, sample(self.data, 2), **self.settings.bridge, **rest)
        return how | {"objective": objective, "recipe": recipe.changed(rates=recipe.rates or objective.rates)}

    def teaching(self, student: nn.Module, recipe: Recipe, peer: str) -> dict[str, Any]:
        """Keyword arguments for `fit` with a peer of amalgamation, one of `PEERS`: all sources teach all images."""
        steps = ceil(len(self.data) / recipe.batch_size)
        how: dict[str, Any] = {"match": self.settings.match} if peer == "layer-wise" else {}
        with self._drawn(-1):
            how |= {"epochs": recipe.epochs, "steps": steps}
            objective = PEERS[peer](student, self.of_target(), sample(self.data, 2), **how)
        return {"objective": objective, "recipe": recipe}

    def train(
        self, name: str, student: nn.Module, objective: Taught, recipe: Recipe, **how: Any
    ) -> tuple[History, Tensor]:
        """Train a student in place; its history, and the curves of every term of the loss."""
        label = name if self.progress else ""
        path = self._path("component", name) if name in self.sources else self._path("target")
        history = fit(
            student,
            self.blank,
            recipe=recipe,
            objective=objective,
            seed=self.seed,
            checkpoint=path,
            progress=label,
            **how,
        )
        return history, objective.curves.detach().cpu()

    def _path(self, kind: str, *task: str) -> Path | None:
        name = re.sub(r"[^\w.-]+", "_", "-".join((kind, *task)))
        return Path(self.folders[kind]) / f"{name}.safetensors" if kind in self.folders else None

    @contextmanager
    def _drawn(self, number: int) -> Iterator[None]:
        """Draw from torch's global generator on the CPU what belongs to one number, and set it back."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed((1000 * (self.seed + 1) + number) % 2**64)
            yield


def _kept(path: Path | None, facts: Mapping[str, Any], make: Callable[[], Tensor]) -> Tensor:
    """What was kept under these facts, or what is made now, which is kept then."""
    if path is None:
        return make()
    with suppress(FileNotFoundError, DamagedFile):
        tensors, found = load_tensors(path)
        if found == facts:
            return tensors["member"]
    member = make()
    save_tensors(path, {"member": member}, facts)
    return member
