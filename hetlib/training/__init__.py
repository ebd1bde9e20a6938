"""Training and evaluation: one loop for every network and every paper, and what it can minimise."""

from hetlib.training.evaluate import evaluate, use_bf16
from hetlib.training.lockstep import Lockstep
from hetlib.training.loop import Loop, fit
from hetlib.training.objectives import DistilFrom, Distillation, Frozen, Objective, cross_entropy, distillation_loss
from hetlib.training.recipe import History, Recipe

__all__ = [
    "DistilFrom",
    "Distillation",
    "Frozen",
    "History",
    "Lockstep",
    "Loop",
    "Objective",
    "Recipe",
    "cross_entropy",
    "distillation_loss",
    "evaluate",
    "fit",
    "use_bf16",
]
