"""How long trainings will take and how much memory they want, measured on a few steps before they start."""

import math
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch

from hetlib.files import write
from hetlib.lab import records
from hetlib.lab.cache import Cache, canonical
from hetlib.lab.definitions import name_of
from hetlib.lab.group import Group
from hetlib.lab.presets import Run
from hetlib.lab.train import Job, Work, survey
from hetlib.lab.workers import begin_worker, default_processes
from hetlib.training import fit

STEPS, TESTED = 8, 1024  # training steps and test images that a probe takes its time from


@dataclass(frozen=True)
class Cost:
    """What one training takes: seconds, and the most memory of its process (of the GPU on CUDA) in MiB."""

    seconds: float
    mib: float


@dataclass(frozen=True, repr=False)
class Estimate:
    """How many trainings run, how many results were found, and in how much memory: `mib` of all processes together."""

    trainings: int
    found: int
    seconds: float
    processes: int
    mib: float
    free_mib: float
    device: str

    def __str__(self) -> str:
        if not self.trainings:
            return f"nothing to train: all {self.found} results are kept from earlier runs"
        minutes = math.ceil(self.seconds / 60)
        duration = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
        memory = f"{self.mib / 1024:.1f} GiB of memory ({self.free_mib / 1024:.1f} GiB free)"
        text = f"{self.trainings} trainings to run, {self.found} found: about {duration} on {self.device}"
        text += f", {self.processes} at a time, {memory}"
        if self.mib > self.free_mib:
            text += "; that is more than is free: set HETLIB_PROCESSES lower, or stop what else runs"
        return text

    __repr__ = __str__


def estimate(jobs: Sequence[Work], run: Run) -> Estimate | None:
    """Before a run of hours: say how long its trainings will take and how much memory they want.

    Takes what `train_all` will be given; what these jobs need is counted with them. Gives None at presets "smoke" and
    "classroom", whose budgets are known: minutes. The estimate is also written into the run's folder, where
    ``hetlib run`` finds and prints it.
    """
    if run.preset in ("smoke", "classroom"):
        return None
    found = measure(jobs, run.cache, run.device)
    write(run.folder / records.ESTIMATE, str(found))
    return found


def measure(jobs: Sequence[Work], cache: Cache, device: str = "cpu") -> Estimate:
    """Estimate trainings: each kind that the cache lacks is probed for a few steps, in a process of its own.

    The sum over the processes is a guess that no process ever waits; the longest training is the least it can take.
    """
    missing, found = survey(jobs, cache)
    apart = [job.jobs if isinstance(job, Group) else (job,) for job in missing.values()]
    costs = _probe_all({_kind(job): job for jobs in apart for job in jobs}, device)
    each = [sum(costs[_kind(job)].seconds for job in jobs) for jobs in apart]
    processes = min(default_processes(device), len(each))
    seconds = max(sum(each) / processes, max(each)) if each else 0.0
    mib = processes * max((cost.mib for cost in costs.values()), default=0.0)
    return Estimate(len(missing), len(found), seconds, processes, mib, _free_memory(device), device)


def _kind(job: Job) -> str:
    """What decides the cost of a training: all but its seed, where it starts from and the numbers in its objective.

    The networks that an objective names run in every step, so their kinds count too; and an objective may have a word,
    `costs`, that differs where its steps do.
    """
    aim = replace(job, seed=0, order=None, sources=(), transfer=None)
    words = name_of(type(job.objective)), getattr(job.objective, "costs", "")
    return canonical([replace(aim, objective=None), *words, [*map(_kind, aim.needs)]])


def _probe_all(kinds: dict[str, Job], device: str) -> dict[str, Cost]:
    # A process each, because a process's highest memory never falls again.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=begin_worker, max_tasks_per_child=1) as pool:
        costs = {kind: pool.submit(probe, job, device) for kind, job in kinds.items()}
        return {kind: future.result() for kind, future in costs.items()}


def probe(job: Job, device: str = "cpu") -> Cost:
    """Train for three short epochs, of which the first warms up and the last evaluates, and multiply.

    What it needs is not trained for it. The memory is that of this process so far.
    """
    train, test, recipe = job.load("train"), job.load("test"), job.recipe
    few = train.subset(range(min(len(train), STEPS * recipe.batch_size)))
    tested = test.subset(range(min(len(test), TESTED)))
    times = [time.perf_counter()]
    short = recipe.changed(epochs=3, evaluate_every=3)
    model = job.build().to(device)
    # What the objective looks at has not learned anything yet; some say how they behave then.
    job = replace(job, objective=getattr(job.objective, "rehearsed", job.objective), recipe=short)
    aim = {"recipe": short} | dict(job.aim(model, few, lambda other: other.build().to(device)))
    fit(model, few, tested, on_epoch=lambda _: times.append(time.perf_counter()), **aim)
    epoch = times[2] - times[1]
    evaluation = max(0.0, times[3] - times[2] - epoch)
    evaluations = math.ceil(recipe.epochs / recipe.evaluate_every)
    seconds = recipe.epochs * epoch * len(train) / len(few) + evaluations * evaluation * len(test) / len(tested)
    return Cost(seconds, records.peak_memory(device))


def _free_memory(device: str) -> float:
    """Memory in MiB that is free for new work: the GPU's for "cuda", else this computer's."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / 2**20
    import psutil

    return psutil.virtual_memory().available / 2**20
