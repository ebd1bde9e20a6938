"""OTFusion: a network's neurons are moved onto those of another one of equal depth, and the two are averaged."""

from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from hetlib.chain import Chain, Network, eval_chain
from hetlib.clafusion.plans import neuron_plans
from hetlib.clafusion.weights import fuse_weights, transport_outputs
from hetlib.merging.average import average_, update_bn


def transport_neurons(
    source: Network,
    target: Network,
    images: Tensor,
    step: float = 0.0,
    *,
    input_side: str = "columns",
    naive: bool = False,
    **options: Any,
) -> nn.Module:
    """OTFusion: move a network's neurons onto those of another one of equal depth, and average the two.

    Parameters
    ----------
    source, target : nn.Module or Chain
        With the same layers, at any widths. Neither is changed.
    images : Tensor of shape (N, ...)
        As `neuron_plans` takes them; batch norms take their statistics from them.
    step : float
        Weight of the target: 0 gives the source, moved, and 1 the target.
    input_side : {"columns", "rows"}
        As `fuse_weights` takes it.
    naive : bool
        Average without moving.
    **options
        Of `neuron_plans`.

    Returns
    -------
    nn.Module
        Of the target's shapes.

    Raises
    ------
    ValueError
        As `neuron_plans` and `fuse_weights` do; where two shapes differ, the layer is named with both.
    """
    chains = eval_chain(source), eval_chain(target)
    source, target = (found.model for found in chains)
    if naive and options:
        raise ValueError(f"an average without transport takes no {', '.join(options)}")
    plans = [] if naive else neuron_plans(*chains, images, **options)
    fused = deepcopy(target).requires_grad_()
    if naive:
        average_(fused, [(source, 1 - step), (target, step)])
    else:
        ours, theirs = ([layer.module.weight for layer in found.layers] for found in chains)
        feeds = chains[0].feeds()
        names = [layer.name for layer in chains[1].layers]
        parts = fuse_weights(ours, theirs, plans, step, feeds=feeds, input_side=input_side, names=names)
        for i, (layer, weight) in enumerate(zip(chains[1].layers, parts, strict=True)):
            fused.get_submodule(layer.name).weight = nn.Parameter(weight)
            _vectors_(fused, source, target, chains, i, plans[i] if i < len(plans) else None, step)
    update_bn(fused, images)
    return fused


def _vectors_(
    fused: nn.Module,
    source: nn.Module,
    target: nn.Module,
    chains: tuple[Chain, Chain],
    i: int,
    plan: Tensor | None,
    step: float,
) -> None:
    """Biases, gains and shifts of one layer and its batch norm."""
    layer, norm = chains[0].layers[i], chains[0].layers[i].norm
    names = [f"{layer.name}.bias"] + ([] if norm is None else [f"{norm}.weight", f"{norm}.bias"])
    ours, theirs, out = (dict(model.named_parameters()) for model in (source, target, fused))
    for name in names:
        if (name in ours) != (name in theirs):
            raise ValueError(f"only one of the two networks has {name}")
        if name in ours:
            moved = ours[name].detach() if plan is None else transport_outputs(ours[name].detach(), plan)
            out[name].data.copy_(moved.lerp(theirs[name].detach(), step))
