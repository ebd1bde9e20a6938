"""Going through a traced network node by node, with what is known of every value and which tensors are fixed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from hetlib.chain.channels import GroupBuilder, Slots
from hetlib.chain.flow import Flow, Held, Known, Unknown
from hetlib.chain.trace import Call

_NUMBERS = ("_operator", "builtins", "math")
"""Modules whose functions of numbers give numbers."""
_NO_TENSOR = ("shape", "dtype", "device", "ndim")


class Visitor:
    """Goes from node to node and keeps what is known of every value.

    `flows` has the channels of every node's value, in order of execution. What an operation does to them, `rule` says:
    a subclass has it. One that is not understood pins what comes in; behind it nothing is known.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.builder = GroupBuilder()
        self.flows: dict[fx.Node, Known] = {}
        self.axes: dict[tuple[str, int, int | None], Slots] = {}
        self.names: dict[int, list[str]] = {}  # a shared tensor has several
        for name, tensor in model.state_dict(keep_vars=True).items():
            self.names.setdefault(id(tensor), []).append(name)

    def rule(self, call: Call, inputs: list[Any]) -> Callable[[Call, list[Known]], Known] | None:
        """What is done with the channels that come into an operation; None if it is not understood."""
        raise NotImplementedError

    def visit(self, node: fx.Node) -> Known:
        """What is known of a node's value; its channels are tied and fixed on the way."""
        if node.op == "placeholder":
            return self.sized(node, Unknown("network input"))
        if node.op == "get_attr":
            return self.held(str(node.target))
        if node.op == "output":
            return self.stop(node, "network output")
        call = Call.of(self.model, node)
        inputs = [self.flows[source] for source in node.all_input_nodes]
        no_tensor = call.name in ("size", "dim") or (call.name == "getattr" and node.args[1] in _NO_TENSOR)
        if no_tensor:
            return None
        if all(known is None for known in inputs):
            return self.sized(node, Unknown(f"{node.name} is made from sizes alone")) if _gives_tensor(node) else None
        rule = self.rule(call, [known for known in inputs if known is not None])
        known = rule(call, inputs) if rule else None
        return self.sized(node, self.stop(node, f"{node.name} is not followed") if known is None else known)

    def held(self, target: str) -> Held:
        """A tensor of the model; one that is only the trace's has no name, and nothing to pin."""
        owner, _, name = target.rpartition(".")
        tensor = getattr(self.model.get_submodule(owner), name, None)
        return Held(f"the tensor {target} takes part directly", getattr(tensor, "ndim", None), tensor)

    def sized(self, node: fx.Node, known: Known) -> Known:
        """What is known of a value, and what the example says of its shape."""
        value = node.meta.get("value")
        if not isinstance(value, Tensor) or not isinstance(known, Flow | Unknown):
            return known
        known = replace(known, rank=value.ndim)
        if isinstance(known, Unknown):
            return known
        fits = value.ndim >= -known.axis and known.over(value.shape[known.axis]) is not None
        if not fits and known.spread != "table":
            self.pin(known, why := f"{node.name} has another number of channels")
            return Unknown(why, value.ndim)
        return replace(known, single=value.numel() == value.shape[0] * value.shape[known.axis] > 0)

    def stop(self, node: fx.Node, why: str) -> Unknown:
        """Fix whatever flows into `node`; nothing behind it is known."""
        inputs = [self.flows[source] for source in node.all_input_nodes]
        for known in inputs:
            self.pin(known, why)
        return Unknown(next((known.why for known in inputs if isinstance(known, Unknown)), why))

    def pin(self, known: Known, why: str) -> None:
        """Fix the channels of a value, and of a tensor that takes part directly the places on its axes."""
        for flow in known if isinstance(known, list) else [known]:
            if isinstance(flow, Flow):
                self.builder.pin(flow.slots, why)
            elif isinstance(flow, Held) and flow.tensor is not None and id(flow.tensor) in self.names:
                for axis in range(min(flow.tensor.ndim, 2)):
                    self.builder.pin(self.axis(flow.tensor, axis), flow.why)

    def axis(self, tensor: Tensor, axis: int, filters: slice | None = None) -> Slots:
        """The slots of a tensor's axis; with `filters`, as these alone have it in a grouped convolution."""
        names = self.names.get(id(tensor), [])
        if not names:
            slots = self.builder.block(names, axis, tensor.shape[axis])
            self.builder.pin(slots, "a weight is computed from other tensors")
            return slots
        key = (names[0], axis, filters and filters.start)
        if key not in self.axes:
            self.axes[key] = self.builder.block(names, axis, tensor.shape[axis], filters)
        return self.axes[key]

    def feed(self, known: Known, slots: Slots, axis: int, why: str) -> None:
        """Let the values on an axis enter the parameter axis `slots`; `why` is the reason should they not fit."""
        over = known.over(len(slots)) if isinstance(known, Flow) and known.axis == axis else None
        if over is not None:
            self.builder.tie(over, slots)
        else:
            self.builder.pin(slots, known.why if isinstance(known, Unknown) else why)
            self.pin(known, why)


def _gives_tensor(node: fx.Node) -> bool:
    """Whether an operation on numbers gives a tensor, as one that makes codes for places does."""
    if "value" in node.meta:
        return isinstance(node.meta["value"], Tensor)
    return node.op == "call_module" or (
        node.op == "call_function" and getattr(node.target, "__module__", None) not in _NUMBERS
    )
