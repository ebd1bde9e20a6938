"""OTFusion: a network's neurons are moved onto those of another one of equal depth, and the two are averaged."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.activations import evaluating, read
from hetlib.chain import Chain
from hetlib.fusion import bring_out, feeds_of, fuse_weights
from hetlib.plans import neuron_plans


def move(
    source: nn.Module,
    target: nn.Module,
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
    source, target : nn.Module
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
    chains = read(source, target)
    if naive and options:
        raise ValueError(f"an average without transport takes no {', '.join(options)}")
    plans = [] if naive else neuron_plans(source, target, images, **options)
    fused = deepcopy(target).requires_grad_()
    if naive:
        _average_(fused, [(source, 1 - step), (target, step)])
    else:
        ours, theirs = ([layer.module.weight for layer in found.layers] for found in chains)
        feeds = feeds_of(chains[0])
        names = [layer.name for layer in chains[1].layers]
        parts = fuse_weights(ours, theirs, plans, step, feeds=feeds, input_side=input_side, names=names)
        for i, (layer, weight) in enumerate(zip(chains[1].layers, parts, strict=True)):
            fused.get_submodule(layer.name).weight = nn.Parameter(weight)
            _vectors_(fused, source, target, chains, i, plans[i] if i < len(plans) else None, step)
    refresh(fused, images)
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
            moved = ours[name].detach() if plan is None else bring_out(ours[name].detach(), plan)
            out[name].data.copy_(moved.lerp(theirs[name].detach(), step))


def mean(models: Sequence[nn.Module], images: Tensor) -> nn.Module:
    """The average of networks with the same shapes, with equal weights.

    Parameters
    ----------
    models : sequence of nn.Module
        Not changed.
    images : Tensor of shape (N, ...)
        What batch norms take their statistics from.

    Raises
    ------
    ValueError
        If two shapes differ; the parameter is named with both.
    """
    fused = deepcopy(models[0]).requires_grad_()
    _average_(fused, [(model, 1 / len(models)) for model in models])
    refresh(fused, images)
    return fused


@torch.no_grad()
def _average_(fused: nn.Module, parts: list[tuple[nn.Module, float]]) -> None:
    states = [(dict(model.named_parameters()), weight) for model, weight in parts]
    for name, parameter in fused.named_parameters():
        for state, _ in states:
            if name not in state or state[name].shape != parameter.shape:
                there = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(f"{name}: {tuple(parameter.shape)} and {there} have no average")
        parameter.copy_(torch.stack([state[name] * weight for state, weight in states]).sum(0))


@torch.no_grad()
def refresh(model: nn.Module, images: Tensor) -> None:
    """Take the running statistics of all batch norms anew from some images, in place; without any, nothing happens."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    try:
        with evaluating(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean of what comes
                norm.train()
            model(images)
    except ValueError as error:
        raise ValueError(f"batch norms cannot take statistics from {len(images)} images: {error}") from error
    finally:
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum
