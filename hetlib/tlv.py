"""TLV: convolutions filled by filter variance, linear layers drawn from statistics, features crossed over in training.

Duong et al., *Heterogeneous Transfer Learning Using Variance-based Mapping and Pre-trained Feature Crossover*, AICI
2024 (DOI 10.1007/978-3-031-63929-6_21), after its released code; the text of the chapter is not available to us.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.crossover import Crossover, crossover, pooled_features
from hetlib.kernels.choose import pick
from hetlib.kernels.variance import fill, resize_bias, resize_kernel, resize_width
from hetlib.match import by_ratio
from hetlib.report import Row, TransferReport

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
    "transfer",
]


@torch.no_grad()
def statistics(weights: Sequence[Tensor]) -> tuple[float, float]:
    """Average mean and average standard deviation (unbiased) of linear layers' weights, each layer counting alike.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not weights:
        raise ValueError("the source has no linear layer whose statistics could be taken")
    means, deviations = [], []
    for weight in weights:
        n, mean = weight.numel(), float(weight.mean())
        # Squares of deviations sum to the squares of the entries less n mean². Norms of rows, added in double
        # precision: float32 loses a percent over the hundred million entries of VGG's first linear layer.
        squares = float(torch.linalg.vector_norm(weight, dim=1).double().square().sum())
        means.append(mean)
        deviations.append(math.sqrt(max(0.0, squares - n * mean**2) / max(1, n - 1)))
    return math.fsum(means) / len(means), math.fsum(deviations) / len(deviations)


@torch.no_grad()
def transfer(
    source: nn.Module,
    target: nn.Module,
    *,
    keep: str = "interleaved",
    drop: str = "random",
    pool: str = "avg",
    pad: str = "zero",
    shuffle: bool = True,
    linear: bool = True,
    legacy_random: bool = False,
    seed: int = 0,
) -> TransferReport:
    """Fill every convolution of the target from one of the source, and draw its linear layers from statistics.

    Convolutions are taken in registration order, projection shortcuts included, and paired by ratio of position. Batch
    norms keep what they have.

    Parameters
    ----------
    source : nn.Module
        The network that has learned something; unchanged.
    target : nn.Module
        The network to be fed. Modified in place, once everything has been computed.
    keep, drop, pool, pad, shuffle, legacy_random
        See `fill`.
    linear : bool
        Draw every linear weight of the target from Normal(m / L, s / L), with the source's `statistics` m, s and L
        the target's number of linear layers, and set linear biases to 0.
    seed : int
        Of all draws.

    Returns
    -------
    TransferReport
        One row per convolution and linear layer of the target.

    Raises
    ------
    ValueError
        If a network has no convolution, or a name is unknown; nothing is modified then.
    """
    sources, targets = _layers(source, nn.Conv2d), _layers(target, nn.Conv2d)
    for role, model, layers in (("source", source, sources), ("target", target, targets)):
        if not layers:
            raise ValueError(f"the {role} ({type(model).__name__}) has no 2-D convolution")
    generator = torch.Generator().manual_seed(seed)
    how = {"keep": keep, "drop": drop, "pool": pool, "pad": pad, "shuffle": shuffle, "legacy_random": legacy_random}
    placed: list[tuple[Tensor, Tensor]] = []
    rows = []
    for layer, chosen in zip(targets, by_ratio(len(sources), len(targets)), strict=True):
        rows.append(_fill_layer(sources[chosen], layer, how, generator, placed))
    if linear:
        rows += _draw_linear(source, target, generator, placed)
    for parameter, value in placed:
        parameter.copy_(value)
    return TransferReport("TLV", tuple(rows), tuple((name, tuple(layer.weight.shape)) for name, layer in sources))


def _layers(model: nn.Module, kind: type) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]


def _fill_layer(
    source: tuple[str, nn.Conv2d],
    target: tuple[str, nn.Conv2d],
    how: dict[str, Any],
    generator: torch.Generator,
    placed: list[tuple[Tensor, Tensor]],
) -> Row:
    """Compute what one layer gets, append it to `placed`, and say it."""
    (name, layer), (donor_name, donor) = target, source
    here, there = tuple(donor.weight.shape), tuple(layer.weight.shape)
    grown = [want - have for have, want in zip(here[2:], there[2:], strict=True) if want > have]
    if any(taps % 2 for taps in grown):
        return Row(name, there, done=f"kept: a {here[2]}x{here[3]} kernel has no centre place in {there[2]}x{there[3]}")
    try:
        placed.append((layer.weight, fill(donor.weight, layer.weight, generator=generator, **how)))
    except ValueError as error:
        raise ValueError(f"{donor_name} {here} -> {name} {there}: {error}; nothing was transferred") from error
    if donor.bias is not None and layer.bias is not None:
        placed.append((layer.bias, resize_bias(donor.bias, len(layer.bias), generator)))
    steps = [f"kernel {here[2]}x{here[3]} -> {there[2]}x{there[3]}"] if here[2:] != there[2:] else []
    for axis, have, want in (("filters", here[0], there[0]), ("inputs", here[1], there[1])):
        if have != want:
            steps.append(f"{axis} {have} -> {want}, {how['keep'] if have > want else how['drop']}")
    return Row(name, there, donor_name, here, ", ".join(steps + ["shuffled"] * how["shuffle"]) or "copied")


def _draw_linear(
    source: nn.Module, target: nn.Module, generator: torch.Generator, placed: list[tuple[Tensor, Tensor]]
) -> list[Row]:
    layers, donors = _layers(target, nn.Linear), _layers(source, nn.Linear)
    if not donors:
        why = "kept: the source has no linear layer to take statistics from"
        return [Row(name, tuple(layer.weight.shape), done=why) for name, layer in layers]
    mean, deviation = statistics([layer.weight for _, layer in donors])
    rows = []
    for name, layer in layers:
        drawn = torch.empty(layer.weight.shape).normal_(
            mean / len(layers), deviation / len(layers), generator=generator
        )
        placed.append((layer.weight, drawn))
        if layer.bias is not None:
            placed.append((layer.bias, torch.zeros_like(layer.bias)))
        rows.append(Row(name, tuple(layer.weight.shape), done=f"drawn, mean {mean:.2g}, deviation {deviation:.2g}"))
    return rows
