"""What notebooks need: presets, cache, ledger, explorer, figures and exercises."""

from hetlib.lab.cache import Cache
from hetlib.lab.exercises import check, exercise
from hetlib.lab.explorer import Explorer
from hetlib.lab.forecast import estimate
from hetlib.lab.jobs import Job, Trained, train, train_all
from hetlib.lab.presets import PRESETS, Run, start
from hetlib.lab.report import beside, effects
from hetlib.lab.toggles import checked, slider

__all__ = [
    "PRESETS",
    "Cache",
    "Explorer",
    "Job",
    "Run",
    "Trained",
    "beside",
    "check",
    "checked",
    "effects",
    "estimate",
    "exercise",
    "slider",
    "start",
    "train",
    "train_all",
]
