"""Feature crossover: channels of a network's last features replaced, in training, by those of a frozen network.

Duong et al., *Heterogeneous Transfer Learning Using Variance-based Mapping and Pre-trained Feature Crossover*, AICI
2024 (DOI 10.1007/978-3-031-63929-6_21), after its released code.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.data import Images, normalise
from hetlib.errors import unknown
from hetlib.files import checksum
from hetlib.training import use_bf16

POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
MASKS = ("batch", "image")
SOURCES = ("features", "mean", "zeros")
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "falling": lambda done: 1.0 - done,
    "rising": lambda done: done,
}


def crossover(features: Tensor, pretrained: Tensor, p: float, uniform: Tensor | None = None) -> Tensor:
    """Replace channels of a network's features by those of a pretrained one, with probability `p` each.

    Parameters
    ----------
    features : Tensor of shape (B, C)
        What the network feeds its last linear layer. Channels that are replaced pass no gradient to it.
    pretrained : Tensor of shape (B, D)
        Features of the same images; of channels beyond the shorter of C and D nothing is replaced.
    p : float
        Probability, 0 to 1.
    uniform : Tensor of shape (min(C, D),) or (B, min(C, D)), optional
        A channel is replaced where this is below `p`; one row serves the whole batch, as in the released code. By
        default drawn, on the CPU, from torch's global generator: one row.

    Returns
    -------
    Tensor of shape (B, C)

    Raises
    ------
    ValueError
        If `p` is not a probability, or a shape does not fit.
    """
    _check_probability(p)
    if features.dim() != 2 or pretrained.dim() != 2 or len(features) != len(pretrained):
        shapes = f"{tuple(features.shape)} and {tuple(pretrained.shape)}"
        raise ValueError(f"features must be (batch, channels) of the same images, got {shapes}")
    shared = min(features.shape[1], pretrained.shape[1])
    uniform = torch.rand(shared) if uniform is None else uniform
    if uniform.shape not in ((shared,), (len(features), shared)):
        raise ValueError(f"uniform must be ({shared},) or ({len(features)}, {shared}), got {tuple(uniform.shape)}")
    replaced = uniform.to(features.device) < p
    mixed = torch.where(replaced, pretrained[:, :shared].detach().to(features), features[:, :shared])
    return torch.cat((mixed, features[:, shared:]), 1)


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability from 0 to 1, got {p}")


class Crossover(nn.Module):
    """A network in training, whose last features are crossed over with those of a frozen support network.

    Immediately before the target's last linear layer, channels of its features are replaced by channels of the
    support's, anew for every batch. In evaluation mode this is the target and nothing else. Like dropout it draws from
    torch's global generator, so `hetlib.training.fit` resumes it to the bit.

    Parameters
    ----------
    target : nn.Module
        The network that is trained; ends in a linear layer, which this hooks.
    support : nn.Module
        The network whose features are mixed in, see `pooled_features`; a frozen copy of it is kept. If it has fewer
        features (D) than the target (C), only the first D of these are ever replaced.
    p : float
        Probability of each channel to be replaced.
    mask : {"batch", "image"}
        One draw of channels for the whole batch, as in the released code, or one for every image.
    source : {"features", "mean", "zeros"}
        What replaces them: the support's features; their mean over the batch, which says nothing of an image; or
        zeros, which is dropout without rescaling. The last two are controls.
    schedule : {"constant", "falling", "rising"}
        How the probability goes over `steps` batches: p throughout, from p to 0, or from 0 to p.
    steps : int, optional
        Batches of the whole training; a schedule that is not constant needs it.

    Raises
    ------
    ValueError
        If the target has no linear layer, `p` is no probability, a name is unknown, or a schedule lacks its steps; in
        training, if the target's last linear layer does not run exactly once in a pass.

    References
    ----------
    Duong et al., 2024, released code: p = 0.1, mask "batch", source "features", without schedule. There the support
    also runs in evaluation, and with gradients; neither changes a result.
    """

    def __init__(
        self,
        target: nn.Module,
        support: nn.Module,
        p: float = 0.1,
        mask: str = "batch",
        source: str = "features",
        schedule: str = "constant",
        steps: int | None = None,
    ):
        super().__init__()
        heads = [module for module in target.modules() if isinstance(module, nn.Linear)]
        if not heads:
            raise ValueError(f"{type(target).__name__} has no linear layer to cross features over in front of")
        choices = (("mask", mask, MASKS), ("source", source, SOURCES), ("schedule", schedule, tuple(SCHEDULES)))
        for kind, name, names in choices:
            if name not in names:
                raise unknown(kind, name, names)
        if schedule != "constant" and (steps is None or steps < 1):
            raise ValueError(f"a {schedule} p needs the number of steps of the training, got steps={steps}")
        _check_probability(p)
        self.target, self.p, self.mask, self.source = target, p, mask, source
        self.schedule, self.steps, self._step = schedule, steps or 1, 0
        # Not a submodule: it is neither trained nor saved, and `train()` must not wake its batch norms and dropouts.
        self._support = (deepcopy(support).eval().requires_grad_(False),)
        self._features: Tensor | None = None
        self._calls = 0
        heads[-1].register_forward_pre_hook(self._cross)

    @property
    def probability(self) -> float:
        """The probability of the next batch in training."""
        return self.p * SCHEDULES[self.schedule](min(1.0, self._step / self.steps))

    def forward(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        """Run the target, in training with crossover.

        Parameters
        ----------
        images : Tensor of shape (B, channels, height, width)
        features : Tensor of shape (B, D), optional
            The support's features of these images, see `support_features`; by default the support is run.

        Returns
        -------
        Tensor of shape (B, classes)
        """
        if not self.training:
            return self.target(images)
        self._features, self._calls = pooled_features(self._support[0], images) if features is None else features, 0
        try:
            output = self.target(images)
        finally:
            self._features = None
        if self._calls != 1:
            name = type(self.target).__name__
            raise ValueError(f"the last linear layer of {name} ran {self._calls} times in a pass, not once")
        self._step += 1
        return output

    def _cross(self, head: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (features,), pretrained = inputs, self._features
        if pretrained is None:
            return inputs
        self._calls += 1
        if self.source == "mean":
            pretrained = pretrained.mean(0, keepdim=True).expand_as(pretrained)
        elif self.source == "zeros":
            pretrained = torch.zeros_like(pretrained)
        shared = min(features.shape[-1], pretrained.shape[-1])
        rows = () if self.mask == "batch" else (len(features),)
        return (crossover(features, pretrained, self.probability, torch.rand(*rows, shared)),)

    def extra_repr(self) -> str:
        """All settings, and the support by its checksum: they tell one training from another."""
        support = checksum(self._support[0].state_dict())[:16]
        settings = (self.p, self.mask, self.source, self.schedule, self.steps)
        return "p={}, mask={}, source={}, schedule={}, steps={}".format(*settings) + f", support={support}"

    def get_extra_state(self) -> Tensor:
        """How many batches the schedule has seen."""
        return torch.tensor(self._step)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from there."""
        self._step = int(state)

    def _apply(self, fn: Any, recurse: bool = True) -> "Crossover":
        self._support[0]._apply(fn)
        return super()._apply(fn, recurse)


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
        float32: what `Crossover` takes beside a batch, and `hetlib.training.fit` as `alongside`.
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
