"""How the parameters of a network and of its objective are stepped."""

from collections.abc import Callable

import torch
from torch import nn

from hetlib.training.recipe import Recipe


def optimiser_of(model: nn.Module, objective: Callable, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe over all trained parameters, in groups of one "factor" on the learning rate each.

    Raises
    ------
    ValueError
        If a name in `Recipe.rates` begins no parameter's name, or all parameters are frozen.
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
    if not groups:
        raise ValueError(f"all parameters of {type(model).__name__} are frozen: there is nothing to train")
    chosen = [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(chosen, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(chosen, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, fused=True)
