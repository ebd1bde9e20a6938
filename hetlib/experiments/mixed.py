"""Two papers and what lies between them: VGG11 into ResNet-8, by every pair of HMT's and TLV's match and fit.

It is what notebook 00 shows. A seed draws everything: the source's training, the target's images, weights and order.
"""

from collections.abc import Sequence

from hetlib.experiments import hmt
from hetlib.hmt import ByPosition
from hetlib.lab import Job
from hetlib.lab.presets import SEEDS
from hetlib.tlv import ByRatio, ByVariance
from hetlib.training import Recipe
from hetlib.transfer import Cyclic, Transfer

ARMS: dict[str, Transfer | None] = {
    "none": None,
    "HMT": Transfer(ByPosition(), (Cyclic(),)),
    "HMT's match, TLV's fit": Transfer(ByPosition(), (ByVariance(),)),
    "TLV's match, HMT's fit": Transfer(ByRatio(), (Cyclic(),)),
    "TLV": Transfer(ByRatio(), (ByVariance(),)),
}


def jobs(preset: str, seeds: Sequence[int] | None = None) -> dict[tuple[str, int], Job]:
    """The trainings of ResNet-8 by arm and seed.

    Parameters
    ----------
    preset : {"smoke", "classroom", "reduced", "paper"}
        How big: the last two train what "classroom" does.
    seeds : sequence of int, optional
        By default as many as the preset has.
    """
    size = "smoke" if preset == "smoke" else "classroom"
    count, epochs = (96, 1) if size == "smoke" else (960, 20)
    chosen = range(SEEDS[size]) if seeds is None else seeds
    return {
        (arm, seed): Job(
            model="resnet8",
            data="shapes-target",
            recipe=Recipe(epochs=epochs, schedule="cosine", evaluate_every=5),
            seed=seed,
            options={"width": 0.25},
            data_options={"count": count, "seed": seed},
            sources=() if sentence is None else (hmt.source(size, seed=seed),),
            transfer=sentence,
        )
        for arm, sentence in ARMS.items()
        for seed in chosen
    }
