"""A deep multilayer perceptron made as shallow as another one, by multiplying layers together."""

from collections import Counter
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.chain import evaluating, full_precision, layer_outputs
from hetlib.checks import check_images
from hetlib.clafusion.add_layers import RELU_LIKE, followers, set_weight_
from hetlib.clafusion.mapping import CrossMap
from hetlib.clafusion.values import scaling
from hetlib.errors import known, of_kind

RELUS = ("sum", "majority", "average")


@torch.inference_mode(False)
@torch.no_grad()
def merge_layers(found: CrossMap, images: Tensor, relu: str = "sum") -> nn.Module:
    """Make a deep multilayer perceptron as shallow as the other, by multiplying layers without a partner into the next.

    The ReLU between two merged layers is replaced by a diagonal matrix, so the result only approximates the network.

    Parameters
    ----------
    found : CrossMap
        What `hetlib.clafusion.map_layers` found. Neither network is changed.
    images : Tensor of shape (N, ...)
        What the deep network is run on, once, to see which neurons are active.
    relu : {"sum", "majority", "average"}
        The diagonal: 1 where the activations before the ReLU sum to 0 or more; 1 where the neuron is active on half of
        the images or more; or the part of the images on which it is.

    Returns
    -------
    nn.Module
        Has the modules of the shallow network, at the widths of the deep one's matched layers.

    Raises
    ------
    ValueError
        If a layer without a partner is not Linear, lies in a block or is not followed by a ReLU, if there are batch
        norms or layers that run more than once, or the name is unknown.

    References
    ----------
    Nguyen et al., ICASSP 2023, section 3 ("layer merging").
    """
    known("ReLU approximation", relu, RELUS)
    check_images("images", images)
    of_kind("found", found, CrossMap, words="what map_layers gives")
    for side in (found.deep, found.shallow):
        calls = Counter(str(node.target) for node in side.graph.nodes if node.op == "call_module")
        if again := [layer.name for layer in side.layers if calls[layer.name] > 1]:
            raise ValueError(f"{', '.join(again)} run more than once: only layers that run once merge")
    idle = [layer for layer in found.deep.layers if layer.name not in found.pairs]
    if wrong := [layer.name for layer in idle if layer.kind != "linear" or layer.block is not None]:
        raise ValueError(f"only linear layers merge, not {', '.join(wrong)}; balance by adding layers")
    if normed := [layer.name for side in (found.deep, found.shallow) for layer in side.layers if layer.norm]:
        raise ValueError(f"{', '.join(normed)} have a batch norm: only layers without merge; balance by adding layers")
    if scales := [f"{owner}.{key}".lstrip(".") for side in (found.deep, found.shallow) for owner, key in scaling(side)]:
        raise ValueError(f"{', '.join(scales)} are in no layer: only layers merge; balance by adding layers")
    if unlike := [layer.name for layer in idle if not followers(found.deep, layer) <= {*RELU_LIKE, "dropout"}]:
        raise ValueError(f"no ReLU follows {', '.join(unlike)}: what stands in for one would be wrong")
    with evaluating(found.deep.model):
        seen = layer_outputs(found.deep, images)
        active = {layer.name: _active(value, relu) for layer, value in seen if layer.name not in found.pairs}
    merged = deepcopy(found.shallow.model)
    with full_precision():
        _multiply_(merged, found, active)
    return merged.requires_grad_()


def _multiply_(merged: nn.Module, found: CrossMap, active: dict[str, Tensor]) -> None:
    """Write the products of weights into the shallow network's layers."""
    # Between two matched layers, `factor` and `shift` are the affine map from what the first of them puts out, through
    # the layers merged so far: D_k W_k ... D_1 W_1, with a diagonal D in the place of each ReLU.
    targets = {layer.name: layer for layer in found.shallow.layers}
    factor: Tensor | None = None
    shift: Tensor | None = None
    for layer in found.deep.layers:
        module: Any = layer.module
        weight = module.weight if factor is None else module.weight @ factor
        bias = module.bias if shift is None else module.weight @ shift + (0 if module.bias is None else module.bias)
        if layer.name in active:
            factor = active[layer.name].unsqueeze(1) * weight
            shift = None if bias is None else active[layer.name] * bias
            continue
        target, factor, shift = targets[found.pairs[layer.name]], None, None
        set_weight_(merged, target, weight.clone())
        if bias is not None:
            merged.get_submodule(target.name).bias = nn.Parameter(bias.clone())


def _active(value: Tensor, relu: str) -> Tensor:
    if relu == "sum":
        return (value.sum(0) >= 0).to(value.dtype)
    share = (value > 0).to(value.dtype).mean(0)
    return share if relu == "average" else (share >= 0.5).to(value.dtype)
