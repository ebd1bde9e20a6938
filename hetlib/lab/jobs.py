"""Trainings described as plain data: run once, found again, and spread over processes."""

import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hetlib import data, zoo
from hetlib.crossover import Crossover, support_features
from hetlib.data import Images
from hetlib.errors import unknown
from hetlib.lab.cache import Cache
from hetlib.lab.code import behind
from hetlib.lab.machine import begin_worker, headless, unattended
from hetlib.training import History, Recipe, fit

METHODS = ("hmt", "tlv", "peers")


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
        The module of hetlib whose `transfer` is called.
    crossover : dict or None
        Keyword arguments for `hetlib.crossover.Crossover` round this network, with that of `source` as its support;
        None trains without.
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

    def __post_init__(self):
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if self.crossover is not None:
            if self.source is None:
                raise ValueError(f"{self.label}: crossover needs a source, whose features are crossed over")
            Crossover(nn.Linear(1, 1), nn.Identity(), steps=1, **self.crossover)  # a wrong setting is told at once

    @property
    def label(self) -> str:
        """A short name for people: what is trained on what, and how it started."""
        start = "" if self.source is None else f" from {self.source.model} ({self._way()})"
        return f"{self.model} on {self.data}{start}, seed {self.seed}"

    def _way(self) -> str:
        transfer = [] if self.transfer is None else [self.transfer.get("order") or self.method]
        return " + ".join(transfer + ["crossover"] * (self.crossover is not None))

    def load(self, split: str) -> Images:
        """The images of a split."""
        return _load(self.data, split, tuple(sorted(self.data_options.items())) if split == "train" else ())

    def build(self) -> nn.Module:
        """The untrained network with the weights that the seed gives; the global generator is left as it was."""
        images = self.load("test")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return zoo.build(self.model, images.num_classes, images.shape[0], **self.options)


class Stopped(Exception):
    """A training was told to stop before its last epoch; what it has is kept, and another call goes on from there."""


@lru_cache(maxsize=4)
def _load(name: str, split: str, options: tuple[tuple[str, Any], ...]) -> Images:
    return data.load(name, split, **dict(options))


@dataclass(frozen=True)
class Trained:
    """What a job gives: the trained network, on the CPU and in evaluation mode, and its history."""

    model: nn.Module
    history: History


def start(job: Job, cache: Cache) -> nn.Module:
    """The job's network as its training finds it: built, and fed from its source if it has one.

    Parameters
    ----------
    job : Job
        What is to be trained.
    cache : Cache
        Where the source is found, or kept once trained.

    Returns
    -------
    nn.Module
        On the CPU.
    """
    model = job.build()
    if job.source is not None and job.transfer is not None:
        import_module(f"hetlib.{job.method}").transfer(train(job.source, cache).model, model, **job.transfer)
    return model


def crossed(job: Job, model: nn.Module, support: nn.Module | None, images: Images) -> tuple[nn.Module, dict[str, Any]]:
    """A network as a job trains it on some images, in crossover with its support if the job says so.

    Returns
    -------
    model : nn.Module
        The network, or the `Crossover` round it.
    facts : dict
        For `hetlib.training.fit`: the support's features, worked out once, where training does not augment its images.
    """
    if job.crossover is None or support is None:
        return model, {}
    facts = (
        {} if job.recipe.augment else {"alongside": support_features(support, images, precision=job.recipe.precision)}
    )
    steps = job.recipe.epochs * math.ceil(len(images) / job.recipe.batch_size)
    return Crossover(model, support, steps=steps, **job.crossover), facts


def history_of(job: Job, cache: Cache) -> History | None:
    """The history of a job whose result is kept; None where it would have to be trained."""
    kept = cache.find(asdict(job), uses(job))
    return None if kept is None else History(**kept[1]["history"])


def train(
    job: Job,
    cache: Cache,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[History], bool | None] | None = None,
) -> Trained:
    """Run a job, or find its result; an interrupted run goes on from its last epoch.

    Parameters
    ----------
    job : Job
        What to train.
    cache : Cache
        Where results and checkpoints are kept.
    device : str or torch.device
        Where to train.
    on_epoch : callable, optional
        Called with the history after every epoch of a run that is not found; a true answer stops the run.

    Returns
    -------
    Trained

    Raises
    ------
    Stopped
        If `on_epoch` stopped the run. Nothing is lost: the next call goes on after the epoch it had reached.
    """
    return _trained(job, *_fetch(job, cache, device, on_epoch))


def train_all(
    jobs: Sequence[Job], cache: Cache, device: str | torch.device = "cpu", processes: int | None = None
) -> list[Trained]:
    """Run many jobs, each source before its heirs, one process per core where there is no GPU.

    Parameters
    ----------
    jobs : sequence of Job
        What to train; equal jobs are run once.
    cache : Cache
        Where results and checkpoints are kept.
    device : str or torch.device
        Where to train.
    processes : int, optional
        How many at a time; by default as `default_processes`.

    Returns
    -------
    list of Trained
        In the order of `jobs`.
    """
    sources = [job.source for job in jobs if job.source is not None]
    if sources:
        train_all(sources, cache, device, processes)
    unique, missing = sort_out(jobs, cache)
    processes = processes or default_processes(device)
    found = {key: _fetch(job, cache, device) for key, job in unique.items() if key not in missing}
    found |= _in_processes(missing, cache, device, min(processes, len(missing)))
    if not headless():
        print(f"{len(missing)} trained, {len(unique) - len(missing)} reused from {cache.root}")
    return [_trained(job, *found[cache.key(asdict(job), uses(job))]) for job in jobs]


def sort_out(jobs: Iterable[Job], cache: Cache) -> tuple[dict[str, Job], dict[str, Job]]:
    """Equal jobs told once, by key: all of them, and those whose result is not kept yet; sources are not followed."""
    unique = {cache.key(asdict(job), uses(job)): job for job in jobs}
    return unique, {key: job for key, job in unique.items() if not cache.has(key)}


def default_processes(device: str | torch.device) -> int:
    """How many trainings run at a time: $HETLIB_PROCESSES, else the number of cores, and one on a GPU."""
    return int(os.environ.get("HETLIB_PROCESSES", os.cpu_count() or 1)) if str(device) == "cpu" else 1


def _in_processes(jobs: dict[str, Job], cache: Cache, device: str | torch.device, processes: int) -> dict[str, Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=unattended() or not jobs) as bar:
        task, done = bar.add_task("training", total=len(jobs)), {}
        if processes <= 1:
            for key, job in jobs.items():
                bar.update(task, description=job.label)
                done[key] = _fetch(job, cache, device)
                bar.advance(task)
            return done
        # Spawned, not forked: a forked child inherits the locks of torch's and the notebook's threads.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(processes, context, initializer=begin_worker)
        try:
            keys = {pool.submit(_fetch_apart, job, cache.root, device): key for key, job in jobs.items()}
            for future in as_completed(keys):
                done[keys[future]], computed, reused = future.result()
                cache.computed += computed
                cache.reused += reused
                bar.update(task, description=jobs[keys[future]].label, advance=1)
        finally:
            # After an error nothing new is begun, and nobody waits to hear of it for what still trains.
            pool.shutdown(wait=len(done) == len(jobs), cancel_futures=True)
    return done


def _fetch_apart(job: Job, root: Path, device: str | torch.device) -> tuple[Any, list[str], list[str]]:
    """What `_fetch` gives, and what its cache, which is another process's, computed and reused."""
    cache = Cache(root)
    return _fetch(job, cache, device), cache.computed, cache.reused


def _fetch(job: Job, cache: Cache, device: str | torch.device = "cpu", on_epoch=None):
    def compute(scratch: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        network, images, test = start(job, cache).to(device), job.load("train"), job.load("test")
        support = train(job.source, cache).model.to(device) if job.source and job.crossover is not None else None
        model, facts = crossed(job, network, support, images)
        if "validation" in data.splits(job.data):
            facts["validation"] = job.load("validation")
        how = {"seed": job.seed, "checkpoint": scratch, "on_epoch": on_epoch}
        history = fit(model, images, test, job.recipe, **how, **facts)
        if history.epochs < job.recipe.epochs:
            raise Stopped(f"{job.label}: stopped after {history.epochs} of {job.recipe.epochs} epochs")
        return network.cpu().state_dict(), {"history": asdict(history)}

    return cache.fetch(asdict(job), compute, uses(job), label=job.label)


def _trained(job: Job, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> Trained:
    model = job.build()
    model.load_state_dict(tensors)
    return Trained(model.eval(), History(**facts["history"]))


def uses(job: Job) -> tuple[ModuleType, ...]:
    """The code a result depends on: change any of it, comments apart, and the result is computed anew."""
    fed = [job.method] if job.source is not None and job.transfer is not None else []
    return behind("data", "training", "zoo", *fed, *(["crossover"] if job.crossover is not None else []))
