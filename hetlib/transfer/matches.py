"""Matches that several papers share; each answers with pairs of layers by name."""

from dataclasses import dataclass

from torch import nn

from hetlib.chain.nested import Node, blocks, flatten, leaves, only
from hetlib.match import by_blocks, likeness, pair_by_score
from hetlib.transfer.transfer import Context, Pair


def unpaired(context: Context) -> list[Pair]:
    """No pairs: for fits that need none, such as a draw from statistics."""
    return []


@dataclass(frozen=True)
class SameName:
    """Each module of the target that holds tensors, paired with the source's of the same name if there is one."""

    def __call__(self, context: Context) -> list[Pair]:
        """The pairs, in the target's order of registration."""
        there = dict(context.source.named_modules())
        holding = lambda module: any(True for _ in (*module.parameters(False), *module.buffers(False)))
        names = (name for name, module in context.target.named_modules() if holding(module))
        return [Pair(name, name) for name in names if name in there]


@dataclass(frozen=True)
class ByScore:
    """Single layers matched along two lists by dynamic programming over the likeness of their shapes.

    Attributes
    ----------
    convolutions : bool
        Match Conv2d alone; otherwise all layers that carry weights, each with its like.

    References
    ----------
    TLI (arXiv 2101.02757) and the flat matching of DPIAT's released code; see `hetlib.match.by_score`.
    """

    convolutions: bool = False

    def __call__(self, context: Context) -> list[Pair]:
        """The pairs of the best map."""
        here, there = (list(leaves(_listed(flatten(net), self.convolutions))) for net in _networks(context))
        return [Pair(target, source) for (target, _), (source, _) in pair_by_score(here, there)]


@dataclass(frozen=True)
class ByBlocks:
    """Layers and blocks matched by dynamic programming over the likeness of their shapes, block by block.

    Attributes
    ----------
    convolutions : bool
        Match Conv2d alone; otherwise all layers that carry weights, each with its like.
    nested : bool
        False matches the flat lists of layers instead.

    References
    ----------
    DPIAT's released code (KamilPiechowiak/iatransfer), matching "dp"; see `hetlib.match.by_blocks`.
    """

    convolutions: bool = False
    nested: bool = True

    def __call__(self, context: Context) -> list[Pair]:
        """The pairs of the best map."""
        lists = blocks if self.nested else flatten
        here, there = (_listed(lists(net), self.convolutions) for net in _networks(context))
        return [Pair(target, source) for (target, _), (source, _) in by_blocks(here, there, likeness)]


def _networks(context: Context) -> tuple[nn.Module, nn.Module]:
    return context.source, context.target


def _listed(nodes: list[Node], convolutions: bool) -> list[Node]:
    return only(nodes, nn.Conv2d) if convolutions else nodes
