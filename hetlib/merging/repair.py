"""REPAIR: an average of two networks whose neurons have the mean and the spread that they had in the two.

Jordan, Sedghi, Saukh, Entezari and Neyshabur, *REPAIR: REnormalizing Permuted Activations for Interpolation Repair*,
ICLR 2023. Neurons that were averaged vary less than either of the two, and more so layer after layer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.chain import Chain, chain, evaluating
from hetlib.merging.average import update_bn

CONSTANT = 1e-6
"""A channel that varies by no more than this part of its mean, or of what it should, is rounding."""


def repair(
    fused: nn.Module, parents: Sequence[nn.Module], images: Tensor, weights: Sequence[float] | None = None
) -> nn.Module:
    """Give every channel of a fused network the mean and the standard deviation that its parents' have on average.

    The network is run once; each layer is reset when its turn comes, so it already sees what the layers before it now
    put out. What is reset is the output of the layer itself, over images and pixels: within a residual block before
    the shortcut is added. The last layer stays as it is.

    Parameters
    ----------
    fused : nn.Module
        The average. Not changed.
    parents : sequence of nn.Module
        The networks that were averaged, their neurons in one order: for two, what `transport_neurons` makes of the
        deep one, and the balanced one.
    images : Tensor of shape (N, ...)
        What all are run on, in evaluation mode and in one batch.
    weights : sequence of float, optional
        Of the parents, as in the average: `(1 - step, step)`. Equal by default.

    Returns
    -------
    nn.Module
        Of the same shapes. A layer without a bias is only scaled: its means are then off, and it takes biases to
        mend an average well. A layer with a batch norm is left to it, whose running statistics are taken anew from the
        images. Channels that put out the same everywhere stay.

    Raises
    ------
    ValueError
        If there are no parents, not one weight for each, no images or some that are not finite, or the networks
        differ in layers or shapes; the layer is named.

    References
    ----------
    Jordan et al., ICLR 2023, section 4.
    """
    shares = [1 / max(1, len(parents))] * len(parents) if weights is None else [*weights]
    if not shares or len(shares) != len(parents):
        raise ValueError(f"{len(shares)} weights for {len(parents)} parents")
    if not len(images) or not images.isfinite().all():
        raise ValueError("the images hold NaN or infinity" if len(images) else "no images to repair on")
    repaired = deepcopy(fused)
    found = chain(repaired)
    for parent in parents:
        _check(found, chain(parent))
    moments = [_moments(parent, images, [layer.name for layer in found.layers[:-1]]) for parent in parents]
    bare = {layer.name: layer.module for layer in found.layers[:-1] if layer.norm is None}

    def reset(name: str, value: Tensor) -> Tensor | None:
        module = bare.pop(name, None)  # a module that is called twice is reset at its first call
        if module is None:
            return None
        pairs = [share * seen[name] for share, seen in zip(shares, moments, strict=True)]
        return _reset_(module, value, torch.stack(pairs).sum(0))

    with evaluating(repaired), _listening(repaired, [*bare], reset):
        repaired(images)
    update_bn(repaired, images)
    return repaired


def variances(model: nn.Module, images: Tensor) -> dict[str, float]:
    """How much the channels of every hidden layer vary over images and pixels.

    Parameters
    ----------
    model : nn.Module
        Run once, in evaluation mode.
    images : Tensor of shape (N, ...)
        Its inputs.

    Returns
    -------
    dict of str to float
        Per layer the mean of its channels' variances, behind its batch norm if it has one. Divided by the mean of the
        parents' this is the "variance collapse" of a fused network.
    """
    layers = chain(model).layers[:-1]
    seen = _moments(model, images, [layer.norm or layer.name for layer in layers])
    return {layer.name: seen[layer.norm or layer.name][1].square().mean().item() for layer in layers}


def _check(found: Chain, other: Chain) -> None:
    names = [[layer.name for layer in side.layers] for side in (found, other)]
    if names[0] != names[1]:
        unlike = sorted(set(names[0]) ^ set(names[1])) or names[1]
        raise ValueError(f"a parent has the layers of the fused network, unlike {', '.join(unlike)}")
    for one, parent in zip(found.layers, other.layers, strict=True):
        here, there = (tuple(layer.module.weight.shape) for layer in (one, parent))
        if here != there:
            raise ValueError(f"{one.name}: {here} in the fused network and {there} in a parent: move it first")


def _moments(model: nn.Module, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Mean and standard deviation of each channel, (2, channels), of what modules put out when first called."""
    seen: dict[str, Tensor] = {}

    def note(name: str, value: Tensor) -> None:
        if name not in seen:
            seen[name] = _moment(value)

    with evaluating(model), _listening(model, names, note):
        model(images)
    return seen


def _moment(value: Tensor) -> Tensor:
    spread, mean = torch.std_mean(value, [i for i in range(value.ndim) if i != 1], correction=0)
    return torch.stack([mean, spread])


def _reset_(module: nn.Conv2d | nn.Linear, value: Tensor, wanted: Tensor) -> Tensor:
    """Scale and shift a layer so that its channels have the wanted moments, and the value in flight with it."""
    mean, spread = _moment(value)
    varies = spread > CONSTANT * (mean.abs() + wanted[1])
    factor = torch.where(varies, wanted[1] / spread, 1)
    shift = torch.zeros_like(mean) if module.bias is None else torch.where(varies, wanted[0] - factor * mean, 0)
    per_channel = (-1, *[1] * (value.ndim - 2))
    module.weight.mul_(factor.view(-1, *[1] * (module.weight.ndim - 1)))
    if module.bias is not None:
        module.bias.mul_(factor).add_(shift)
    return value * factor.view(per_channel) + shift.view(per_channel)


@contextmanager
def _listening(model: nn.Module, names: Sequence[str], hear: Callable[[str, Tensor], Any]) -> Iterator[None]:
    """Call `hear` with what each named module puts out; unless it is None, its answer takes that one's place."""
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, value, name=name: hear(name, value))
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
