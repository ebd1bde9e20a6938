"""The average of networks of one shape, and the batch norm statistics that it needs anew."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from hetlib.chain import evaluating
from hetlib.checks import check_images, check_network, check_sequence, taking
from hetlib.errors import finite_numbers
from hetlib.merging.interpolate import check_sharing


@torch.inference_mode(False)
def average(models: Sequence[nn.Module], images: Tensor, weights: Sequence[float] | None = None) -> nn.Module:
    """The average of networks with the same shapes.

    Parameters
    ----------
    models : sequence of nn.Module
        Not changed.
    images : Tensor of shape (N, ...)
        What batch norms take their statistics from.
    weights : sequence of float, optional
        One per network; equal and adding up to 1 by default.

    Raises
    ------
    ValueError
        If two shapes differ, the parameter is named with both; or as `check_statistics` and `check_sharing` do.
    """
    check_sequence("models", models, "networks")
    if not len(models):
        raise ValueError("models: there is no network to average")
    for number, model in enumerate(models, 1):
        check_network(f"network {number}", model, values=True)
    check_images("images", images)
    check_statistics(models[0])
    shares = [1 / len(models)] * len(models) if weights is None else finite_numbers("weights", weights, len(models))
    fused = deepcopy(models[0]).requires_grad_()
    _average_(fused, list(zip(models, shares, strict=True)))
    update_bn(fused, images)
    return fused


@torch.no_grad()
def _average_(fused: nn.Module, parts: list[tuple[nn.Module, float]]) -> None:
    """Write the weighted sum of networks' parameters into one of the same shapes.

    Raises
    ------
    ValueError
        If a parameter has no partner of its shape, it is named with both shapes; or as `check_sharing` does.
    """
    states = [(dict(model.named_parameters(remove_duplicate=False)), weight) for model, weight in parts]
    parameters = dict(fused.named_parameters(remove_duplicate=False))
    means: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for state, _ in states:
            if name not in state or state[name].shape != parameter.shape:
                there = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(f"{name}: {tuple(parameter.shape)} and {there} have no average")
        means[name] = torch.stack([state[name] * weight for state, weight in states]).sum(0)
    check_sharing(fused, means)
    for name, parameter in parameters.items():
        parameter.copy_(means[name])


def check_statistics(model: nn.Module) -> None:
    """Refuse norms whose running statistics `update_bn` cannot take anew: instance norms that keep some.

    Raises
    ------
    ValueError
        Names the norm.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            kind = f"{name} ({type(module).__name__}) keeps running statistics of single images"
            raise ValueError(f"{kind}, which cannot be taken anew: make it one with track_running_stats=False")


@torch.no_grad()
def update_bn(model: nn.Module, images: Tensor) -> None:
    """Take the running statistics of batch norms anew from some images, in place; without any, nothing happens.

    Norms that no image passes, such as those of an auxiliary head, keep theirs.

    Raises
    ------
    ValueError
        If the network cannot run on these images in training mode; all statistics stay as they were.
    """
    check_network("model", model, values=True)
    check_images("images", images)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)} for norm in norms]
    untouched = norms
    try:
        with taking("the model", images), evaluating(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean of what comes
                norm.train()
            model(images)
        untouched = [norm for norm in norms if not norm.num_batches_tracked]
    except ValueError as error:
        raise ValueError(f"batch norms cannot take statistics from {len(images)} images: {error}") from error
    finally:
        for norm, momentum, buffers in zip(norms, momenta, before, strict=True):
            norm.momentum = momentum
            if norm in untouched:
                norm.load_state_dict(buffers, strict=False)
