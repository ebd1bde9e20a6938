"""The fills of a plan, checked, and settled where several are of one tensor."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hetlib.kernels.blend import place
from hetlib.kernels.fill import Fill


def check_fills(modules: Mapping[str, nn.Module], fills: list[Fill]) -> None:
    """Refuse fills of what is not a tensor of the target in real memory, and kernels resampled to a wrong size.

    `modules` are the target's, by name.
    """
    probed: set[tuple[object, ...]] = set()
    for fill in fills:
        if fill.keeps:
            continue
        if is_lazy(fill.out) or fill.out.is_meta:
            raise ValueError(f"the target's {fill.layer} has no values yet: run it on an image, or move it off meta")
        if not _is_own(modules, fill):
            how = "if it is computed (weight norm, pruning), make it a parameter first"
            raise ValueError(f"{fill.layer} {tuple(fill.out.shape)} is not a tensor of the target's own: {how}")
        if fill.resample is None:
            continue
        # Many layers share one way to resample: it is tried once for slices of a kind, on one of them.
        wanted, weight = fill.out.shape[2:], fill.weight
        trial = (id(fill.resample), weight.shape[2:], wanted, weight.dtype, weight.device)
        if trial not in probed:
            probed.add(trial)
            found = fill.resample(weight[:1, :1]).shape[2:]
            if found != wanted:
                raise ValueError(f"{fill.layer}: kernels are resampled to {tuple(found)}, not {tuple(wanted)}")


def _is_own(modules: Mapping[str, nn.Module], fill: Fill) -> bool:
    """Whether a fill is of a parameter or buffer of the target; the layer that it names is looked at first."""
    named = modules.get(fill.layer)
    return any(
        tensor is fill.out
        for module in ([named, *modules.values()] if named is not None else modules.values())
        for tensor in (*module._parameters.values(), *module._buffers.values())
    )


def once(layers: Mapping[str, Any], fills: list[Fill]) -> list[Fill]:
    """The fills, where all that are of one tensor are the last of them, one for each of the layers that hold it.

    So a tensor has one donor, and every layer's row in the report names it.

    Parameters
    ----------
    layers : mapping of str to nn.Module
        The target's layers with weights, by name.
    fills : list of Fill
        Those that keep what is there stay as they are.

    Raises
    ------
    ValueError
        If two tensors overlap in memory and are not the same; both layers are named.
    """
    last = {place(fill.out): fill for fill in fills if not fill.keeps and fill.out.numel()}
    spans = sorted(((*_span(fill.out), fill.layer) for fill in last.values()), key=lambda span: span[:2])
    for (_, end, before), (start, _, layer) in pairwise(spans):
        if start < end:
            raise ValueError(f"{before} and {layer} overlap in memory: what is written to one would change the other")
    told = {(fill.layer, id(fill.out)) for fill in fills if not fill.keeps}
    holders: dict[int, list[str]] = {}
    for name, layer in layers.items():
        for tensor in layer._parameters.values():
            holders.setdefault(id(tensor), []).append(name)
    settled: list[Fill] = []
    for fill in fills:
        others = holders.get(id(fill.out), [])
        stands = fill if fill.keeps else last.get(place(fill.out), fill)
        if stands is fill and not fill.keeps and len(others) > 1:  # before it, so that it is the last of them
            settled += [replace(fill, layer=name) for name in others if (name, id(fill.out)) not in told]
        settled.append(stands if stands.layer == fill.layer else replace(stands, layer=fill.layer))
    return settled


def _span(tensor: Tensor) -> tuple[int, int]:
    """The addresses where a tensor begins and ends."""
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (steps + 1) * tensor.element_size()
