"""How the parameters of a network and of its objective are stepped, and how a network lies in memory meanwhile."""

from collections.abc import Callable

import torch
from torch import nn

from hetlib.training.recipe import Recipe


def optimiser_of(model: nn.Module, objective: Callable, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe over all trained parameters, in groups of one "factor" on the learning rate each.

    Raises
    ------
    ValueError
        If a name in `Recipe.rates` begins no parameter's name.
    """
    named = [(f"model.{name}", parameter) for name, parameter in model.named_parameters()]
    if isinstance(objective, nn.Module):
        named += [(f"objective.{name}", parameter) for name, parameter in objective.named_parameters()]
    for start, _ in recipe.rates:
        if not any(name.startswith(start) for name, _ in named):
            raise ValueError(f"rates: no parameter of the model or the objective has a name that begins with {start!r}")
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            groups.setdefault(recipe.rate_of(name), []).append(parameter)
    chosen = [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(chosen, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(chosen, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, fused=True)


def memory_format(model: nn.Module) -> torch.memory_format:
    """The layout in which a network trains fastest without meeting a fault of oneDNN.

    Channels last, except on the CPU for networks with a strided 1x1 convolution of fewer than 16 input channels, such
    as the projection shortcuts of a very narrow ResNet: there oneDNN's gradient of the weight, in channels last, is
    wrong or overwrites foreign memory (oneDNN issue 6035; seen in torch 2.14).
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    narrow = any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels < 16
        for module in model.modules()
    )
    return torch.contiguous_format if on_cpu and narrow else torch.channels_last
