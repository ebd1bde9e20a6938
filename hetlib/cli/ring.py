"""What `hetlib graft` does: a ring of trainings, in this process or as one of its ranks, and what is told of it."""

import json
import os
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hetlib.errors import unknown
from hetlib.files import write
from hetlib.grafting import AfterEpoch
from hetlib.grafting.distributed import OverRanks, over_ranks, train
from hetlib.grafting.exchange import Exchange, joined
from hetlib.lab import Job
from hetlib.merging import Ensemble
from hetlib.training import History, Lockstep, Loop, evaluate


@dataclass(frozen=True)
class Plan:
    """All that a command line asks for.

    Attributes
    ----------
    jobs : tuple of Job
        The trainings.
    after : AfterEpoch
        What happens between their epochs.
    folder : Path
        For checkpoints and results.
    device : {"cpu", "cuda"}
        Where networks are trained.
    backend : {"gloo", "nccl"}
        What carries networks from one process to another.
    timeout : float
        Seconds that processes wait for one another.
    """

    jobs: tuple[Job, ...]
    after: AfterEpoch
    folder: Path
    device: str
    backend: str
    timeout: float

    def loop(self, k: int, device: str) -> Loop:
        """The training of network `k`."""
        job = self.jobs[k]
        return Loop(job.build().to(device), job.load("train"), job.load("test"), job.recipe, seed=job.seed)


@dataclass(frozen=True)
class AndVote:
    """As `AfterEpoch`; after the last epoch, "ensemble" tells the accuracy of all networks' vote before the graft."""

    after: AfterEpoch

    def __call__(self, ring: Lockstep) -> dict[str, Any]:
        """Vote if it is time to, and graft."""
        facts: dict[str, Any] = {}
        first = ring.loops[0]
        if ring.finished and first.test is not None:
            grafting, models = self.after.grafting, [loop.model for loop in ring.loops]
            if isinstance(grafting, OverRanks):
                models = grafting.exchange.all_networks(first.model)
            facts["ensemble"] = evaluate(Ensemble(models), first.test, precision=first.recipe.precision)["top1"]
        return facts | self.after(ring)


class Lines:
    """One line for each network and epoch, with the time left."""

    def __init__(self) -> None:
        self.start, self.done = time.monotonic(), 0

    def __call__(self, ring: Lockstep) -> None:
        """Print the lines of the epoch that was the last."""
        self.done += 1
        total = ring.loops[0].recipe.epochs
        left = (time.monotonic() - self.start) / self.done * (total - ring.epochs)
        for k, history in enumerate(ring.histories, start=ring.first):
            line = f"epoch {ring.epochs:3}/{total}  network {k}  loss {history.loss[-1]:.4f}  "
            line += f"accuracy before the graft {history.final:.2f} %  {timedelta(seconds=round(left))} left"
            print(line, flush=True)


def device_of(name: str) -> str:
    """The device that a name asks for; "auto" takes a GPU where there is one."""
    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ValueError("device cuda: torch finds no GPU here")
    return "cuda" if found and name != "cpu" else "cpu"


def in_one_process(plan: Plan) -> None:
    """Train all networks in this process, taking turns."""
    ring = Lockstep([plan.loop(k, plan.device) for k in range(len(plan.jobs))], AndVote(plan.after))
    ring.run(plan.folder / "ring.safetensors", on_epoch=Lines())
    report(plan, ring.histories, [ring.facts])


def as_rank(plan: Plan) -> None:
    """Train one network in this process, a rank of several; the first rank reports."""
    with joined(plan.timeout, plan.backend) as exchange:
        if exchange.size != len(plan.jobs):
            raise ValueError(f"--num {len(plan.jobs)} on {exchange.size} ranks: one network a rank")
        ring = _ring(plan, exchange)
        train(ring, exchange, plan.folder, Lines())
        told = exchange.gather((ring.histories[0], ring.facts), "the results")
        if exchange.rank == 0:
            report(plan, [history for history, _ in told], [facts for _, facts in told])


def _ring(plan: Plan, exchange: Exchange) -> Lockstep:
    device = plan.device
    if device == "cuda":
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    after = AfterEpoch(**{**vars(plan.after), "grafting": over_ranks(plan.after.grafting, exchange)})
    return Lockstep([plan.loop(exchange.rank, device)], AndVote(after), first=exchange.rank)


def report(plan: Plan, histories: list[History], facts: list[list[Any]]) -> None:
    """Print the accuracies, and write them with all facts to results.json."""
    table = Table("network", "highest rate", "last", "best on test (optimistic)", box=None)
    for k, (job, history) in enumerate(zip(plan.jobs, histories, strict=True)):
        table.add_row(str(k), f"{job.recipe.lr:.4g}", f"{history.final:.2f} %", f"{history.best:.2f} %")
    vote = facts[0][-1]["ensemble"]
    table.add_row("ensemble", "", f"{vote:.2f} %", "")
    console = Console()
    console.print("accuracy on the test images, before the graft of the epoch", highlight=False)
    console.print(table)
    networks = [
        {"seed": job.seed, "recipe": asdict(job.recipe), "last": each.final, "best": each.best, "history": asdict(each)}
        for job, each in zip(plan.jobs, histories, strict=True)
    ]
    found: dict[str, Any] = {
        "command": shlex.join(["hetlib", *sys.argv[1:]]),
        "model": plan.jobs[0].model,
        "data": plan.jobs[0].data,
    }
    found |= {"after": asdict(plan.after), "networks": networks, "ensemble": vote, "facts": facts}
    path = write(plan.folder / "results.json", json.dumps(found, indent=1) + "\n")
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
