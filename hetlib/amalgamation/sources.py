"""The pool: networks that each know several tasks, and which of them can teach what is wanted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetlib.chain import evaluating
from hetlib.checks import check_network, check_sequence
from hetlib.data import HAS, AttributeImages, Images, class_split
from hetlib.errors import known, of_kind, shown
from hetlib.training import Recipe, evaluate, fit


@dataclass(frozen=True, eq=False)
class Source:
    """A trained network and the tasks it knows.

    Attributes
    ----------
    name : str
        For messages and tables.
    network : nn.Module
        Gives logits (B, outputs): those of the first task, then those of the second, and so on.
    tasks : mapping of str to sequence of str
        For each task the names of its classes, in the order of the outputs. A sequence of names instead of a mapping
        stands for attributes: each is a task of the classes "no" and "yes".
    """

    name: str
    network: nn.Module = field(repr=False)
    tasks: Mapping[str, Sequence[str]]

    def __post_init__(self):
        check_network("network", self.network)
        if not isinstance(self.tasks, Mapping):
            check_sequence("tasks", self.tasks, "names of attributes")
        tasks = self.tasks if isinstance(self.tasks, Mapping) else dict.fromkeys(self.tasks, HAS)
        for task, classes in tasks.items():
            check_sequence(
                f"tasks: the classes of {task!r}", [classes] if isinstance(classes, str) else classes, "names"
            )
        if not tasks or not all(len(classes) for classes in tasks.values()):
            raise ValueError(f"tasks: a source knows one or more, of one class or more each, got {shown(tasks)}")
        object.__setattr__(self, "tasks", {task: tuple(classes) for task, classes in tasks.items()})

    def head(self, task: str) -> slice:
        """Which of the logits are a task's."""
        return heads(self.tasks)[task]


def heads(tasks: Mapping[str, Sequence[str]]) -> dict[str, slice]:
    """For tasks whose logits stand side by side, where those of each are."""
    found, start = {}, 0
    for task, classes in tasks.items():
        found[task] = slice(start, start + len(classes))
        start += len(classes)
    return found


def covering(pool: Sequence[Source], wanted: Sequence[str]) -> dict[str, list[Source]]:
    """For every wanted task the sources of the pool that know it.

    Raises
    ------
    ValueError
        If nothing is wanted or something twice, no source covers a wanted task (those covered are listed), sources that
        share a wanted task list its classes differently, or two sources have one name.
    """
    for what, given, kind in (("pool", pool, Source), ("wanted", wanted, str)):
        check_sequence(what, given, f"{kind.__name__}s")
        for each in given:
            of_kind(f"each task in {what}" if kind is str else f"each of the {what}", each, kind)
    if not pool:
        raise ValueError("pool: there is no source to learn from")
    names = [source.name for source in pool]
    if len(set(names)) < len(names):
        raise ValueError(f"sources need names of their own, got {', '.join(names)}")
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"one task or more must be wanted, each once, got {tuple(wanted)}")
    covered = dict.fromkeys(task for source in pool for task in source.tasks)
    found = {}
    for task in wanted:
        known("task: no source covers", task, covered)
        found[task] = [source for source in pool if task in source.tasks]
        first, *others = found[task]
        for other in others:
            if other.tasks[task] != first.tasks[task]:
                raise ValueError(
                    f"sources {first.name} and {other.name} list the classes of {task} differently: "
                    f"{', '.join(first.tasks[task])} and {', '.join(other.tasks[task])}"
                )
    return found


def check_outputs(title: str, network: nn.Module, tasks: Mapping[str, Sequence[str]], images: Tensor) -> None:
    """Refuse a network that does not give the logits that its tasks need; images are (B, channels, height, width)."""
    device, needed = next(network.parameters()).device, sum(map(len, tasks.values()))
    with evaluating(network):
        shape = tuple(network(images.to(device)).shape)
    if shape != (len(images), needed):
        needs = f"its tasks ({', '.join(tasks)}) need {needed} logits an image"
        raise ValueError(f"{title} gives {shape} for {len(images)} images; {needs}")


class Head(nn.Module):
    """A network of which only the logits of one task are given."""

    def __init__(self, network: nn.Module, which: slice):
        super().__init__()
        self.network, self.which = network, which
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[:, self.which]


def accuracy(network: nn.Module, which: slice, data: Images, precision: str = "auto") -> float:
    """How often a network's logits of one task are right, in percent; `data` has the labels of that task."""
    return evaluate(Head(network, which), data, precision=precision)["top1"]


def labelled(data: Images, task: str, classes: Sequence[str]) -> Images:
    """The images of a data set that a task is about, with the task's labels.

    Parameters
    ----------
    data : Images
        With attributes, of which the task is one; or with classes, among which are all of the task's.

    Raises
    ------
    ValueError
        If the data set has no such attribute or class; the nearest ones are named.
    """
    if isinstance(data, AttributeImages):
        return data.task(task)
    for name in classes:
        known(f"class of {data.name}", name, data.classes)
    return class_split(data, [[data.classes.index(name) for name in classes]])[0]


def about(data: Images, classes: Sequence[str]) -> Tensor:
    """Which images of a data set belong to one of a task's classes, (images,) bool: with attributes, all of them."""
    if isinstance(data, AttributeImages):
        return torch.ones(len(data), dtype=torch.bool)
    known = torch.tensor([label for label, name in enumerate(data.classes) if name in classes])
    return torch.isin(data.labels.cpu(), known)


class PerTask(nn.Module):
    """The objective of a source with several attributes: the cross-entropies of all its tasks, added up.

    Labels are (B, tasks), the logits (B, outputs) of the tasks side by side.

    Parameters
    ----------
    classes : sequence of int
        How many logits each task has.
    """

    def __init__(self, classes: Sequence[int]):
        super().__init__()
        self.classes = tuple(classes)

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, in nats."""
        parts = model(images).split(self.classes, 1)
        losses = [F.cross_entropy(part, labels[:, task]) for task, part in enumerate(parts)]
        return torch.stack(losses).sum()

    def extra_repr(self) -> str:
        return f"classes={self.classes}"


def train_source(
    name: str, network: nn.Module, attributes: Sequence[str], data: AttributeImages, recipe: Recipe, **how: Any
) -> Source:
    """Train a network in place on some attributes of images, and give it as a `Source`.

    Parameters
    ----------
    name : str
        Of the source.
    network : nn.Module
        Gives two logits for each attribute.
    attributes : sequence of str
        The wanted one first, as in the paper.
    data : AttributeImages
        Holds these attributes, and maybe others.
    recipe : Recipe
        How it is trained.
    **how
        Keyword arguments of `hetlib.training.fit`, such as `seed`, `checkpoint` and `progress`.

    Raises
    ------
    ValueError
        For a misspelt attribute (the nearest is named), or a network with another number of outputs.
    """
    source = Source(name, network, attributes)  # type: ignore[arg-type]
    own = data.keep(attributes)
    check_outputs(f"source {name}", network, source.tasks, torch.zeros(2, *data.shape))
    fit(network, own, recipe=recipe, objective=PerTask([2] * len(attributes)), **how)
    return source
