"""A network read as an ordered chain of layers, in blocks and stages, with its shortcuts and coupled channel axes.

>>> from hetlib.chain import chain
>>> found = chain(model)
>>> [layer.name for layer in found.longest()]
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, prod
from typing import Any, Literal

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from hetlib.chain.channels import Group
from hetlib.chain.follow import coupled_axes
from hetlib.chain.trace import Call, trace


@dataclass(frozen=True)
class Layer:
    """A Conv2d or Linear of a network.

    Attributes
    ----------
    name : str
        Dotted name of the module.
    module : Conv2d or Linear
        The module itself.
    kind : {"conv", "depthwise", "shortcut", "linear"}
        "shortcut" is a convolution (or Linear) on the shorter branch into an addition, whatever it is called.
    stage : int
        Index of the resolution of the layer's output, counted in strides: a layer opens a new stage if it or a pool
        before it is strided (so a bottleneck with its stride on the 3x3 begins in the stage before). The Linear
        layers of a convolutional network are a stage of their own, the last.
    block : int or None
        Index of the innermost residual block around the layer, None outside of any.
    norm : str or None
        Name of the batch norm that takes the layer's output directly.
    """

    name: str
    module: nn.Conv2d | nn.Linear
    kind: Literal["conv", "depthwise", "shortcut", "linear"]
    stage: int
    block: int | None
    norm: str | None


@dataclass(frozen=True)
class Shortcut:
    """The shorter of two branches into an addition.

    Attributes
    ----------
    block : int
        Index of the residual block it belongs to.
    kind : {"identity", "projection", "plain"}
        Nothing on it; layers on it; or only operations without parameters (slicing, padding, pooling).
    start, end : str
        Names of the nodes of `Chain.graph` where it leaves the main branch and where it is added.
    layers : tuple of str
        Names of the layers on it.
    """

    block: int
    kind: Literal["identity", "projection", "plain"]
    start: str
    end: str
    layers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Chain:
    """What `chain` reads from a network.

    Attributes
    ----------
    model : nn.Module
        The network.
    graph : torch.fx.Graph
        Its trace.
    layers : tuple of Layer
        Every Conv2d and Linear that is called, in execution order; one that is called twice stands at its first call.
    shortcuts : tuple of Shortcut
        In execution order of their additions.
    """

    model: nn.Module = field(repr=False)
    graph: fx.Graph = field(repr=False)
    layers: tuple[Layer, ...]
    shortcuts: tuple[Shortcut, ...]

    def convolutions(self) -> tuple[Layer, ...]:
        """HMT's chain, as its released code has it: see the function `convolutions`. Called layers only."""
        layers = {layer.name: layer for layer in self.layers}
        return tuple(layers[name] for name, _ in convolutions(self.model) if name in layers)

    def longest(self) -> tuple[Layer, ...]:
        """Convolutions on the path from input to output that has most of them (HMT's abstract, never released).

        Projection shortcuts are left out; of equally long paths, the one registered first is taken.
        """
        layers = {layer.name: layer for layer in self.layers if layer.kind in ("conv", "depthwise")}
        order = {name: number for number, (name, _) in enumerate(self.model.named_modules())}
        rank = lambda path: (len(path), [-order[name] for name in path])
        paths: dict[fx.Node, tuple[str, ...]] = {}
        for node in self.graph.nodes:
            path = max((paths[source] for source in node.all_input_nodes), key=rank, default=())
            paths[node] = (*path, str(node.target)) if node.op == "call_module" and node.target in layers else path
        return tuple(layers[name] for name in paths[self.graph.output_node()])

    @cached_property
    def axes(self) -> tuple[Group, ...]:
        """Groups of channel axes that must be permuted together (`hetlib.axes`), fixed ones included."""
        return coupled_axes(self.model, self.graph)


def convolutions(model: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    """HMT's chain: every Conv2d in registration order whose name has no component `downsample`.

    For a ResNet whose shortcuts bear that name this is the main path, for any other network all its convolutions,
    called or not, whatever its graph. Nothing is traced.
    """
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and "downsample" not in name.split(".")
    ]


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
    graph = trace(model, example)
    calls: dict[str, Call] = {}
    for call in (Call.of(model, node) for node in graph.nodes):
        if isinstance(call.module, nn.Conv2d | nn.Linear):
            calls.setdefault(str(call.node.target), call)
    if not calls:
        raise ValueError(f"{type(model).__name__} calls no Conv2d or Linear module: there is no chain to read")
    shortcuts, blocks = _residuals(model, graph)
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


def _residuals(model: nn.Module, graph: fx.Graph) -> tuple[tuple[Shortcut, ...], dict[fx.Node, int]]:
    """Shortcuts, and the index of the innermost residual block of each node inside one."""
    nodes = list(graph.nodes)
    above: dict[fx.Node, int] = {}  # bit i: node i is this one or one that it depends on
    shortcuts: list[Shortcut] = []
    blocks: dict[fx.Node, int] = {}
    for number, node in enumerate(nodes):
        above[node] = 1 << number
        for source in node.all_input_nodes:
            above[node] |= above[source]
        if Call.of(model, node).name not in ("add", "iadd") or len(node.all_input_nodes) != 2:
            continue
        one, other = (above[source] for source in node.all_input_nodes)
        branches = [[Call.of(model, nodes[i]) for i in _bits(side & ~(one & other))] for side in (one, other)]
        short, long = sorted(branches, key=_size)
        if not one & other or _size(short) == _size(long):
            continue
        names = tuple(str(call.node.target) for call in short if isinstance(call.module, nn.Conv2d | nn.Linear))
        bare = all(call.name == "identity" for call in short)
        start = nodes[(one & other).bit_length() - 1].name
        kind: Any = "projection" if names else "identity" if bare else "plain"
        for call in (*short, *long):
            blocks.setdefault(call.node, len(shortcuts))
        shortcuts.append(Shortcut(len(shortcuts), kind, start, node.name, names))
    return tuple(shortcuts), blocks


def _bits(mask: int) -> Iterator[int]:
    return (i for i in range(mask.bit_length()) if mask >> i & 1)


def _size(branch: list[Call]) -> tuple[int, int]:
    """How many layers a branch has, then how many kernel taps: a 1x1 beside a 3x3 convolution is the shortcut."""
    kernels = [
        getattr(call.module, "kernel_size", (1,)) for call in branch if isinstance(call.module, nn.Conv2d | nn.Linear)
    ]
    return len(kernels), sum(map(prod, kernels))
