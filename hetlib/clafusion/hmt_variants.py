"""HMT's copy between networks of different depth, as the baseline that CLAFusion compares with."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hetlib.chain import Network, eval_chain
from hetlib.clafusion.add_layers import add_layers
from hetlib.clafusion.mapping import Align, map_layers
from hetlib.clafusion.transport import transport_neurons
from hetlib.errors import known
from hetlib.merging import average
from hetlib.transfer import Context, Cyclic, Pair, Transfer, TransferReport

VARIANTS = ("only", "average", "transport", "add")
ORDERS = ("align", "chain", "random")


@dataclass(frozen=True)
class InOrder:
    """The convolutions of the network with fewer layers, in order, paired with some of the other's.

    Depthwise convolutions and shortcuts are left out.

    Attributes
    ----------
    seed : int, optional
        Pair them with a sorted draw of the other's convolutions; by default with the first ones.
    """

    seed: int | None = None

    def __call__(self, context: Context) -> list[Pair]:
        """The pairs, in order of execution.

        Raises
        ------
        ValueError
            If the network with fewer layers has no convolution, or more than the other.
        """
        found = sorted((context.target_chain, context.source_chain), key=lambda network: -len(network.layers))
        ours, theirs = ([layer.name for layer in network.layers if layer.kind == "conv"] for network in found)
        if not 0 < len(theirs) <= len(ours):
            raise ValueError(
                f"{type(found[1].model).__name__} has {len(theirs)} convolutions and {type(found[0].model).__name__} "
                f"{len(ours)}: there is nothing to pair, or too little"
            )
        places = list(range(len(theirs)))
        if self.seed is not None:
            drawn = torch.randperm(len(ours), generator=torch.Generator().manual_seed(self.seed))
            places = sorted(drawn[: len(theirs)].tolist())
        pairs = [(ours[place], name) for place, name in zip(places, theirs, strict=True)]
        return [Pair(*(pair if found[0] is context.target_chain else pair[::-1])) for pair in pairs]


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
    return stacked(deep, shallow, images, variant, order, seed)[0]


def stacked(
    deep: Network,
    shallow: Network,
    images: Tensor,
    variant: str = "only",
    order: str = "align",
    seed: int = 0,
) -> tuple[nn.Module, TransferReport]:
    """What `stack` makes, and the report of HMT's copy in it."""
    known("HMT variant", variant, VARIANTS)
    known("order", order, ORDERS)
    match = Align(convolutions=True) if order == "align" else InOrder(seed if order == "random" else None)
    deep, shallow = eval_chain(deep, images), eval_chain(shallow, images)
    source, fed = (deep, shallow.copy()) if variant == "add" else (shallow, deep.copy())
    report = Transfer(match, (Cyclic(),))(source, fed, images)
    made = fed.model
    if variant == "add":
        made = add_layers(map_layers(deep, fed, images), images)
    elif variant == "average":
        made = average([made, deep.model], images)
    elif variant == "transport":
        made = transport_neurons(fed, deep, images, 0.5)
    return made, report
