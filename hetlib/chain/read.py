"""A network read as an ordered chain of layers, in blocks and stages, with its shortcuts and coupled channel axes.

>>> from hetlib.chain import chain
>>> found = chain(model)
>>> [layer.name for layer in found.longest()]
"""

from math import inf
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from hetlib.chain.layers import Chain, Layer
from hetlib.chain.residuals import residual_blocks
from hetlib.chain.trace import Call, trace
from hetlib.checks import check_network
from hetlib.errors import of_kind


def chain(model: nn.Module, example: Tensor | None = None) -> Chain:
    """Read a network's layers, blocks, stages, shortcuts and coupled axes from its graph.

    Parameters
    ----------
    model : nn.Module
        The network, in the mode (train or eval) in which it shall be read. It is neither run nor changed.
    example : Tensor, optional
        A batch of inputs, of which only the shape and type are used. Needed by networks whose `forward` decides or
        computes with shapes; what they decide is then read for this shape.

    Returns
    -------
    Chain

    Raises
    ------
    ValueError
        If the network cannot be traced (the message names the module and the line) or calls no Conv2d or Linear.
    """
    check_network("model", model)
    if example is not None:
        of_kind("example", example, Tensor, words="a Tensor, a batch of inputs")
    graph = trace(model, example)
    calls: dict[str, Call] = {}
    for call in (Call.of(model, node) for node in graph.nodes):
        if isinstance(call.module, nn.Conv2d | nn.Linear):
            calls.setdefault(str(call.node.target), call)
    if not calls:
        raise ValueError(f"{type(model).__name__} calls no Conv2d or Linear module: there is no chain to read")
    shortcuts, blocks = residual_blocks(model, graph)
    passed = {name for shortcut in shortcuts for name in shortcut.layers}
    stages = _stages(model, graph, calls)
    layers = []
    for name, call in calls.items():
        module: Any = call.module
        kind = _kind(module, name in passed)
        layers.append(Layer(name, module, kind, stages[name], blocks.get(call.node), _norm(model, call.node)))
    return Chain(model, graph, tuple(layers), shortcuts)


def _kind(module: Any, passed: bool) -> Any:
    if passed:
        return "shortcut"
    if isinstance(module, nn.Linear):
        return "linear"
    return "depthwise" if module.groups == module.in_channels > 1 else "conv"


def _norm(model: nn.Module, node: fx.Node) -> str | None:
    users = (str(user.target) for user in node.users if user.op == "call_module")
    return next((name for name in users if isinstance(model.get_submodule(name), _NormBase)), None)


def _stages(model: nn.Module, graph: fx.Graph, calls: dict[str, Call]) -> dict[str, int]:
    depth: dict[fx.Node, int] = {}
    for node in graph.nodes:
        call = Call.of(model, node)
        stride: Any = 1
        if isinstance(call.module, nn.Conv2d) or call.name in ("maxpool2d", "avgpool2d", "lppool2d"):
            stride = call.given(2, "stride", None) or call.given(1, "kernel_size", 1)
        strided = stride not in (1, (1, 1), [1, 1])
        depth[node] = max((depth[source] for source in node.all_input_nodes), default=0) + strided
    found = {name: depth[c.node] if isinstance(c.module, nn.Conv2d) else inf for name, c in calls.items()}
    rank = {value: number for number, value in enumerate(sorted(set(found.values())))}
    return {name: rank[value] for name, value in found.items()}
