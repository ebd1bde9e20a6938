"""Two papers and what lies between them: VGG11 into ResNet-8, by every pair of HMT's and TLV's match and fit.

It is what notebook 00 shows. As in HMT's experiments, a seed draws everything.
"""

from collections.abc import Sequence
from dataclasses import replace

from hetlib.experiments import hmt
from hetlib.hmt import ByPosition
from hetlib.lab import Job
from hetlib.lab.presets import SEEDS
from hetlib.tlv import ByRatio, ByVariance
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
    chosen = range(SEEDS[size]) if seeds is None else seeds
    fed = {seed: hmt.job(size, "resnet8", "chain", seed) for seed in chosen}
    return {
        (arm, seed): replace(fed[seed], transfer=sentence, sources=fed[seed].sources if sentence else ())
        for arm, sentence in ARMS.items()
        for seed in chosen
    }
