"""Trainings that run side by side, described as one piece of data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hetlib.lab.job import Job, Shipped, jobs_in


@dataclass(frozen=True, kw_only=True)
class Group(Shipped):
    """Trainings that take turns in one process, an epoch each, and what happens between their networks then.

    Attributes
    ----------
    jobs : tuple of Job
        The trainings, with equally many epochs.
    between : callable
        A frozen dataclass or function that is called after every epoch with the `hetlib.training.Lockstep`: it looks at
        all networks, may change them in place, and may answer with facts, which are kept.

    Without jobs, or if they differ in their number of epochs, it is a ValueError.
    """

    jobs: tuple[Job, ...]
    between: Callable[[Any], Any]

    def __post_init__(self):
        object.__setattr__(self, "jobs", tuple(self.jobs))
        epochs = [job.recipe.epochs for job in self.jobs]
        if len(set(epochs)) != 1:
            raise ValueError(f"a group's trainings have as many epochs each, got {epochs}")

    @property
    def label(self) -> str:
        """A short name for people: how many trainings of what, and what happens between them."""
        first = self.jobs[0]
        step = getattr(self.between, "__name__", type(self.between).__name__)
        return f"{len(self.jobs)} x {first.model} on {first.data} ({step}), seed {first.seed}"

    @property
    def needs(self) -> tuple[Job, ...]:
        """The trainings whose networks these take, and which come before them."""
        return jobs_in([*(job.needs for job in self.jobs), self.between])

    @property
    def work(self) -> float:
        """How much there is to do: images times epochs, of all its trainings."""
        return sum(job.work for job in self.jobs)
