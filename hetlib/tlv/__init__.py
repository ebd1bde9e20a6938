"""TLV: convolutions filled by filter variance, linear layers drawn from statistics, features crossed over in training.

Duong et al., *Heterogeneous Transfer Learning Using Variance-based Mapping and Pre-trained Feature Crossover*, AICI
2024 (DOI 10.1007/978-3-031-63929-6_21), after its released code; the text of the chapter is not available to us.

>>> TLV = Transfer(ByRatio(), (ByVariance(), LinearStatistics()))
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.chain.nested import check
from hetlib.checks import check_network
from hetlib.errors import known
from hetlib.kernels.resize_by_variance import SHUFFLES, fill, filled, resize_bias, resize_kernel, resize_width
from hetlib.kernels.select import pick
from hetlib.match import by_ratio
from hetlib.tlv.crossover import Crossover, CrossoverWith, crossover
from hetlib.tlv.support import pooled_features, support_features
from hetlib.transfer import ByBlocks, ByScore, Context, Fill, Overlay, Pair, Transfer, TransferReport, keep, unpaired
from hetlib.transfer.transfer import naming

BLOCK = 2**18
"""Entries of a linear weight that are looked at twice before the next ones."""

__all__ = [
    "ByRatio",
    "ByVariance",
    "Crossover",
    "CrossoverWith",
    "LinearStatistics",
    "crossover",
    "fill",
    "pick",
    "pooled_features",
    "resize_bias",
    "resize_kernel",
    "resize_width",
    "statistics",
    "support_features",
    "transfer",
]


@dataclass(frozen=True)
class ByRatio:
    """Each convolution of the target paired with the source's at the same part of the depth.

    Convolutions stand in registration order, projection shortcuts included; see `hetlib.match.by_ratio`.

    References
    ----------
    Duong et al., 2024, index matching of the released code.
    """

    def __call__(self, context: Context) -> list[Pair]:
        """A pair for each convolution of the target; none where one of the networks has no convolution."""
        here, there = context.layers_of(nn.Conv2d)
        if not here or not there:
            return []
        picks = by_ratio(len(here), len(there))
        return [Pair(name, here[pick][0]) for (name, _), pick in zip(there, picks, strict=True)]


@dataclass(frozen=True)
class ByVariance:
    """TLV's fit: paired convolutions filled by the variance of filters and slices, biases from their middle.

    A convolution whose kernel would grow by an odd number of taps keeps its values.

    Attributes
    ----------
    keep, drop, pool, pad, shuffle, legacy_random
        See `hetlib.kernels.resize_by_variance.filled`.

    References
    ----------
    Duong et al., 2024, released code (VarTransfer).
    """

    keep: str = "interleaved"
    drop: str = "random"
    pool: str = "avg"
    pad: str = "zero"
    shuffle: bool | str = True
    legacy_random: bool = False

    def __post_init__(self):
        if not isinstance(self.shuffle, bool):
            known("shuffle", self.shuffle, SHUFFLES)

    def __call__(self, context: Context, pairs: list[Pair]) -> Iterator[Fill]:
        """A fill per paired convolution, and one per bias that both layers have."""
        for pair in pairs:
            source, target = context.layers(pair)
            if not (isinstance(source, nn.Conv2d) and isinstance(target, nn.Conv2d)):
                continue
            here, there = tuple(source.weight.shape), tuple(target.weight.shape)
            if any((want - have) % 2 for have, want in zip(here[2:], there[2:], strict=True) if want > have):
                kernels = f"a {here[2]}x{here[3]} kernel has no centre place in {there[2]}x{there[3]}"
                yield keep(pair.target, target.weight, kernels)
                continue
            with naming(context, pair):
                made = filled(source.weight, target.weight, generator=context.generator, **asdict(self))
                yield replace(made, layer=pair.target, source=pair.source, note=self._note(here, there))
                if source.bias is not None and target.bias is not None:
                    bias = resize_bias(source.bias, len(target.bias), context.generator)
                    yield Fill(pair.target, target.bias, bias, source=pair.source)

    def _note(self, here: tuple[int, ...], there: tuple[int, ...]) -> str:
        steps = [f"kernel {here[2]}x{here[3]} -> {there[2]}x{there[3]}"] if here[2:] != there[2:] else []
        for axis, have, want in (("filters", here[0], there[0]), ("inputs", here[1], there[1])):
            if have != want:
                steps.append(f"{axis} {have} -> {want}, {self.keep if have > want else self.drop}")
        if self.shuffle:
            steps.append("shuffled" if self.shuffle is True else f"{self.shuffle} shuffled")
        return ", ".join(steps) or "copied"


@dataclass(frozen=True)
class LinearStatistics:
    """Every linear layer of the target drawn from the mean and deviation of the source's, its bias set to 0.

    With m and s from `statistics` and L linear layers in the target, weights are from Normal(m / L, s / L).

    References
    ----------
    Duong et al., 2024, released code.
    """

    def __call__(self, context: Context, pairs: list[Pair]) -> Iterator[Fill]:
        """Two fills per linear layer; none but a word of why where the source has no linear layer."""
        here, there = context.layers_of(nn.Linear)
        check(here, "source")
        check(there, "target")
        if not here:
            for name, layer in there:
                yield keep(name, layer.weight, "the source has no linear layer to take statistics from")
            return
        mean, deviation = statistics([layer.weight for _, layer in here])
        note = f"drawn, mean {mean:.2g}, deviation {deviation:.2g}"
        for name, layer in there:
            drawn = torch.empty(layer.weight.shape)
            drawn.normal_(mean / len(there), deviation / len(there), generator=context.generator)
            yield Fill(name, layer.weight, drawn.to(layer.weight), note=note)
            if layer.bias is not None:
                yield Fill(name, layer.bias, torch.zeros_like(layer.bias))


MATCHES: dict[str, Any] = {"index": ByRatio(), "score": ByScore(convolutions=True)}
MATCHES |= {"blocks": ByBlocks(convolutions=True)}
STANDARDS = ("flatten", "blocks")
PLACES = ("variance", "clip", "trace")


@torch.no_grad()
def statistics(weights: Sequence[Tensor]) -> tuple[float, float]:
    """Average mean and average standard deviation (unbiased) of linear layers' weights, each layer counting alike.

    Raises
    ------
    ValueError
        If there is none, or one holds values that are not finite.
    """
    if not weights:
        raise ValueError("the source has no linear layer whose statistics could be taken")
    means, deviations = [], []
    for weight in weights:
        # Rows by the block, so that the second look at them finds them in the cache; and added in double precision:
        # float32 loses a percent over the hundred million entries of VGG's first linear layer.
        blocks = weight.split(max(1, BLOCK // max(1, weight.shape[1])))
        wide = torch.promote_types(weight.dtype, torch.float32)
        looks = [(rows.sum(1, dtype=wide), torch.linalg.vector_norm(rows, dim=1, dtype=wide)) for rows in blocks]
        sums, norms = (torch.cat(seen).double() for seen in zip(*looks, strict=True))
        total, squares = float(sums.sum()), float(norms.square().sum())
        if not math.isfinite(total + squares):
            raise ValueError(f"a linear layer of shape {tuple(weight.shape)} holds values that are not finite")
        n, mean = weight.numel(), total / weight.numel()
        means.append(mean)
        deviations.append(math.sqrt(max(0.0, squares - n * mean**2) / max(1, n - 1)))
    return math.fsum(means) / len(means), math.fsum(deviations) / len(deviations)


def transfer(
    source: nn.Module,
    target: nn.Module,
    *,
    standardise: str = "flatten",
    match: str = "index",
    place: str = "variance",
    convolutions: bool = True,
    linear: bool = True,
    keep: str = "interleaved",
    drop: str = "random",
    pool: str = "avg",
    pad: str = "zero",
    shuffle: bool | str = True,
    legacy_random: bool = False,
    seed: int = 0,
) -> TransferReport:
    """Fill every convolution of the target from one of the source, and draw its linear layers from statistics.

    Convolutions are taken in registration order, projection shortcuts included. Batch norms keep what they have, and so
    does a convolution whose kernel would grow by an odd number of taps.

    Parameters
    ----------
    source : nn.Module
        The network that has learned something; unchanged.
    target : nn.Module
        The network to be fed. Modified in place, once everything has been computed; on a GPU written in one launch.
    standardise : {"flatten", "blocks"}
        Whether the match "blocks" sees a flat list of layers, or DPIAT's list of layers and blocks
        (`hetlib.chain.nested`).
    match : {"index", "score", "blocks"}
        By ratio of position (`ByRatio`); by dynamic programming over the likeness of shapes along the two lists
        (`hetlib.transfer.ByScore`); or DPIAT's, block by block (`hetlib.transfer.ByBlocks`). The last two may leave
        layers of the target as they are.
    place : {"variance", "clip", "trace"}
        By the variance of filters (`ByVariance`); or laid over centrally, or by the filters of largest L1 norm
        (`hetlib.transfer.Overlay`).
    convolutions : bool
        False leaves them all as they are.
    linear : bool
        Draw every linear weight of the target from Normal(m / L, s / L), with the source's `statistics` m, s and L
        the target's number of linear layers, and set linear biases to 0.
    keep, drop, pool, pad, shuffle, legacy_random
        Of "variance" only, see `ByVariance`.
    seed : int
        Of all draws.

    Returns
    -------
    TransferReport
        One row per convolution and linear layer of the target.

    Raises
    ------
    ValueError
        If a network has no convolution, a layer has no weights or none that can be written, a name is unknown, a way
        to choose gives too few filters, or, for "trace", the target cannot be traced; nothing is modified then.
    """
    choices = (("standardisation", standardise, STANDARDS), ("match", match, MATCHES), ("place", place, PLACES))
    for kind, name, names in choices:
        known(kind, name, names)
    for role, model in (("source", source), ("target", target)):
        check_network(role, model)
        if convolutions and not any(isinstance(module, nn.Conv2d) for module in model.modules()):
            raise ValueError(f"the {role} ({type(model).__name__}) has no 2-D convolution")
    fits: list[Any] = []
    if convolutions:
        how = ByVariance(keep, drop, pool, pad, shuffle, legacy_random)
        fits = [how if place == "variance" else Overlay(place)]
    chosen = ByBlocks(convolutions=True, nested=standardise == "blocks") if match == "blocks" else MATCHES[match]
    sentence = Transfer(chosen if convolutions else unpaired, (*fits, *[LinearStatistics()] * linear))
    return replace(sentence(source, target, seed=seed), method="TLV")
