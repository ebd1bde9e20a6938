"""HMT's copy between networks of different depth, as the baseline that CLAFusion compares with."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from hetlib.chain import Network, eval_chain
from hetlib.clafusion.add_layers import add_layers
from hetlib.clafusion.mapping import CrossMap, map_layers
from hetlib.clafusion.transport import transport_neurons
from hetlib.errors import unknown
from hetlib.kernels.resize_cyclic import resize
from hetlib.merging import average

VARIANTS = ("only", "average", "transport", "add")
ORDERS = ("align", "chain", "random")


def stack(
    deep: Network,
    shallow: Network,
    images: Tensor,
    variant: str = "only",
    order: str = "align",
    seed: int = 0,
) -> nn.Module:
    """Copy convolutions between two networks by HMT's resize: kernels bilinearly, channels stacked cyclically.

    Shortcuts, the classifier and what has no partner stay as they are.

    Parameters
    ----------
    deep, shallow : nn.Module or Chain
        Neither is changed.
    images : Tensor of shape (N, ...)
        As `map_layers` takes them.
    variant : {"only", "average", "transport", "add"}
        The deep network with the shallow one's layers; that, averaged with the deep network itself; or fused with it by
        transport; or the other way round, the shallow one with the deep one's layers, balanced by adding layers.
    order : {"align", "chain", "random"}
        Which deep layers: those of the cross-layer alignment, the first ones, or a sorted draw.
    seed : int
        Of the draw, for "random".

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
    deep, shallow = eval_chain(deep), eval_chain(shallow)
    pairs = partners(map_layers(deep, shallow, images), order, seed)
    if variant == "add":
        fed = deepcopy(shallow.model)
        _copy_(deep.model, fed, {mine: theirs for theirs, mine in pairs.items()})
        return add_layers(map_layers(deep, fed, images), images)
    fed = deepcopy(deep.model)
    _copy_(shallow.model, fed, pairs)
    if variant == "average":
        return average([fed, deep.model], images)
    return fed if variant == "only" else transport_neurons(fed, deep, images, 0.5)


def partners(found: CrossMap, order: str = "align", seed: int = 0) -> dict[str, str]:
    """The shallow convolution that each deep one is paired with, in the order that `stack` is given.

    Raises
    ------
    ValueError
        If the order is unknown, or there is no convolution.
    """
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    ours, theirs = (
        [layer.name for layer in side.layers if layer.kind == "conv"] for side in (found.deep, found.shallow)
    )
    if not theirs:
        raise ValueError(f"{type(found.shallow.model).__name__} has no convolution: there is nothing to stack")
    if order == "align":
        return {name: found.pairs[name] for name in ours if name in found.pairs}
    places = list(range(len(theirs)))
    if order == "random":
        drawn = torch.randperm(len(ours), generator=torch.Generator().manual_seed(seed))
        places = sorted(drawn[: len(theirs)].tolist())
    return {ours[place]: name for place, name in zip(places, theirs, strict=True)}


@torch.no_grad()
def _copy_(source: nn.Module, target: nn.Module, pairs: dict[str, str]) -> None:
    donors, weights = source.state_dict(), target.state_dict()
    for theirs, mine in pairs.items():
        weight = weights[f"{theirs}.weight"]
        resize(donors[f"{mine}.weight"], weight.shape, out=weight)
