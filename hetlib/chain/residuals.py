"""Residual blocks of a traced network: the two branches into every addition, and the shorter one, its shortcut."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from torch import fx, nn

from hetlib.chain.trace import Call


@dataclass(frozen=True)
class Shortcut:
    """The shorter of two branches into an addition.

    Attributes
    ----------
    block : int
        Index of the residual block it belongs to.
    kind : {"identity", "projection", "plain"}
        Nothing on it; layers on it; or only operations without parameters (slicing, padding, pooling).
    start, end : str
        Names of the nodes of `Chain.graph` where it leaves the main branch and where it is added.
    layers : tuple of str
        Names of the layers on it.
    """

    block: int
    kind: Literal["identity", "projection", "plain"]
    start: str
    end: str
    layers: tuple[str, ...]


def residual_blocks(model: nn.Module, graph: fx.Graph) -> tuple[tuple[Shortcut, ...], dict[fx.Node, int]]:
    """Find every addition that joins two unequal branches from one node: it ends a residual block.

    Returns
    -------
    shortcuts : tuple of Shortcut
        The shorter branch of each, in execution order of the additions.
    blocks : dict of Node to int
        For each node inside a residual block, the index of the innermost one.
    """
    nodes = list(graph.nodes)
    # Which nodes a node depends on is a set of bits in one integer: bit i stands for node i. What only one operand of
    # an addition depends on is its branch; the last node that both depend on is where the two branches part.
    above: dict[fx.Node, int] = {}
    shortcuts: list[Shortcut] = []
    blocks: dict[fx.Node, int] = {}
    for number, node in enumerate(nodes):
        above[node] = 1 << number
        for source in node.all_input_nodes:
            above[node] |= above[source]
        if Call.of(model, node).name not in ("add", "iadd") or len(node.all_input_nodes) != 2:
            continue
        one, other = (above[source] for source in node.all_input_nodes)
        branches = [[Call.of(model, nodes[i]) for i in _bits(side & ~(one & other))] for side in (one, other)]
        short, long = sorted(branches, key=_size)
        if not one & other or _size(short) == _size(long):
            continue
        names = tuple(str(call.node.target) for call in short if isinstance(call.module, nn.Conv2d | nn.Linear))
        bare = all(call.name == "identity" for call in short)
        start = nodes[(one & other).bit_length() - 1].name
        kind: Any = "projection" if names else "identity" if bare else "plain"
        for call in (*short, *long):
            blocks.setdefault(call.node, len(shortcuts))
        shortcuts.append(Shortcut(len(shortcuts), kind, start, node.name, names))
    return tuple(shortcuts), blocks


def _bits(mask: int) -> Iterator[int]:
    return (i for i in range(mask.bit_length()) if mask >> i & 1)


def _size(branch: list[Call]) -> tuple[int, int]:
    """How many layers a branch has, then how many kernel taps: a 1x1 beside a 3x3 convolution is the shortcut."""
    kernels = [
        getattr(call.module, "kernel_size", (1,)) for call in branch if isinstance(call.module, nn.Conv2d | nn.Linear)
    ]
    return len(kernels), sum(map(prod, kernels))
