"""A network as a list of layers, or of layers and blocks: the first of the three stages of DPIAT's toolkit.

Both forms hold the layers that carry weights, by name, in registration order: convolutions, transposed convolutions,
batch norms and linear layers. What has no weights is left out (a batch norm that does not scale, too), a shared module
stands at its first name, and a network that is a single layer is a list of that layer, whose name is empty.

>>> from hetlib.chain.nested import blocks
>>> blocks(model)  # [("conv1", Conv2d), ("bn1", BatchNorm2d), [("layer1.0.conv1", Conv2d), ...], ...]
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

LAYERS = (_ConvNd, _BatchNorm, nn.Linear)
Leaf: TypeAlias = tuple[str, Any]
Node: TypeAlias = "Leaf | list[Node]"


def flatten(model: nn.Module) -> list[Node]:
    """The layers of a network, one after another: TLV's standardisation."""
    return list(with_weights(dict(model.named_modules())).items())


def with_weights(modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Those of the modules that are layers with weights, a shared one under the first of its names."""
    names: dict[nn.Module, str] = {}
    for name, module in modules.items():
        if _is_layer(module):
            names.setdefault(module, name)
    return {name: module for module, name in names.items()}


def blocks(model: nn.Module) -> list[Node]:
    """The layers of a network, with blocks as lists: DPIAT's standardisation.

    A module that holds a single thing adds no level. A child of fewer than two convolutions or linear layers, or one
    that holds blocks itself, is laid out in its parent. A group with more single layers than blocks is flattened,
    unless it is the whole network.

    References
    ----------
    DPIAT's released code (KamilPiechowiak/iatransfer), standardisation "blocks".
    """
    return [("", model)] if _is_layer(model) else _unwrapped(_nest(model, "", {}))


def leaves(nodes: list[Node]) -> Iterator[Leaf]:
    """The layers in nested lists, in order."""
    for node in nodes:
        if isinstance(node, list):
            yield from leaves(node)
        else:
            yield node


def check(layers: list[Leaf], role: str) -> None:
    """Refuse layers whose weight is empty, or in a target cannot be written.

    Raises
    ------
    ValueError
        Names the layer and its shape, or says what computes its weight.
    """
    for name, layer in layers:
        weight = layer.weight
        if isinstance(weight, UninitializedParameter) or 0 in weight.shape or weight.is_meta:
            raise ValueError(f"the {role}'s {name} ({type(layer).__name__}) has no weights: {_described(weight)}")
        if role == "target" and not isinstance(weight, nn.Parameter):
            how = "by weight norm, pruning or the like: make it a parameter first"
            raise ValueError(f"the target's {name} {tuple(weight.shape)} has a weight that is computed, {how}")


def _described(weight: Any) -> str:
    if isinstance(weight, UninitializedParameter):
        return "run it on an image first"
    return f"on the meta device, {tuple(weight.shape)}" if weight.is_meta else f"shape {tuple(weight.shape)}"


def only(nodes: list[Node], kind: type[nn.Module]) -> list[Node]:
    """The same nesting with the layers of one kind; a block that loses all of its layers is gone."""
    kept: list[Node] = []
    for node in nodes:
        if not isinstance(node, list):
            kept += [node] if isinstance(node[1], kind) else []
        elif inner := only(node, kind):
            kept.append(inner)
    return kept


def kind_of(module: nn.Module | None) -> str:
    """What a module is: "convolution", "linear layer", "norm" or "other"."""
    if isinstance(module, _ConvNd):
        return "convolution"
    if isinstance(module, nn.Linear):
        return "linear layer"
    return "norm" if isinstance(module, nn.modules.batchnorm._NormBase) else "other"


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, LAYERS) and module.weight is not None


def _nest(module: nn.Module, name: str, seen: dict[nn.Module, str]) -> list[Node]:
    group: list[Node] = []
    for short, child in module.named_children():
        full = f"{name}.{short}" if name else short
        if seen.setdefault(child, full) != full:
            continue
        if _is_layer(child):
            group.append((full, child))
            continue
        inner = _unwrapped(_nest(child, full, seen))
        weighty = sum(not isinstance(layer, _BatchNorm) for _, layer in leaves(inner))
        if weighty < 2 or any(isinstance(node, list) for node in inner):
            group += inner
        else:
            group.append(inner)
    nested = sum(isinstance(node, list) for node in group)
    return list(leaves(group)) if name and len(group) - nested > nested else group


def _unwrapped(group: list[Node]) -> list[Node]:
    while len(group) == 1 and isinstance(group[0], list):
        group = group[0]
    return group


STANDARDS: dict[str, Callable[[nn.Module], list[Node]]] = {"flatten": flatten, "blocks": blocks}
