"""Trainings described as plain data: run once, found again, and spread over processes."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import asdict, dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from hetlib import data
from hetlib.errors import of_kind
from hetlib.lab.cache import Cache
from hetlib.lab.definitions import portable
from hetlib.lab.group import Group
from hetlib.lab.job import Job, asked
from hetlib.lab.presets import headless, unattended
from hetlib.lab.workers import Here, default_processes, pool_of
from hetlib.training import History, Lockstep, Loop, fit
from hetlib.training.checkpoint import under
from hetlib.training.progress import progress_bar


class Stopped(Exception):
    """A training was told to stop before its last epoch; what it has is kept, and another call goes on from there."""


@dataclass(frozen=True)
class Trained:
    """What a job gives: the trained network, on the CPU and in evaluation mode, and its history.

    `curves` are every term of its loss, the mean over each epoch, where its objective keeps them.
    """

    model: nn.Module
    history: History
    curves: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class TrainedGroup:
    """What a group gives: its members as `Trained`, what happened between their epochs, and what was kept of that."""

    members: tuple[Trained, ...]
    facts: list[Any]
    memory: dict[str, torch.Tensor]

    @property
    def history(self) -> History:
        """That of the first member."""
        return self.members[0].history


Work: TypeAlias = Job | Group


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


def history_of(job: Work, cache: Cache) -> History | None:
    """The history of a job whose result is kept, of a group its first; None where it would have to be trained."""
    kept = cache.find(*asked(job))
    if kept is None:
        return None
    return History(**(kept[1]["histories"][0] if isinstance(job, Group) else kept[1]["history"]))


def train(
    job: Work,
    cache: Cache,
    device: str | torch.device = "cpu",
    on_epoch: Callable[[History], bool | None] | None = None,
) -> Any:
    """Run a job, or find its result: a `Trained`, or a `TrainedGroup`. An interrupted run goes on from its last epoch.

    Parameters
    ----------
    job : Job or Group
        What to train.
    cache : Cache
        Where results and checkpoints are kept.
    device : str or torch.device
        Where to train.
    on_epoch : callable, optional
        Called with the history after every epoch of a run that is not found; a true answer stops the run. Of a group
        it is the first member's.

    Raises
    ------
    Stopped
        If `on_epoch` stopped the run. Nothing is lost: the next call goes on after the epoch it had reached.
    """
    of_kind("job", job, Job, Group)
    of_kind("cache", cache, Cache)
    return _trained(job, *_fetch(job, cache, device, on_epoch))


def train_all(
    jobs: Sequence[Work],
    cache: Cache,
    device: str | torch.device = "cpu",
    processes: int | None = None,
    executor: Executor | None = None,
) -> list[Any]:
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
    # What has just been trained is read without counting as reused.
    read = {key: cache.find(*asked(job)) for key, job in unique.items() if key in trained}
    found = {key: read.get(key) or _fetch(job, cache, device) for key, job in unique.items()}
    if not headless():
        print(f"{len(trained)} trained, {len(unique.keys() - trained.keys())} reused from {cache.root}")
    return [_trained(job, *found[cache.key(*asked(job))]) for job in jobs]


def survey(jobs: Iterable[Work], cache: Cache) -> tuple[dict[str, Work], dict[str, Work]]:
    """Jobs, and all that missing ones need, by key: those that are not kept yet, and those that are."""
    missing: dict[str, Work] = {}
    kept: dict[str, Work] = {}
    waiting, seen = list(jobs), dict[int, Work]()
    while waiting:
        job = waiting.pop()
        if id(job) in seen:  # needed by several jobs
            continue
        seen[id(job)] = job
        key = cache.key(*asked(job))
        if cache.has(key):
            kept[key] = job
        elif key not in missing:
            missing[key] = job
            waiting += job.needs
    return missing, kept


def train_missing(
    jobs: Sequence[Work],
    cache: Cache,
    device: str | torch.device = "cpu",
    processes: int | None = None,
    executor: Executor | None = None,
) -> dict[str, Work]:
    """As `train_all`, but no network is loaded: gives the jobs that were run, by key."""
    missing, _ = survey(jobs, cache)
    names = {id(job): key for key, job in missing.items()}
    name = lambda job: names.get(id(job)) or cache.key(*asked(job))
    needs = {key: {name(each) for each in job.needs} & missing.keys() for key, job in missing.items()}
    limit = processes or (default_processes(device) if executor is None else len(missing))
    apart = sum(map(portable, missing.values()))
    if apart < len(missing) and limit > 1:
        warnings.warn(
            f"{len(missing) - apart} trainings run in this process, one after the other, since others cannot have what "
            "they name: a function without a name, or a class or function that stands inside another",
            stacklevel=2,
        )
    bar = "" if unattended() or not missing else "training"
    with progress_bar(bar, len(missing)) as show, pool_of(executor, min(limit, apart)) as pool:
        order, urgent = TopologicalSorter(needs), _urgency(missing, needs)
        order.prepare()
        done = 0
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
                order.done(running.pop(future))
                show(done := done + 1)
    return missing


def _urgency(jobs: Mapping[str, Work], needs: Mapping[str, set[str]]) -> dict[str, float]:
    """How much work each job and the longest chain of those that wait for it are: epochs times images."""
    urgent = dict.fromkeys(jobs, 0.0)
    for key in reversed(tuple(TopologicalSorter(needs).static_order())):
        urgent[key] += jobs[key].work
        for needed in needs[key]:
            urgent[needed] = max(urgent[needed], urgent[key])
    return urgent


def _fetch_apart(job: Work, root: Path, device: str | torch.device) -> tuple[list[str], list[str]]:
    """Train a job, in any process; gives the labels of what its own cache computed and reused."""
    cache = Cache(root)
    _fetch(job, cache, device)
    return cache.computed, cache.reused


def _fetch(job: Work, cache: Cache, device: str | torch.device = "cpu", on_epoch=None):
    run: Any = _run_group if isinstance(job, Group) else _run
    config, code = asked(job)
    return cache.fetch(config, lambda scratch: run(job, cache, device, scratch, on_epoch), code, label=job.label)


def _parts(job: Job, cache: Cache, device: str | torch.device) -> tuple[tuple, dict[str, Any]]:
    """What a job's `Loop`, or `fit`, is made of."""
    network, images, test = start(job, cache).to(device), job.load("train"), job.load("test")
    aim = job.aim(network, images, lambda other: train(other, cache).model.to(device))
    held_out = job.load("validation") if "validation" in data.splits(job.data) else None
    order = job.seed if job.order is None else job.order
    return (network, images, test), {"seed": order, "validation": held_out, "recipe": job.recipe, **aim}


def _run(job: Job, cache: Cache, device: str | torch.device, scratch: Path, on_epoch: Callable | None):
    parts, how = _parts(job, cache, device)
    history = fit(*parts, **how, checkpoint=scratch, on_epoch=on_epoch)
    _check_done(job, history, how["recipe"].epochs)
    curves = getattr(how.get("objective"), "curves", torch.zeros(0)).tolist()
    return parts[0].cpu().state_dict(), {"history": asdict(history)} | ({"curves": curves} if curves else {})


def _run_group(group: Group, cache: Cache, device: str | torch.device, scratch: Path, on_epoch: Callable | None):
    made = (_parts(job, cache, device) for job in group.jobs)
    together = Lockstep([Loop(*parts, **how) for parts, how in made], group.between)
    histories = together.run(scratch, on_epoch and (lambda lockstep: on_epoch(lockstep.histories[0])))
    _check_done(group, histories[0], group.jobs[0].recipe.epochs)
    tensors = {f"memory.{name}": value for name, value in together.memory.items()}
    for k, loop in enumerate(together.loops):
        tensors |= {f"{k}.{name}": value for name, value in loop.model.cpu().state_dict().items()}
    return tensors, {"histories": list(map(asdict, histories)), "facts": together.facts}


def _check_done(job: Work, history: History, epochs: int) -> None:
    if history.epochs < epochs:
        raise Stopped(f"{job.label}: stopped after {history.epochs} of {epochs} epochs")


def _trained(job: Work, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> Any:
    if isinstance(job, Group):
        members = [
            _trained(each, under(str(k), tensors), {"history": history})
            for k, (each, history) in enumerate(zip(job.jobs, facts["histories"], strict=True))
        ]
        return TrainedGroup(tuple(members), facts["facts"], under("memory", tensors))
    model = job.build()
    model.load_state_dict(tensors)
    return Trained(model.eval(), History(**facts["history"]), facts.get("curves", []))
