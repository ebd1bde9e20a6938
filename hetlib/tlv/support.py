"""The features of a support network: what a network's classifier is given, averaged over space."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hetlib.chain import eval_mode
from hetlib.checks import check_network
from hetlib.data import Images, normalise
from hetlib.errors import positive
from hetlib.training import use_bf16
from hetlib.training.check import run

POOLING = {"adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "amax"}
PASSING = {"flatten", "view", "reshape", "squeeze", "contiguous", "dropout", "to", "float", "clone", "__getitem__"}


@torch.no_grad()
def support_features(support: nn.Module, data: Images, batch_size: int = 500, precision: str = "auto") -> Tensor:
    """The support's features of every image, to be worked out once where training does not augment its images.

    Parameters
    ----------
    support : nn.Module
        Run in evaluation mode, on the device its parameters are on; every module gets its own mode back.
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
    check_network("support", support)
    positive("batch_size", batch_size)
    device = next(support.parameters(), torch.empty(0)).device
    parts = []
    with eval_mode(support):
        for images in data.images.split(batch_size):
            pixels = normalise(images.to(device), data.mean, data.std, memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(precision, device.type)):
                parts.append(pooled_features(support, pixels).float())
    return torch.cat(parts)


@torch.no_grad()
def pooled_features(model: nn.Module, images: Tensor) -> Tensor:
    """The last feature map of a network before its classifier, averaged over space.

    The classifier begins where a map that was only pooled enters a linear layer, after which no other map comes: the
    linear layers of a gate inside the network are none. Of a network without a linear layer it is the last map: if its
    classifier is a convolution, as SqueezeNet's, give the part that makes features (``model.features``).

    Parameters
    ----------
    model : nn.Module
        Run as it stands, in its mode.
    images : Tensor of shape (B, channels, height, width)

    Returns
    -------
    Tensor of shape (B, D)

    Raises
    ------
    ValueError
        If the network makes no feature map, or what its classifier takes is not one that was only pooled, as in a
        vision transformer.
    """
    with _Trail(len(images)) as trail:
        run(model, images)
    name = type(model).__name__
    if trail.map is None:
        raise ValueError(f"no operation of {name} gives a feature map (batch, channels, height, width)")
    if trail.classified and trail.taken is None:
        raise ValueError(
            f"the classifier of {name} takes something else than its last feature map, pooled: give the part of the "
            "network that ends in feature maps"
        )
    return (trail.map if trail.taken is None else trail.taken).mean((2, 3))


def head_of(model: nn.Module, images: Tensor) -> nn.Linear | None:
    """The last linear layer that runs, on two images at most; None where none does."""
    ran: list[Any] = [None]
    hooks = [
        module.register_forward_pre_hook(lambda head, _: ran.append(head))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with eval_mode(model), torch.no_grad():
            run(model, images[:2])
    finally:
        for hook in hooks:
            hook.remove()
    return ran[-1]


class _Trail(TorchFunctionMode):
    """Follows feature maps through a network to where a classifier takes one.

    Every tensor that comes from the last map by `POOLING` and `PASSING` alone is "pooled", what linear layers make of
    such tensors is "classified", and the next map ends both.
    """

    def __init__(self, batch: int):
        super().__init__()
        self.batch, self.classified = batch, False
        self.map: Tensor | None = None
        self.taken: Tensor | None = None
        self._known: dict[int, tuple[Tensor, str]] = {}  # holds the tensors, so that no number is given twice

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point() and out.shape[:1] == (self.batch,):
            given = [each for each in (*args, *(kwargs or {}).values()) if isinstance(each, Tensor)]
            self._note(getattr(func, "__name__", ""), given, out)
        return out

    def _note(self, name: str, given: list[Tensor], out: Tensor) -> None:
        known = {self._known[id(each)][1] for each in given if id(each) in self._known}
        if name in POOLING | PASSING and known <= {"pooled"} and (known or given[0] is self.map):
            self._known[id(out)] = out, "pooled"
        elif name == "linear" and given[0].dim() == 2:
            self.classified = True
            if known != {"classified"}:
                self.taken = self.map if known == {"pooled"} else None
            if known:
                self._known[id(out)] = out, "classified"
        elif out.dim() == 4:
            self.map, self.taken = out, None
            self._known.clear()
        elif known == {"classified"}:
            self._known[id(out)] = out, "classified"
