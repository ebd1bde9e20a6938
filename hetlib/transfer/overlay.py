"""Weights laid over the target's own: DPIAT's fit, centred, or followed through the network by the filters it keeps."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hetlib.chain import Chain
from hetlib.errors import known
from hetlib.kernels.fill import Fill
from hetlib.kernels.overlay import overlay
from hetlib.transfer.transfer import Context, Pair, naming

PLACES = ("clip", "trace")


@dataclass(frozen=True)
class Overlay:
    """Weights and biases of paired layers laid over the target's; scales and shifts of batch norms among them.

    Running statistics are left alone.

    Attributes
    ----------
    place : {"clip", "trace"}
        "clip" lays every tensor centrally, see `hetlib.kernels.overlay.overlay`. "trace" keeps the output channels of
        largest L1 norm where layers shrink, and lets the layers behind take in the same ones: a layer that shrinks
        keeps, in their order, the source filters of largest L1 norm over the inputs it takes in; one that grows gets
        them centrally. Whatever reads these channels, batch norms and residual branches included, selects alike, as far
        as its own source layer has as many channels there. Elsewhere it is "clip": for kernel sizes, behind a
        concatenation, in grouped convolutions, and in a linear layer that reads several pixels of a channel.

    References
    ----------
    ClipTransfer and TraceTransfer of DPIAT's released code (KamilPiechowiak/iatransfer); the latter re-executes the
    traced network instead of reading its channels.
    """

    place: str = "clip"

    def __post_init__(self):
        known("place", self.place, PLACES)

    def __call__(self, context: Context, pairs: list[Pair]) -> Iterator[Fill]:
        """One fill for each weight and bias that both layers of a pair have.

        Raises
        ------
        ValueError
            If two tensors differ in their numbers of axes, or, for "trace", the target cannot be traced.
        """
        if self.place == "clip" or not pairs:
            channels, ordered, note = None, pairs, "laid over centrally"
        else:
            # What a layer keeps is decided in the order in which the target runs its layers, not in that of the pairs.
            calls = [str(node.target) for node in context.target_chain.graph.nodes]
            turn = {name: number for number, name in reversed(list(enumerate(calls)))}
            ordered = sorted(pairs, key=lambda pair: turn.get(pair.target, len(calls)))
            channels, note = _Channels(context.target_chain), "filters of largest L1 norm kept"
        for pair in ordered:
            source, target = context.layers(pair)
            same = getattr(source, "weight", None) is not None and source.weight.shape == target.weight.shape
            with naming(context, pair):
                for key, own, given in _shared_tensors(target, source):
                    new = (
                        overlay(given, own) if channels is None else channels.select(f"{pair.target}.{key}", given, own)
                    )
                    yield Fill(pair.target, own, new, note="copied" if same else note, source=pair.source)


def _shared_tensors(target: nn.Module, source: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    for key in ("weight", "bias"):
        own, given = getattr(target, key, None), getattr(source, key, None)
        if own is not None and given is not None:
            yield key, own, given


class _Channels:
    """Which channel of the source stands in which channel of the target, as far as that has been decided."""

    def __init__(self, target: Chain):
        self.numbers = target.channel_numbers
        count = sum(group.size for group in target.axes)
        self.source = torch.full((count,), -1)  # -1: keeps what it has
        self.width = torch.zeros(count, dtype=torch.int64)  # of the source layer; 0: nothing was decided

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
        numbers = self.numbers.get((name, axis))
        if numbers is None or bool((numbers < 0).any()) or bool((self.width[numbers] != have).any()):
            return _centred(have, want)
        return self.source[numbers]

    def _decide(self, name: str, weight: Tensor, want: int) -> Tensor:
        numbers, have = self.numbers.get((name, 0)), len(weight)
        if numbers is not None and bool((numbers >= 0).all()) and bool((self.width[numbers] == have).all()):
            return self.source[numbers]
        rows = _centred(have, want)
        if have > want:
            # Stable, so that of equal norms, as of filters that are all zero, the first are kept everywhere.
            norms = weight.flatten(1).abs().sum(1)
            rows = norms.argsort(descending=True, stable=True)[:want].sort().values.cpu()
        if numbers is not None:
            free = (numbers >= 0) & (self.width[numbers.clamp(min=0)] == 0)
            self.source[numbers[free]], self.width[numbers[free]] = rows[free], have
        return rows


def _centred(have: int, want: int) -> Tensor:
    """For each of `want` places the number of a source channel, -1 where there is none."""
    numbers = torch.arange(want) + (have - want) // 2 if have >= want else torch.arange(want) - (want - have) // 2
    return torch.where((numbers >= 0) & (numbers < have), numbers, -1)
