"""The methods that TLV is compared with, behind one interface: DPIAT, TLI-style injection, and He initialisation."""

from typing import Any

import torch
from torch import nn

from hetlib.chain.nested import Leaf, blocks, check, flatten, leaves
from hetlib.errors import unknown
from hetlib.kernels.fill import Fill
from hetlib.kernels.write import write
from hetlib.match import by_blocks, likeness, pair_by_score
from hetlib.transfer import Row, TransferReport
from hetlib.transfer.overlay import overlay_centred

PEERS = ("dpiat", "tli", "he")


@torch.no_grad()
def transfer(source: nn.Module, target: nn.Module, peer: str = "dpiat", seed: int = 0) -> TransferReport:
    """Feed a target as a peer of TLV does.

    Parameters
    ----------
    source : nn.Module
        The network that has learned something; unchanged, and unused by "he".
    target : nn.Module
        The network to be fed. Modified in place, once everything has been computed.
    peer : {"dpiat", "tli", "he"}
        "dpiat" matches layers and blocks by dynamic programming over the likeness of shapes and lays each tensor
        centrally over its own. "tli" does the same with single layers in one list. Both feed convolutions, linear
        layers and the scales and shifts of batch norms, running statistics not. "he" draws the weight of every Conv2d
        from He's normal distribution, fan out, as torchvision's residual networks are born, and leaves all else.
    seed : int
        Of He's draws.

    Returns
    -------
    TransferReport
        One row per layer of the target that carries weights.

    Raises
    ------
    ValueError
        If the peer is unknown, a network has no layer to feed or be fed, or a layer has no weights or, in the target,
        none that can be written.

    References
    ----------
    DPIAT: released code KamilPiechowiak/iatransfer (blocks, dynamic programming, ClipTransfer, ShapeScore). TLI:
    arXiv 2101.02757; its paper blends crops with a weight of 0.75, its released code, which this follows, injects
    centrally. That code also pairs weights with vectors, which fails; here only layers of one kind are paired.
    """
    if peer not in PEERS:
        raise unknown("peer", peer, PEERS)
    own, donors = list(leaves(flatten(target))), list(leaves(flatten(source)))
    for role, model, layers in (("target", target, own), ("source", source, donors)):
        if not layers and not (peer == "he" and role == "source"):
            raise ValueError(f"the {role} ({type(model).__name__}) has no layer that carries weights")
        check(layers, role)
    if peer == "he":
        return _he(own, seed)
    pairs = by_blocks(blocks(source), blocks(target), likeness) if peer == "dpiat" else pair_by_score(donors, own)
    write(overlay_centred(pairs, target))
    fed = {name: donor for (name, _), donor in pairs}
    rows = [_row(leaf, fed.get(leaf[0])) for leaf in own]
    return TransferReport(peer.upper(), tuple(rows), tuple((name, _shape(layer)) for name, layer in donors))


def _shape(layer: Any) -> tuple[int, ...]:
    return tuple(layer.weight.shape)


def _row(leaf: Leaf, donor: Leaf | None) -> Row:
    if donor is None:
        return Row(leaf[0], _shape(leaf[1]))
    same = _shape(leaf[1]) == _shape(donor[1])
    return Row(leaf[0], _shape(leaf[1]), donor[0], _shape(donor[1]), "copied" if same else "laid over centrally")


def _he(own: list[Leaf], seed: int) -> TransferReport:
    generator = torch.Generator().manual_seed(seed)
    pieces, rows = [], []
    for name, layer in own:
        done = "kept"
        if isinstance(layer, nn.Conv2d):
            drawn = torch.empty(layer.weight.shape)
            nn.init.kaiming_normal_(drawn, mode="fan_out", nonlinearity="relu", generator=generator)
            pieces.append(Fill(layer.weight, drawn.to(layer.weight)))
            done = "drawn, He, fan out"
        rows.append(Row(name, _shape(layer), done=done))
    write(pieces)
    return TransferReport("He initialisation", tuple(rows))
