"""Which layers put out the channels of each value of a network, and in which order the value has them."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
from torch import fx, nn

from hetlib.chain.flow import JOINS, Flow, Known
from hetlib.chain.residuals import Shortcut
from hetlib.chain.trace import Call


@dataclass(frozen=True, eq=False)
class Value:
    """The channels of a value, by the layers that put them out.

    Attributes
    ----------
    origins : tuple of arrays of shape (2, channels)
        Above the number of the layer that puts a channel out, or -1 for zeros that belong to none; below the channel's
        number there. There are several where a sum has the neurons of several layers.
    layers : tuple of int or None
        For each of these the number of the layer, if all of them are all channels of one layer in their order.
    spread : {"", "each", "whole"}
        How channels repeat on the last axis behind a flatten, see `hetlib.chain.flow.Flow`.
    """

    origins: tuple[np.ndarray, ...]
    layers: tuple[int, ...] | None
    spread: str = ""


def origins(
    model: nn.Module, known_of: Mapping[fx.Node, Known], outputs: Mapping[str, int], shortcuts: Sequence[Shortcut]
) -> dict[fx.Node, Value]:
    """The values of a graph whose channels come from layers.

    A sum with a bare shortcut has the neurons of the block's last layer, as in CLAFusion's released code; a sum with a
    projection has those of both.

    Parameters
    ----------
    model : nn.Module
        The network.
    known_of : mapping of Node to Known
        What `hetlib.chain.follow.followed` knows of each node's value, in order of execution.
    outputs : mapping of str to int
        How many channels each layer puts out, by name, in order.
    shortcuts : sequence of Shortcut
    """
    numbers = {name: number for number, name in enumerate(outputs)}
    starts = {shortcut.end: shortcut.start for shortcut in shortcuts if shortcut.kind != "projection"}
    flows: dict[fx.Node, Flow] = {}
    found: dict[fx.Node, tuple[np.ndarray, ...]] = {}
    for node, known in known_of.items():
        call = Call.of(model, node)
        above = [source for source in node.all_input_nodes if source in found]
        if isinstance(known, list) and above:  # the parts of a split: by their slots one is told from another
            flows[node], found[node] = flows[above[0]], found[above[0]]
        elif isinstance(known, Flow):
            flows[node] = known
            if call.module is not None and str(node.target) in numbers:
                found[node] = (_all_of(numbers[str(node.target)], outputs[str(node.target)]),)
            elif above:
                found[node] = _carried(call, above, found, flows, starts, numbers)
    sizes = [*outputs.values()]
    return {node: _value(arrays, flows[node].spread, sizes) for node, arrays in found.items()}


def _is_shortcut(node: fx.Node, start: str, layers: Container[str]) -> bool:
    """Whether a branch goes up to the node called `start` without meeting a layer."""
    while node.name != start:
        if (node.op == "call_module" and str(node.target) in layers) or len(node.all_input_nodes) != 1:
            return False
        node = node.all_input_nodes[0]
    return True


def _all_of(layer: int, count: int) -> np.ndarray:
    """The origins of a layer's output."""
    return np.stack([np.full(count, layer), np.arange(count)])


def _carried(
    call: Call,
    above: list[fx.Node],
    found: Mapping[fx.Node, tuple[np.ndarray, ...]],
    flows: Mapping[fx.Node, Flow],
    starts: Mapping[str, str],
    layers: Container[str],
) -> tuple[np.ndarray, ...]:
    """The origins of what an operation makes of one or several values."""
    made, first = flows[call.node], above[0]
    if len(above) == 1 and call.name not in JOINS and any(node in flows for node in call.node.all_input_nodes[1:]):
        return found[first]  # a scale of the model's meets the value, channel by channel
    if len(above) == 1:
        return _taken(found[first], flows[first].slots, made.slots)
    if call.name in JOINS and made.slots.size > flows[first].slots.size:
        operands: Any = call.given(0, "tensors", ())
        none = {operand: (np.full((2, flows[operand].slots.size), -1),) for operand in operands}
        return _side_by_side([found.get(operand, none[operand]) for operand in operands])
    above = [source for source in above if flows[source].slots.size == made.slots.size]  # not the weights of places
    start = starts.get(call.node.name)
    if start is not None:
        above = [source for source in above if not _is_shortcut(source, start, layers)] or above[:1]
    every = [array for source in above for array in found[source]]
    return tuple({array.tobytes(): array for array in every}.values())


def _taken(arrays: tuple[np.ndarray, ...], given: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, ...]:
    """The origins of channels that stand elsewhere now, by their slots; zeros beside them have none."""
    given, wanted = given.ravel(), wanted.ravel()
    if np.array_equal(given, wanted):
        return arrays
    place = {slot: at for at, slot in enumerate(given.tolist())}
    order = np.array([place.get(slot, -1) for slot in wanted.tolist()])
    return tuple(np.where(order < 0, -1, array[:, order]) for array in arrays)


def _side_by_side(operands: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Concatenated channels; where operands have several origins, so many that each is averaged as it is alone."""
    count = lcm(*map(len, operands))
    return tuple(np.concatenate([arrays[i % len(arrays)] for arrays in operands], axis=1) for i in range(count))


def _value(arrays: tuple[np.ndarray, ...], spread: str, sizes: list[int]) -> Value:
    heads = [int(array[0, 0]) if array.size else -1 for array in arrays]
    whole = all(
        head >= 0 and np.array_equal(array, _all_of(head, sizes[head]))
        for head, array in zip(heads, arrays, strict=True)
    )
    return Value(arrays, tuple(heads) if whole else None, spread)
