"""HMT: the weights of one convolutional chain placed into another of different depth, width and kernel size.

Wang, Lai, Liang, Wang, *Heterogeneous Model Transfer between Different Neural Networks*, 2020 (OpenReview 7xArdn_FKtV).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hetlib.chain import chain, convolutions
from hetlib.kernels.fill import Fill
from hetlib.kernels.resize_cyclic import resize, resized
from hetlib.kernels.write import write
from hetlib.match import by_position
from hetlib.transfer import Row, TransferReport

__all__ = ["resize", "transfer"]

Layers = list[tuple[str, nn.Conv2d]]


@torch.no_grad()
def transfer(
    source: nn.Module,
    target: nn.Module,
    order: str | Sequence[int] = "chain",
    align_corners: bool = False,
    *,
    resizer: str = "bilinear",
    antialias: bool = False,
    correct_gain: bool = False,
    batch_norm: bool = False,
    noise: float = 0.0,
    seed: int | None = None,
) -> TransferReport:
    """Place the source's convolutions into the target's, position by position along their chains.

    The chain of a network is every 2-D convolution in registration order, without those under a module called
    `downsample`. Biases, batch norms, projection shortcuts and linear layers of the target keep their values.

    Parameters
    ----------
    source : nn.Module
        The network that has learned something; unchanged.
    target : nn.Module
        The network to be fed. Modified in place, once everything has been checked.
    order : {"chain", "shuffle", "interval"} or sequence of int
        Order of the source's layers before pairing, see `hetlib.match.by_position`.
    align_corners, resizer, antialias
        How kernels change size, see `resize`.
    correct_gain : bool
        Multiply each weight by fan_in(source) / fan_in(target), so that a constant input keeps its response: the
        released code has this line, commented out.
    batch_norm : bool
        Also place scale, shift and running statistics of the batch norm that follows each fed convolution.
    noise : float
        Standard deviation of Gaussian noise on repeated output filters, relative to that of the layer's weights.
        Without it, repeated filters below the last layer never separate in training.
    seed : int, optional
        Seed of `noise`, and of the "shuffle" order if that shall not be the released one.

    Returns
    -------
    TransferReport
        One row per convolution of the target's chain.

    Raises
    ------
    ValueError
        If a network has no convolution, the order is invalid, a matched kernel is not square, or noise is negative.

    References
    ----------
    The released code of the paper in its last state. "Longest chain" in the abstract is not computed there either;
    ``hetlib.chain.chain(model).longest()`` computes it.
    """
    if noise < 0:
        raise ValueError(f"noise is a standard deviation, got {noise}")
    sources, targets = _convolutions(source, "source"), _convolutions(target, "target")
    picks = by_position(len(sources), len(targets), order, seed)
    pairs = [(t, sources[i] if i is not None else None) for t, i in zip(targets, picks, strict=True)]
    rows = tuple(_plan(t, s) for t, s in pairs)
    fed = [(layer.weight, feed[1].weight) for (_, layer), feed in pairs if feed is not None]
    pieces = [resized(donor, weight, align_corners, resizer=resizer, antialias=antialias) for weight, donor in fed]
    if batch_norm:
        pieces += _norms(source, target, rows)
    write(pieces)
    if correct_gain:
        for weight, donor in fed:
            weight.mul_(donor[0].numel() / weight[0].numel())
    if noise:
        _separate_(pairs, noise, torch.Generator().manual_seed(seed or 0))
    name = f"HMT, {order if isinstance(order, str) else 'explicit'} order"
    return TransferReport(name, rows, tuple((n, tuple(layer.weight.shape)) for n, layer in sources))


def _convolutions(model: nn.Module, role: str) -> Layers:
    layers = convolutions(model)
    if not layers:
        raise ValueError(f"the {role} ({type(model).__name__}) has no 2-D convolution to transfer")
    return layers


def _plan(target: tuple[str, nn.Conv2d], source: tuple[str, nn.Conv2d] | None) -> Row:
    name, there = target[0], tuple(target[1].weight.shape)
    if source is None:
        return Row(name, there)
    here = tuple(source[1].weight.shape)
    if here[2] != here[3] or there[2] != there[3]:
        raise ValueError(f"{source[0]} {here} -> {name} {there}: kernels must be square; nothing was transferred")
    steps = [f"kernel {here[2]} -> {there[2]}"] if here[2] != there[2] else []
    for axis, have, want in (("outputs", here[0], there[0]), ("inputs", here[1], there[1])):
        if have != want:
            steps.append(f"{axis} {'repeated' if want > have else 'cropped'} {have} -> {want}")
    return Row(name, there, source[0], here, ", ".join(steps) or "copied")


def _separate_(pairs, noise: float, generator: torch.Generator) -> None:
    for (_, layer), feed in pairs:
        if feed is None or layer.out_channels <= feed[1].out_channels:
            continue
        copies: Tensor = layer.weight[feed[1].out_channels :]
        draw = torch.randn(copies.shape, generator=generator).to(copies)
        copies.add_(draw, alpha=noise * float(layer.weight.std()))


def _norms(source: nn.Module, target: nn.Module, rows: Sequence[Row]) -> list[Fill]:
    here, there = ({layer.name: layer.norm for layer in chain(model).layers} for model in (source, target))
    pieces = []
    for row in rows:
        donor, own = here.get(row.source or ""), there[row.target]
        if donor is None or own is None:
            continue
        donated = source.get_submodule(donor).state_dict()
        for key, value in target.get_submodule(own).state_dict().items():
            if key in donated and value.dim() == 1:
                pieces.append(resized(donated[key], value))
    return pieces
