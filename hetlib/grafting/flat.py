"""A network's tensors as one buffer, which goes from one process to another in one piece."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class Flat:
    """The floating tensors of a network end to end in memory, one buffer for each type.

    Every tensor lies there in the order in which it lies in the network, channels last or not, so that it is copied in
    one go. Ranks whose tensors lie in other orders cannot exchange them; `hetlib.grafting.distributed.train` looks.

    Parameters
    ----------
    model : nn.Module
        Its tensors are kept, not copied: they may change in place, but not be replaced.

    Attributes
    ----------
    buffers : list of Tensor
        On the network's device.
    views : dict of str to Tensor
        What lies in the buffers, by key and in the shapes of the network's tensors.
    """

    def __init__(self, model: nn.Module):
        self.tensors = {k: value for k, value in model.state_dict(keep_vars=True).items() if value.is_floating_point()}
        self.buffers, self.views = [], {}
        for dtype in dict.fromkeys(value.dtype for value in self.tensors.values()):
            group = {key: value for key, value in self.tensors.items() if value.dtype == dtype}
            sizes = [value.numel() for value in group.values()]
            self.buffers.append(torch.empty(sum(sizes), dtype=dtype, device=next(iter(group.values())).device))
            for (key, value), part in zip(group.items(), self.buffers[-1].split(sizes), strict=True):
                self.views[key] = part.as_strided(value.shape, dense(value), part.storage_offset())

    @torch.no_grad()
    def read(self) -> list[Tensor]:
        """Copy the network's values into the buffers."""
        torch._foreach_copy_([self.views[key] for key in self.tensors], list(self.tensors.values()))
        return self.buffers

    @classmethod
    def copy(cls, model: nn.Module) -> "tuple[nn.Module, Flat]":
        """A copy of a network whose floating tensors are views of buffers: what arrives there is the copy's."""
        twin = deepcopy(model)
        flat = cls(twin)
        flat.read()
        for key, value in flat.tensors.items():
            value.data = flat.views[key]
        return twin, flat


def dense(value: Tensor) -> tuple[int, ...]:
    """The strides that a tensor would have in memory of its own."""
    return torch.empty_like(value, device="meta").stride()
