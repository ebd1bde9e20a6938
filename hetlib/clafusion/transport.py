"""OTFusion: a network's neurons are moved onto those of another one of equal depth, and the two are averaged."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.chain import Network, eval_chain
from hetlib.chain.inherited import per_output
from hetlib.clafusion.plans import SOURCES, neuron_plans
from hetlib.clafusion.values import scaling, value_plans
from hetlib.clafusion.weights import SIDES, move_weights, transport_outputs
from hetlib.errors import finite, known
from hetlib.kernels.costs import METRICS
from hetlib.kernels.fill import Fill
from hetlib.merging import update_bn
from hetlib.transfer import Context, Pair, SameName, Transfer


@dataclass(frozen=True)
class Transport:
    """OTFusion's fit: the source's neurons move onto the target's; weights, biases, gains and shifts follow them.

    Both networks have the same layers, at any widths. A paired layer is fed together with the batch norm directly
    behind it; a paired module elsewhere that scales or shifts channels (a norm, a PReLU, a layer scale) by the plan of
    these. Running statistics are left alone: take them anew by `hetlib.merging.update_bn`.

    Attributes
    ----------
    by, metric, after_relu, tie, last, reg
        How neurons are matched, see `hetlib.clafusion.neuron_plans`.
    input_side : {"columns", "rows"}
        See `hetlib.clafusion.fuse_weights`.

    References
    ----------
    Singh and Jaggi, *Model Fusion via Optimal Transport*, NeurIPS 2020.
    """

    by: str = "activations"
    metric: str = "euclidean"
    after_relu: bool = False
    tie: bool = False
    last: bool = False
    reg: float | None = None
    input_side: str = "columns"

    def __post_init__(self):
        for kind, given, valid in (("source of costs", self.by, SOURCES), ("metric", self.metric, METRICS)):
            known(kind, given, valid)
        known("side", self.input_side, SIDES)
        if self.reg is not None:
            finite("reg", self.reg, above=0)

    def __call__(self, context: Context, pairs: list[Pair]) -> Iterator[Fill]:
        """The moved tensors of every pair; plans are made for all layers, paired or not.

        Raises
        ------
        ValueError
            As `neuron_plans` and `fuse_weights` do, if a layer is paired with one of another name, or if only one of
            two layers has a bias.
        """
        for pair in pairs:
            if pair.target != pair.source:
                raise ValueError(
                    f"{pair.source} cannot move onto {pair.target}: neurons move between layers of one name. Make the "
                    "networks equally deep by add_layers or merge_layers, and pair them by SameName()"
                )
        source, target = context.source_chain, context.target_chain
        how: dict[str, Any] = {"by": self.by, "metric": self.metric, "after_relu": self.after_relu, "tie": self.tie}
        plans = neuron_plans(source, target, context.images, **how, last=self.last, reg=self.reg)
        ours, theirs = ([layer.module.weight for layer in found.layers] for found in (source, target))
        numbered = dict(enumerate(plans))
        entering = [
            (value_plans(here, there, numbered), here.spread if here else "")
            for here, there in zip(source.inputs(), target.inputs(), strict=True)
        ]
        # All layers move, paired or not, since a layer's inputs follow the plans of those that feed it. Nothing of the
        # target's weights is mixed in: the blend of the sentence does that.
        shapes, names = [tuple(weight.shape) for weight in theirs], [layer.name for layer in target.layers]
        moved = move_weights(ours, shapes, plans, entering, self.input_side, names)
        paired = {pair.target for pair in pairs}
        held = [dict(net.named_parameters(remove_duplicate=False)) for net in (context.source, context.target)]
        norms = {layer.norm for layer in source.layers}
        for i, (layer, weight) in enumerate(zip(source.layers, moved, strict=True)):
            if layer.name in paired:
                yield Fill(layer.name, theirs[i], weight, note="moved by transport", source=layer.name)
                own = [plans[i]] if i < len(plans) else []
                keys = per_output(layer.module) | per_output(target.layers[i].module) | _numbers(layer.module)
                vectors = [(layer.name, key) for key in keys]
                vectors += [] if layer.norm is None else [(layer.norm, "weight"), (layer.norm, "bias")]
                yield from _vectors(held, vectors, own, "moved with its layer's outputs")
        mine, others = scaling(source), scaling(target)
        for owner, key in mine | others:
            if owner in paired and owner not in norms:
                here, there = mine.get((owner, key)), others.get((owner, key))
                came, spread = value_plans(here, there, numbered), here.spread if here else ""
                yield from _vectors(held, [(owner, key)], came, "moved with the channels that it scales", spread)


def _numbers(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a layer that are one number, such as a gain for all of its channels."""
    return {key: tensor for key, tensor in module.named_parameters() if tensor.numel() == 1 and key != "weight"}


def _vectors(
    held: list[dict[str, nn.Parameter]],
    names: list[tuple[str, str]],
    plans: list[Tensor],
    note: str,
    spread: str = "",
) -> Iterator[Fill]:
    """Numbers per channel, moved by the mean of some plans; no plan leaves them where they are."""
    ours, theirs = held
    for owner, key in names:
        name = f"{owner}.{key}".lstrip(".")
        if (name in ours) != (name in theirs):
            raise ValueError(f"only one of the two networks has {name}")
        if name in ours:
            vector = ours[name].detach()
            if plans and vector.numel() > 1:
                moved = torch.stack([_moved(vector.flatten(), plan, spread) for plan in plans]).mean(0)
                vector = moved.view(-1, *vector.shape[1:])  # a gain may have axes of length 1 besides
            yield Fill(owner, theirs[name], vector, note=note, source=owner)


def _moved(vector: Tensor, plan: Tensor, spread: str) -> Tensor:
    """Numbers per channel, or behind a flatten per channel and pixel, which move with their channel."""
    if spread == "whole":
        return transport_outputs(vector.unflatten(0, (-1, len(plan))).T, plan).T.flatten()
    return transport_outputs(vector.unflatten(0, (len(plan), -1)) if spread else vector, plan).flatten()


@torch.inference_mode(False)
def transport_neurons(source: Network, target: Network, images: Tensor, step: float = 0.0, **options: Any) -> nn.Module:
    """OTFusion: move a network's neurons onto those of another one of equal depth, and average the two.

    Parameters
    ----------
    source, target : nn.Module or Chain
        With the same layers, at any widths. Neither is changed.
    images : Tensor of shape (N, ...)
        As `neuron_plans` takes them; batch norms take their statistics from them.
    step : float
        Weight of the target: 0 gives the source, moved, and 1 the target.
    **options
        Of `Transport`.

    Returns
    -------
    nn.Module
        Of the target's shapes.

    Raises
    ------
    ValueError
        As `Transport` does; where two shapes differ, the layer is named with both.
    """
    fused = eval_chain(target, images).copy()
    fused.model.requires_grad_()
    Transfer(SameName(), (Transport(**options),), step)(source, fused, images)
    update_bn(fused.model, images)
    return fused.model
