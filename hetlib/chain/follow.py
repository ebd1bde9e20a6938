"""Following channels through a traced network, operation by operation, to find which axes carry the same channels.

What is understood: convolutions (plain, grouped, depthwise), Linear, batch, instance, layer and one-group norms,
whatever acts on each channel alone, one filter for all maps, sums, products, concatenation, stacking, splitting,
slicing, zero channels, means, flattening and other moves of axes (`hetlib.chain.flow`). Anything else (gathers,
attention) fixes the channels that enter it, and says so; so does what depends on shapes, as channel shuffles do, unless
an example gave them.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from hetlib.chain.channels import GroupBuilder, Slots
from hetlib.chain.flow import JOINS, Flow, Held, Known, Unknown, moves
from hetlib.chain.inherited import NORMS, has_own_forward, per_output
from hetlib.chain.trace import Call
from hetlib.chain.visitor import Visitor


def followed(model: nn.Module, graph: fx.Graph) -> tuple[GroupBuilder, dict[fx.Node, Known]]:
    """Follow the channels of all tensors of `model`, and note which of them move together.

    Parameters
    ----------
    model : nn.Module
        The network.
    graph : torch.fx.Graph
        Its trace.

    Returns
    -------
    builder : GroupBuilder
        Its `groups` come in execution order. Each channel of each axis that the data passes is in exactly one group.
    flows : dict of Node to Known
        What is known of the channels of each node's value.
    """
    reader = _Rules(model)
    for node in graph.nodes:
        reader.flows[node] = known = reader.visit(node)
        node.meta["images"] = node.op == "placeholder" or (isinstance(known, Flow) and known.images)
    return reader.builder, reader.flows


_BINARY = re.compile("i?(add|sub|mul|truediv)|div|maximum|minimum")
_CHANNELWISE = re.compile(
    "relu6?|leakyrelu|elu|selu|celu|gelu|silu|mish|tanh|(log|hard)?sigmoid|hardtanh|hardswish|softplus|clamp|abs|exp"
    "|sqrt|i?pow|square|neg|(log)?softmax|contiguous|clone|detach|float|double|half|to|identity|stochasticdepth"
    "|(alpha|featurealpha|feature)?dropout2?d?"
)
_PIXELWISE = re.compile("(adaptive)?(max|avg)pool2d|lppool2d|zeropad2d|upsample|interpolate")
_SCALES = (*NORMS, nn.PReLU)


class _Rules(Visitor):
    """What each operation does with the channels that come into it.

    One with weights ties the channels that come in to the weight's input axis, and puts out those of the output axis.
    """

    def rule(self, call: Call, inputs: list[Any]) -> Callable[[Call, list[Known]], Known] | None:
        if any(isinstance(known, Flow) and known.spread == "table" for known in inputs):  # in a channel shuffle
            return self.channelwise if call.name == "contiguous" else moves(call.name)
        for kind, rule in ((nn.Conv2d, self.convolution), (nn.Linear, self.linear), (_SCALES, self.scale)):
            if isinstance(call.module, kind):
                return rule
        if _BINARY.fullmatch(call.name) or (_CHANNELWISE.fullmatch(call.name) and len(inputs) > 1):
            return self.binary
        if call.name in (*JOINS, "stack"):
            return self.joined
        if call.name == "matmul":
            return self.weighted
        if call.name == "conv2d":
            return self.filtered
        if call.name == "layernorm":
            return self.layer_norm
        if len(inputs) > 1 or isinstance(inputs[0], Held):
            return self.laid_out if call.name in ("view", "reshape") else None
        if _CHANNELWISE.fullmatch(call.name):
            return self.channelwise
        if _PIXELWISE.fullmatch(call.name):
            return self.pixelwise
        return self.padded if call.name == "pad" else moves(call.name)

    def convolution(self, call: Call, inputs: list[Known]) -> Known:
        module: Any = call.module
        out, no_map, known = self.outputs(module), "what a convolution takes in is no map", inputs[0]
        if module.groups == 1:
            self.feed(known, self.axis(module.weight, 1), -3, no_map)
        elif module.groups == module.in_channels:
            if isinstance(known, Flow) and not known.spread:  # each channel has as many filters
                known = replace(known, slots=np.repeat(known.slots, len(out) // module.in_channels))
            self.feed(known, out, -3, no_map)
        else:
            self.grouped(module, known, out)
        single = isinstance(known, Flow) and known.single and not any(module.padding) and set(module.kernel_size) == {1}
        made = Flow(out, -3, (known.rank if isinstance(known, Flow | Unknown) else None) or 4, single=single)
        self.together(call, known, made)
        return made

    def grouped(self, module: Any, known: Known, out: Slots) -> None:
        """A convolution in groups: groups stay where they are, within each the channels are free on both sides."""
        each = len(out) // module.groups
        rows = [slice(start, start + each) for start in range(0, len(out), each)]
        own = [self.axis(module.weight, 1, filters) for filters in rows]
        self.feed(known, np.concatenate(own), -3, "what a convolution takes in is no map")
        for filters in rows:
            self.builder.act(out[filters])

    def linear(self, call: Call, inputs: list[Known]) -> Known:
        module: Any = call.module
        known = inputs[0]
        self.feed(known, self.axis(module.weight, 1), -1, "what a Linear takes in has no channels on its last axis")
        out = Flow(self.outputs(module), -1, known.rank if isinstance(known, Flow | Unknown) else None)
        self.together(call, known, out)
        return replace(out, single=isinstance(known, Flow) and known.single)

    def together(self, call: Call, *sides: Known) -> None:
        """A layer with a forward of its own may look at all channels, as weight standardisation does."""
        for flow in sides if has_own_forward(call.module) else ():  # type: ignore[arg-type]
            if isinstance(flow, Flow):
                self.builder.act(flow.slots, call.node.name)

    def outputs(self, module: nn.Conv2d | nn.Linear) -> Slots:
        out = self.axis(module.weight, 0)
        for tensor in per_output(module).values():  # the bias, and what a subclass has besides
            self.builder.tie(self.axis(tensor, 0), out)
        return out

    def scale(self, call: Call, inputs: list[Known]) -> Known:
        """A module with one number for each place on an axis in its tensors: on axis 1, a LayerNorm on the last."""
        module: Any = call.module
        known = inputs[0]
        rank = known.rank if isinstance(known, Flow | Unknown) else None
        tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.dim() > 0]
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            return self.channelwise(call, inputs)
        at = -1 if isinstance(module, nn.LayerNorm) else None if rank is None else 1 - rank
        grouped = getattr(module, "num_groups", 1) not in (1, getattr(module, "num_channels", 1))
        several = len(getattr(module, "normalized_shape", (1,))) > 1
        why = "normalised over several axes" if several else ""
        if at is None and isinstance(known, Flow):
            why = f"how many axes {call.node.name} takes in is not known: pass example="
        elif grouped and isinstance(known, Flow) and known.spread:
            why = "normalised in groups of channels and pixels"
        if why:
            self.stop(call.node, why)
            return self.aside(tensors, known, why)
        if isinstance(known, Flow):
            single = isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels
            alone = known.axis == at and (single or isinstance(module, _NormBase)) and not has_own_forward(module)
            parts = np.split(known.slots, module.num_groups) if grouped and known.axis == at else [known.slots]
            for part in parts:  # of a norm in groups, channels can be exchanged within each
                self.builder.act(part, "" if alone or isinstance(module, nn.PReLU) else call.node.name)
            if known.axis != at:  # channels stand on another axis, and each is treated alike
                return self.aside(tensors, known, f"{call.node.name} acts on another axis than that of the channels")
        for tensor in tensors:
            self.feed(known, self.axis(tensor, 0), at or 0, "")
        return known

    def layer_norm(self, call: Call, inputs: list[Known]) -> Known:
        """A layer norm over the channels, called as a function: its gain and shift are tensors of the model."""
        flow, shape = inputs[0], call.given(1, "normalized_shape", ())
        held = [known for known in inputs[1:] if known is not None]
        axes = len(shape) if isinstance(shape, tuple | list) else None
        if not isinstance(flow, Flow) or flow.spread or flow.axis != -1 or axes != 1:
            return None
        for known in held:
            if not isinstance(known, Held) or known.tensor is None:
                return None
            self.builder.tie(flow.slots, self.axis(known.tensor, 0))
        self.builder.act(flow.slots, call.node.name)
        return flow

    def aside(self, tensors: list[Tensor], known: Known, why: str) -> Known:
        """Fix the tensors of a module that has nothing to do with the channels."""
        for tensor in tensors:
            self.builder.pin(self.axis(tensor, 0), why)
        return known

    def channelwise(self, call: Call, inputs: list[Known]) -> Known:
        """An operation that treats all channels alike: each by itself, or as a softmax all together."""
        flow = inputs[0]
        if isinstance(flow, Flow):
            dim = flow.from_end(call.given(1, "dim", None)) if call.name.endswith("softmax") else 0
            self.builder.act(flow.slots, call.node.name if dim in (None, flow.axis) else "")
        return None if isinstance(flow, list) else flow

    def pixelwise(self, call: Call, inputs: list[Known]) -> Known:
        """An operation on every map by itself."""
        flow = inputs[0]
        if not isinstance(flow, Flow) or flow.axis != -3:
            return flow if isinstance(flow, Unknown) else None
        self.builder.act(flow.slots)
        to_one = call.name.startswith("adaptive") and call.given(1, "output_size", None) in (1, (1, 1))
        return replace(flow, single=to_one)

    def binary(self, call: Call, inputs: list[Known]) -> Known:
        """A sum, product or the like: channel i meets channel i, which makes the two one. Numbers are passed over."""
        values = [known for known in inputs if known is not None]
        flows = [known for known in values if isinstance(known, Flow)]
        # Of values rather than of scales that meet them: what comes of it has the value's channels.
        first: Any = next((flow for flow in flows if flow.images), flows[0] if flows else None)
        others = [known for known in values if not (isinstance(known, Held) and self.meets(known.tensor, first))]
        for known in others:
            if not isinstance(known, Flow):
                whys = [known.why for known in others if isinstance(known, Unknown)]
                return self.stop(call.node, (*whys, f"{call.node.name} joins values that are not followed")[0])
            if (known.axis, known.spread, len(known.slots)) != (first.axis, first.spread, len(first.slots)):
                return self.stop(call.node, f"{call.node.name} joins different numbers of channels")
            self.builder.tie(first.slots, known.slots)
        self.builder.act(first.slots)
        flows = [known for known in others if isinstance(known, Flow)]
        ranks = [flow.rank for flow in flows]
        rank = None if None in ranks else max(rank or 0 for rank in ranks)
        return replace(first, rank=rank, single=all(flow.single for flow in flows))

    def meets(self, tensor: Tensor | None, flow: Flow | None) -> bool:
        """Whether a tensor of the model is one number, or, as a layer scale, one for each channel, on its axis 0."""
        if tensor is None or flow is None or tensor.numel() == 1:
            return flow is not None and tensor is not None
        if flow.spread or tensor.ndim != -flow.axis or not len(tensor) == tensor.numel() == len(flow.slots):
            return False
        self.builder.tie(flow.slots, self.axis(tensor, 0))
        return True

    def laid_out(self, call: Call, inputs: list[Known]) -> Known:
        """A vector of the model's along one axis among others of length 1, as a layer scale beside maps."""
        held, shape = inputs[0], getattr(call.node.meta.get("value"), "shape", ())
        tensor = held.tensor if isinstance(held, Held) else None
        if tensor is None or tensor.ndim != 1 or tensor.numel() == 1 or tensor.numel() not in shape:
            return None
        slots = self.axis(tensor, 0)
        return Flow(slots, shape.index(len(tensor)) - len(shape), len(shape), single=True, images=False)

    def joined(self, call: Call, inputs: list[Known]) -> Known:
        """Concatenation: of channels side by side; along another axis, an old or a new one, channel i of all is one."""
        new = call.name == "stack"
        joined = None if new else moves(call.name)(call, inputs)  # type: ignore[misc]
        first, flows = inputs[0], [known for known in inputs if isinstance(known, Flow)]
        if joined is not None or not isinstance(first, Flow) or len(flows) < len(inputs):
            return joined
        places = {(flow.axis, flow.rank, flow.spread, len(flow.slots)) for flow in flows}
        dim = call.given(1, "dim", 0)
        if (
            first.spread
            or len(places) > 1
            or (first.rank is None if new else first.from_end(dim) in (None, first.axis))
        ):
            return None
        for flow in flows[1:]:
            self.builder.tie(first.slots, flow.slots)
        if not new:
            return replace(first, single=False)
        rank = first.rank + 1  # type: ignore[operator]
        behind = dim % rank > rank - 1 + first.axis  # the new axis, behind that of the channels
        images = first.images and dim % rank > 0
        return replace(first, rank=rank, axis=first.axis - behind, single=False, images=images)

    def weighted(self, call: Call, inputs: list[Known]) -> Known:
        """A product that adds up places with the weights of one map, as global context does: channels stay apart."""
        known_of = dict(zip(call.node.all_input_nodes, inputs, strict=True))
        flow, weights = (known_of.get(call.given(place, key, None)) for place, key in enumerate(("input", "other")))
        if not (isinstance(flow, Flow) and isinstance(weights, Flow)) or flow.spread or flow.rank != weights.rank:
            return None
        apart = flow.axis == -2 and weights.axis < -2 and len(weights.slots) == 1
        return replace(flow, single=False) if apart else None

    def filtered(self, call: Call, inputs: list[Known]) -> Known:
        """Every map convolved with one and the same filter of the model's, as a blur does."""
        flow, held = inputs[0], inputs[1] if len(inputs) == 2 else None
        filters = held.tensor if isinstance(held, Held) else None
        if filters is None or filters.is_meta or not any(filters is buffer for buffer in self.model.buffers()):
            return None
        if call.given(6, "groups", 1) != len(filters):
            return None
        alike = not isinstance(flow, Flow) or len(filters) == len(flow.slots)
        return self.pixelwise(call, [flow]) if alike and bool((filters == filters[:1]).all()) else None

    def padded(self, call: Call, inputs: list[Known]) -> Known:
        """Zeros beside the channels (the shortcut without parameters) are channels that belong to no tensor."""
        flow, pads = inputs[0], call.given(1, "pad", ())
        if not isinstance(flow, Flow) or flow.spread or not all(isinstance(pad, int) for pad in pads):
            return None
        first = -2 * (flow.axis + 1)  # the last axis comes first
        before, after = (*pads[first : first + 2], 0, 0)[:2]
        zero = call.given(2, "mode", "constant") == "constant" and before >= 0 and after >= 0
        if (before or after) and not zero:
            return None
        zeros = self.builder.block((), 0, before + after)
        return replace(flow, slots=np.concatenate([zeros[:before], flow.slots, zeros[before:]]), single=False)
