"""HMT's copy between networks of different depth, as the baseline that CLAFusion compares with."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from hetlib.balance import add_layers
from hetlib.chain import Chain
from hetlib.crosslayer import map_layers
from hetlib.errors import unknown
from hetlib.kernels.resize import resize
from hetlib.otfusion import mean, move

VARIANTS = ("only", "average", "transport", "add")
ORDERS = ("align", "chain", "random")


def stack(
    deep: nn.Module,
    shallow: nn.Module,
    images: Tensor,
    variant: str = "only",
    order: str = "align",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Copy convolutions between two networks by HMT's resize: kernels bilinearly, channels stacked cyclically.

    Shortcuts, the classifier and what has no partner stay as they are.

    Parameters
    ----------
    deep, shallow : nn.Module
        Neither is changed.
    images : Tensor of shape (N, ...)
        As `map_layers` takes them.
    variant : {"only", "average", "transport", "add"}
        The deep network with the shallow one's layers; that, averaged with the deep network itself; or fused with it by
        transport; or the other way round, the shallow one with the deep one's layers, balanced by adding layers.
    order : {"align", "chain", "random"}
        Which deep layers: those of the cross-layer alignment, the first ones, or a sorted draw.
    generator : torch.Generator, optional
        For "random".

    Returns
    -------
    nn.Module
        Of the shapes of the deep network, or for "add" of the balanced shallow one.

    Raises
    ------
    ValueError
        If the networks cannot be aligned, or a name is unknown.

    References
    ----------
    Wang et al., *Heterogeneous Model Transfer between Different Neural Networks*, 2020, as CLAFusion's released code
    adapts it.
    """
    if variant not in VARIANTS:
        raise unknown("HMT variant", variant, VARIANTS)
    found = map_layers(deep, shallow, images)
    pairs = _pairs(found.deep, found.shallow, found.pairs, order, generator)
    if variant == "add":
        fed = deepcopy(shallow)
        _copy_(deep, fed, {mine: theirs for theirs, mine in pairs.items()})
        return add_layers(map_layers(deep, fed, images))
    fed = deepcopy(deep)
    _copy_(shallow, fed, pairs)
    if variant == "average":
        return mean([fed, deep], images)
    return fed if variant == "only" else move(fed, deep, images, 0.5)


def _pairs(
    deep: Chain, shallow: Chain, aligned: dict[str, str], order: str, generator: torch.Generator | None
) -> dict[str, str]:
    """The shallow convolution of each deep one that is fed."""
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    ours, theirs = ([layer.name for layer in found.layers if layer.kind == "conv"] for found in (deep, shallow))
    if order == "align":
        return {name: aligned[name] for name in ours if name in aligned}
    drawn = torch.randperm(len(ours), generator=generator)[: len(theirs)].sort().values.tolist()
    places = drawn if order == "random" else range(len(theirs))
    return {ours[place]: name for place, name in zip(places, theirs, strict=True)}


@torch.no_grad()
def _copy_(source: nn.Module, target: nn.Module, pairs: dict[str, str]) -> None:
    donors, weights = source.state_dict(), target.state_dict()
    for theirs, mine in pairs.items():
        weight = weights[f"{theirs}.weight"]
        resize(donors[f"{mine}.weight"], weight.shape, out=weight)
