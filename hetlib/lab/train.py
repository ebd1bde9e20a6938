"""Trainings described as plain data: run once, found again, and spread over processes."""

import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetlib import data
from hetlib.data import Images
from hetlib.lab.cache import Cache
from hetlib.lab.definitions import portable
from hetlib.lab.job import Job, asked
from hetlib.lab.presets import headless, unattended
from hetlib.training import History, fit


class Stopped(Exception):
    """A training was told to stop before its last epoch; what it has is kept, and another call goes on from there."""


@dataclass(frozen=True)
class Trained:
    """What a job gives: the trained network, on the CPU and in evaluation mode, and its history."""

    model: nn.Module
    history: History


def start(job: Job, cache: Cache) -> nn.Module:
    """The job's network as its training finds it: built, and fed from its sources if it has any.

    Parameters
    ----------
    job : Job
        What is to be trained.
    cache : Cache
        Where its sources are found, or kept once trained.

    Returns
    -------
    nn.Module
        On the CPU.
    """
    model = job.build()
    if job.transfer is not None:
        networks = [train(source, cache).model for source in job.sources]
        given = networks[0] if len(networks) == 1 else networks
        job.transfer(given, model, data.sample(job.load("train")), seed=job.seed)
    return model


def objective_of(job: Job, model: nn.Module, images: Images, network: Callable[[Job], nn.Module]) -> Mapping[str, Any]:
    """What a job minimises as it trains a model on images, as keyword arguments for `hetlib.training.fit`.

    `network` gives the network of another job.
    """
    return {} if job.objective is None else job.objective(model, network, images, job.recipe)


def history_of(job: Job, cache: Cache) -> History | None:
    """The history of a job whose result is kept; None where it would have to be trained."""
    kept = cache.find(*asked(job))
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
    """Run many jobs, each after those whose networks it takes, one process per core where there is no GPU.

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
    if needed := [each for job in jobs for each in job.needs]:
        train_all(needed, cache, device, processes)
    unique, missing = unique_and_missing(jobs, cache)
    processes = processes or default_processes(device)
    found = {key: _fetch(job, cache, device) for key, job in unique.items() if key not in missing}
    here = {key: job for key, job in missing.items() if not portable(job)}
    apart = {key: job for key, job in missing.items() if key not in here}
    found |= _in_processes(apart, cache, device, min(processes, len(apart)))
    if here and processes > 1:
        warnings.warn(
            f"{len(here)} trainings run in this process, one after the other, since others cannot have what they name: "
            "a function without a name, or a class or function that stands inside another",
            stacklevel=2,
        )
    found |= _in_processes(here, cache, device, 1)
    if not headless():
        print(f"{len(missing)} trained, {len(unique) - len(missing)} reused from {cache.root}")
    return [_trained(job, *found[cache.key(*asked(job))]) for job in jobs]


def unique_and_missing(jobs: Iterable[Job], cache: Cache) -> tuple[dict[str, Job], dict[str, Job]]:
    """Equal jobs told once, by key: all of them, and those not kept yet; what they need is not followed."""
    unique = {cache.key(*asked(job)): job for job in jobs}
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


def begin_worker() -> None:
    """Prepare a process that trains: one thread, and none that outlives whoever waits for it."""
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _fetch_apart(job: Job, root: Path, device: str | torch.device) -> tuple[Any, list[str], list[str]]:
    """What `_fetch` gives, and what its cache, which is another process's, computed and reused."""
    cache = Cache(root)
    return _fetch(job, cache, device), cache.computed, cache.reused


def _fetch(job: Job, cache: Cache, device: str | torch.device = "cpu", on_epoch=None):
    def compute(scratch: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        network, images, test = start(job, cache).to(device), job.load("train"), job.load("test")
        aim = objective_of(job, network, images, lambda other: train(other, cache).model.to(device))
        held_out = job.load("validation") if "validation" in data.splits(job.data) else None
        how = {"seed": job.seed, "validation": held_out, "checkpoint": scratch, "on_epoch": on_epoch}
        history = fit(network, images, test, job.recipe, **how, **aim)
        if history.epochs < job.recipe.epochs:
            raise Stopped(f"{job.label}: stopped after {history.epochs} of {job.recipe.epochs} epochs")
        return network.cpu().state_dict(), {"history": asdict(history)}

    config, code = asked(job)
    return cache.fetch(config, compute, code, label=job.label)


def _trained(job: Job, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> Trained:
    model = job.build()
    model.load_state_dict(tensors)
    return Trained(model.eval(), History(**facts["history"]))
