"""Where two networks are compared: the last features of each resolution, read from the networks' graphs."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from hetlib.chain import Call, Chain
from hetlib.errors import known, positive
from hetlib.transfer import Context, Pair


@dataclass(frozen=True)
class ByResolution:
    """A match of student and teacher: tap with tap, from the highest resolution to the lowest; see `taps`.

    Attributes
    ----------
    count : int
        How many taps; the paper has five.
    """

    count: int = 5

    def __post_init__(self):
        positive("count, how many taps,", self.count)

    def __call__(self, context: Context) -> list[Pair]:
        """One pair for each tap; ValueError if the networks have different numbers of them, which names both."""
        here, there = (taps(found, self.count) for found in (context.target_chain, context.source_chain))
        if len(here) != len(there):
            names = [type(network).__name__ for network in (context.target, context.source)]
            raise ValueError(
                f"the student {names[0]} has {len(here)} taps ({', '.join(here)}), the teacher {names[1]} has "
                f"{len(there)} ({', '.join(there)}): take ByResolution({min(len(here), len(there))}), or name the pairs"
            )
        return [Pair(target, source) for target, source in zip(here, there, strict=True)]


def taps(found: Chain, count: int = 5) -> tuple[str, ...]:
    """The layers whose outputs are compared: of each resolution the last residual block's end, or the last convolution.

    Of more than `count` resolutions the lowest are taken. Where there are fewer, the network's first convolution is a
    tap too. In a ResNet of torchvision that gives conv1 and the ends of the four stages, as in the paper.

    Parameters
    ----------
    found : Chain
        A network as `hetlib.chain.chain` reads it.
    count : int
        At most so many.

    Returns
    -------
    tuple of str
        Names of layers in order of execution. Of a layer that ends a residual block the block's sum is meant, before
        its ReLU; of any other its output, before batch norm and ReLU.

    Raises
    ------
    ValueError
        If the network has no convolution, or `count` is below 1.
    """
    convolutions = [layer for layer in found.layers if layer.kind in ("conv", "depthwise")]
    if count < 1 or not convolutions:
        raise ValueError(f"{count} taps cannot be taken from {len(convolutions)} convolutions")
    block_ends = found.block_ends()
    # The stride of a bottleneck is in its middle: its first convolution still has the resolution of the stage before,
    # of which the last block's sum is what everything passes through.
    ends = {layer.stage: layer.name for layer in convolutions}
    ends |= {layer.stage: layer.name for layer in convolutions if layer.name in block_ends}
    names = dict.fromkeys(ends[stage] for stage in sorted(ends))
    if len(names) < count:
        names = {convolutions[0].name: None, **names}
    return tuple(names)[-count:]


def tapped(found: Chain, outputs: Sequence[str] = (), inputs: Sequence[str] = ()) -> fx.GraphModule:
    """A network that also gives what its layers put out or take in; its modules are those of the network that was read.

    Parameters
    ----------
    found : Chain
        The network. What its forward decides by its mode is as it was when the chain was read.
    outputs : sequence of str
        Layers whose output is given; see `taps` for those that end a residual block.
    inputs : sequence of str
        Layers whose input is given.

    Returns
    -------
    GraphModule
        Images to (list of Tensor, logits): first the outputs, then the inputs.

    Raises
    ------
    ValueError
        If there is no such layer; the nearest ones are named.
    """
    calls = {str(node.target): node for node in reversed(found.graph.nodes) if node.op == "call_module"}
    layers = {layer.name for layer in found.layers}
    for name in (*outputs, *inputs):
        known(f"layer of {type(found.model).__name__}", name, sorted(layers))
    ends = found.block_ends()
    wanted = [found.nodes[ends[name]] if name in ends else calls[name] for name in outputs]
    wanted += [calls[name].all_input_nodes[0] for name in inputs]
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    logits: Any = graph.graph_copy(found.graph, copies)
    given = [_kept(graph, copies[node], found.model) for node in wanted]
    graph.output((given, logits))
    return fx.GraphModule(found.model, graph)


def _kept(graph: fx.Graph, node: fx.Node, model: nn.Module) -> fx.Node:
    """A node's value as it is at first: a copy of it where something that takes it in may write over it."""
    if not any(_overwrites(Call.of(model, user)) for user in node.users):
        return node
    with graph.inserting_after(node):
        return graph.call_method("clone", (node,))


def _overwrites(call: Call) -> bool:
    if call.module is not None:
        return bool(getattr(call.module, "inplace", False))
    given = [*call.node.args, call.node.kwargs.get("inplace")]
    in_place = call.node.target in (operator.iadd, operator.isub, operator.imul, operator.itruediv)
    return in_place or str(call.node.target).endswith("_") or any(value is True for value in given)
