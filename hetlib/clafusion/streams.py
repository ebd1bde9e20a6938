"""Which layers' neurons must move by one plan, and which of a layer's neurons may move onto which."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from hetlib.chain import Call, Chain
from hetlib.chain.flow import JOINS


class Block(NamedTuple):
    """Neurons of a layer that move among one another.

    Attributes
    ----------
    key : (int, int)
        Equal for blocks, of whatever layers, that move by one plan.
    rows, columns : Tensor of shape (neurons, places), int64
        Which neurons they are in the source and in the target. Neurons that must move together, such as the two halves
        of a gated layer, have one row with several places.
    """

    key: tuple[int, int]
    rows: Tensor
    columns: Tensor


def streams(source: Chain, target: Chain, tie: bool) -> list[list[Block]]:
    """For every layer, the blocks of its neurons: one for each group of channels (`hetlib.chain.Group`) that it writes.

    Tied, all layers that write a group share its plan. Untied, each layer has plans of its own, but for layers that
    `_joined` names in one of the two networks, without which a plan of its own would change what the other computes.

    Raises
    ------
    ValueError
        If a layer's neurons fall into other groups in the target than in the source; it is named.
    """
    ours, theirs = _groups(source), _groups(target)
    groups: dict[tuple[int, int], tuple[int, int]] = {}  # of each block, by layer and place: the source's, the target's
    for number, (rows, columns) in enumerate(zip(ours, theirs, strict=True)):
        shapes = [[index.shape[1] for index in side.values()] for side in (rows, columns)]
        if shapes[0] != shapes[1]:
            counts = f"{len(rows)} groups of channels in the source and {len(columns)} in the target"
            raise ValueError(f"{source.layers[number].name} has {counts}: its neurons cannot be matched")
        groups |= {(number, place): pair for place, pair in enumerate(zip(rows, columns, strict=True))}
    keys = {key: key for key in groups}
    for side, found in enumerate((source, target)):
        for layers in [{*range(len(ours))}] if tie else _joined(found):
            _share_(keys, {key: pair[side] for key, pair in groups.items() if key[0] in layers})
    blocks: list[list[Block]] = [[] for _ in ours]
    for (number, place), (here, there) in groups.items():
        blocks[number].append(Block(keys[number, place], ours[number][here], theirs[number][there]))
    return blocks


def _share_(keys: dict[tuple[int, int], tuple[int, int]], group_of: dict[tuple[int, int], int]) -> None:
    """Give the blocks of each group one key; blocks that had the same keep it together."""
    for group in set(group_of.values()):
        alike = {keys[block] for block, own in group_of.items() if own == group}
        keys |= {block: min(alike) for block, key in keys.items() if key in alike}


def _groups(found: Chain) -> list[dict[int, Tensor]]:
    """For every layer the groups of channels that it writes, by number, with the channels, in the order on its axis."""
    numbers = {f"{layer.name}.weight": number for number, layer in enumerate(found.layers)}
    writes: list[dict[int, Tensor]] = [{} for _ in numbers]
    for group, each in enumerate(found.axes):
        for member in each.writes:
            if member.name in numbers:
                writes[numbers[member.name]][group] = member.index
    whole = [torch.arange(len(layer.module.weight)).unsqueeze(1) for layer in found.layers]
    return [
        dict(sorted(groups.items(), key=lambda item: int(item[1][0, 0]))) or {-1 - number: whole[number]}
        for number, groups in enumerate(writes)  # a weight that is computed is in no group
    ]


def _joined(found: Chain) -> list[set[int]]:
    """Sets of layers whose outputs meet channel by channel: at a gate, a sum of equal branches, a tensor used twice.

    A sum with a shortcut joins none: there, layers move by plans of their own, as in the released code. A depthwise
    layer is joined with the layer that feeds it, or with all that do where their channels lie side by side.
    """
    layers = {layer.name: number for number, layer in enumerate(found.layers)}
    ends = {shortcut.end for shortcut in found.shortcuts}
    carried: dict[fx.Node, set[int]] = {}  # the layers whose channels a value has
    met: dict[tuple[str, int], list[set[int]]] = {}  # by side of a tensor, the same at each of its uses
    joined = _depthwise(found)
    for node in found.graph.nodes:
        call = Call.of(found.model, node)
        sources = [carried[above] for above in node.all_input_nodes]
        come = set().union(*sources)
        number = layers.get(str(node.target)) if call.module else None
        carried[node] = {number} if number is not None else set() if call.name in ("size", "dim", "getattr") else come
        for side, tensor, channels in _sides(found, call, number, come):
            met.setdefault((side, id(tensor)), []).append(channels)
        if sum(map(bool, sources)) > 1 and node.op != "output" and node.name not in ends and call.name not in JOINS:
            joined.append(come)
    joined += [set().union(*channels) for channels in met.values() if len(channels) > 1]
    return [channels for channels in joined if len(channels) > 1]


def _depthwise(found: Chain) -> list[set[int]]:
    """Each depthwise layer with those whose channels it has."""
    joined = []
    for number, (layer, value) in enumerate(zip(found.layers, found.inputs(), strict=True)):
        if is_depthwise(layer.module) and value is not None:
            joined.append({number, *value.origins[0][0].tolist()} - {-1})
    return joined


def is_depthwise(module: Any) -> bool:
    """Whether a layer treats every channel alone."""
    return getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1


def _sides(found: Chain, call: Call, number: int | None, come: set[int]) -> list[tuple[str, Any, set[int]]]:
    """What a module's tensors have channels of: the inputs of a layer's weight, or the outputs, as all others have."""
    module: Any = call.module
    if module is None:
        return []
    if number is None:
        held = (*module.parameters(), *module.buffers())
        return [("out", tensor, come) for tensor in held if tensor.numel() > 1]
    if is_depthwise(module):
        return [("out", tensor, come | {number}) for tensor in module.parameters()]
    return [("in", module.weight, come), *(("out", tensor, {number}) for tensor in module.parameters())]
