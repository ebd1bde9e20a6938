"""What the layers of a network put out, one after the other, so that no two need be kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from hetlib.chain.read import Chain, Layer, chain
from hetlib.chain.trace import Call


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Networks in evaluation mode, without gradients or autocast; every module gets its own mode back."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad(), full_precision():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def full_precision() -> Iterator[None]:
    """Numbers in the precision that they come in, whatever autocast says around."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def read_both(one: nn.Module, other: nn.Module) -> tuple[Chain, Chain]:
    """Two networks as `chain` reads them in evaluation mode: without what a forward draws only in training."""
    with evaluating(one, other):
        return chain(one), chain(other)


def records(model: nn.Module, images: Tensor, *, found: Chain | None = None) -> Iterator[tuple[Layer, Tensor]]:
    """Run a network and stop at each of its layers.

    Only what the rest of the network still needs is held at a time, so all images can go through in one batch. Use a
    value before the next one is asked for: an operation in place may then change it.

    Parameters
    ----------
    model : nn.Module
        Anything `hetlib.chain.chain` reads; run in the mode it is in.
    images : Tensor of shape (N, ...)
        Its inputs.
    found : Chain, optional
        The network as `chain` reads it, where that is at hand.

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
        If there are no images.
    """
    if not len(images):
        raise ValueError("no images to compare layers or neurons on")
    found = found or chain(model)
    ends = block_ends(found)
    layers = {ends.get(layer.name, layer.name): layer for layer in found.layers}
    interpreter = fx.Interpreter(model, graph=found.graph)
    interpreter.args_iter = iter([images])
    for node in found.graph.nodes:
        silence = _silence(model, node, interpreter.env)
        interpreter.env[node] = value = interpreter.run_node(node) if silence is None else silence
        name = str(node.target) if node.op == "call_module" else node.name
        if name in layers:
            yield layers.pop(name), value
        for spent in interpreter.user_to_last_uses.get(node, []):
            del interpreter.env[spent]


def _silence(model: nn.Module, node: fx.Node, env: dict[fx.Node, Tensor]) -> Tensor | None:
    """What a convolution of zeros puts out, as an inserted block has two of; None where it must be computed."""
    conv = Call.of(model, node).module
    if not isinstance(conv, nn.Conv2d) or conv.bias is not None or conv.weight.any():
        return None
    come: Tensor = env[node.all_input_nodes[0]]
    sides: Any = zip(conv.padding, conv.dilation, conv.kernel_size, strict=False)
    same = set(conv.stride) == {1} and conv.padding != "valid"
    if not same or (conv.padding != "same" and any(2 * p != d * (k - 1) for p, d, k in sides)):
        return None
    return come.new_zeros(len(come), conv.out_channels, *come.shape[2:])


def block_ends(found: Chain) -> dict[str, str]:
    """For every layer that ends a residual block, the node of the graph that adds the shortcut to it."""
    names = {layer.name for layer in found.layers if layer.kind != "shortcut"}
    nodes = {node.name: node for node in found.graph.nodes}
    ends: dict[str, str] = {}
    for shortcut in found.shortcuts:
        addition = nodes[shortcut.end]
        last = [end for operand in addition.all_input_nodes if (end := _source(found, operand)) in names]
        start = _source(found, nodes[shortcut.start])
        ends |= {name: addition.name for name in last if name != start}
    return ends


def _source(found: Chain, node: fx.Node) -> str:
    """The layer, or else the addition or input, whose values come to a node unmixed."""
    while True:
        call = Call.of(found.model, node)
        if isinstance(call.module, nn.Conv2d | nn.Linear):
            return str(node.target)
        if len(node.all_input_nodes) != 1:
            return node.name
        node = node.all_input_nodes[0]


def neurons(value: Tensor) -> Tensor:
    """Activations of shape (N, channels, ...) as one row per channel: (channels, N * ...)."""
    return value.transpose(0, 1).flatten(1)
