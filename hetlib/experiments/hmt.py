"""HMT's experiments: VGG11 learns one task; its weights start PlainNet5 or ResNet-8 on few images of another.

`ARMS` are the released ablations (no transfer, chain, shuffle and interval order) and our own variants.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hetlib.hmt import ByPosition, Cyclic
from hetlib.lab import Job
from hetlib.lab.presets import SEEDS
from hetlib.training import Recipe
from hetlib.transfer import Transfer

ARMS: dict[str, Transfer | None] = {
    "none": None,
    "chain": Transfer(ByPosition(), (Cyclic(),)),
    "shuffle": Transfer(ByPosition("shuffle"), (Cyclic(),)),
    "interval": Transfer(ByPosition("interval"), (Cyclic(),)),
    "corners": Transfer(ByPosition(), (Cyclic(align_corners=True),)),
    "zero padding": Transfer(ByPosition(), (Cyclic(resizer="zero"),)),
    "gain corrected": Transfer(ByPosition(), (Cyclic(correct_gain=True),)),
    "batch norms too": Transfer(ByPosition(), (Cyclic(batch_norm=True),)),
}
TARGETS = {"plainnet5": tuple(ARMS), "resnet8": tuple(ARMS)[:4]}
"""The arms of each target."""
RELEASED = Recipe(epochs=350, schedule="steps", milestones=(149, 249), evaluate_every=10)
REAL = ("reduced", "paper")
RATES = {f"{arm}, rate 0.01": (arm, 0.01) for arm in ("none", "chain")}
"""Arms that are trained with another highest learning rate than 0.1, in PlainNet5 and where no photographs are."""


def source(preset: str, data: str = "", width: float = 0.0, seed: int = 0) -> Job:
    """The training of VGG11, on CIFAR-10 or on rendered shapes.

    Parameters
    ----------
    preset : {"smoke", "classroom", "reduced", "paper"}
        How big.
    data : str
        Training set of the targets; a CIFAR set asks for CIFAR-10 here.
    width : float
        Of every hidden layer, as a factor; 0 takes the preset's own.
    seed : int
        Of the training.
    """
    real = preset in REAL or "cifar" in data
    epochs = {"smoke": 1, "classroom": 5 if real else 9}.get(preset, 15)
    size = {"smoke": 0.25, "classroom": 0.5 if real else 0.25}.get(preset, 1.0)
    return Job(
        model="vgg11",
        data="cifar10" if real else "shapes-source",
        recipe=Recipe(epochs=epochs, schedule="one-cycle"),
        seed=seed,
        options={"width": width or size},
        data_options={} if real else {"count": 512 if preset == "smoke" else 8000},
    )


def job(preset: str, target: str, arm: str, seed: int, data: str = "", width: float = 0.0, epochs: int = 0) -> Job:
    """The training of one target, started as one of the `ARMS` says.

    Parameters
    ----------
    preset, data, width
        As for `source`.
    target : {"plainnet5", "resnet8"}
        Which network.
    arm : str
        One of `ARMS`.
    seed : int
        Of everything: the source's training, which images are drawn or rendered, the target's weights and data order.
        The 1,000 images of `sub-cifar100` are the released ones for every seed.
    epochs : int
        Instead of the preset's own number, if not 0.
    """
    real = preset in REAL or "cifar" in data
    sentence = ARMS[arm]
    return Job(
        model=target,
        data=data or ("sub-cifar100" if preset in REAL else "shapes-target"),
        recipe=recipe(preset, epochs),
        seed=seed,
        options={"width": width or (1.0 if real else 0.25)},
        data_options={} if real else {"count": 96 if preset == "smoke" else 960, "seed": seed},
        sources=() if sentence is None else (source(preset, data, width, seed),),
        transfer=sentence,
    )


def recipe(preset: str, epochs: int = 0) -> Recipe:
    """How targets are trained: by the released steps at the paper's preset, shorter and by a cosine elsewhere."""
    if preset == "paper" and not epochs:
        return RELEASED
    own, every = {"smoke": (1, 1), "classroom": (20, 5)}.get(preset, (50, 10))
    return Recipe(epochs=epochs or own, schedule="cosine", evaluate_every=every)


def widening(preset: str) -> dict[float, Job]:
    """Trainings of a PlainNet5 that HMT made twice as wide, by the noise on its copied filters.

    Rate and arithmetic (0.01, float32) are chosen so that rounding does not hide that copies stay copies.
    """
    recipe = Recipe(epochs=1 if preset == "smoke" else 6, lr=0.01, schedule="constant", precision="fp32")
    shared: dict[str, Any] = {"model": "plainnet5", "data": "shapes-source", "recipe": recipe}
    shared |= {"data_options": {"count": 500 if preset == "smoke" else 1000}}
    narrow = Job(**shared, options={"width": 0.25, "kernel_size": 3})
    wide = Job(**shared, seed=1, options={"width": 0.5, "kernel_size": 3}, sources=(narrow,), transfer=ARMS["chain"])
    levels = (0.0, 0.01, 0.1, 0.3)
    return {level: replace(wide, transfer=Transfer(ByPosition(), (Cyclic(noise=level),))) for level in levels}


def jobs(
    preset: str, seeds: Sequence[int] | None = None, data: str = "", width: float = 0.0, epochs: int = 0
) -> dict[tuple[str, str, int], Job]:
    """All trainings by target, arm and seed; parameters as for `job`, seeds by default the preset's own."""
    chosen = range(SEEDS[preset]) if seeds is None else seeds
    found = {
        (target, arm, seed): job(preset, target, arm, seed, data, width, epochs)
        for target, arms in TARGETS.items()
        for arm in arms
        for seed in chosen
    }
    for name, (arm, lr) in {} if preset in REAL else RATES.items():
        for seed in chosen:
            like = found["plainnet5", arm, seed]
            found["plainnet5", name, seed] = replace(like, recipe=like.recipe.changed(lr=lr))
    return found
