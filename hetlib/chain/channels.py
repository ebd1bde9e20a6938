"""Which channel axes of a network's tensors move together.

Every channel of every parameter axis gets a number, a slot. Following the data through the graph ties slots: what a
convolution puts out is what the next one takes in, an addition ties its operands channel by channel, a concatenation
lays them side by side. Connected slots are one channel of the network. Channels that appear at the same places of the
same tensors, and that the same operations act on, are interchangeable and form a `Group`. Git Re-Basin types such a
specification by hand; here it is read.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
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
        The axis that carries the channels: 1 where a layer takes them in. On axis 0 a layer puts them out, or acts on
        each alone, as a bias, a batch norm and a depthwise kernel do.
    index : Tensor, int64, shape (size, repeat)
        Where channel j of the group stands on that axis. `repeat` is 1 except where a channel has several places: h*w
        columns after a flatten, say.
    filters : slice or None
        The filters whose axis 1 it is, in a grouped convolution: those of one of its groups. None means all.
    """

    name: str
    axis: int
    index: Tensor = field(repr=False)
    filters: slice | None = None

    def channels(self, tensor: Tensor) -> Tensor:
        """What the tensor holds of each channel, (size, numbers per channel), a copy."""
        places = self.index.flatten().to(tensor.device)
        return self._own(tensor).index_select(self.axis, places).movedim(self.axis, 0).reshape(len(self.index), -1)

    def scaled(self, tensor: Tensor, factors: Tensor) -> Tensor:
        """The tensor with each channel multiplied by its factor, (size,), at all its places."""
        every = factors.new_ones(tensor.shape[self.axis])
        every[self.index] = factors.unsqueeze(1)
        shape = [-1 if axis == self.axis else 1 for axis in range(tensor.ndim)]
        return self._with(tensor, self._own(tensor) * every.to(tensor).view(shape))

    def gathered(self, tensor: Tensor, index: Tensor) -> Tensor:
        """The tensor with the group's channel index[j] as channel j, see `Group.gather`."""
        if self.filters is not None and len(index) != len(self.index):
            kind = f"{self.name} is of a grouped convolution, and these channels are of one of its groups"
            raise ValueError(f"{kind}: their order can change, their number cannot")
        places = self._places(index, tensor.shape[self.axis])
        return self._with(tensor, self._own(tensor).index_select(self.axis, places.to(tensor.device)))

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor if self.filters is None else tensor[self.filters]

    def _with(self, tensor: Tensor, own: Tensor) -> Tensor:
        """The tensor with other values for these filters."""
        if self.filters is None:
            return own
        made = tensor.clone()
        made[self.filters] = own
        return made

    def _places(self, index: Tensor, length: int) -> Tensor:
        """For each place of the new axis, the place of the old one that it is filled from."""
        size, old = len(self.index), torch.arange(length)
        if len(index) == size:  # every channel has the places of the one that it replaces
            old[self.index] = self.index[index]
            return old
        # Where the number of channels changes, places shift. Along the axis, the group must come in runs of all its
        # channels in order (several where the forward concatenates it with itself, with h*w places for each channel
        # behind a flatten); a run is replaced as a whole. What lies between the runs belongs to other groups and stays.
        owner = torch.full((length,), -1)
        owner[self.index] = torch.arange(size).unsqueeze(1)
        owners, counts = owner.unique_consecutive(return_counts=True)
        parts, new, at = old.split(counts.tolist()), [], 0
        while at < len(parts):
            if owners[at] < 0:
                new.append(parts[at])
                at += 1
                continue
            if not torch.equal(owners[at : at + size], torch.arange(size)):
                raise ValueError(
                    f"{self.name} holds the {size} channels of its group among others on axis {self.axis}: their order "
                    "can change, their number cannot"
                )
            new += [parts[at + channel] for channel in index.tolist()]
            at += size
        return torch.cat(new)


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
    joint : str or None
        The operation whose output for each of these channels depends on all of them (a softmax over channels, a norm
        over all channels), or None if there is none. Their order may change; a copy or a gap changes the others.
    """

    size: int
    members: tuple[Member, ...]
    fixed: str | None = None
    joint: str | None = None

    @property
    def reads(self) -> tuple[Member, ...]:
        """The members where a layer takes the channels in; those that do not mix channels write, see `writes`."""
        return tuple(member for member in self.members if member.axis == 1)

    @property
    def writes(self) -> tuple[Member, ...]:
        """The members where a layer puts the channels out, or acts on each alone: axis 0 of weights, biases, norms."""
        return tuple(member for member in self.members if member.axis == 0)

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
        order = torch.as_tensor(permutation)
        if sorted(order.tolist()) != list(range(self.size)):
            raise ValueError(f"expected a permutation of 0 .. {self.size - 1}, got {order.tolist()}")
        state.update(self.gather(state, order))

    def select(self, state: Mapping[str, Tensor], index: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Keep only some of this group's channels, everywhere.

        Parameters
        ----------
        state : dict of str to Tensor
            A state dict; not changed.
        index : sequence of int
            The channels that are kept, each once, in their new order.

        Returns
        -------
        dict of str to Tensor
            The state with smaller tensors where the group has members.

        Raises
        ------
        ValueError
            As `gather` does, and if a channel is named twice.
        """
        kept = torch.as_tensor(index).tolist()
        if len(set(kept)) < len(kept):
            raise ValueError(f"expected channels to keep, each once, got {kept}")
        return self.gather(state, kept)

    def gather(self, state: Mapping[str, Tensor], index: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Make a group of other channels out of this group's: new channel j is old channel `index[j]`, everywhere.

        A layer that takes in a channel k times gets k times what it got before. To keep the function, as Net2Net does,
        divide first:

        >>> counts = torch.bincount(index, minlength=group.size).double()
        >>> for member in group.reads:
        ...     state[member.name] = member.scaled(state[member.name], 1 / counts.clamp(min=1))
        >>> state = group.gather(state, index)

        Parameters
        ----------
        state : dict of str to Tensor
            A state dict; not changed.
        index : sequence of int
            Old channels, at least one; repeats and gaps are allowed.

        Returns
        -------
        dict of str to Tensor
            The state with tensors of other sizes where the group has members; a network that loads it needs those
            sizes.

        Raises
        ------
        ValueError
            If the group is fixed, a channel is not in it, an operation on all channels together (`joint`) would see
            copies or gaps, or, where the number of channels changes, the group's channels lie among others on an axis.
        """
        if self.fixed:
            raise ValueError(f"the channels of {self.members[0].name} are fixed: {self.fixed}")
        picked = torch.as_tensor(index, dtype=torch.int64).cpu()
        if not len(picked) or not 0 <= int(picked.min()) <= int(picked.max()) < self.size:
            raise ValueError(f"expected channels from 0 to {self.size - 1}, got {picked.tolist()}")
        if self.joint and sorted(picked.tolist()) != list(range(self.size)):
            raise ValueError(
                f"{self.joint} takes the channels of {self.members[0].name} together: their order can change, but a "
                "copy or a gap changes the others"
            )
        new = dict(state)
        for member in self.members:
            new[member.name] = member.gathered(new[member.name], picked)
        return new


class GroupBuilder:
    """Numbers the channels of tensor axes and keeps what ties and what pins them."""

    def __init__(self) -> None:
        # Of each block the names of the tensor (none for padding and operations), the axis, and which filters it is of.
        self.blocks: list[tuple[Sequence[str], int, slice | None]] = []
        self.joint: dict[int, str] = {}  # of blocks, the operations on all channels together
        self.starts: list[int] = [0]
        self.ties: list[Slots] = [np.empty((2, 0), int)]
        self.pinned: dict[int, str] = {}

    def block(self, names: Sequence[str], axis: int, size: int, filters: slice | None = None) -> Slots:
        """Number the channels of one axis of some tensors (of none, for padding and operations)."""
        self.blocks.append((names, axis, filters))
        self.starts.append(self.starts[-1] + size)
        return np.arange(self.starts[-2], self.starts[-1])

    def act(self, slots: Slots, joint: str = "") -> None:
        """Say that an operation acts on channels; `joint` names it if it takes them all together."""
        # The operation gets slots like a tensor. Otherwise [relu(x[:, :4]), tanh(x[:, 4:])] would make one group of
        # eight channels, and an exchange across the two halves would change the function.
        if joint:
            self.joint[len(self.blocks)] = joint
        self.tie(self.block((), 0, slots.size), slots)

    def tie(self, one: Slots, other: Slots) -> None:
        """Say that slots are pairwise the same channels."""
        self.ties.append(np.stack([one.ravel(), other.ravel()]))

    def pin(self, slots: Slots, why: str) -> None:
        """Say that slots must stay where they are, and why."""
        for slot in slots.ravel().tolist():
            self.pinned.setdefault(slot, why)

    def groups(self) -> tuple[Group, ...]:
        """The connected slots, as groups of interchangeable channels."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        # Ties are edges between slots; a connected component is one channel of the network. Channels whose slots lie in
        # the same blocks, and are pinned for the same reason or not at all, can be exchanged: they form a group.
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
        # One row a channel, one column a slot. All rows have equally many slots in each block: those are the places of
        # a member, the first place of one channel standing for the first of every other.
        members, joint = [], None
        for block in np.unique(block_of[channels[0]]):
            names, axis, filters = self.blocks[block]
            joint = joint or self.joint.get(block)
            places = channels[:, block_of[channels[0]] == block] - self.starts[block]
            members += [Member(name, axis, torch.from_numpy(places), filters) for name in names]
        return Group(len(channels), tuple(members), why, joint)
