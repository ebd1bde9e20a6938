"""What notebooks need: presets, trainings, cache, records, explorer, figures and exercises."""

from hetlib.lab.cache import Cache
from hetlib.lab.estimate import estimate
from hetlib.lab.exercises import check, exercise
from hetlib.lab.explorer import Explorer
from hetlib.lab.group import Group
from hetlib.lab.presets import PRESETS, Run, start
from hetlib.lab.records import on_record
from hetlib.lab.statistics import paired_differences
from hetlib.lab.tables import beside_published
from hetlib.lab.toggles import checked, slider
from hetlib.lab.train import Job, Trained, TrainedGroup, train, train_all, train_missing

__all__ = [
    "PRESETS",
    "Cache",
    "Explorer",
    "Group",
    "Job",
    "Run",
    "Trained",
    "TrainedGroup",
    "beside_published",
    "check",
    "checked",
    "estimate",
    "exercise",
    "on_record",
    "paired_differences",
    "slider",
    "start",
    "train",
    "train_all",
    "train_missing",
]
