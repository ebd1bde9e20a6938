"""CLAFusion's experiments that train nothing: every map of layers, skill transfer, and one fusion with switches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hetlib import clafusion, data, zoo
from hetlib.chain import chain
from hetlib.clafusion.mapping import CrossMap
from hetlib.data import Images
from hetlib.kernels.cka import linear_cka
from hetlib.lab.cache import Cache
from hetlib.lab.job import Job
from hetlib.lab.toggles import slider
from hetlib.lab.train import train_all
from hetlib.merging import Ensemble, between, repair

WAYS: dict[str, dict[str, Any]] = {
    "add": {},
    **{f"merge, {relu}": {"balance": "merge", "relu": relu} for relu in ("sum", "majority", "average")},
}
STEPS = tuple(i / 10 for i in range(11))
SPECIAL: dict[str, Any] = {"mapping": (0, 1, 3)}
"""Map of the three hidden layers of the special network into the general one's four, as numbers of neurons choose."""

HALVES = {"fused": "fused, add", "ensemble": "ensemble"}
"""The ways of `skills` that stand in the table of results, at a step of one half."""

Score = Callable[[nn.Module], float]


def every_map(
    deep: nn.Module, shallow: nn.Module, school: Images, score: Score, draws: Sequence[int]
) -> dict[tuple[str, tuple[int, ...]], list[float]]:
    """Fuse two perceptrons by every map of their layers, and in every way of balancing them.

    Parameters
    ----------
    deep, shallow : nn.Module
        The networks.
    school : Images
        200 of these are what neurons are compared on.
    score : callable
        What is measured of a fused network.
    draws : sequence of int
        Seeds of the images; what is measured depends on them.

    Returns
    -------
    dict of (way, map) to list of float
        One score per draw.
    """
    depths = [len(chain(model).layers) - 1 for model in (deep, shallow)]
    seen = [data.sample(school, 200, draw) for draw in draws]
    return {
        (way, taken): [
            score(clafusion.fuse((deep, shallow), images, mapping=taken, pins=(0, 0), **how)) for images in seen
        ]
        for way, how in WAYS.items()
        for taken in combinations(range(depths[0]), depths[1])
    }


def skills(general: nn.Module, special: nn.Module, seen: Sequence[Tensor], score: Score) -> dict[str, list[float]]:
    """Fuse a special network with a general one, a layer deeper, at all steps; beside it their ensemble.

    Parameters
    ----------
    general, special : nn.Module
        Trained on other parts of a data set (`hetlib.data.skill_split`).
    seen : sequence of Tensors of shape (N, channels, height, width)
        Draws of images that neurons are compared on; scores are averaged over them.
    score : callable
        What is measured of a fused network.

    Returns
    -------
    dict of str to list of float
        For both ways of balancing and for the ensemble one score per weight of the special network (`STEPS`).
    """
    found = {}
    for balance in ("add", "merge"):
        scores = []
        for images in seen:
            moved, other = skilled(general, special, images, balance)
            scores.append([score(between(moved, other, step)) for step in STEPS])
        found[f"fused, {balance}"] = [sum(column) / len(column) for column in zip(*scores, strict=True)]
    return found | {"ensemble": [score(Ensemble((general, special), (1 - step, step))) for step in STEPS]}


def skilled(
    general: nn.Module, special: nn.Module, images: Tensor, balance: str = "add"
) -> tuple[nn.Module, nn.Module]:
    """The general network moved onto the special one, and the latter, equally deep: fusions lie between the two."""
    found = clafusion.map_layers(general, special, images, **SPECIAL)
    if balance == "add":
        pair = general, clafusion.add_layers(found)
    else:
        pair = clafusion.merge_layers(found, images), special
    return clafusion.transport_neurons(*pair, images), pair[1]


def released_mixture(
    jobs: Mapping[int, Sequence[Job]], score: Score, draws: Sequence[int], cache: Cache
) -> dict[str, list[list[float]]]:
    """Skill transfer as the released code measures it: networks trained and compared on raw pixels, scored on others.

    Parameters
    ----------
    jobs : mapping of int to (general, special) Jobs
        For each seed the trainings on normalised pixels; the same are run on raw ones.
    score : callable
        What is measured of a fused network, on normalised images.
    draws : sequence of int
        Seeds of the images that neurons are compared on.
    cache : Cache
        Where results are kept.

    Returns
    -------
    dict of str to list of lists of float
        As `skills`, one list per seed.
    """
    raw = [replace(job, data=f"{job.data}-raw") for pair in jobs.values() for job in pair]
    nets = iter(trained.model for trained in train_all(raw, cache))
    seen = [data.sample(raw[1].load("train"), 400, draw) for draw in draws]
    found = [skills(next(nets), next(nets), seen, score) for _ in jobs]
    return {name: [one[name] for one in found] for name in found[0]}


def unrelated(seeds: Sequence[int], features: Sequence[int] = (400, 4096, 16384)) -> dict[str, list[float]]:
    """Biased CKA of unrelated Gaussian activations, 200 samples of several numbers of features; 0 would be right."""
    found: dict[str, list[float]] = {f"cka/independent/{count}": [] for count in features}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for count in features:
            one, other = torch.randn(2, 200, count, generator=generator)
            found[f"cka/independent/{count}"].append(linear_cka([one], [other]).item())
    return found


def released_pair() -> list[nn.Module]:
    """The two MNIST networks that OTFusion's authors released, if their weights are at hand; else none."""
    files = [data.folder() / "weights" / f"mnist_mlp_{number}.pt" for number in (0, 1)]
    if not all(file.is_file() for file in files):
        return []
    pair = [zoo.build("mlp", 10, 1, hidden=(400, 200, 100), in_features=784, bias=False) for _ in files]
    for net, file in zip(pair, files, strict=True):
        net.load_state_dict(torch.load(file, weights_only=True))
    return pair


@dataclass(frozen=True)
class Switches:
    """What can be switched in the fusion of two networks; see `hetlib.clafusion.fuse`."""

    measure: Literal["cka", "debiased", "neurons", "wasserstein", "cca", "index"] = "cka"
    first: int = slider(1, 0, 2, 1, "layers pinned at the beginning")
    last: int = slider(1, 0, 1, 1, "layers pinned at the end")
    balance: Literal["add", "merge"] = "add"
    relu: Literal["sum", "majority", "average"] = "sum"
    by: Literal["activations", "weights"] = "activations"
    metric: Literal["euclidean", "squared", "cosine", "correlation"] = "euclidean"
    after_relu: bool = False
    entropy: Literal[0.0, 0.01, 0.1, 1.0] = 0.0  # type: ignore[valid-type]
    samples: int = slider(200, 25, 400, 25, "images that neurons are compared on")
    step: float = slider(0.5, 0.0, 1.0, 0.1, "weight of the shallow network")
    match_last: bool = False
    side: Literal["columns", "rows"] = "columns"
    mend: bool = False


def switched(
    deep: nn.Module, shallow: nn.Module, school: Images, choice: Switches
) -> tuple[Mapping[str, nn.Module], CrossMap]:
    """Fuse two networks as some switches say, step by step.

    Returns
    -------
    networks : mapping of str to nn.Module
        "balanced", "moved" and "fused".
    found : CrossMap
        The map of layers.
    """
    images = data.sample(school, choice.samples)
    found = clafusion.map_layers(deep, shallow, images, measure=choice.measure, pins=(choice.first, choice.last))
    if choice.balance == "add":
        balanced = clafusion.add_layers(found)
        pair = deep, balanced
    else:
        balanced = clafusion.merge_layers(found, images, choice.relu)
        pair = balanced, shallow
    how: dict[str, Any] = {
        "by": choice.by,
        "metric": choice.metric,
        "after_relu": choice.after_relu,
        "last": choice.match_last,
    }
    moved = clafusion.transport_neurons(*pair, images, reg=choice.entropy or None, input_side=choice.side, **how)
    fused = between(moved, pair[1], choice.step)
    if choice.mend:
        fused = repair(fused, [moved, pair[1]], images, (1 - choice.step, choice.step))
    return {"balanced": balanced, "moved": moved, "fused": fused}, found
