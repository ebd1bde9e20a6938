"""Following channels through a traced network, operation by operation, to find which axes carry the same channels.

What is understood: convolutions (plain and depthwise), Linear, batch, instance and one-group norms, whatever acts on
each channel alone, sums, products, concatenation, splitting, slicing, zero channels, global means, flattening.
Anything else (grouped convolutions, channel shuffles, attention) fixes the channels that enter it, and says so.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from hetlib.chain.channels import Group, GroupBuilder, Slots
from hetlib.chain.trace import Call


def coupled_axes(model: nn.Module, graph: fx.Graph) -> tuple[Group, ...]:
    """Group the channels of all tensors of `model` that move together.

    Parameters
    ----------
    model : nn.Module
        The network.
    graph : torch.fx.Graph
        Its trace.

    Returns
    -------
    tuple of Group
        In execution order. Each channel of each axis that the data passes is in exactly one group.
    """
    reader = _Reader(model)
    for node in graph.nodes:
        reader.flows[node] = reader.visit(node)
    return reader.builder.groups()


@dataclass(frozen=True)
class _Flow:
    """The channels on axis 1 of a value: (n, c, h, w), (n, c), or (n, c * unknown number of pixels)."""

    slots: Slots
    layout: Literal["map", "vector", "flat"]


# What is known of a value: its channels; those of several values; why they cannot be followed; that it is no tensor.
_Known = _Flow | list[_Flow] | str | None

_BINARY = re.compile("i?(add|sub|mul|truediv)|div|maximum|minimum")
_CHANNELWISE = re.compile(
    "relu6?|leakyrelu|elu|selu|celu|gelu|silu|mish|tanh|(log|hard)?sigmoid|hardtanh|hardswish|softplus|clamp|abs|exp"
    "|sqrt|pow|square|neg|(log)?softmax|contiguous|clone|detach|float|double|half|to|identity|stochasticdepth"
    "|(alpha|featurealpha|feature)?dropout2?d?|(adaptive)?(max|avg)pool2d|lppool2d|zeropad2d|upsample|interpolate"
)


class _Reader:
    """Follows channels from node to node.

    `flows` says for every node what channels its value has; nodes come in the order of execution, so those of its
    operands are there. An operation with weights ties the channels that come in to the weight's input axis, and puts
    out those of the output axis. An operation that is not understood pins what comes in; behind it nothing is known.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.builder = GroupBuilder()
        self.flows: dict[fx.Node, _Known] = {}
        self.axes: dict[tuple[str, int], Slots] = {}
        self.names: dict[int, list[str]] = {}  # a shared tensor has several
        for name, tensor in model.state_dict(keep_vars=True).items():
            self.names.setdefault(id(tensor), []).append(name)

    def visit(self, node: fx.Node) -> _Known:
        if node.op == "placeholder":
            return "network input"
        if node.op == "get_attr":
            return f"the tensor {node.target} takes part directly"
        if node.op == "output":
            return self.stop(node, "network output")
        call = Call.of(self.model, node)
        inputs = [self.flows[source] for source in node.all_input_nodes]
        if all(known is None for known in inputs) or call.name in ("size", "dim") or node.args[1:] == ("shape",):
            return None
        rule = self.rule(call)
        known = rule(call, inputs) if rule else None
        return self.stop(node, f"{node.name} is not followed") if known is None else known

    def stop(self, node: fx.Node, why: str) -> str:
        """Fix whatever flows into `node`; nothing behind it is known."""
        inputs = [self.flows[source] for source in node.all_input_nodes]
        for known in inputs:
            for flow in known if isinstance(known, list) else [known]:
                if isinstance(flow, _Flow):
                    self.builder.pin(flow.slots, why)
        return next((known for known in inputs if isinstance(known, str)), why)

    def axis(self, tensor: Tensor, axis: int) -> Slots:
        names = self.names.get(id(tensor), [])
        if not names:
            slots = self.builder.block(names, axis, tensor.shape[axis])
            self.builder.pin(slots, "a weight is computed from other tensors")
            return slots
        key = (names[0], axis)
        if key not in self.axes:
            self.axes[key] = self.builder.block(names, axis, tensor.shape[axis])
        return self.axes[key]

    def feed(self, known: _Known, slots: Slots, layouts: Sequence[str], why: str) -> None:
        """Let a value enter the parameter axis `slots`; `why` is the reason should it not fit."""
        # Behind a flatten the axis is longer than the number of channels: each has as many columns in a row as it had
        # pixels, so every slot is repeated for all of them.
        if not isinstance(known, _Flow):
            self.builder.pin(slots, known if isinstance(known, str) else why)
        elif known.layout not in layouts or len(slots) % len(known.slots):
            self.builder.pin(slots, why)
            self.builder.pin(known.slots, why)
        else:
            self.builder.tie(np.repeat(known.slots, len(slots) // len(known.slots)), slots)

    def rule(self, call: Call) -> Callable[[Call, list[_Known]], _Known] | None:
        if isinstance(call.module, nn.Conv2d):
            return self.convolution
        if isinstance(call.module, nn.Linear):
            return self.linear
        if isinstance(call.module, _NormBase | nn.GroupNorm | nn.PReLU):
            return self.scale
        if _CHANNELWISE.fullmatch(call.name):
            return self.channelwise
        if _BINARY.fullmatch(call.name):
            return self.binary
        return self.padded if call.name == "pad" else _MOVES.get(call.name)

    def convolution(self, call: Call, inputs: list[_Known]) -> _Known:
        module: Any = call.module
        out, no_map = self.outputs(module), "what a convolution takes in is no map"
        if module.groups == 1:
            self.feed(inputs[0], self.axis(module.weight, 1), ["map"], no_map)
        elif module.groups == module.in_channels:
            self.feed(inputs[0], out, ["map"], no_map)
        else:
            self.builder.pin(out, "grouped convolution")
            self.stop(call.node, "grouped convolution")
        return _Flow(out, "map")

    def linear(self, call: Call, inputs: list[_Known]) -> _Known:
        module: Any = call.module
        self.feed(inputs[0], self.axis(module.weight, 1), ["flat", "vector"], "what a Linear takes in is no vector")
        return _Flow(self.outputs(module), "vector")

    def outputs(self, module: nn.Conv2d | nn.Linear) -> Slots:
        out = self.axis(module.weight, 0)
        if module.bias is not None:
            self.builder.tie(self.axis(module.bias, 0), out)
        return out

    def scale(self, call: Call, inputs: list[_Known]) -> _Known:
        """A module with one number per channel in each of its tensors."""
        module: Any = call.module
        grouped = getattr(module, "num_groups", 1) not in (1, getattr(module, "num_channels", 1))
        if grouped:
            self.stop(call.node, "normalised in groups")
        elif isinstance(inputs[0], _Flow):
            together = isinstance(module, nn.GroupNorm) and module.num_groups < module.num_channels
            self.builder.act(inputs[0].slots, call.node.name if together else "")
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.dim() == 1 and not (isinstance(module, nn.PReLU) and len(tensor) == 1):
                layouts = [] if grouped else ["map", "vector", "flat"]
                self.feed(inputs[0], self.axis(tensor, 0), layouts, "normalised in groups")
        return inputs[0]

    def channelwise(self, call: Call, inputs: list[_Known]) -> _Known:
        """An operation that treats all channels alike: each by itself, or as a softmax all together."""
        flow = inputs[0]
        if isinstance(flow, _Flow):
            dim = call.given(1, "dim", 1) if call.name.endswith("softmax") else 0
            together = dim is None or dim % (4 if flow.layout == "map" else 2) == 1
            self.builder.act(flow.slots, call.node.name if together else "")
        return flow

    def binary(self, call: Call, inputs: list[_Known]) -> _Known:
        """A sum, product or the like: channel i meets channel i, which makes the two one. Numbers are passed over."""
        first, *others = (known for known in inputs if known is not None)
        for other in others:
            if not isinstance(first, _Flow) or not isinstance(other, _Flow):
                unknown = f"{call.node.name} joins values that are not followed"
                return self.stop(call.node, next((known for known in inputs if isinstance(known, str)), unknown))
            if first.layout != other.layout or len(first.slots) != len(other.slots):
                return self.stop(call.node, f"{call.node.name} joins different numbers of channels")
            self.builder.tie(first.slots, other.slots)
        if isinstance(first, _Flow):
            self.builder.act(first.slots)
        return first

    def padded(self, call: Call, inputs: list[_Known]) -> _Known:
        """Zeros beside the channels (the shortcut without parameters) are channels that belong to no tensor."""
        flow, pads = inputs[0], call.given(1, "pad", ())
        if not isinstance(flow, _Flow) or flow.layout != "map" or not all(isinstance(pad, int) for pad in pads):
            return None
        before, after = (*pads[4:6], 0, 0)[:2]
        zero = call.given(2, "mode", "constant") == "constant" and before >= 0 and after >= 0
        if (before or after) and not zero:
            return None
        zeros = self.builder.block((), 0, before + after)
        return _Flow(np.concatenate([zeros[:before], flow.slots, zeros[before:]]), "map")


def _joined(call: Call, inputs: list[_Known]) -> _Known:
    flows = [known for known in inputs if isinstance(known, _Flow)]
    layouts = {flow.layout for flow in flows}
    # A tensor joined with itself is one input node only, but stands twice among the operands.
    operands: Any = call.given(0, "tensors", ())
    if len(operands) != len(inputs) or len(flows) < len(inputs) or len(layouts) > 1 or "flat" in layouts:
        return None
    return _Flow(np.concatenate([f.slots for f in flows]), flows[0].layout) if call.given(1, "dim", 0) == 1 else None


def _parted(call: Call, inputs: list[_Known]) -> _Known:
    """What chunk and split give: each part has its own slots, in a list from which `_picked` takes one."""
    flow, sizes = inputs[0], call.given(1, "chunks" if call.name == "chunk" else "split_size", None)
    if not isinstance(flow, _Flow) or flow.layout == "flat" or call.given(2, "dim", 0) != 1:
        return None
    count = len(flow.slots)
    if isinstance(sizes, int):
        step = -(-count // sizes) if call.name == "chunk" else sizes
        sizes = [step] * (-(-count // step))
    return [_Flow(part, flow.layout) for part in np.split(flow.slots, np.cumsum(sizes)[:-1])]


def _picked(call: Call, inputs: list[_Known]) -> _Known:
    """Indexing: a number takes one of the parts of a split, slices take channels by the second of them."""
    known, index = inputs[0], call.node.args[1]
    if isinstance(known, list):
        return known[index] if isinstance(index, int) else None
    cuts = index if isinstance(index, tuple) else (index,)
    followed = isinstance(known, _Flow) and known.layout != "flat" and len(inputs) == 1
    if not followed or not all(isinstance(cut, slice) for cut in cuts):
        return None
    return _Flow(known.slots[cuts[1]], known.layout) if len(cuts) > 1 else known  # type: ignore[union-attr, index]


def _averaged(call: Call, inputs: list[_Known]) -> _Known:
    flow, dims = inputs[0], call.given(1, "dim", ())
    if not isinstance(flow, _Flow) or flow.layout != "map" or not isinstance(dims, tuple | list):
        return None
    if {dim % 4 for dim in dims} != {2, 3}:
        return None
    return flow if call.given(2, "keepdim", False) else _Flow(flow.slots, "vector")


def _flattened(call: Call, inputs: list[_Known]) -> _Known:
    flow, start = inputs[0], call.given(1, "start_dim", 0)
    if not isinstance(flow, _Flow) or start != 1:
        return None
    return _Flow(flow.slots, "flat") if flow.layout == "map" else flow


def _viewed(call: Call, inputs: list[_Known]) -> _Known:
    flow, sizes = inputs[0], list(call.node.args[1:])
    sizes = list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    # Two sizes of a batch of maps can only be images x everything else.
    if not isinstance(flow, _Flow) or len(sizes) != 2:
        return None
    return _Flow(flow.slots, "flat") if flow.layout == "map" else flow


def _squeezed(call: Call, inputs: list[_Known]) -> _Known:
    flow = inputs[0]
    return _Flow(flow.slots, "vector") if isinstance(flow, _Flow) and len(call.node.args) == 1 else None


_MOVES: dict[str, Callable[[Call, list[_Known]], _Known]] = {
    **dict.fromkeys(("cat", "concat"), _joined),
    **dict.fromkeys(("chunk", "split"), _parted),
    **dict.fromkeys(("view", "reshape"), _viewed),
    "getitem": _picked,
    "mean": _averaged,
    "flatten": _flattened,
    "squeeze": _squeezed,
}
