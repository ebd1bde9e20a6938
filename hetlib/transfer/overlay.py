"""What a matched layer is given: the third of the three stages of DPIAT's toolkit, TLV's variance mapping apart.

Both functions take a list of pairs (target layer, source layer), each a name and a module of one kind, and the target
network; they give what is to be written (`hetlib.kernels.ragged`), and write nothing. Weights and biases are placed,
batch norms' scales and shifts among them; running statistics are not.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hetlib.chain import Chain, chain
from hetlib.chain.nested import Leaf
from hetlib.kernels.fill import Fill
from hetlib.kernels.overlay import overlay

Pairs = Sequence[tuple[Leaf, Leaf]]


@torch.no_grad()
def overlay_centred(pairs: Pairs, target: nn.Module) -> list[Fill]:
    """Lay each tensor centrally over the target's, see `hetlib.kernels.clip.clip`.

    Raises
    ------
    ValueError
        If two tensors differ in their numbers of axes; names the layers.
    """
    pieces = []
    for (name, layer), (donor_name, donor) in pairs:
        for own, given in _tensors(layer, donor):
            try:
                pieces.append(Fill(own, overlay(given, own)))
            except ValueError as error:
                raise ValueError(f"{donor_name} -> {name}: {error}") from error
    return pieces


@torch.no_grad()
def overlay_traced(pairs: Pairs, target: nn.Module) -> list[Fill]:
    """Keep the output channels of largest L1 norm where layers shrink, and let the layers behind take in the same ones.

    A layer that shrinks keeps, in their order, the source filters of largest L1 norm over the inputs it takes in; one
    that grows gets them centrally. Whatever reads these channels, batch norms and residual branches included, selects
    alike, as far as its own source layer has as many channels there. Elsewhere it is `overlay_centred`: for kernel
    sizes, behind a concatenation, in grouped convolutions, and in a linear layer that reads several pixels of a
    channel.

    Parameters
    ----------
    pairs : sequence of (target layer, source layer)
        In any order: what a layer keeps is decided in the order in which the target runs them.
    target : nn.Module
        Read for its graph and its coupled channel axes (`hetlib.chain.chain`).

    Raises
    ------
    ValueError
        If the target cannot be traced, or two tensors differ in their numbers of axes; names the layers.

    References
    ----------
    TraceTransfer of DPIAT's released code, which re-executes the traced network instead of reading its axes.
    """
    found = chain(target)
    channels, calls = _Channels(found), [str(node.target) for node in found.graph.nodes]
    turn = {name: number for number, name in reversed(list(enumerate(calls)))}
    pieces = []
    for (name, layer), (donor_name, donor) in sorted(pairs, key=lambda pair: turn.get(pair[0][0], len(calls))):
        for own, given in _tensors(layer, donor):
            key = next(key for key, parameter in layer.named_parameters() if parameter is own)
            try:
                pieces.append(Fill(own, channels.select(f"{name}.{key}", given, own)))
            except ValueError as error:
                raise ValueError(f"{donor_name} -> {name}: {error}") from error
    return pieces


def _tensors(layer: nn.Module, donor: nn.Module) -> list[tuple[Tensor, Tensor]]:
    both = ((getattr(layer, key, None), getattr(donor, key, None)) for key in ("weight", "bias"))
    return [(own, given) for own, given in both if own is not None and given is not None]


class _Channels:
    """Which channel of the source stands in which channel of the target, as far as that has been decided."""

    def __init__(self, target: Chain):
        self.slots: dict[tuple[str, int], Tensor] = {}
        offset = 0
        shapes = {name: tensor.shape for name, tensor in target.model.state_dict().items()}
        for group in target.axes:
            for member in group.members:
                key = (member.name, member.axis)
                if member.index.shape[1] == 1:
                    own = self.slots.setdefault(key, torch.full((shapes[member.name][member.axis],), -1))
                    own[member.index[:, 0]] = torch.arange(group.size) + offset
            offset += group.size
        self.source = torch.full((offset,), -1)  # -1: keeps what it has
        self.width = torch.zeros(offset, dtype=torch.int64)  # of the source layer; 0: nothing was decided

    def select(self, name: str, given: Tensor, own: Tensor) -> Tensor:
        """The target's tensor with what is selected of the source's in it."""
        if given.dim() != own.dim():
            raise ValueError(f"shapes {tuple(given.shape)} and {tuple(own.shape)} differ in their numbers of axes")
        if own.dim() == 1:
            rows = self._decided(name, 0, len(given), len(own))
            out = own.clone()
            out[rows >= 0] = given[rows[rows >= 0]].to(out)
            return out
        columns = self._decided(name, 1, given.shape[1], own.shape[1])
        narrowed = given[:, columns[columns >= 0]]
        rows = self._decide(name, narrowed, len(own))
        donor, out = narrowed[rows[rows >= 0]], own.clone()
        places = (rows >= 0).nonzero(), (columns >= 0).nonzero().squeeze(1)
        out[places] = overlay(donor, out[places])
        return out

    def _decided(self, name: str, axis: int, have: int, want: int) -> Tensor:
        slots = self.slots.get((name, axis))
        if slots is None or bool((slots < 0).any()) or bool((self.width[slots] != have).any()):
            return _centred(have, want)
        return self.source[slots]

    def _decide(self, name: str, weight: Tensor, want: int) -> Tensor:
        slots, have = self.slots.get((name, 0)), len(weight)
        if slots is not None and bool((slots >= 0).all()) and bool((self.width[slots] == have).all()):
            return self.source[slots]
        rows = _centred(have, want)
        if have > want:
            # Stable, so that of equal norms, as of filters that are all zero, the first are kept everywhere.
            norms = weight.flatten(1).abs().sum(1)
            rows = norms.argsort(descending=True, stable=True)[:want].sort().values.cpu()
        if slots is not None:
            free = (slots >= 0) & (self.width[slots.clamp(min=0)] == 0)
            self.source[slots[free]], self.width[slots[free]] = rows[free], have
        return rows


def _centred(have: int, want: int) -> Tensor:
    """For each of `want` places the number of a source channel, -1 where there is none."""
    numbers = torch.arange(want) + (have - want) // 2 if have >= want else torch.arange(want) - (want - have) // 2
    return torch.where((numbers >= 0) & (numbers < have), numbers, -1)
