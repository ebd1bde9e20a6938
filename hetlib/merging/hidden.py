"""Which layers of a network REPAIR looks at, and which of them it could not reset."""

from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from hetlib.chain import Call, Chain
from hetlib.chain.nested import check

PER_CHANNEL = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.PReLU)
"""Modules whose weights scale what comes: they are not layers themselves."""
SUMS_AND_PRODUCTS = ("add", "iadd", "sub", "isub", "mul", "imul", "div", "truediv", "itruediv")


def layers_with_norms(found: Chain) -> dict[str, str | None]:
    """Every convolution and linear layer that runs, in that order, with the name of the norm that takes its output.

    Raises
    ------
    ValueError
        If anything else with a weight matrix runs, and no norm takes its output; it is named.
    """
    layers = {layer.name: layer.norm for layer in found.layers}
    ordered: dict[str, str | None] = {}
    for node in found.graph.nodes:
        module, name = Call.of(found.model, node).module, str(node.target)
        if name in layers or isinstance(module, _ConvNd):
            ordered.setdefault(name, layers.get(name, _norm(found, node)))
        elif _mixes(found, node):
            owner = name if module else name.rpartition(".")[0]
            kind = type(found.model.get_submodule(owner)).__name__
            raise ValueError(f"{owner or name} ({kind}) has weights of its own: it is no convolution or linear layer")
    return ordered


def _norm(found: Chain, node: fx.Node) -> str | None:
    calls = (Call.of(found.model, user) for user in node.users)
    return next((str(call.node.target) for call in calls if isinstance(call.module, _NormBase)), None)


def _mixes(found: Chain, node: fx.Node) -> bool:
    """Whether a module with weights runs, or a weight matrix does more than scale or shift, without a norm behind."""
    module = Call.of(found.model, node).module
    if module is not None:
        weighty = any(True for _ in module.parameters()) and not isinstance(module, PER_CHANNEL)
        return weighty and _norm(found, node) is None
    held: dict[str, Any] = dict(found.model.named_parameters(remove_duplicate=False))
    weight = held.get(str(node.target)) if node.op == "get_attr" else None
    if weight is None or sum(size > 1 for size in weight.shape) < 2:
        return False
    bare = (user for user in node.users if _norm(found, user) is None)
    return any(Call.of(found.model, user).name not in SUMS_AND_PRODUCTS for user in bare)


def check_layers(found: Chain, role: str) -> dict[str, Any]:
    """The modules of `layers_with_norms` by name; ValueError for one whose weight is empty, lazy or on meta."""
    modules: dict[str, Any] = {name: found.model.get_submodule(name) for name in layers_with_norms(found)}
    check([*modules.items()], role)
    return modules


def check_own(modules: dict[str, Any]) -> None:
    """Refuse, with a ValueError that names it, a layer whose weight or bias is computed: it cannot be written."""
    for name, module in modules.items():
        for key in ("weight", "bias"):
            tensor = getattr(module, key)
            if tensor is not None and not isinstance(tensor, nn.Parameter):
                how = "by weight norm, pruning or the like: make it a parameter first"
                raise ValueError(f"{name}.{key} {tuple(tensor.shape)} of the fused network is computed, {how}")


def sharing(model: nn.Module) -> dict[int, list[str]]:
    """By the `id` of each parameter that several modules hold, under which names they do."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for key, tensor in module.named_parameters(name, recurse=False):
            owners.setdefault(id(tensor), []).append(key)
    return {number: names for number, names in owners.items() if len(names) > 1}
