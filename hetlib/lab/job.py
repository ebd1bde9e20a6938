"""A training described as data, and what its result depends on."""

import ast
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from hetlib import data, zoo
from hetlib.checks import check_sequence
from hetlib.data import Images
from hetlib.errors import of_kind, seed_of, shown
from hetlib.lab.definitions import MAIN, define, inside, named, script
from hetlib.training import Recipe

LAUNCHES = {f"hetlib.kernels.{name}_triton" for name in ("blend", "entropy", "fill", "mmd", "sinkhorn")}
NUMBERLESS = {"hetlib", "hetlib.errors", "hetlib.files", "hetlib.lab", "hetlib.transfer.report", *LAUNCHES}
"""What names, keeps or shows things, and launches, which do on a GPU what their torch twins do elsewhere."""


class Shipped:
    """A dataclass that is pickled with the definitions of a notebook that it needs, so that any process can have it."""

    def __reduce__(self) -> tuple:
        return _rebuilt, (type(self), script(_things(self)), pickle.dumps(vars(self)))


@dataclass(frozen=True, kw_only=True)
class Job(Shipped):
    """One training, complete enough that it is the key under which its result is kept.

    Attributes
    ----------
    model : str
        Name for `hetlib.zoo.build`.
    data : str
        Name for `hetlib.data.load`; its test split is evaluated on.
    recipe : Recipe
        Settings of the training.
    seed : int
        Seed of the initial weights, of the transfer, of the data order and of the augmentation.
    order : int, optional
        Seed of the data order and of the augmentation, if that shall be another one.
    options, data_options : mapping
        Keyword arguments for `build`, and for `load` of the training images; the test images are always all.
    sources : tuple of Job
        The trainings whose networks feed this one before it starts.
    transfer : callable, optional
        How they do: a `hetlib.transfer.Transfer`, or another frozen dataclass or function that is called as
        ``transfer(source, target, images, seed=seed)`` and writes into the target. Of several sources it is given a
        list. The images are a sample of the training images (`hetlib.data.sample`).
    objective : callable, optional
        What is minimised, if not cross-entropy: a frozen dataclass that names other jobs, such as
        `hetlib.training.DistilFrom`. It is called as ``objective(model, network, images, recipe)``, where ``network``
        gives the trained network of a job, and answers with keyword arguments for `hetlib.training.fit`.

    Raises
    ------
    ValueError
        If there are sources without a transfer, or a transfer without sources.
    TypeError
        If the transfer or the objective cannot be called, a source is no job, or the order is no whole number.
    """

    model: str
    data: str
    recipe: Recipe
    seed: int = 0
    order: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    data_options: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple["Job", ...] = ()
    transfer: Callable[..., Any] | None = None
    objective: Callable[..., Mapping[str, Any]] | None = None

    def __post_init__(self):
        for name, kind in (
            ("model", str),
            ("data", str),
            ("recipe", Recipe),
            ("options", Mapping),
            ("data_options", Mapping),
        ):
            of_kind(f"{name} of a job", getattr(self, name), kind)
        check_sequence("the sources of a job", self.sources, "Jobs")
        object.__setattr__(self, "sources", tuple(self.sources))
        seed_of(self.seed, f"{self.label}: seed")
        for each in self.sources:
            if not isinstance(each, Job):
                raise TypeError(f"{self.label}: a source must be a Job, got {type(each).__name__}")
        for name in ("transfer", "objective"):
            given = getattr(self, name)
            if given is not None and (not callable(given) or isinstance(given, type)):
                raise TypeError(f"{self.label}: {name} must be a dataclass or function that is called, got {given!r}")
        if self.order is not None:
            if type(self.order) is not int:
                raise TypeError(f"{self.label}: order must be a seed, which is a whole number, got {shown(self.order)}")
            seed_of(self.order, f"{self.label}: order")
        if bool(self.sources) != (self.transfer is not None):
            raise ValueError(f"{self.label}: sources and a transfer need each other")

    @property
    def label(self) -> str:
        """A short name for people: what is trained on what, how it started, and what it minimises."""
        models = " + ".join(getattr(each, "model", "?") for each in self.sources)
        start = f" from {models} ({_short(self.transfer)})" if models else ""
        aim = "" if self.objective is None else f" with {_short(self.objective)}"
        return f"{self.model} on {self.data}{start}{aim}, seed {self.seed}"

    @property
    def needs(self) -> tuple["Job", ...]:
        """The trainings whose networks this one takes, and which come before it."""
        return jobs_in([self.sources, self.transfer, self.objective])

    def load(self, split: str) -> Images:
        """The images of a split."""
        return _load(self.data, split, tuple(sorted(self.data_options.items())) if split == "train" else ())

    def build(self) -> nn.Module:
        """The untrained network with the weights that the seed gives; the global generator is left as it was."""
        images = self.load("test")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return zoo.build(self.model, images.num_classes, images.shape[0], **self.options)

    def aim(self, model: nn.Module, images: Images, network: Callable[["Job"], nn.Module]) -> Mapping[str, Any]:
        """The objective, as keyword arguments for `hetlib.training.fit`; `network` gives the network of another job."""
        return {} if self.objective is None else self.objective(model, network, images, self.recipe)

    @property
    def work(self) -> float:
        """How much there is to do: images times epochs."""
        return self.recipe.epochs * len(self.load("train"))


def _rebuilt(kind: type, texts: Mapping[str, str], values: bytes) -> Any:
    define(texts)
    return kind(**pickle.loads(values))


def _short(step: Any) -> str:
    if type(step).__str__ is not object.__str__:
        return str(step)
    return step.__name__ if isinstance(step, FunctionType) else type(step).__name__


def jobs_in(value: Any) -> tuple[Job, ...]:
    """The different jobs that stand in a value, without those that they need themselves."""
    found: list[Job] = []
    for each in inside(value):
        found += [job for job in ((each,) if isinstance(each, Job) else jobs_in(each)) if job not in found]
    return tuple(found)


@lru_cache(maxsize=4)
def _load(name: str, split: str, options: tuple[tuple[str, Any], ...]) -> Images:
    return data.load(name, split, **dict(options))


def _things(job: Any) -> list[type | FunctionType]:
    """The classes and functions that a job names, and those that the jobs it needs do."""
    return [*dict.fromkeys(thing for thing in named(job) if thing is not Job)]


def uses(job: Any) -> tuple[ModuleType | str, ...]:
    """The code a result depends on: change any of it, comments apart, and the result is computed anew.

    That is the training, the data and the networks, and the source of every class and function that a job names: the
    modules that they and their bases stand in, what a notebook defines itself, and what these import from hetlib.
    """
    things = _things(job)
    texts = tuple(script(things).values())
    modules = {base.__module__ for thing in things for base in getattr(thing, "__mro__", [thing])} - MAIN
    modules |= {"hetlib.data", "hetlib.training", "hetlib.zoo", *imported("\n".join(texts))}
    return code_of(*sorted(modules)) + texts


@lru_cache(maxsize=64)
def code_of(*names: str) -> tuple[ModuleType, ...]:
    """Some modules by full name, and all of hetlib that they import, in order of name.

    What no number depends on is left out, and modules without a source; a package stands for all of its modules.
    """
    found: dict[str, ModuleType] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or name in NUMBERLESS or name.startswith("hetlib.lab."):
            continue
        module = import_module(name)
        if (getattr(module, "__file__", None) or "").endswith(".py"):
            found[name] = module
            waiting += imported(Path(str(module.__file__)).read_text(encoding="utf-8"))
    return tuple(found[name] for name in sorted(found))


def imported(source: str) -> list[str]:
    """Full names of the modules of hetlib that a source imports from."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.split(".")[0] == "hetlib"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hetlib":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.append(whole if _is_module(str(node.module), whole) else str(node.module))
    return names


def _is_module(package: str, name: str) -> bool:
    """Whether what is imported from somewhere is a module, and not something in one."""
    return hasattr(import_module(package), "__path__") and find_spec(name) is not None


def asked(job: Any) -> tuple[dict[str, Any], tuple[ModuleType | str, ...]]:
    """What a cache is asked for the result of a job."""
    return {"job": job}, uses(job)
