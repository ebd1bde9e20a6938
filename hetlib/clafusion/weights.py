"""Weights that follow transported neurons, and the average of two networks that is taken once they do."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hetlib.chain import full_precision
from hetlib.errors import unknown

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
    if input_side not in SIDES:
        raise unknown("side", input_side, SIDES)
    if len(deep) != len(shallow) or len(plans) not in (len(deep), len(deep) - 1):
        raise ValueError(f"{len(deep)} and {len(shallow)} weights, {len(plans)} plans: balance the networks first")
    feeds = _guessed(deep) if feeds is None else feeds
    fused = []
    labels = [f"layer {i}" for i in range(len(deep))] if names is None else names
    for i, (source, target) in enumerate(zip(deep, shallow, strict=True)):
        try:
            moved = transport_inputs(source, [plans[j] for j in feeds[i]], input_side)
            moved = transport_outputs(moved, plans[i]) if i < len(plans) else moved
        except ValueError as error:
            raise ValueError(f"{labels[i]}: {error}") from None
        if moved.shape != target.shape:
            raise ValueError(
                f"{labels[i]}: {tuple(source.shape)} moves to {tuple(moved.shape)}, not {tuple(target.shape)}"
            )
        fused.append(moved.lerp(target, step))
    return fused


def transport_inputs(weight: Tensor, plans: Sequence[Tensor], input_side: str = "columns") -> Tensor:
    """A weight whose inputs follow the neurons that feed it: `plans` of these, averaged; none leaves it as it is.

    Behind a flatten each neuron has several columns, one per pixel, which move together. A depthwise kernel has one
    input, its own channel, and is left as it is.
    """
    if not plans or (weight.ndim == 4 and weight.shape[1] == 1 < len(plans[0]) == len(weight)):
        return weight
    axis = 0 if input_side == "columns" else 1
    move = torch.stack([plan / plan.sum(axis, keepdim=True) for plan in plans]).mean(0).to(weight)
    if weight.shape[1] % len(move):
        raise ValueError(f"a weight of shape {tuple(weight.shape)} does not take in {len(move)} neurons")
    places = weight.unflatten(1, (len(move), -1))
    with full_precision():
        return torch.einsum("oip...,ij->ojp...", places, move).flatten(1, 2)


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
