"""What is read from a network: its layers in order, and answers to what other code asks of its graph."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from hetlib.chain.channels import Group, GroupBuilder
from hetlib.chain.flow import Flow, Known
from hetlib.chain.follow import followed
from hetlib.chain.origins import Value, origins
from hetlib.chain.residuals import Shortcut
from hetlib.chain.trace import Call


@dataclass(frozen=True)
class Layer:
    """A Conv2d or Linear of a network.

    Attributes
    ----------
    name : str
        Dotted name of the module.
    module : Conv2d or Linear
        The module itself.
    kind : {"conv", "depthwise", "shortcut", "linear"}
        "shortcut" is a convolution (or Linear) on the shorter branch into an addition, whatever it is called.
    stage : int
        Index of the resolution of the layer's output, counted in strides: a layer opens a new stage if it or a pool
        before it is strided (so a bottleneck with its stride on the 3x3 begins in the stage before). The Linear
        layers of a convolutional network are a stage of their own, the last.
    block : int or None
        Index of the innermost residual block around the layer, None outside of any.
    norm : str or None
        Name of the batch norm that takes the layer's output directly.
    """

    name: str
    module: nn.Conv2d | nn.Linear
    kind: Literal["conv", "depthwise", "shortcut", "linear"]
    stage: int
    block: int | None
    norm: str | None


def convolutions(model: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    """HMT's chain: every Conv2d in registration order whose name has no component `downsample`.

    For a ResNet whose shortcuts bear that name this is the main path, for any other network all its convolutions,
    called or not, whatever its graph. Nothing is traced.
    """
    return main_path([(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)])


def main_path(convolutions: list[tuple[str, nn.Conv2d]]) -> list[tuple[str, nn.Conv2d]]:
    """Those of a network's convolutions whose name has no component `downsample`."""
    return [(name, module) for name, module in convolutions if "downsample" not in name.split(".")]


@dataclass(frozen=True, eq=False)
class Chain:
    """What `chain` reads from a network.

    Attributes
    ----------
    model : nn.Module
        The network.
    graph : torch.fx.Graph
        Its trace.
    layers : tuple of Layer
        Every Conv2d and Linear that is called, in execution order; one that is called twice stands at its first call.
    shortcuts : tuple of Shortcut
        In execution order of their additions.
    """

    model: nn.Module = field(repr=False)
    graph: fx.Graph = field(repr=False)
    layers: tuple[Layer, ...]
    shortcuts: tuple[Shortcut, ...]

    def copy(self) -> "Chain":
        """What was read, of a copy of the network; nothing is traced."""
        model = deepcopy(self.model)
        modules: dict[str, Any] = dict(model.named_modules(remove_duplicate=False))
        layers = tuple(replace(layer, module=modules[layer.name]) for layer in self.layers)
        return Chain(model, self.graph, layers, self.shortcuts)

    def convolutions(self) -> tuple[Layer, ...]:
        """HMT's chain, as its released code has it: see the function `convolutions`. Called layers only."""
        layers = {layer.name: layer for layer in self.layers}
        return tuple(layers[name] for name, _ in convolutions(self.model) if name in layers)

    def longest(self) -> tuple[Layer, ...]:
        """Convolutions on the path from input to output that has most of them (HMT's abstract, never released).

        Projection shortcuts are left out; of equally long paths, the one registered first is taken. A convolution that
        is called twice on the path stands at its first call.
        """
        layers = {layer.name: layer for layer in self.layers if layer.kind in ("conv", "depthwise")}
        order = {name: number for number, (name, _) in enumerate(self.model.named_modules())}
        rank = lambda path: (len(path), [-order[name] for name in path])
        paths: dict[fx.Node, tuple[str, ...]] = {}
        for node in self.graph.nodes:
            path = max((paths[source] for source in node.all_input_nodes), key=rank, default=())
            paths[node] = (*path, str(node.target)) if node.op == "call_module" and node.target in layers else path
        return tuple(layers[name] for name in dict.fromkeys(paths[self.graph.output_node()]))

    @cached_property
    def axes(self) -> tuple[Group, ...]:
        """Groups of channel axes that must be permuted together, fixed ones included."""
        return self._followed[0].groups()

    @cached_property
    def _followed(self) -> tuple[GroupBuilder, dict[fx.Node, Known]]:
        return followed(self.model, self.graph)

    def channel_axis(self, node: fx.Node) -> int | None:
        """The axis, counted from the last, on which a node's value has its channels; None if that is not known."""
        return getattr(self._followed[1].get(node), "axis", None)

    @cached_property
    def channel_numbers(self) -> dict[tuple[str, int], Tensor]:
        """For every tensor axis, by name and axis, the number of the network's channel at each of its places.

        Channels are numbered group by group, in the order of `axes`. It is -1 where the data does not pass, and where
        a channel has several places on the axis. Axes that differ from filter to filter, in grouped convolutions, are
        left out.
        """
        shapes = {name: tensor.shape for name, tensor in self.model.state_dict().items() if isinstance(tensor, Tensor)}
        numbers: dict[tuple[str, int], Tensor] = {}
        first = 0
        for group in self.axes:
            for member in group.members:
                if member.index.shape[1] == 1 and member.filters is None:
                    unknown = torch.full((shapes[member.name][member.axis],), -1)
                    own = numbers.setdefault((member.name, member.axis), unknown)
                    own[member.index[:, 0]] = torch.arange(group.size) + first
            first += group.size
        return numbers

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """The nodes of the graph by name."""
        return {node.name: node for node in self.graph.nodes}

    def shortcut_of(self, block: int | None) -> Shortcut | None:
        """The shortcut of a residual block, by the block's index; None for None, which is outside of any."""
        return None if block is None else self.shortcuts[block]

    def modules_on(self, shortcut: Shortcut) -> tuple[str, ...]:
        """Names of the modules on a "plain" shortcut, from its end to its start; none on any other shortcut."""
        if shortcut.kind != "plain":
            return ()
        for here in self.nodes[shortcut.end].all_input_nodes:
            names: dict[str, None] = {}
            while here.name != shortcut.start and len(here.all_input_nodes) == 1:
                # By value: the keys of modules that are called again have the number of the call behind their name.
                names[next(reversed(here.meta.get("nn_module_stack", {}).values()), ("",))[0]] = None
                here = here.all_input_nodes[0]
            if not any([*self.model.get_submodule(name).parameters()] for name in names):
                return tuple(names)
        return ()

    def flow_of(self, node: fx.Node) -> Flow | None:
        """Where the channels of a node's value stand; None if they are not followed."""
        known = self._followed[1][node]
        return known if isinstance(known, Flow) else None

    def joins_channels(self, node: fx.Node) -> bool:
        """Whether an operation along one axis, such as a softmax, takes more than one channel together."""
        flow = self.flow_of(node.all_input_nodes[0])
        if flow is None:
            return True
        dim = flow.from_end(Call.of(self.model, node).given(1, "dim", None))
        return len(flow.slots) > 1 and dim in (None, flow.axis)

    def block_ends(self) -> dict[str, str]:
        """For every layer that ends a residual block, the node of the graph that adds the shortcut to it.

        Where the shortcut is added to some of a layer's channels alone, the layer ends no block.
        """
        counts = {layer.name: len(layer.module.weight) for layer in self.layers if layer.kind != "shortcut"}
        ends: dict[str, str] = {}
        for shortcut in self.shortcuts:
            start = self._origin(self.nodes[shortcut.start])
            operands = self.nodes[shortcut.end].all_input_nodes
            sum_of = self.flow_of(self.nodes[shortcut.end])
            count = None if sum_of is None else sum_of.slots.size
            last = [origin for node in operands if (origin := self._origin(node)) in counts]
            ends |= {name: shortcut.end for name in last if name != start and count in (None, counts[name])}
        return ends

    @cached_property
    def values(self) -> dict[fx.Node, Value]:
        """For every node of the graph whose channels come from layers, from which they come."""
        outputs = {layer.name: len(layer.module.weight) for layer in self.layers}
        return origins(self.model, self._followed[1], outputs, self.shortcuts)

    def inputs(self) -> list[Value | None]:
        """For every layer what it takes in at its first call; None for what comes from no layer.

        Raises
        ------
        ValueError
            If channels come in that could not be followed; the layer and the reason are named.
        """
        first = {str(node.target): node for node in reversed(self.graph.nodes) if self._is_layer(node)}
        found: list[Value | None] = []
        for layer in self.layers:
            node = first[layer.name].all_input_nodes[0]
            known = self.values.get(node)
            why = getattr(self._followed[1][node], "why", "network input")
            if known is None and why != "network input":
                raise ValueError(f"{layer.name} takes in channels that are not followed: {why}")
            found.append(known)
        return found

    def feeds(self) -> list[tuple[int, ...]]:
        """For every layer, the numbers of the layers whose neurons it takes in; none for the network's input.

        A sum with a bare shortcut has the neurons of the block's last layer, as in CLAFusion's released code; a sum
        with a projection has those of both.

        Raises
        ------
        ValueError
            As `inputs` does, or if a layer takes in channels of several layers side by side; it is named.
        """
        found = self.inputs()
        for layer, value in zip(self.layers, found, strict=True):
            if value is not None and value.layers is None:
                raise ValueError(f"{layer.name} takes in channels of several layers side by side: see inputs")
        return [() if value is None else value.layers or () for value in found]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {layer.name: number for number, layer in enumerate(self.layers)}

    def _is_layer(self, node: fx.Node) -> bool:
        return node.op == "call_module" and str(node.target) in self._numbers

    def _origin(self, node: fx.Node) -> str:
        """The layer, or else the addition or input, whose values come to a node unmixed."""
        while not self._is_layer(node) and len(node.all_input_nodes) == 1:
            node = node.all_input_nodes[0]
        return str(node.target) if self._is_layer(node) else node.name
