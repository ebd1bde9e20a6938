"""TLV's experiments: VGG learns one task; its filters start a residual network on another, in parts and beside peers.

`ARMS` are the released arms (he, base, cross, full, DPIAT), each part of the method alone, other choices and shuffles,
and the methods it is compared with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hetlib import baselines
from hetlib.experiments import hmt
from hetlib.hmt import ByPosition
from hetlib.lab import Job
from hetlib.lab.presets import SEEDS
from hetlib.tlv import ByRatio, ByVariance, CrossoverWith, LinearStatistics
from hetlib.training import Recipe
from hetlib.transfer import Cyclic, Transfer, unpaired


@dataclass(frozen=True)
class Arm:
    """What an arm feeds before training, and how it crosses features over while it trains; neither by default."""

    transfer: Transfer | None = None
    crossover: dict[str, Any] | None = field(default=None)


def _filled(*more: Any, **how: Any) -> Transfer:
    return Transfer(ByRatio(), (ByVariance(**how), *more))


BASE, STATISTICS = _filled(), Transfer(unpaired, (LinearStatistics(),))
FULL, CROSS = _filled(LinearStatistics()), {"p": 0.1}
ARMS = {
    "he": Arm(),
    "base": Arm(BASE),
    "statistics": Arm(STATISTICS),
    "base_statistics": Arm(FULL),
    "base_unshuffled": Arm(_filled(shuffle=False)),
    "crossover": Arm(None, CROSS),
    "cross": Arm(BASE, CROSS),
    "full": Arm(FULL, CROSS),
    "unshuffled": Arm(_filled(LinearStatistics(), shuffle=False), CROSS),
    **{f"keep {how}": Arm(_filled(keep=how)) for how in ("max", "min", "random")},
    **{f"shuffle {name}": Arm(_filled(shuffle=name)) for name in ("filters", "inputs")},
    "hmt": Arm(Transfer(ByPosition(), (Cyclic(),))),
    "dpiat": Arm(baselines.METHODS["dpiat"]),
    "tli": Arm(baselines.METHODS["tli"]),
    **{f"p = {p}": Arm(None, {"p": p}) for p in (0.05, 0.2, 0.5)},
    "per image": Arm(None, CROSS | {"mask": "image"}),
    "mean": Arm(None, CROSS | {"source": "mean"}),
    "zeros": Arm(None, CROSS | {"source": "zeros"}),
    "dropout": Arm(FULL, CROSS | {"source": "zeros"}),
}
RELEASED = Recipe(epochs=200, optimiser="adamw", lr=1e-4, weight_decay=5e-4, schedule="constant")
REAL = ("reduced", "paper")


def source(preset: str, data: str = "", width: float = 0.0, seed: int = 0) -> Job:
    """The training of VGG: VGG16 on CIFAR-100, or that of HMT's experiments on rendered shapes.

    Parameters
    ----------
    preset : {"smoke", "classroom", "reduced", "paper"}
        How big.
    data : str
        Training set of the targets; a CIFAR set asks for CIFAR-100 here.
    width : float
        Of every hidden layer, as a factor; 0 takes the preset's own.
    seed : int
        Of the training.
    """
    if preset not in REAL and "cifar" not in data:
        return hmt.source(preset, data, width, seed)
    epochs, size = {"smoke": 1, "classroom": 5}.get(preset, 15), {"reduced": 0.5, "paper": 1.0}.get(preset, 0.25)
    return Job(
        model="vgg16",
        data="cifar100-40k",
        recipe=Recipe(epochs=epochs, schedule="one-cycle"),
        seed=seed,
        options={"width": width or size},
    )


def job(preset: str, arm: Arm, seed: int, data: str = "", width: float = 0.0, epochs: int = 0) -> Job:
    """The training of the target as an arm says.

    Parameters
    ----------
    preset, data, width
        As for `source`; the target has its full width, for it is compared with torchvision's. At the presets with
        photographs every seed has a source of its own.
    arm : Arm
        One of `ARMS`, or another.
    seed : int
        Of the transfer and of the target's training.
    epochs : int
        Instead of the preset's own number, if not 0.
    """
    real = preset in REAL or "cifar" in data
    teacher = source(preset, data, width, seed if preset in REAL else 0)
    return Job(
        model="torchvision/resnet18" if real else "resnet8",
        data=data or ("cifar100-40k" if preset in REAL else "shapes-target"),
        recipe=recipe(preset, epochs),
        seed=seed,
        options={} if real else {"width": 0.25},
        data_options={} if real else {"count": 96 if preset == "smoke" else 240},
        sources=() if arm.transfer is None else (teacher,),
        transfer=arm.transfer,
        objective=None if arm.crossover is None else CrossoverWith(teacher, **arm.crossover),
    )


def recipe(preset: str, epochs: int = 0) -> Recipe:
    """How targets are trained: as released where the data are photographs, shorter and by a cosine elsewhere."""
    if preset in REAL:
        return RELEASED.changed(epochs=epochs or (200 if preset == "paper" else 4))
    return Recipe(epochs=epochs or (1 if preset == "smoke" else 40), schedule="cosine", evaluate_every=10)


def jobs(
    preset: str, seeds: Sequence[int] | None = None, data: str = "", width: float = 0.0, epochs: int = 0
) -> dict[tuple[str, int], Job]:
    """All trainings by arm and seed; parameters as for `job`, seeds by default the preset's own."""
    chosen = range(SEEDS[preset]) if seeds is None else seeds
    return {(name, seed): job(preset, arm, seed, data, width, epochs) for name, arm in ARMS.items() for seed in chosen}
