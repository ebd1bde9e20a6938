"""The features of a support network: what a network's classifier is given, averaged over space."""

from typing import Any

import torch
from torch import Tensor, nn

from hetlib.data import Images, normalise
from hetlib.training import use_bf16

POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@torch.no_grad()
def support_features(support: nn.Module, data: Images, batch_size: int = 500, precision: str = "auto") -> Tensor:
    """The support's features of every image, to be worked out once where training does not augment its images.

    Parameters
    ----------
    support : nn.Module
        Run in evaluation mode, on the device its parameters are on; its own mode is restored.
    data : Images
        Normalised with its own mean and standard deviation.
    batch_size : int
        Images per forward pass.
    precision : {"auto", "fp32", "bf16"}
        As in `hetlib.training.Recipe`.

    Returns
    -------
    Tensor of shape (len(data), D)
        float32: what a `Crossover` without a support takes, given to `hetlib.training.fit` as `rows`.
    """
    device, was_training = next(support.parameters(), torch.empty(0)).device, support.training
    support.eval()
    parts = []
    try:
        for images in data.images.split(batch_size):
            pixels = normalise(images.to(device), data.mean, data.std, memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(precision, device.type)):
                parts.append(pooled_features(support, pixels).float())
    finally:
        support.train(was_training)
    return torch.cat(parts)


class _Enough(Exception):
    """The first linear layer is reached."""


@torch.no_grad()
def pooled_features(model: nn.Module, images: Tensor) -> Tensor:
    """The last feature map of a network before its classifier, averaged over space.

    The classifier begins at the first linear layer that takes vectors (B, n); adaptive pools in front of it are passed
    over, since the average is taken here. A network without a linear layer is run to its end: of one whose classifier
    is a convolution, such as SqueezeNet, give the part that makes features (``model.features``).

    Parameters
    ----------
    model : nn.Module
        Run as it stands, in its mode, as far as its classifier.
    images : Tensor of shape (B, channels, height, width)

    Returns
    -------
    Tensor of shape (B, D)

    Raises
    ------
    ValueError
        If no module of the network gives a feature map.
    """
    maps: list[Tensor] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and not isinstance(module, POOLS):
            maps[:] = [output]

    def stop(module: nn.Module, inputs: Any) -> None:
        if inputs and inputs[0].dim() == 2:
            raise _Enough

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    hooks += [module.register_forward_pre_hook(stop) for module in model.modules() if isinstance(module, nn.Linear)]
    try:
        model(images)
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    if not maps:
        raise ValueError(f"no module of {type(model).__name__} gives a feature map (batch, channels, height, width)")
    return maps[0].mean((2, 3))
