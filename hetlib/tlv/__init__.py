"""TLV: convolutions filled by filter variance, linear layers drawn from statistics, features crossed over in training.

Duong et al., *Heterogeneous Transfer Learning Using Variance-based Mapping and Pre-trained Feature Crossover*, AICI
2024 (DOI 10.1007/978-3-031-63929-6_21), after its released code; the text of the chapter is not available to us.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.chain.nested import STANDARDS, Leaf, check, flatten, leaves, only
from hetlib.errors import unknown
from hetlib.kernels.fill import Fill
from hetlib.kernels.resize_by_variance import fill, filled, resize_bias, resize_kernel, resize_width
from hetlib.kernels.select import pick
from hetlib.kernels.write import write
from hetlib.match import by_blocks, by_ratio, likeness, pair_by_score
from hetlib.tlv.crossover import Crossover, crossover, pooled_features, support_features
from hetlib.transfer import Row, TransferReport
from hetlib.transfer.overlay import overlay_centred, overlay_traced

BLOCK = 2**18
"""Entries of a linear weight that are looked at twice before the next ones."""

__all__ = [
    "Crossover",
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
        total = squares = 0.0
        # Rows by the block, so that the second look at them finds them in the cache; and added in double precision:
        # float32 loses a percent over the hundred million entries of VGG's first linear layer.
        for rows in weight.split(max(1, BLOCK // max(1, weight.shape[1]))):
            total += float(rows.sum(1, dtype=torch.promote_types(rows.dtype, torch.float32)).double().sum())
            squares += float(torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).double().square().sum())
        if not math.isfinite(total + squares):
            raise ValueError(f"a linear layer of shape {tuple(weight.shape)} holds values that are not finite")
        n, mean = weight.numel(), total / weight.numel()
        means.append(mean)
        deviations.append(math.sqrt(max(0.0, squares - n * mean**2) / max(1, n - 1)))
    return math.fsum(means) / len(means), math.fsum(deviations) / len(deviations)


@torch.no_grad()
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
        The first stage: a list of layers, or DPIAT's list of layers and blocks, see `hetlib.standardise`. Only the
        match "blocks" tells them apart.
    match : {"index", "score", "blocks"}
        The second, see `hetlib.match`: by ratio of position; by dynamic programming over the likeness of shapes along
        the two lists; or DPIAT's, block by block. The last two may leave layers of the target as they are.
    place : {"variance", "clip", "trace"}
        The third: see `hetlib.kernels.variance.filled`, and `hetlib.place` for centred crops and for filters kept by
        their L1 norm.
    convolutions : bool
        False leaves them all as they are.
    linear : bool
        Draw every linear weight of the target from Normal(m / L, s / L), with the source's `statistics` m, s and L
        the target's number of linear layers, and set linear biases to 0.
    keep, drop, pool, pad, shuffle, legacy_random
        Of "variance" only, see `hetlib.kernels.variance.filled`.
    seed : int
        Of all draws.

    Returns
    -------
    TransferReport
        One row per convolution and linear layer of the target that a stage looked at.

    Raises
    ------
    ValueError
        If a network has no convolution, a layer has no weights or none that can be written, a name is unknown, a way
        to choose gives too few filters, or, for "trace", the target cannot be traced; nothing is modified then.
    """
    choices = (
        ("standardisation", standardise, STANDARDS),
        ("match", match, MATCHES),
        ("place", place, ("variance", *PLACES)),
    )
    for kind, name, names in choices:
        if name not in names:
            raise unknown(kind, name, names)
    sources, targets = (list(leaves(only(flatten(model), nn.Conv2d))) for model in (source, target))
    for role, model, layers in (("source", source, sources), ("target", target, targets)):
        if convolutions and not layers:
            raise ValueError(f"the {role} ({type(model).__name__}) has no 2-D convolution")
        check([leaf for leaf in leaves(flatten(model)) if isinstance(leaf[1], nn.Conv2d | nn.Linear)], role)
    generator = torch.Generator().manual_seed(seed)
    settings = {
        "keep": keep,
        "drop": drop,
        "pool": pool,
        "pad": pad,
        "shuffle": shuffle,
        "legacy_random": legacy_random,
    }
    pieces: list[Fill] = []
    rows: list[Row] = []
    if convolutions:
        here, there = (only(STANDARDS[standardise](model), nn.Conv2d) for model in (source, target))
        pairs = MATCHES[match](here, there)
        if place == "variance":
            rows += [_fill_layer(leaf, donor, settings, generator, pieces) for leaf, donor in pairs]
        else:
            pieces += PLACES[place](pairs, target)
            rows += [_row(leaf, donor, [f"placed by {place}"]) for leaf, donor in pairs]
        rows = _in_order(rows, targets)
    if linear:
        rows += _draw_linear(source, target, generator, pieces)
    write(pieces)
    return TransferReport("TLV", tuple(rows), tuple((name, tuple(layer.weight.shape)) for name, layer in sources))


def _by_index(sources: list[Leaf], targets: list[Leaf]) -> list[tuple[Leaf, Leaf]]:
    return [(leaf, sources[j]) for leaf, j in zip(targets, by_ratio(len(sources), len(targets)), strict=True)]


MATCHES: dict[str, Callable[[list, list], list[tuple[Leaf, Leaf]]]] = {
    "index": lambda sources, targets: _by_index(list(leaves(sources)), list(leaves(targets))),
    "score": lambda sources, targets: pair_by_score(list(leaves(sources)), list(leaves(targets))),
    "blocks": partial(by_blocks, score=likeness),
}
PLACES: dict[str, Callable[..., list[Fill]]] = {"clip": overlay_centred, "trace": overlay_traced}


def _in_order(rows: list[Row], targets: list[Leaf]) -> list[Row]:
    """A row per layer of the target, those that nothing was matched with included."""
    told = {row.target: row for row in rows}
    return [told.get(name) or Row(name, tuple(layer.weight.shape)) for name, layer in targets]


def _row(leaf: Leaf, donor: Leaf, steps: list[str]) -> Row:
    (name, layer), (donor_name, given) = leaf, donor
    return Row(name, tuple(layer.weight.shape), donor_name, tuple(given.weight.shape), ", ".join(steps) or "copied")


def _fill_layer(
    leaf: Leaf, donor: Leaf, settings: dict[str, Any], generator: torch.Generator, pieces: list[Fill]
) -> Row:
    """Work out what one layer gets, append it to `pieces`, and say it."""
    (name, layer), (donor_name, given) = leaf, donor
    here, there = tuple(given.weight.shape), tuple(layer.weight.shape)
    grown = [want - have for have, want in zip(here[2:], there[2:], strict=True) if want > have]
    if any(taps % 2 for taps in grown):
        return Row(name, there, done=f"kept: a {here[2]}x{here[3]} kernel has no centre place in {there[2]}x{there[3]}")
    try:
        pieces.append(filled(given.weight, layer.weight, generator=generator, **settings))
    except ValueError as error:
        raise ValueError(f"{donor_name} {here} -> {name} {there}: {error}; nothing was transferred") from error
    if given.bias is not None and layer.bias is not None:
        pieces.append(Fill(layer.bias, resize_bias(given.bias, len(layer.bias), generator)))
    steps = [f"kernel {here[2]}x{here[3]} -> {there[2]}x{there[3]}"] if here[2:] != there[2:] else []
    for axis, have, want in (("filters", here[0], there[0]), ("inputs", here[1], there[1])):
        if have != want:
            steps.append(f"{axis} {have} -> {want}, {settings['keep'] if have > want else settings['drop']}")
    shuffled = {True: ["shuffled"], False: []}.get(settings["shuffle"], [f"{settings['shuffle']} shuffled"])
    return _row(leaf, donor, steps + shuffled)


def _draw_linear(source: nn.Module, target: nn.Module, generator: torch.Generator, pieces: list[Fill]) -> list[Row]:
    layers, donors = (list(leaves(only(flatten(model), nn.Linear))) for model in (target, source))
    if not donors:
        why = "kept: the source has no linear layer to take statistics from"
        return [Row(name, tuple(layer.weight.shape), done=why) for name, layer in layers]
    mean, deviation = statistics([layer.weight for _, layer in donors])
    rows = []
    for name, layer in layers:
        drawn = torch.empty(layer.weight.shape).normal_(
            mean / len(layers), deviation / len(layers), generator=generator
        )
        pieces.append(Fill(layer.weight, drawn.to(layer.weight)))
        if layer.bias is not None:
            pieces.append(Fill(layer.bias, torch.zeros_like(layer.bias)))
        rows.append(Row(name, tuple(layer.weight.shape), done=f"drawn, mean {mean:.2g}, deviation {deviation:.2g}"))
    return rows
