"""Two networks made equally deep: the shallow one by layers that do nothing, or the deep one by merging layers."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.activations import evaluating, neurons, records
from hetlib.chain import Chain, Layer
from hetlib.crosslayer import CrossMap
from hetlib.errors import unknown
from hetlib.graph import Call
from hetlib.units import Unit

RELUS = ("sum", "majority", "average")
RELU_LIKE = ("relu", "relu6")
PASSING = ("identity", "dropout", "maxpool2d", "avgpool2d", "adaptiveavgpool2d", "flatten")
"""What keeps values that are not negative so."""


def add_layers(found: CrossMap, images: Tensor | None = None) -> nn.Module:
    """Make the shallow network as deep as the deep one, without changing what it computes.

    The result has the modules of the deep network, at the widths of the shallow one. Where a deep layer has a partner,
    the partner stands; elsewhere an identity: a layer that passes every channel on (exact after a ReLU, for a ReLU
    of it changes nothing), or a residual block whose convolutions are all 0.

    Parameters
    ----------
    found : CrossMap
        What `hetlib.crosslayer.map_layers` found. Neither network is changed.
    images : Tensor of shape (N, ...), optional
        What inserted batch norms take mean and variance from, so that they still pass on what comes once statistics
        are taken anew, as by training. Without images they do so in evaluation only.

    Returns
    -------
    nn.Module
        Differs from the shallow network by exactly 0, but for networks with batch norm, where rounding differs, and for
        an identity before the very first layer, which the pins prevent: its ReLU clips inputs below 0.

    Raises
    ------
    ValueError
        If a layer cannot be the identity: it strides, has an even kernel, is grouped, or its block a projection; if
        what stands before or behind it is no ReLU; or if one of two partners alone has a batch norm. The layer is
        named.

    References
    ----------
    Nguyen et al., ICASSP 2023, section 3 ("layer balancing"); for residual blocks the released code.
    """
    balanced, inserted = deepcopy(found.deep.model), []
    donors = {layer.name: layer for layer in found.shallow.layers}
    for alignment in found.alignments:
        partners = dict(zip(alignment.picks, alignment.shallow, strict=True))
        near = alignment.shallow[0]
        width = near.layers[0].module.weight.shape[1]
        for place, unit in enumerate(alignment.deep):
            near = partners.get(place, near)
            if place in partners:
                width = _outputs(near.last)
            elif unit.is_block:
                _silence(balanced, unit, near, width)
            else:
                _check_neighbours(found.deep, unit.last)
                _put(balanced, unit.last, _identity(unit.last, width))
                if unit.last.norm is not None:
                    balanced.set_submodule(unit.last.norm, _still(balanced.get_submodule(unit.last.norm), width))
                    inserted.append(unit.last.norm)
    for layer in found.deep.layers:
        if layer.name in found.pairs:
            _adopt(balanced, layer, found.shallow.model, donors[found.pairs[layer.name]])
    if inserted and images is not None:
        _settle_(balanced, inserted, images)
    return balanced


def _settle_(balanced: nn.Module, norms: list[str], images: Tensor) -> None:
    """Give inserted batch norms the statistics of what reaches them, and what undoes these for gain and shift."""

    def settle(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        values = neurons(inputs[0])
        variance, mean = torch.var_mean(values, 1, correction=min(1, values.shape[1] - 1))  # as running statistics
        for own, value in ((norm.running_mean, mean), (norm.running_var, variance), (norm.bias, mean)):
            own.data.copy_(value)
        norm.weight.data.copy_((variance + norm.eps).sqrt())

    modules: list[Any] = [balanced.get_submodule(name) for name in norms]
    if any(norm.weight is None for norm in modules):
        raise ValueError(f"{norms[0]} has no gain and shift: it cannot be made to pass on what comes")
    hooks = [norm.register_forward_pre_hook(settle) for norm in modules]
    try:
        with evaluating(balanced):
            balanced(images)
    finally:
        for hook in hooks:
            hook.remove()


def _adopt(balanced: nn.Module, layer: Layer, shallow: nn.Module, donor: Layer) -> None:
    if (layer.norm is None) != (donor.norm is None):
        raise ValueError(f"of {layer.name} and its partner {donor.name} only one has a batch norm: they do not balance")
    balanced.set_submodule(layer.name, deepcopy(donor.module))
    if layer.norm is not None and donor.norm is not None:
        balanced.set_submodule(layer.norm, deepcopy(shallow.get_submodule(donor.norm)))


def _put(balanced: nn.Module, layer: Layer, weight: Tensor) -> None:
    """Give a layer another weight, of any shape, and a bias of zeros if it has one."""
    module: Any = deepcopy(layer.module)
    module.weight = nn.Parameter(weight)
    if module.bias is not None:
        module.bias = nn.Parameter(weight.new_zeros(len(weight)))
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    else:
        module.groups = len(weight) if layer.kind == "depthwise" else 1
        module.out_channels, module.in_channels = len(weight), weight.shape[1] * module.groups
    balanced.set_submodule(layer.name, module)


def _identity(layer: Layer, width: int) -> Tensor:
    module: Any = layer.module
    eye = torch.eye(width, dtype=module.weight.dtype, device=module.weight.device)
    if isinstance(module, nn.Linear):
        return eye
    kernel, plain = module.kernel_size, module.groups == 1 and set(module.stride) == set(module.dilation) == {1}
    padded = module.padding == "same" or module.padding == tuple(side // 2 for side in kernel)
    if not plain or not padded or any(side % 2 == 0 for side in kernel):
        raise ValueError(
            f"{layer.name} has no partner and cannot be the identity: that takes an odd kernel padded by half, "
            f"stride 1 and one group, not {module}. Pin it, or give the map by hand"
        )
    weight = eye.new_zeros(width, width, *kernel)
    weight[:, :, kernel[0] // 2, kernel[1] // 2] = eye
    return weight


def _silence(balanced: nn.Module, unit: Unit, near: Unit, width: int) -> None:
    """Zeros for all convolutions of a block, which then is its shortcut; inner widths are those of one beside it."""
    if any(layer.kind == "shortcut" for layer in unit.layers):
        raise ValueError(f"{unit.name} has no partner, but a projection: only a block with a bare shortcut can be idle")
    inside = [_outputs(layer) for layer in near.layers if layer.kind != "shortcut"]
    widths = [width, *inside[: len(unit.layers) - 1], width]
    for layer, inputs, outputs in zip(unit.layers, widths, widths[1:], strict=False):
        old = layer.module.weight
        _put(balanced, layer, old.new_zeros(outputs, 1 if layer.kind == "depthwise" else inputs, *old.shape[2:]))
        if layer.norm is not None:
            balanced.set_submodule(layer.norm, _still(balanced.get_submodule(layer.norm), outputs))


def _still(norm: Any, width: int) -> nn.Module:
    """A batch norm of another width that, in evaluation, passes on what comes."""
    still = type(norm)(width, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    if still.running_var is None:
        raise ValueError(f"{norm} keeps no statistics: without them it cannot pass on what comes")
    still.running_var.fill_(1 - norm.eps)
    return still.to(norm.running_var).train(norm.training)


def _check_neighbours(found: Chain, layer: Layer) -> None:
    """Raise unless an identity layer would stand between ReLUs, or on the network's input."""
    node = next(node for node in found.graph.nodes if node.op == "call_module" and node.target == layer.name)
    above = node.all_input_nodes[0]
    while Call.of(found.model, above).name in PASSING and above.op != "placeholder":
        above = above.all_input_nodes[0]
    if above.op != "placeholder" and Call.of(found.model, above).name not in RELU_LIKE:
        raise ValueError(
            f"{layer.name} has no partner, and {above.name} stands before it: an identity needs a ReLU there"
        )
    names = _followers(found, layer)
    if not names <= {*RELU_LIKE, *PASSING}:
        raise ValueError(
            f"{layer.name} has no partner, and {', '.join(sorted(names))} follows it: an identity layer changes "
            "nothing only between ReLUs"
        )


def _followers(found: Chain, layer: Layer) -> set[str]:
    """What operations take a layer's output, or that of its batch norm."""
    name = layer.norm or layer.name
    node = next(node for node in found.graph.nodes if node.op == "call_module" and node.target == name)
    return {Call.of(found.model, user).name for user in node.users}


def _outputs(layer: Layer) -> int:
    return layer.module.weight.shape[0]


@torch.no_grad()
def merge_layers(found: CrossMap, images: Tensor, relu: str = "sum") -> nn.Module:
    """Make a deep multilayer perceptron as shallow as the other, by multiplying layers without a partner into the next.

    The ReLU between two merged layers is replaced by a diagonal matrix, so the result only approximates the network.

    Parameters
    ----------
    found : CrossMap
        What `hetlib.crosslayer.map_layers` found. Neither network is changed.
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
        norms, or the name is unknown.

    References
    ----------
    Nguyen et al., ICASSP 2023, section 3 ("layer merging").
    """
    if relu not in RELUS:
        raise unknown("ReLU approximation", relu, RELUS)
    idle = [layer for layer in found.deep.layers if layer.name not in found.pairs]
    if wrong := [layer.name for layer in idle if layer.kind != "linear" or layer.block is not None]:
        raise ValueError(f"only linear layers merge, not {', '.join(wrong)}; balance by adding layers")
    if normed := [layer.name for side in (found.deep, found.shallow) for layer in side.layers if layer.norm]:
        raise ValueError(f"{', '.join(normed)} have a batch norm: only layers without merge; balance by adding layers")
    if unlike := [layer.name for layer in idle if not _followers(found.deep, layer) <= {*RELU_LIKE, "dropout"}]:
        raise ValueError(f"no ReLU follows {', '.join(unlike)}: what stands in for one would be wrong")
    with evaluating(found.deep.model):
        seen = records(found.deep.model, images, found=found.deep)
        active = {layer.name: _active(value, relu) for layer, value in seen if layer.name not in found.pairs}
    merged, factor = deepcopy(found.shallow.model), None
    shift: Tensor | None = None
    targets = {layer.name: layer for layer in found.shallow.layers}
    for layer in found.deep.layers:
        module: Any = layer.module
        weight = module.weight if factor is None else module.weight @ factor
        bias = module.bias if shift is None else module.weight @ shift + (0 if module.bias is None else module.bias)
        if layer.name in active:
            factor = active[layer.name].unsqueeze(1) * weight
            shift = None if bias is None else active[layer.name] * bias
            continue
        target, factor, shift = targets[found.pairs[layer.name]], None, None
        _put(merged, target, weight.clone())
        if bias is not None:
            merged.get_submodule(target.name).bias = nn.Parameter(bias.clone())
    return merged


def _active(value: Tensor, relu: str) -> Tensor:
    if relu == "sum":
        return (value.sum(0) >= 0).to(value.dtype)
    share = (value > 0).to(value.dtype).mean(0)
    return share if relu == "average" else (share >= 0.5).to(value.dtype)
