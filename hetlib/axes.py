"""Which channel axes of a network's tensors move together.

Every channel of every parameter axis gets a number, a slot. Following the data through the graph ties slots: what a
convolution puts out is what the next one takes in, an addition ties its two operands channel by channel, a concatenation
lays them side by side. Connected slots are one channel of the network; channels that appear at the same places of the
same tensors are interchangeable and form a `Group`. (Git Re-Basin types such a specification by hand; here it is read.)
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

Slots = np.ndarray


@dataclass(frozen=True, eq=False)
class Member:
    """One tensor axis that carries the channels of a group.

    Attributes
    ----------
    name : str
        Name of the parameter or buffer in the state dict.
    axis : int
        The axis that carries the channels.
    index : Tensor, int64, shape (size, repeat)
        Where channel j of the group stands on that axis. `repeat` is 1 except where a channel has several places: h*w
        columns after a flatten, say.
    """

    name: str
    axis: int
    index: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that can be permuted among themselves, at all their places at once, without changing the function.

    Attributes
    ----------
    size : int
        How many channels.
    members : tuple of Member
        All the places, in execution order.
    fixed : str or None
        Why these channels must stay where they are (the network's input, its output, an operation that is not
        followed), or None if they may move.
    """

    size: int
    members: tuple[Member, ...]
    fixed: str | None = None

    def permute_(self, state: MutableMapping[str, Tensor], permutation: Sequence[int] | Tensor) -> None:
        """Reorder this group's channels everywhere: new channel j is old channel `permutation[j]`.

        Parameters
        ----------
        state : dict of str to Tensor
            A state dict. Its entries are replaced; the tensors that stood there keep their values, so that the model
            the state came from is untouched until it loads the state.
        permutation : sequence of int, length `size`
            A rearrangement of 0 .. size-1.

        Raises
        ------
        ValueError
            If the group is fixed, or `permutation` is not a permutation of its channels.
        """
        if self.fixed:
            raise ValueError(f"the channels of {self.members[0].name} are fixed: {self.fixed}")
        order = torch.as_tensor(permutation)
        if sorted(order.tolist()) != list(range(self.size)):
            raise ValueError(f"expected a permutation of 0 .. {self.size - 1}, got {order.tolist()}")
        for member in self.members:
            old = state[member.name]
            to, source = (index.flatten().to(old.device) for index in (member.index, member.index[order.cpu()]))
            state[member.name] = old.index_copy(member.axis, to, old.index_select(member.axis, source))


def coupled_axes(model: nn.Module, graph: fx.Graph) -> tuple[Group, ...]:
    """Group the channels of all tensors of `model` that move together.

    Parameters
    ----------
    model : nn.Module
        The network.
    graph : torch.fx.Graph
        Its trace. Where nodes hold `meta["value"]` (shapes), computed arguments are looked up there.

    Returns
    -------
    tuple of Group
        In execution order. Each slot of each axis that was reached is in exactly one group.
    """
    reader = _Reader(model)
    for node in graph.nodes:
        reader.flows[node] = reader.visit(node)
    return reader.ledger.groups()


class _Ledger:
    """Numbers the channels of tensor axes and keeps what ties and what pins them."""

    def __init__(self) -> None:
        self.blocks: list[tuple[tuple[str, ...], int]] = []  # names of the tensor (none for padding), axis
        self.starts: list[int] = [0]
        self.ties: list[tuple[Slots, Slots]] = []
        self.pinned: dict[int, str] = {}

    def block(self, names: tuple[str, ...], axis: int, size: int) -> Slots:
        self.blocks.append((names, axis))
        self.starts.append(self.starts[-1] + size)
        return np.arange(self.starts[-2], self.starts[-1])

    def tie(self, one: Slots, other: Slots) -> None:
        self.ties.append((one, other))

    def pin(self, slots: Slots, why: str) -> None:
        for slot in slots.tolist():
            self.pinned.setdefault(slot, why)

    def groups(self) -> tuple[Group, ...]:
        count = self.starts[-1]
        rows, columns = (
            (np.concatenate([np.empty(0, int), *side]) for side in zip(*self.ties, strict=True))
            if self.ties
            else (np.empty(0, int),) * 2
        )
        ties = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
        label = connected_components(ties, directed=False)[1]
        order = np.argsort(label, kind="stable")
        block_of = np.repeat(np.arange(len(self.blocks)), np.diff(self.starts))
        alike: dict[tuple[bytes, str | None], list[Slots]] = {}
        for channel in np.split(order, np.cumsum(np.bincount(label))[:-1]):
            why = next((self.pinned[slot] for slot in channel.tolist() if slot in self.pinned), None)
            alike.setdefault((block_of[channel].tobytes(), why), []).append(channel)
        found = (self._group(np.stack(channels), block_of, why) for (_, why), channels in alike.items())
        return tuple(group for group in found if group.members)

    def _group(self, channels: Slots, block_of: Slots, why: str | None) -> Group:
        members = []
        for block in np.unique(block_of[channels[0]]):
            names, axis = self.blocks[block]
            places = channels[:, block_of[channels[0]] == block] - self.starts[block]
            members += [Member(name, axis, torch.from_numpy(places)) for name in names]
        return Group(len(channels), tuple(members), why)


@dataclass(frozen=True)
class _Flow:
    """The channels on axis 1 of a value: (n, c, h, w), (n, c), or (n, c * unknown number of pixels)."""

    slots: Slots
    layout: Literal["map", "vector", "flat"]


# What is known of a value: its channels; several values; why its channels cannot be followed; or that it is no tensor.
_Known = _Flow | list[_Flow] | str | None

_BINARY = {"add", "iadd", "sub", "isub", "mul", "imul", "div", "truediv", "itruediv", "maximum", "minimum"}
_CHANNELWISE = {
    *[
        "relu",
        "relu6",
        "leakyrelu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "sigmoid",
        "tanh",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "softplus",
    ],
    *[
        "softmax",
        "logsoftmax",
        "clamp",
        "abs",
        "exp",
        "sqrt",
        "square",
        "neg",
        "contiguous",
        "clone",
        "detach",
        "float",
        "double",
        "half",
        "to",
    ],
    *["identity", "dropout", "dropout2d", "alphadropout", "featuredropout", "featurealphadropout", "stochasticdepth"],
    *[
        "maxpool2d",
        "avgpool2d",
        "lppool2d",
        "adaptiveavgpool2d",
        "adaptivemaxpool2d",
        "upsample",
        "interpolate",
        "zeropad2d",
    ],
}
_SPATIAL = {2, 3, -1, -2}


class _Reader:
    """Follows channels from node to node."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.ledger = _Ledger()
        self.flows: dict[fx.Node, _Known] = {}
        self.axes: dict[tuple[int, int], Slots] = {}
        self.names: dict[int, list[str]] = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            self.names.setdefault(id(tensor), []).append(name)

    def visit(self, node: fx.Node) -> _Known:
        if node.op == "placeholder":
            return "network input"
        if node.op == "get_attr":
            return f"the tensor {node.target} takes part directly"
        if node.op == "output":
            return self.stop(node, "network output")
        inputs = [self.flows[source] for source in node.all_input_nodes]
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
            name, rule = _plain(type(module).__name__), self._module_rule(module)
        else:
            module = None
            name = _plain(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", ""))
            rule = None
        if all(known is None for known in inputs) or name in {"size", "dim", "getattr"}:
            return None
        if rule is not None and len(inputs) == 1:
            return rule(module, inputs[0])
        if name in _BINARY:
            return self.binary(node, inputs)
        if name in _CHANNELWISE and inputs[0] is not None:
            return inputs[0]
        reshaped = self.reshaped(node, name, module)
        return self.stop(node, f"{node.name} is not followed") if reshaped is None else reshaped

    def stop(self, node: fx.Node, why: str) -> str:
        """Pin whatever flows into `node`; nothing behind it is known."""
        for source in node.all_input_nodes:
            known = self.flows[source]
            for flow in known if isinstance(known, list) else [known]:
                if isinstance(flow, _Flow):
                    self.ledger.pin(flow.slots, why)
        return next((known for known in map(self.flows.get, node.all_input_nodes) if isinstance(known, str)), why)

    def axis(self, tensor: Tensor, axis: int) -> Slots:
        key = (id(tensor), axis)
        if key not in self.axes:
            self.axes[key] = self.ledger.block(tuple(self.names[id(tensor)]), axis, tensor.shape[axis])
        return self.axes[key]

    def feed(self, known: _Known, slots: Slots, layouts: tuple[str, ...], why: str) -> None:
        """Let a value enter the parameter axis `slots`, `why` being the reason if it does not fit."""
        if not isinstance(known, _Flow):
            self.ledger.pin(slots, known if isinstance(known, str) else why)
        elif known.layout not in layouts or len(slots) % len(known.slots):
            self.ledger.pin(slots, why)
            self.ledger.pin(known.slots, why)
        else:
            self.ledger.tie(np.repeat(known.slots, len(slots) // len(known.slots)), slots)

    def _module_rule(self, module: nn.Module) -> Callable[[Any, _Known], _Known] | None:
        rules: Mapping[Any, Callable[[Any, _Known], _Known]] = {
            nn.Conv2d: self.convolution,
            nn.Linear: self.linear,
            _NormBase: self.scale,
            nn.GroupNorm: self.scale,
            nn.PReLU: self.scale,
        }
        return next((rule for kind, rule in rules.items() if isinstance(module, kind)), None)

    def convolution(self, module: nn.Conv2d, known: _Known) -> _Known:
        out = self.outputs(module)
        if module.groups == 1:
            self.feed(known, self.axis(module.weight, 1), ("map",), "a convolution of something that is no map")
        elif module.groups == module.in_channels:
            self.feed(known, out, ("map",), "a convolution of something that is no map")
        else:
            why = f"{self.names[id(module.weight)][0]} is a grouped convolution"
            self.feed(known, self.ledger.block((), 0, module.in_channels), (), why)
            self.ledger.pin(out, why)
        return _Flow(out, "map")

    def linear(self, module: nn.Linear, known: _Known) -> _Known:
        why = f"{self.names[id(module.weight)][0]} does not take in channels side by side"
        self.feed(known, self.axis(module.weight, 1), ("flat", "vector"), why)
        return _Flow(self.outputs(module), "vector")

    def outputs(self, module: nn.Conv2d | nn.Linear) -> Slots:
        out = self.axis(module.weight, 0)
        if module.bias is not None:
            self.ledger.tie(self.axis(module.bias, 0), out)
        return out

    def scale(self, module: nn.Module, known: _Known) -> _Known:
        """A module with one number per channel in each of its tensors."""
        groups = getattr(module, "num_groups", 1)
        layouts = ("map", "vector", "flat") if groups in (1, getattr(module, "num_channels", 1)) else ()
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.dim() == 1 and not (isinstance(module, nn.PReLU) and len(tensor) == 1):
                self.feed(known, self.axis(tensor, 0), layouts, f"{self.names[id(tensor)][0]} is normalised in groups")
        return known

    def binary(self, node: fx.Node, inputs: Sequence[_Known]) -> _Known:
        operands = [known for known in inputs if known is not None]
        first = operands[0]
        same = [
            isinstance(k, _Flow)
            and isinstance(first, _Flow)
            and k.layout == first.layout
            and len(k.slots) == len(first.slots)
            for k in operands
        ]
        if not all(same):
            return self.stop(node, f"{node.name} joins values whose channels do not correspond")
        for other in operands[1:]:
            self.ledger.tie(first.slots, other.slots)  # type: ignore[union-attr]
        return first
