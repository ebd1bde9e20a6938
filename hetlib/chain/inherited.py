"""Subclasses of torch's layers: read as what they inherit, unless a forward of their own treats channels otherwise.

Many repositories bring a Conv2d that pads by itself or standardises its weights, or a batch norm with an activation.
To a graph they are a convolution and a norm as long as every channel they put out, and every one they take in, is
treated like any other. Whether that is so is tried on random numbers.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def torch_class(module: nn.Module) -> type:
    """The class of torch that a module is of, or inherits from."""
    names = ((kind, kind.__module__) for kind in type(module).__mro__)
    return next((kind for kind, name in names if name.startswith("torch.nn.modules")), type(module))


def has_own_forward(module: nn.Module) -> bool:
    """Whether a module, or its class, brings a forward that is not torch's."""
    if replaced_forward(module):
        return True
    forward: Any = type(module).forward
    return not forward.__module__.startswith(("torch.nn", "torch.ao.nn"))


def replaced_forward(module: nn.Module) -> bool:
    """Whether a module itself holds a forward, in place of its class's."""
    own: Any = vars(module).get("forward")
    return own is not None and (getattr(own, "__func__", None), getattr(own, "__self__", None)) != (
        type(module).forward,
        module,
    )


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one operation of the graph; else its forward is read."""
    if isinstance(module, nn.Sequential):
        return False
    if not has_own_forward(module):
        return True
    known = isinstance(module, (nn.Linear, *NORMS)) or (isinstance(module, _ConvNd) and not module.transposed)
    return known and _as_inherited(module)


def per_output(module: nn.Module) -> dict[str, Tensor]:
    """A layer's tensors other than its weight that hold something for each channel it puts out, on axis 0."""
    outputs = len(getattr(module, "weight", ()))
    held = {**module._parameters, **module._buffers}
    rest = {name: tensor for name, tensor in held.items() if name != "weight" and tensor is not None and tensor.ndim}
    return {name: tensor for name, tensor in rest.items() if len(tensor) == outputs}


@torch.no_grad()
def _as_inherited(module: Any) -> bool:
    """Whether channels in another order, on both sides, give what the module gives, in that order."""
    generator = torch.Generator().manual_seed(0)
    unreal = any(tensor.is_meta for tensor in module.parameters())
    tried = deepcopy(module).to_empty(device="cpu") if unreal else deepcopy(module).cpu()
    tried = tried.double().eval()
    for tensor in (*tried.parameters(), *tried.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    shape, axis = _trial_shape(module)
    images = torch.randn(shape, generator=generator, dtype=torch.float64)
    groups = getattr(module, "groups", 1)
    mixes = not isinstance(module, NORMS) and (groups == 1 or groups < shape[axis])
    own_groups = getattr(module, "num_groups", 1)
    # In groups, channels are exchanged within each; of a norm that takes each channel alone, among all.
    parts = groups if mixes else own_groups if own_groups < shape[axis] else 1
    came = _order(torch.arange(shape[axis]), parts, generator)
    try:
        right: Tensor = tried(images)
        outputs = len(tried.weight) if mixes else right.shape[axis] // len(came) * len(came)
        before = came if outputs == len(came) else torch.arange(outputs)
        went = _order(before, parts, generator) if mixes else _each(came, outputs // len(came))
        own = {"weight": getattr(tried, "weight", None), **per_output(tried)}
        for name, tensor in own.items():
            if tensor is not None:
                moved = tensor.index_select(0, went)
                if mixes and name == "weight":
                    inside = (came % (len(came) // parts)).chunk(parts)
                    moved = torch.cat([rows[:, order] for rows, order in zip(moved.chunk(parts), inside, strict=True)])
                tensor.copy_(moved)
        found = tried(images.index_select(axis, came))
        return right.shape[axis] == outputs and torch.allclose(found, right.index_select(axis, went))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False


def _trial_shape(module: Any) -> tuple[tuple[int, ...], int]:
    """The shape of what a layer may be tried on, and the axis of the channels it takes in."""
    if isinstance(module, _ConvNd):
        sizes = [d * (k - 1) + 3 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        return (2, module.in_channels, *sizes), 1
    if isinstance(module, nn.Linear):
        return (3, module.in_features), -1
    if isinstance(module, nn.LayerNorm):
        return (2, 3, *module.normalized_shape), -1
    pixels = 1 if isinstance(module, nn.BatchNorm1d | nn.InstanceNorm1d) else 2
    pixels = 3 if isinstance(module, nn.BatchNorm3d | nn.InstanceNorm3d) else pixels
    return (2, module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features, *[3] * pixels), 1


def _order(unlike: Tensor, parts: int, generator: torch.Generator) -> Tensor:
    """A random order of channels that stay within as many equal parts, in no part the given one."""
    orders = []
    for old in unlike.chunk(parts):
        new = old.sort().values[torch.randperm(len(old), generator=generator)]
        orders.append(new.roll(1) if torch.equal(new, old) else new)
    return torch.cat(orders)


def _each(order: Tensor, times: int) -> Tensor:
    """The order of channels that come so many in a row from each channel taken in."""
    return (order.unsqueeze(1) * times + torch.arange(times)).flatten()
