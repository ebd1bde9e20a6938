"""What the layers of a network put out, one after the other, so that no two need be kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from hetlib.chain.layers import Chain, Layer
from hetlib.chain.read import chain
from hetlib.chain.trace import Call
from hetlib.checks import taking

Network = nn.Module | Chain
"""A network, or what `chain` read from it: who has read it hands that on, so that it is not traced again."""


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """Networks in evaluation mode; every module gets its own mode back, as a batch norm that was frozen alone."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def reading(*modules: nn.Module) -> Iterator[None]:
    """Modules whose weights can be looked at: in training, spectral norm changes at every look."""
    with eval_mode(*(module for module in modules if "parametrizations" in module._modules)):
        yield


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """As `eval_mode`, without gradients or autocast."""
    with eval_mode(*models), torch.no_grad(), full_precision():
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """Numbers in the precision that they come in, whatever autocast says around."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def eval_chain(network: Network, images: Tensor | None = None) -> Chain:
    """Read a network in evaluation mode, without what a forward draws only in training; a `Chain` stays as it is.

    Images that are at hand are the example.
    """
    if isinstance(network, Chain):
        return network
    with evaluating(network):
        return chain(network, images)


def layer_outputs(found: Chain, images: Tensor) -> Iterator[tuple[Layer, Tensor]]:
    """Run a network and stop at each of its layers.

    Only what the rest of the network still needs is held at a time, so all images can go through in one batch. Use a
    value before the next one is asked for: an operation in place may then change it.

    Parameters
    ----------
    found : Chain
        The network as `hetlib.chain.chain` reads it; run in the mode it is in.
    images : Tensor of shape (N, ...)
        Its inputs.

    Yields
    ------
    layer : Layer
        In order of execution, but for a layer that ends a residual block: it comes after those of the shortcut.
    value : Tensor of shape (N, channels, ...)
        What the layer puts out, before any batch norm or ReLU. Where it ends a residual block this is the sum of the
        block, shortcut included: OTFusion's released code recorded this by accident, because it adds in place to the
        tensor it had recorded; it is what makes the channels of a residual stream comparable.

    Raises
    ------
    ValueError
        If there are no images, or the network cannot be run on them.
    """
    if not len(images):
        raise ValueError("no images to compare layers or neurons on")
    ends, who = found.block_ends(), f"the network ({type(found.model).__name__})"
    layers = {ends.get(layer.name, layer.name): layer for layer in found.layers}
    interpreter = fx.Interpreter(found.model, graph=found.graph)
    interpreter.args_iter = iter([images])
    for node in found.graph.nodes:
        with taking(who, images):
            zeros = _zeros(found.model, node, interpreter.env)
            interpreter.env[node] = value = interpreter.run_node(node) if zeros is None else zeros
        name = str(node.target) if node.op == "call_module" else node.name
        if name in layers:
            axis = found.channel_axis(node)
            last = axis is not None and axis != 1 - value.ndim and value.ndim > 2
            yield layers.pop(name), value.movedim(axis, 1) if last else value  # type: ignore[arg-type]
        for spent in interpreter.user_to_last_uses.get(node, []):
            del interpreter.env[spent]


def _zeros(model: nn.Module, node: fx.Node, env: dict[fx.Node, Tensor]) -> Tensor | None:
    """What a convolution puts out whose weights are all 0, as in an inserted block; None for any other node."""
    conv = Call.of(model, node).module
    if not isinstance(conv, nn.Conv2d) or conv.bias is not None or conv.weight.any():
        return None
    come: Tensor = env[node.all_input_nodes[0]]
    sides: Any = zip(conv.padding, conv.dilation, conv.kernel_size, strict=False)
    same = set(conv.stride) == {1} and conv.padding != "valid"
    if not same or (conv.padding != "same" and any(2 * p != d * (k - 1) for p, d, k in sides)):
        return None
    return come.new_zeros(len(come), conv.out_channels, *come.shape[2:])


def neurons(value: Tensor) -> Tensor:
    """Activations of shape (N, channels, ...) as one row per channel: (channels, N * ...)."""
    return value.transpose(0, 1).flatten(1)
