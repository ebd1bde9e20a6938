"""Trainings described as plain data: run once, found again, and spread over processes."""

import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from graphlib import TopologicalSorter
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
    """The job's network as its training finds it, on the CPU: built, and fed from its sources if it has any.

    The sources are found in the cache, or trained and kept there.
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

    Raises
    ------
    Stopped
        If `on_epoch` stopped the run. Nothing is lost: the next call goes on after the epoch it had reached.
    """
    return _trained(job, *_fetch(job, cache, device, on_epoch))


def train_all(
    jobs: Sequence[Job],
    cache: Cache,
    device: str | torch.device = "cpu",
    processes: int | None = None,
    executor: Executor | None = None,
) -> list[Trained]:
    """Run many jobs, each once and after those whose networks it takes; of those that can begin, the longest first.

    Parameters
    ----------
    jobs, cache, device
        As `train`; the results are in the order of `jobs`.
    processes : int, optional
        How many at a time; by default as `default_processes`.
    executor : concurrent.futures.Executor, optional
        Runs them instead of processes of this computer; it has to reach the cache's folder.
    """
    trained = train_missing(jobs, cache, device, processes, executor)
    unique = {cache.key(*asked(job)): job for job in jobs}
    found = {key: _fetch(job, cache, device) for key, job in unique.items() if key not in trained}
    # What has just been trained is read without counting as reused.
    found |= {
        key: cache.find(*asked(job)) or _fetch(job, cache, device) for key, job in trained.items() if key in unique
    }
    if not headless():
        print(f"{len(trained)} trained, {len(unique.keys() - trained.keys())} reused from {cache.root}")
    return [_trained(job, *found[cache.key(*asked(job))]) for job in jobs]


def survey(jobs: Iterable[Job], cache: Cache) -> tuple[dict[str, Job], dict[str, Job]]:
    """Jobs, and all that missing ones need, by key: those that are not kept yet, and those that are."""
    missing: dict[str, Job] = {}
    kept: dict[str, Job] = {}
    waiting = list(jobs)
    while waiting:
        job = waiting.pop()
        key = cache.key(*asked(job))
        if cache.has(key):
            kept[key] = job
        elif key not in missing:
            missing[key] = job
            waiting += job.needs
    return missing, kept


def default_processes(device: str | torch.device) -> int:
    """How many trainings run at a time: $HETLIB_PROCESSES, else the number of cores, and one on a GPU."""
    return int(os.environ.get("HETLIB_PROCESSES", os.cpu_count() or 1)) if str(device) == "cpu" else 1


def train_missing(
    jobs: Sequence[Job],
    cache: Cache,
    device: str | torch.device = "cpu",
    processes: int | None = None,
    executor: Executor | None = None,
) -> dict[str, Job]:
    """As `train_all`, but no network is loaded: gives the jobs that were run, by key."""
    missing, _ = survey(jobs, cache)
    needs = {key: {cache.key(*asked(each)) for each in job.needs} & missing.keys() for key, job in missing.items()}
    limit = processes or (default_processes(device) if executor is None else len(missing))
    apart = sum(map(portable, missing.values()))
    if apart < len(missing) and limit > 1:
        warnings.warn(
            f"{len(missing) - apart} trainings run in this process, one after the other, since others cannot have what "
            "they name: a function without a name, or a class or function that stands inside another",
            stacklevel=2,
        )
    with _progress(len(missing)) as show, _pool(executor, min(limit, apart)) as pool:
        order, urgent = TopologicalSorter(needs), _urgency(missing, needs)
        order.prepare()
        ready: list[str] = []
        running: dict[Future, str] = {}
        while order.is_active():
            ready = sorted([*ready, *order.get_ready()], key=urgent.__getitem__)
            while ready and len(running) < limit:
                job = missing[key := ready.pop()]
                where = pool if portable(job) else Here()
                running[where.submit(_fetch_apart, job, cache.root, device)] = key
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                computed, reused = future.result()
                cache.computed += computed
                cache.reused += reused
                order.done(key := running.pop(future))
                show(missing[key].label)
    return missing


def _urgency(jobs: Mapping[str, Job], needs: Mapping[str, set[str]]) -> dict[str, float]:
    """How much work each job and the longest chain of those that wait for it are: epochs times images."""
    urgent = dict.fromkeys(jobs, 0.0)
    for key in reversed(tuple(TopologicalSorter(needs).static_order())):
        urgent[key] += jobs[key].recipe.epochs * len(jobs[key].load("train"))
        for needed in needs[key]:
            urgent[needed] = max(urgent[needed], urgent[key])
    return urgent


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar that a call moves one training further; the runner shows its own."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=unattended() or not total) as bar:
        task = bar.add_task("training", total=total)
        yield lambda label: bar.update(task, description=label, advance=1)


@contextmanager
def _pool(executor: Executor | None, processes: int) -> Iterator[Executor]:
    """The executor that was given, else processes of our own; a single one is this process itself."""
    if executor is not None or processes <= 1:
        yield executor or Here()
        return
    # Spawned, not forked: a forked child inherits the locks of torch's and the notebook's threads.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=begin_worker)
    try:
        yield pool
    except BaseException:
        # Nothing new is begun, and nobody waits to hear of the error for what still trains.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


class Here(Executor):
    """Runs at once, in this process, what it is given."""

    def submit(self, work: Callable, /, *arguments: Any, **options: Any) -> Future:
        """Call, and give what came of it."""
        future: Future = Future()
        try:
            future.set_result(work(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def begin_worker() -> None:
    """Prepare a process that trains: one thread, and none that outlives whoever waits for it."""
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _fetch_apart(job: Job, root: Path, device: str | torch.device) -> tuple[list[str], list[str]]:
    """Train a job, in any process; gives the labels of what its own cache computed and reused."""
    cache = Cache(root)
    _fetch(job, cache, device)
    return cache.computed, cache.reused


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
