"""What is known of a value on its way through a network: where its channels stand, also after its axes were moved.

An operation here only says where the channels stand afterwards. It gives None where it cannot be told, or depends on
shapes that no example gave.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import numpy as np
from torch import Tensor, fx

from hetlib.chain.channels import Slots
from hetlib.chain.trace import Call


@dataclass(frozen=True)
class Flow:
    """The channels of a value.

    Attributes
    ----------
    slots : array
        A number for each channel; a table where the channels stand on two axes.
    axis : int
        Where they stand, counted from the last axis, as broadcasting does: -3 in (n, c, h, w), -1 in (n, tokens, c).
    rank : int or None
        How many axes there are; None if no example says so.
    spread : {"", "each", "whole", "table"}
        After a flatten, a channel has several places on the last axis: "each" channel's in a row, as of a map, or the
        "whole" row of channels over and over, as of tokens. In a "table" the channels stand on the axis and the next
        one, as in the midst of a channel shuffle.
    single : bool
        Whether images and channels are the only axes longer than 1.
    images : bool
        Whether the first axis is still that of all images.
    """

    slots: Slots
    axis: int
    rank: int | None
    spread: Literal["", "each", "whole", "table"] = ""
    single: bool = False
    images: bool = True

    def over(self, length: int) -> Slots | None:
        """The slots along an axis of this length; None if they do not fit."""
        times, left = divmod(length, len(self.slots))
        if left or (times != 1 and not self.spread) or self.spread == "table":
            return None
        return np.tile(self.slots, times) if self.spread == "whole" else np.repeat(self.slots, times)

    def from_end(self, dim: Any) -> int | None:
        """An axis counted from the last; None if the rank is not known and it is counted from the first."""
        if not isinstance(dim, int):
            return None
        return dim if dim < 0 else None if self.rank is None else dim - self.rank


@dataclass(frozen=True)
class Unknown:
    """A value whose channels are not followed: why, and how many axes it has, if that is known."""

    why: str
    rank: int | None = None


@dataclass(frozen=True)
class Held(Unknown):
    """A parameter or buffer that the forward uses directly."""

    tensor: Tensor | None = None


# Of an operation's values: channels; those of several values; why they cannot be followed; that it is no tensor.
Known = Flow | list[Flow] | Unknown | None

JOINS = ("cat", "concat", "concatenate")
"""Names of the operation that puts values side by side."""


def moves(name: str) -> Callable[[Call, list[Known]], Known] | None:
    """The operation of this name that moves, joins or parts axes, or None."""
    return _MOVES.get(name)


def _joined(call: Call, inputs: list[Known]) -> Known:
    """Channels side by side."""
    operands: Any = call.given(0, "tensors", ())
    if not isinstance(operands, tuple | list):
        return None
    # A tensor joined with itself is one input node only, but stands twice among the operands.
    known_of = dict(zip(call.node.all_input_nodes, inputs, strict=True))
    flows = [known for known in map(known_of.get, operands) if isinstance(known, Flow)]
    if not flows or len(flows) < len(operands):
        return None
    first = flows[0]
    alike = all((flow.axis, flow.rank, flow.spread) == (first.axis, first.rank, "") for flow in flows)
    if not alike or first.from_end(call.given(1, "dim", 0)) != first.axis:
        return None
    single = all(flow.single for flow in flows)
    return replace(first, slots=np.concatenate([flow.slots for flow in flows]), single=single)


def _parted(call: Call, inputs: list[Known]) -> Known:
    """What chunk and split give: each part has its own slots, in a list from which `_picked` takes one."""
    flow, sizes = inputs[0], call.given(1, "chunks" if call.name == "chunk" else "split_size", None)
    if not isinstance(flow, Flow) or flow.spread or flow.from_end(call.given(2, "dim", 0)) != flow.axis:
        return None
    count = len(flow.slots)
    if isinstance(sizes, int):
        step = -(-count // sizes) if call.name == "chunk" else sizes
        sizes = [step] * (-(-count // step))
    if not isinstance(sizes, tuple | list) or not all(isinstance(size, int) for size in sizes):
        return None
    return [replace(flow, slots=part) for part in np.split(flow.slots, np.cumsum(sizes)[:-1])]


def _picked(call: Call, inputs: list[Known]) -> Known:
    """Indexing: a number takes one of the parts of a split; slices cut axes, numbers take them away."""
    known, index = inputs[0], call.node.args[1]
    if isinstance(known, list):
        return known[index] if isinstance(index, int) else None
    cuts = index if isinstance(index, tuple) else (index,)
    if not isinstance(known, Flow) or known.spread or known.rank is None or len(inputs) > 1:
        return None
    place = known.rank + known.axis
    cut: Any = cuts[place] if len(cuts) > place else slice(None)
    if not isinstance(cut, slice) or not all(isinstance(other, slice | int) for other in cuts):
        return None
    taken = [at for at, other in enumerate(cuts) if isinstance(other, int)]
    axis, rank = known.axis + sum(at > place for at in taken), known.rank - len(taken)
    images = known.images and (place == 0 or cuts[0] == slice(None))
    return replace(known, slots=known.slots[cut], axis=axis, rank=rank, images=images)


def _reduced(call: Call, inputs: list[Known]) -> Known:
    """Means, sums and extremes over axes other than that of the channels."""
    flow, dims = inputs[0], call.given(1, "dim", ())
    if not isinstance(flow, Flow) or flow.spread:
        return None
    gone = {flow.from_end(dim) for dim in (dims if isinstance(dims, tuple | list) else [dims])}
    if not gone or None in gone or flow.axis in gone:
        return None
    over_all = flow.rank is not None and len(gone) == flow.rank - 2 and -flow.rank not in gone
    single, images = flow.single or over_all, flow.images and flow.rank is not None and -flow.rank not in gone
    if call.given(2, "keepdim", False):
        return replace(flow, single=single, images=images)
    axis = flow.axis + sum(dim > flow.axis for dim in gone if dim is not None)
    return replace(flow, axis=axis, rank=flow.rank and flow.rank - len(gone), single=single, images=images)


def _flattened(call: Call, inputs: list[Known]) -> Known:
    known, start, end = inputs[0], call.given(1, "start_dim", 0), call.given(2, "end_dim", -1)
    if isinstance(known, Flow):
        return _flat(known, start, end)
    # Behind flatten(1) a value has two axes, whatever it had.
    return Unknown(known.why, start + 1) if isinstance(known, Unknown) and start >= 0 and end == -1 else None


def _flat(flow: Flow, start: int, end: int) -> Known:
    """Axes from `start` to `end` become one."""
    if flow.spread:
        return flow if (start, end) == (1, -1) and flow.spread != "table" else None
    if flow.rank is None:  # channels stand on the last axis
        return replace(flow, rank=start + 1, spread="whole") if start >= 1 and end == -1 else None
    first, last, place = start % flow.rank, end % flow.rank, flow.rank + flow.axis
    rank = flow.rank - (last - first)
    if not first <= place <= last:
        axis = flow.axis + (last - first if place < first else 0)
        return replace(flow, rank=rank, axis=axis, images=flow.images and (first > 0 or first == last))
    if first == last or (flow.single and first > 0):
        return replace(flow, rank=rank, axis=first - rank)
    if last < flow.rank - 1 or first == 0 or first < place < last:
        return None
    return replace(flow, rank=rank, axis=-1, spread="each" if place == first else "whole")


def _reshaped(call: Call, inputs: list[Known]) -> Known:
    """`view`, `reshape` and `squeeze`: by shapes where an example gave them, else where sizes say enough."""
    flow = inputs[0]
    if not isinstance(flow, Flow):
        return None
    source = call.node.all_input_nodes[0]
    if "value" in source.meta:
        return _by_shapes(flow, source.meta["value"].shape, call.node.meta["value"].shape)
    if call.name == "squeeze":
        dims = call.given(1, "dim", ())
        return _squeezed(flow, [flow.from_end(dim) for dim in (dims if isinstance(dims, tuple) else [dims])])
    sizes = list(call.node.args[1:])
    sizes = list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    if flow.single and flow.images and sizes == [-1, len(flow.slots)]:
        return replace(flow, axis=-1, rank=2)
    if not sizes or not flow.images or not _is_batch_size(sizes[0]):
        return None
    if len(sizes) == 2:
        return _flat(flow, 1, -1)
    kept = flow.rank is not None and flow.axis == 1 - flow.rank and not flow.spread and sizes[1] == len(flow.slots)
    return replace(flow, axis=1 - len(sizes), rank=len(sizes)) if kept else None


def _squeezed(flow: Flow, dims: Sequence[int | None]) -> Known:
    """Axes of length 1 taken away, none named meaning all, if it is known that they have it."""
    if not flow.single or flow.rank is None or not {None, flow.axis, -flow.rank}.isdisjoint(dims):
        return None
    gone = set(dims) or {dim for dim in range(1 - flow.rank, 0) if dim != flow.axis}
    return replace(flow, axis=flow.axis + sum(dim > flow.axis for dim in gone), rank=flow.rank - len(gone))  # type: ignore[operator]


def _by_shapes(flow: Flow, old: Sequence[int], new: Sequence[int]) -> Known:
    """Find the axis that now holds the channels: numbers keep their order, so what lies before and behind says it."""
    if flow.spread in ("each", "whole"):
        return flow if tuple(old) == tuple(new) else None
    place, count = len(old) + flow.axis, flow.slots.size
    before, behind = prod(old[:place]), prod(old[place + flow.slots.ndim :])
    for at, size in enumerate(new):
        ahead, rest = prod(new[:at]), prod(new[at + 1 :])
        if size == count and (ahead, rest) == (before, behind):
            return replace(flow, slots=flow.slots.ravel(), spread="", axis=at - len(new), rank=len(new))
        if 1 < size < count and ahead == before and at + 1 < len(new) and size * new[at + 1] == count:
            return replace(flow, slots=flow.slots.reshape(size, -1), spread="table", axis=at - len(new), rank=len(new))
        if flow.spread:
            continue
        last = at == len(new) - 1 and at > 0 and new[0] == old[0]
        if last and ahead == before and size == count * behind:
            return replace(flow, axis=-1, rank=len(new), spread="each")
        if last and behind == 1 and size % count == 0 and ahead * (size // count) == before:
            return replace(flow, axis=-1, rank=len(new), spread="whole")
    return None


def _is_batch_size(size: Any) -> bool:
    """Whether a number of a graph counts the images: `x.size(0)` or `x.shape[0]` where that axis is theirs."""
    if not isinstance(size, fx.Node) or size.args[1:] != (0,):
        return False
    if size.target == "size":
        return bool(size.all_input_nodes[0].meta.get("images"))
    shape = size.args[0]
    whole = isinstance(shape, fx.Node) and (shape.target, shape.args[1:]) in (("size", ()), (getattr, ("shape",)))
    return whole and bool(shape.all_input_nodes[0].meta.get("images"))  # type: ignore[union-attr]


def _unsqueezed(call: Call, inputs: list[Known]) -> Known:
    flow, dim = inputs[0], call.given(1, "dim", None)
    if not isinstance(flow, Flow) or flow.spread or flow.rank is None or not isinstance(dim, int):
        return None
    at = dim % (flow.rank + 1)
    behind = at > flow.rank + flow.axis
    return replace(flow, axis=flow.axis - behind, rank=flow.rank + 1, images=flow.images and at > 0)


def _permuted(call: Call, inputs: list[Known]) -> Known:
    flow, dims = inputs[0], list(call.node.args[1:]) or [call.node.kwargs.get("dims")]
    if not isinstance(flow, Flow) or flow.spread in ("each", "whole") or flow.rank is None:
        return None
    order = list(_numbers(dims))
    if call.name != "permute" and len(order) == 2:  # of transpose, the two axes that change places
        swapped, order = [dim % flow.rank for dim in order], list(range(flow.rank))
        order[swapped[0]], order[swapped[1]] = order[swapped[1]], order[swapped[0]]
    if sorted(dim % flow.rank for dim in order) != list(range(flow.rank)):
        return None
    places = [dim % flow.rank for dim in order]
    at, images = places.index(flow.rank + flow.axis), flow.images and places[0] == 0
    if not flow.spread:
        return replace(flow, axis=at - flow.rank, images=images)
    other = places.index(flow.rank + flow.axis + 1)  # the two axes of a table must stay side by side
    slots = flow.slots if at < other else flow.slots.T
    return replace(flow, slots=slots, axis=min(at, other) - flow.rank, images=images) if abs(at - other) == 1 else None


def _shuffled(call: Call, inputs: list[Known]) -> Known:
    """A channel shuffle by torch: the channels in groups, of which the firsts come first, then the seconds."""
    flow, groups = inputs[0], call.given(1, "groups", 1)
    if not isinstance(flow, Flow) or flow.spread or flow.axis != 1 - (flow.rank or 0) or not isinstance(groups, int):
        return None
    return replace(flow, slots=flow.slots.reshape(groups, -1).T.ravel())


def _numbers(dims: Any) -> Iterator[int]:
    for dim in dims:
        if isinstance(dim, tuple | list):
            yield from _numbers(dim)
        elif isinstance(dim, int):
            yield dim


_MOVES: dict[str, Callable[[Call, list[Known]], Known]] = {
    **dict.fromkeys(JOINS, _joined),
    **dict.fromkeys(("chunk", "split"), _parted),
    **dict.fromkeys(("view", "reshape", "squeeze"), _reshaped),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduced),
    **dict.fromkeys(("transpose", "swapaxes", "permute"), _permuted),
    "channelshuffle": _shuffled,
    "getitem": _picked,
    "flatten": _flattened,
    "unsqueeze": _unsqueezed,
}
