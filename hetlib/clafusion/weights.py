"""Weights that follow transported neurons, and the average of two networks that is taken once they do."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hetlib.chain import full_precision
from hetlib.errors import finite, known

Feeds = Sequence[Sequence[int]]
SIDES = ("columns", "rows")


@torch.no_grad()
def fuse_weights(
    deep: Sequence[Tensor],
    shallow: Sequence[Tensor],
    plans: Sequence[Tensor],
    step: float = 0.5,
    *,
    feeds: Feeds | None = None,
    input_side: str = "columns",
    names: Sequence[str] | None = None,
) -> list[Tensor]:
    """Move the weights of one network onto another's neurons, and average the two.

    Parameters
    ----------
    deep, shallow : sequences of Tensors
        Weights of the layers, (outputs, inputs, ...), of two networks of equal depth ("shallow" is balanced).
    plans : sequence of Tensors of shape (outputs of deep, outputs of shallow)
        How the neurons of each layer move, as `transport_plan` gives them. One plan fewer than layers leaves the
        outputs of the last layer where they are.
    step : float
        Weight of `shallow`: 0 gives the moved network, 1 the other.
    feeds : sequence of sequences of int, optional
        The layers whose outputs each layer takes in, none for the network's input; their plans are averaged. By default
        as the released code guesses from shapes: each the one before, but for 1x1 convolutions, which are shortcuts
        from where the width last changed.
    input_side : {"columns", "rows"}
        How a plan is scaled where it moves the inputs of the next layer: so that its columns sum to 1 (released), which
        averages activations that are merged, or its rows, which sums them and so keeps the function. The same at
        equal widths.
    names : sequence of str, optional
        What errors call the layers; by default their numbers.

    Returns
    -------
    list of Tensors
        Of the shapes of `shallow`.

    Raises
    ------
    ValueError
        If the numbers of weights or plans do not fit, or two shapes do; the layer is named.

    References
    ----------
    Singh and Jaggi, *Model Fusion via Optimal Transport*, NeurIPS 2020, algorithm 1; Nguyen et al., ICASSP 2023.
    """
    known("side", input_side, SIDES)
    finite("step", step, 0, 1)
    if len(deep) != len(shallow) or len(plans) not in (len(deep), len(deep) - 1):
        raise ValueError(f"{len(deep)} and {len(shallow)} weights, {len(plans)} plans: balance the networks first")
    feeds = _guessed(deep) if feeds is None else feeds
    entering = [([plans[j] for j in feeds[i]], "each") for i in range(len(deep))]
    moved = move_weights(deep, [tuple(weight.shape) for weight in shallow], plans, entering, input_side, names)
    return [weight.lerp(target, step) for weight, target in zip(moved, shallow, strict=True)]


@torch.no_grad()
def move_weights(
    weights: Sequence[Tensor],
    shapes: Sequence[tuple[int, ...]],
    plans: Sequence[Tensor],
    entering: Sequence[tuple[Sequence[Tensor], str]],
    input_side: str,
    names: Sequence[str] | None,
) -> list[Tensor]:
    """The weights of a network, moved: inputs by the plans of what enters each layer, outputs by the layer's own.

    Parameters
    ----------
    weights : sequence of Tensors
        Of shape (outputs, inputs, ...).
    shapes : sequence of tuple of int
        What they become, by which they are checked.
    plans
        As `fuse_weights` takes them.
    entering : sequence of (plans, spread)
        For every layer what `transport_inputs` takes.
    input_side, names
        As `fuse_weights` takes them.

    Raises
    ------
    ValueError
        If shapes do not fit; the layer is named.
    """
    labels = [f"layer {i}" for i in range(len(weights))] if names is None else names
    found = []
    for i, (weight, shape) in enumerate(zip(weights, shapes, strict=True)):
        try:
            moved = transport_inputs(weight, entering[i][0], input_side, entering[i][1])
            moved = transport_outputs(moved, plans[i]) if i < len(plans) else moved
        except ValueError as error:
            raise ValueError(f"{labels[i]}: {error}") from None
        if moved.shape != shape:
            raise ValueError(f"{labels[i]}: {tuple(weight.shape)} moves to {tuple(moved.shape)}, not {shape}")
        found.append(moved)
    return found


def transport_inputs(
    weight: Tensor, plans: Sequence[Tensor], input_side: str = "columns", spread: str = "each"
) -> Tensor:
    """A weight whose inputs follow the neurons that feed it: `plans` of these, averaged; none leaves it as it is.

    Behind a flatten each neuron has several columns, one per pixel, which move together: they lie in a row, or in
    `spread` "whole" the neurons follow one another again and again. A depthwise kernel has one input, its own channel,
    and is left as it is; in a grouped convolution the inputs of each group move by the plan's part of that group.
    """
    if not plans or (weight.ndim == 4 and weight.shape[1] == 1 < len(plans[0])):
        return weight
    axis = 0 if input_side == "columns" else 1
    move = torch.stack([plan / plan.sum(axis, keepdim=True) for plan in plans]).mean(0).to(weight)
    groups = len(move) // weight.shape[1] if weight.ndim == 4 and weight.shape[1] < len(move) else 1
    if weight.shape[1] * groups % len(move) or len(weight) % groups or move.shape[1] % groups:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} does not take in {len(move)} neurons")
    with full_precision():
        if groups > 1:
            tiles = move.unflatten(1, (groups, -1)).unflatten(0, (groups, -1))  # group, input, group, input
            parts = tiles.diagonal(dim1=0, dim2=2).movedim(-1, 0)
            return torch.einsum("goi...,gij->goj...", weight.unflatten(0, (groups, -1)), parts).flatten(0, 1)
        if spread == "whole":
            return torch.einsum("opi...,ij->opj...", weight.unflatten(1, (-1, len(move))), move).flatten(1, 2)
        return torch.einsum("oip...,ij->ojp...", weight.unflatten(1, (len(move), -1)), move).flatten(1, 2)


def transport_outputs(weight: Tensor, plan: Tensor) -> Tensor:
    """A weight, bias or per-channel number whose outputs move by a plan; merged ones are averaged."""
    if len(weight) != len(plan):
        raise ValueError(f"a weight of shape {tuple(weight.shape)} does not put out {len(plan)} neurons")
    with full_precision():
        return torch.einsum("o...,oj->j...", weight, (plan / plan.sum(0)).to(weight))


def _guessed(weights: Sequence[Tensor]) -> list[tuple[int, ...]]:
    feeds: list[tuple[int, ...]] = []
    before: tuple[int, ...] = ()
    left: tuple[int, ...] = ()  # what fed the layer that last changed the width
    for i, weight in enumerate(weights):
        if weight.ndim == 4 and weight.shape[2:] == (1, 1):
            feeds.append(left)
            before = (i, *before)
            continue
        if weight.ndim == 4 and weight.shape[0] != weight.shape[1]:
            left = before
        feeds.append(before)
        before = (i,)
    return feeds
