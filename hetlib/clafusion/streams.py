"""Which layers' neurons must move by one plan."""

from collections import Counter
from typing import Any

from torch import fx

from hetlib.chain import Call, Chain


def streams(source: Chain, target: Chain, tie: bool) -> list[int]:
    """For every layer, a number that it shares with those whose outputs move by the same plan.

    Tied, that is the number of the group of channels that the source's layer writes. Untied, each layer has its own,
    but for a depthwise one, whose channels are those of the layer that feeds it, and for layers that `_joined` names in
    one of the two networks, without which a plan of its own would change what the other computes.
    """
    numbers = _tied(source) if tie else _untied(source)
    for joined in (*_joined(source), *_joined(target)):
        alike = {numbers[i] for i in joined}
        numbers = [min(alike) if number in alike else number for number in numbers]
    return numbers


def _tied(found: Chain) -> list[int]:
    group = {member.name: i for i, group in enumerate(found.axes) for member in group.writes}
    names = [f"{layer.name}.weight" for layer in found.layers]
    counts = Counter(member.name for group in found.axes for member in group.writes)
    if split := [name for name in names if counts[name] != 1]:
        raise ValueError(f"the channels of {', '.join(split)} belong to different streams: they cannot be tied")
    return [group[name] for name in names]


def _untied(found: Chain) -> list[int]:
    feeds, numbers = found.feeds(), list(range(len(found.layers)))
    for i, layer in enumerate(found.layers):
        if layer.kind == "depthwise":  # its channels are those that come in
            if not feeds[i]:
                raise ValueError(f"{layer.name} is depthwise on the network's input, whose channels do not move")
            numbers[i] = numbers[feeds[i][0]]
    return numbers


def _joined(found: Chain) -> list[set[int]]:
    """Sets of layers whose outputs meet channel by channel: at a gate, a sum of equal branches, a tensor used twice.

    A sum with a shortcut joins none: there, layers move by plans of their own, as in the released code.
    """
    layers = {layer.name: number for number, layer in enumerate(found.layers)}
    ends = {shortcut.end for shortcut in found.shortcuts}
    carried: dict[fx.Node, set[int]] = {}  # the layers whose channels a value has
    met: dict[tuple[str, int], list[set[int]]] = {}  # by side of a tensor, the same at each of its uses
    joined: list[set[int]] = []
    for node in found.graph.nodes:
        call = Call.of(found.model, node)
        sources = [carried[above] for above in node.all_input_nodes]
        come = set().union(*sources)
        number = layers.get(str(node.target)) if call.module else None
        carried[node] = {number} if number is not None else set() if call.name in ("size", "dim", "getattr") else come
        for side, tensor, channels in _sides(found, call, number, come):
            met.setdefault((side, id(tensor)), []).append(channels)
        if sum(map(bool, sources)) > 1 and node.op != "output" and node.name not in ends:
            joined.append(come)
    joined += [set().union(*channels) for channels in met.values() if len(channels) > 1]
    return [channels for channels in joined if len(channels) > 1]


def _sides(found: Chain, call: Call, number: int | None, come: set[int]) -> list[tuple[str, Any, set[int]]]:
    """What a module's tensors have channels of: the inputs of a layer's weight, or the outputs, as all others have."""
    module: Any = call.module
    if module is None:
        return []
    if number is None:
        held = (*module.parameters(), *module.buffers())
        return [("out", tensor, come) for tensor in held if tensor.numel() > 1]
    if found.layers[number].kind == "depthwise":
        return [("out", tensor, come | {number}) for tensor in module.parameters()]
    return [("in", module.weight, come), *(("out", tensor, {number}) for tensor in module.parameters())]
