"""REPAIR: an average of two networks whose neurons have the mean and the spread that they had in the two.

Jordan, Sedghi, Saukh, Entezari and Neyshabur, *REPAIR: REnormalizing Permuted Activations for Interpolation Repair*,
ICLR 2023. Neurons that were averaged vary less than either of the two, and more so layer after layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from hetlib.chain import eval_chain, evaluating
from hetlib.checks import check_images, check_network, check_sequence, taking
from hetlib.errors import finite_numbers
from hetlib.merging.average import check_statistics, update_bn
from hetlib.merging.hidden import check_layers, check_own, layers_with_norms, sharing

CONSTANT = 1e-6
"""A channel that varies by no more than this part of its mean, or of what it should, is rounding."""


@torch.inference_mode(False)
def repair(
    fused: nn.Module, parents: Sequence[nn.Module], images: Tensor, weights: Sequence[float] | None = None
) -> nn.Module:
    """Give every channel of a fused network the mean and the standard deviation that its parents' have on average.

    The network is run once; each layer is reset when its turn comes, so it already sees what the layers before it now
    put out. What is reset is the output of the layer itself, over images and pixels (of a linear layer: over all axes
    but the last): within a residual block before the shortcut is added. The last layer stays as it is.

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
        mend an average well. A layer with a batch norm over its channels is left to it, whose running statistics are
        taken anew from the images. Channels that put out the same everywhere stay.

    Raises
    ------
    ValueError
        If there are no parents, not one weight for each, no images or some that are not finite, the networks differ
        in layers or shapes, or a layer cannot be reset: it is neither a convolution nor linear and no norm follows it,
        or its weight is computed, not there, or another layer's as well. The layer is named.

    References
    ----------
    Jordan et al., ICLR 2023, section 4.
    """
    check_sequence("parents", parents, "networks")
    check_network("the fused network", fused, values=True)
    for parent in parents:
        check_network("a parent", parent, values=True)
    if not len(parents):
        raise ValueError("no parents to repair the network by")
    shares = [1 / len(parents)] * len(parents) if weights is None else finite_numbers("weights", weights, len(parents))
    check_images("images", images)
    check_statistics(fused)
    read = eval_chain(fused)
    modules, norms = check_layers(read, "fused network"), layers_with_norms(read)
    hidden = [*norms][:-1]
    check_own(modules)
    for parent in parents:
        _check_alike(modules, check_layers(eval_chain(parent), "parent"))
    own = {name: name for name in hidden}
    moments = [_moments(parent, images, own) for parent in parents]
    repaired = read.copy().model
    shared, waiting = sharing(repaired), set(hidden)

    def reset(name: str, module: Any, inputs: tuple[Any, ...], value: Tensor) -> Tensor | None:
        # A norm acts on axis 1, which is not where a linear layer of several vectors an image has its channels.
        if name not in waiting or (norms[name] is not None and _axis(module, value) == 1):
            return None
        waiting.remove(name)  # a module that is called twice is reset at its first call
        for tensor in (module.weight, module.bias):
            if names := shared.get(id(tensor)):
                raise ValueError(f"{' and '.join(names)} are one tensor, which cannot be reset for each of its layers")
        pairs = [share * seen[name] for share, seen in zip(shares, moments, strict=True)]
        return _reset_(name, module, inputs, value, torch.stack(pairs).sum(0))

    with evaluating(repaired), _listening(repaired, own, reset):
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
    check_network("model", model, values=True)
    check_images("images", images)
    read = eval_chain(model)
    check_layers(read, "network")
    behind = {name: norm or name for name, norm in [*layers_with_norms(read).items()][:-1]}
    return {name: seen[1].square().mean().item() for name, seen in _moments(model, images, behind).items()}


def _check_alike(modules: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    if [*modules] != [*others]:
        unlike = sorted(modules.keys() ^ others.keys()) or others
        raise ValueError(f"a parent has the layers of the fused network, unlike {', '.join(unlike)}")
    for name, module in modules.items():
        here, there = (tuple(layer.weight.shape) for layer in (module, others[name]))
        if here != there:
            raise ValueError(f"{name}: {here} in the fused network and {there} in a parent: move it first")


def _moments(model: nn.Module, images: Tensor, behind: Mapping[str, str]) -> dict[str, Tensor]:
    """Mean and standard deviation of each channel of layers, (2, channels), of what modules put out when first called.

    `behind` names for each layer the module that is listened to: itself, or its norm.
    """
    seen: dict[str, Tensor] = {}
    turn: dict[str, str] = {}  # for each module that is listened to, the layer that ran last: several may share a norm

    def ran(name: str, *_: Any) -> None:
        turn[behind[name]] = name

    def note(heard: str, _: Any, __: Any, value: Tensor) -> None:
        name = turn.get(heard)
        if name is not None and name not in seen:
            seen[name] = _moment(value, _axis(model.get_submodule(name), value))

    alone = ({name: name for name in names} for names in (behind, behind.values()))
    hearing = _listening(model, next(alone), ran), _listening(model, next(alone), note)
    with taking("a network", images), evaluating(model), hearing[0], hearing[1]:
        model(images)
    return seen


def _axis(layer: nn.Module, value: Tensor) -> int:
    """Where a layer has its channels in what it puts out."""
    return value.ndim - 1 if isinstance(layer, nn.Linear) else 1


def _moment(value: Tensor, channels: int) -> Tensor:
    spread, mean = torch.std_mean(value, [i for i in range(value.ndim) if i != channels], correction=0)
    return torch.stack([mean, spread])


def _reset_(name: str, module: Any, inputs: tuple[Any, ...], value: Tensor, wanted: Tensor) -> Tensor:
    """Scale and shift a layer so that its channels have the wanted moments, and the value in flight with it."""
    axis = _axis(module, value)
    mean, spread = _moment(value, axis)
    varies = spread > CONSTANT * (mean.abs() + wanted[1])
    factor = torch.where(varies, wanted[1] / spread, 1)
    shift = torch.zeros_like(mean) if module.bias is None else torch.where(varies, wanted[0] - factor * mean, 0)
    _scale_(module, factor)
    if module.bias is not None:
        module.bias.mul_(factor).add_(shift)
    per_channel = [-1 if i == axis else 1 for i in range(value.ndim)]
    value = value * factor.view(per_channel) + shift.view(per_channel)
    if type(module).__module__.startswith("torch.nn."):
        return value
    # A subclass may make another weight of its own in `forward`, as weight standardisation does.
    gap = (module.forward(*inputs) - value).abs().max()
    if not gap <= torch.finfo(value.dtype).eps ** 0.5 * value.abs().max():
        raise ValueError(f"{name} ({type(module).__name__}) does not put out what its weight and bias are scaled to")
    return value


def _scale_(module: Any, factor: Tensor) -> None:
    weight, ones = module.weight, [1] * (module.weight.ndim - 2)
    if isinstance(module, _ConvTransposeNd):  # (inputs, outputs of a group, ...)
        weight.unflatten(0, (module.groups, -1)).mul_(factor.view(module.groups, 1, -1, *ones))
    else:
        weight.mul_(factor.view(-1, 1, *ones))


@contextmanager
def _listening(model: nn.Module, behind: Mapping[str, str], hear: Callable[..., Any]) -> Iterator[None]:
    """Call `hear` with each layer's name, and the module behind it, its inputs and what it puts out.

    Unless its answer is None, it takes that one's place.
    """
    handles = [
        model.get_submodule(heard).register_forward_hook(lambda *call, name=name: hear(name, *call))
        for name, heard in behind.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
