"""Which channel axes of a network's tensors move together.

Every channel of every parameter axis gets a number, a slot. Following the data through the graph ties slots: what a
convolution puts out is what the next one takes in, an addition ties its operands channel by channel, a concatenation
lays them side by side. Connected slots are one channel of the network; channels that appear at the same places of the
same tensors are interchangeable and form a `Group`. Git Re-Basin types such a specification by hand; here it is read.
"""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

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


class GroupBuilder:
    """Numbers the channels of tensor axes and keeps what ties and what pins them."""

    def __init__(self) -> None:
        self.blocks: list[tuple[Sequence[str], int]] = []  # names of the tensor (none for padding), axis
        self.starts: list[int] = [0]
        self.ties: list[Slots] = [np.empty((2, 0), int)]
        self.pinned: dict[int, str] = {}

    def block(self, names: Sequence[str], axis: int, size: int) -> Slots:
        """Number the channels of one axis of some tensors (of none, for padding)."""
        self.blocks.append((names, axis))
        self.starts.append(self.starts[-1] + size)
        return np.arange(self.starts[-2], self.starts[-1])

    def tie(self, one: Slots, other: Slots) -> None:
        """Say that slots are pairwise the same channels."""
        self.ties.append(np.stack([one, other]))

    def pin(self, slots: Slots, why: str) -> None:
        """Say that slots must stay where they are, and why."""
        for slot in slots.tolist():
            self.pinned.setdefault(slot, why)

    def groups(self) -> tuple[Group, ...]:
        """The connected slots, as groups of interchangeable channels."""
        count, (rows, columns) = self.starts[-1], np.concatenate(self.ties, axis=1)
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
