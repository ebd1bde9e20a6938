"""What the papers are compared with: DPIAT, TLI-style injection, and He initialisation, as sentences.

>>> DPIAT = Transfer(ByBlocks(), (Overlay(),))
>>> TLI = Transfer(ByScore(), (Overlay(),))
>>> HE = Transfer(unpaired, (HeNormal(),))
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from hetlib.chain import reading
from hetlib.chain.nested import check, flatten, leaves
from hetlib.checks import check_network
from hetlib.errors import known
from hetlib.transfer import ByBlocks, ByScore, Context, Fill, Overlay, Pair, Transfer, TransferReport, unpaired

__all__ = ["METHODS", "ByBlocks", "ByScore", "HeNormal", "Overlay", "transfer"]


@dataclass(frozen=True)
class HeNormal:
    """Every Conv2d of the target drawn from He's normal distribution, fan out; all else keeps its values."""

    def __call__(self, context: Context, pairs: list[Pair]) -> Iterator[Fill]:
        """A fill per convolution, in registration order; the source is not looked at."""
        layers = context.layers_of(nn.Conv2d)[1]
        check(layers, "target")
        for name, layer in layers:
            drawn = torch.empty(layer.weight.shape)
            nn.init.kaiming_normal_(drawn, mode="fan_out", nonlinearity="relu", generator=context.generator)
            yield Fill(name, layer.weight, drawn.to(layer.weight), note="drawn, He, fan out")


METHODS = {
    "dpiat": Transfer(ByBlocks(), (Overlay(),)),
    "tli": Transfer(ByScore(), (Overlay(),)),
    "he": Transfer(unpaired, (HeNormal(),)),
}
"""The baselines by name."""
NAMES = {"dpiat": "DPIAT", "tli": "TLI", "he": "He initialisation"}


def transfer(source: nn.Module, target: nn.Module, method: str = "dpiat", seed: int = 0) -> TransferReport:
    """Feed a target as one of the methods does that the papers are compared with.

    Parameters
    ----------
    source : nn.Module
        The network that has learned something; unchanged, and unused by "he". Weights that are computed, as by weight
        norm, are taken as they are.
    target : nn.Module
        The network to be fed. Modified in place, once everything has been computed.
    method : {"dpiat", "tli", "he"}
        "dpiat" matches layers and blocks by dynamic programming over the likeness of shapes and lays each tensor
        centrally over its own. "tli" does the same with single layers in one list. Both feed convolutions, linear
        layers and the scales and shifts of batch norms, running statistics not. "he" draws the weight of every Conv2d
        from He's normal distribution, fan out, as torchvision's residual networks are born, and leaves all else.
    seed : int
        Of He's draws.

    Returns
    -------
    TransferReport
        One row per convolution and linear layer of the target, and per batch norm that was fed.

    Raises
    ------
    ValueError
        If the method is unknown, a network has no layer to feed or be fed, or a layer has no weights or, in the target,
        none that can be written.

    References
    ----------
    DPIAT: released code KamilPiechowiak/iatransfer (blocks, dynamic programming, ClipTransfer, ShapeScore). TLI:
    arXiv 2101.02757; its paper blends crops with a weight of 0.75, its released code, which this follows, injects
    centrally. That code also pairs weights with vectors, which fails; here only layers of one kind are paired.
    """
    known("method", method, METHODS)
    for role, model in (("target", target), ("source", source)):
        check_network(role, model, values=role == "target" or method != "he")
    with reading(*source.modules(), *target.modules()):
        for role, model in (("target", target), ("source", source)):
            if not list(leaves(flatten(model))) and not (method == "he" and role == "source"):
                raise ValueError(f"the {role} ({type(model).__name__}) has no layer that carries weights")
        return replace(METHODS[method](source, target, seed=seed), method=NAMES[method])
