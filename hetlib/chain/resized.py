"""Networks whose tensors have other sizes than their modules were built with."""

from collections.abc import Mapping
from copy import deepcopy

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def resized(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Copy a network with other values, of any sizes, such as `Group.gather` and `Group.select` give.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    state : dict of str to Tensor
        A state dict with the names of the model's.

    Returns
    -------
    nn.Module
        Its convolutions, linear layers and batch norms have the numbers of channels of their tensors. Tensors that
        modules of the model share are shared here too.

    Raises
    ------
    ValueError
        If the names are not the model's; the first that differs is named.
    """
    own = model.state_dict(keep_vars=True)
    for name in [*state, *own]:
        if name not in own or name not in state:
            raise ValueError(f"{name} stands only in {'the state' if name in state else 'the network'}")
    made, shared = deepcopy(model), dict[int, Tensor]()
    for name, old in own.items():
        owner, _, key = name.rpartition(".")
        module = made.get_submodule(owner)
        value = state[name].detach().clone()
        if key in module._buffers:
            module._buffers[key] = shared.setdefault(id(old), value)
        else:
            module._parameters[key] = shared.setdefault(id(old), nn.Parameter(value, old.requires_grad))  # type: ignore[assignment]
    for module in made.modules():
        set_sizes_(module)
    return made


def set_sizes_(module: nn.Module) -> None:
    """Give a layer or batch norm the numbers of channels that its tensors have; other modules stay as they are."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        outputs, inputs = module.weight.shape[:2]
        if module.groups > 1:  # as many filters a group as before
            module.groups = outputs * module.groups // module.out_channels
        module.out_channels, module.in_channels = outputs, inputs * module.groups
    elif isinstance(module, _NormBase):
        held = module.weight if module.weight is not None else module.running_mean
        module.num_features = module.num_features if held is None else len(held)
