"""The fully connected networks that CLAFusion's one-shot experiments fuse."""

from collections.abc import Sequence
from typing import Any

from hetlib.errors import unknown
from hetlib.lab.job import Job
from hetlib.training import Recipe

MLP = Recipe(10, 64, lr=0.01, momentum=0.5, weight_decay=0, schedule="constant", augment=False, precision="fp32")
PIXELS = {"digits": 64, "mnist": 784}
DEEP, SHALLOW = (400, 200, 100, 50, 25), (400, 200, 100)
SKILLS = {"special": SHALLOW, "general": (*SHALLOW, 50)}
"""Hidden layers of the fully connected networks."""


def perceptrons(preset: str, seeds: Sequence[int], data: str = "") -> dict[tuple[str, int], Job]:
    """The trainings of fully connected networks, by role and seed.

    Parameters
    ----------
    preset : {"smoke", "classroom", "reduced", "paper"}
        How big.
    seeds : sequence of int
        Each has networks of its own; there is one more "shallow".
    data : {"digits", "mnist"}
        By default the preset's own.

    Returns
    -------
    dict of (str, int) to Job
        "deep" and "shallow" of all classes; "general" and "special" of the two parts of a skill transfer.

    Raises
    ------
    ValueError
        If the data are others.
    """
    real = preset in ("reduced", "paper")
    task = data or ("mnist" if real else "digits")
    if task not in PIXELS:
        raise unknown("data set of the perceptrons", task, PIXELS)
    short = Recipe(5 if preset == "smoke" else 40, 32, lr=0.05, weight_decay=0, augment=False)
    more: dict[str, Any] = {"options": {"in_features": PIXELS[task], "bias": False}, "recipe": MLP if real else short}

    def job(hidden: tuple[int, ...], seed: int, where: str = task) -> Job:
        return Job(model="mlp", data=where, seed=seed, **more | {"options": more["options"] | {"hidden": hidden}})

    found = {("deep", seed): job(DEEP, seed) for seed in seeds}
    found |= {("shallow", seed): job(SHALLOW, seed) for seed in (*seeds, 1 + max(seeds))}
    return found | {(s, seed): job(hidden, seed, f"{task}-{s}") for s, hidden in SKILLS.items() for seed in seeds}
