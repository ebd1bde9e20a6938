"""The graph of a network by torch.fx, one node for every module of torch, with shapes where an example is given."""

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.parameter import UninitializedParameter
from torch.optim.swa_utils import AveragedModel

from hetlib.chain.inherited import is_leaf, replaced_forward, torch_class

IMAGES = 2
"""In a trace, because a batch norm in train mode refuses a single value per channel."""
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_HERE = (str(Path(torch.__file__).parent), __file__)


@dataclass(frozen=True)
class Call:
    """A node of a graph with the module it calls, if any."""

    node: fx.Node
    module: nn.Module | None

    @classmethod
    def of(cls, model: nn.Module, node: fx.Node) -> "Call":
        """Read a node; `module` is None unless it calls one."""
        return cls(node, model.get_submodule(str(node.target)) if node.op == "call_module" else None)

    @property
    def name(self) -> str:
        """Name of the operation, the same for module, function and (in-place) method: "maxpool2d", "add"."""
        target = torch_class(self.module) if self.module else self.node.target
        return (target if isinstance(target, str) else getattr(target, "__name__", "")).replace("_", "").lower()

    def given(self, position: int, key: str, default: Any) -> Any:
        """Argument of a function or method, attribute of a module."""
        if self.module:
            return getattr(self.module, key, default)
        args = self.node.args
        return self.node.kwargs.get(key, args[position] if len(args) > position else default)


class _Sized(fx.Proxy):
    """A stand-in that knows its shape, so that decisions on it are plain Python; the number of images stays open."""

    @property
    def shape(self) -> Any:
        known = self.node.meta["value"].shape
        if len(known) < 2 or known[0] != IMAGES:
            return known
        return (self.tracer.create_proxy("call_method", "size", (self, 0), {}), *known[1:])

    @property
    def ndim(self) -> int:
        return self.node.meta["value"].ndim

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def __len__(self) -> int:
        return len(self.node.meta["value"])


class _Tracer(fx.Tracer):
    """Remembers where it failed; given an example, computes every value's shape (on the meta device) as it goes."""

    def __init__(self, example: Tensor | None) -> None:
        super().__init__()
        self.example = None if example is None else example.new_empty((IMAGES, *example.shape[1:]), device="meta")
        self.where = ""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return super().proxy(node) if self.example is None else _Sized(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **others: Any) -> Any:
        # An argument with a default is what it is when the network is called with a batch of images.
        if kind == "placeholder" and (args or target.startswith("*")):
            return args[0] if args else {} if target.startswith("**") else ()
        return super().create_proxy(kind, target, args, kwargs, *more, **others)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        if self.example is not None and node.op != "output":
            node.meta["value"] = self._value(node)
        return node

    def call_module(self, m: nn.Module, forward: Any, args: tuple, kwargs: dict) -> Any:
        if any(isinstance(arg, Tensor) for arg in args):  # `_value` computes a shape; hooks are none of its business
            return m.forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.where = self.where or self.path_of_module(m)
            raise

    def _value(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), _shapes_alone if self._meets(node) else _value_of)
        if node.op == "placeholder":
            return next(iter(args), self.example)
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            module = self.root.get_submodule(owner)
            held = {**module._parameters, **module._buffers, **vars(module)}  # plain `getattr` would trace
            return torch.empty_like(held[name], device="meta")
        if node.op == "call_module":
            module = self.root.get_submodule(str(node.target))
            held = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
            state = {name: torch.empty_like(tensor, device="meta") for name, tensor in held.items()}
            return functional_call(module, state, args, kwargs)
        target: Any = getattr(type(args[0]), str(node.target)) if node.op == "call_method" else node.target
        return target(*args, **kwargs)

    def _meets(self, node: fx.Node) -> bool:
        """Whether what a node takes in meets tensors that have a shape alone."""
        taken = map(_value_of, node.all_input_nodes)
        return node.op == "call_module" or any(isinstance(value, Tensor) and value.is_meta for value in taken)


def _value_of(node: fx.Node) -> Any:
    return node.meta["value"]


def _shapes_alone(node: fx.Node) -> Any:
    """The value of a node; of a tensor that the network made itself, from sizes, its shape alone."""
    value = _value_of(node)
    return value.to("meta") if isinstance(value, Tensor) else value


@torch.no_grad()
def trace(model: nn.Module, example: Tensor | None) -> fx.Graph:
    """Trace `model`; with an example, each node's `meta["value"]` has the shape that its value would have.

    Raises
    ------
    ValueError
        If that fails; the message names the module and the line. If the network takes several inputs, or it or a part
        of it is wrapped (`nn.DataParallel`, `torch.compile` and the like); the message says what to pass.
    """
    _check_plain(model)
    tracer, before = _Tracer(example), set(vars(model))
    try:
        graph = tracer.trace(model)
    except Exception as error:
        raise ValueError(_explanation(model, tracer, error)) from error
    finally:
        for name in set(vars(model)) - before:  # fx leaves constants that it met in the module
            delattr(model, name)
    inputs = [node.name for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) > 1:
        raise ValueError(
            f"{type(model).__name__} takes {len(inputs)} inputs ({', '.join(inputs)}): a network can be read that "
            "takes a batch of images, and nothing besides that has no default"
        )
    return graph


def _check_plain(model: nn.Module) -> None:
    """Raise ValueError for a wrapper, whose graph is that of the network inside."""
    for name, module in model.named_modules():
        inner = "_orig_mod" if hasattr(module, "_orig_mod") else "module" if isinstance(module, _WRAPPERS) else ""
        if inner:
            path = ".".join(part for part in ("model", name, inner) if part)
            raise ValueError(f"{name or 'the network'} is wrapped in {type(module).__name__}: pass {path}")
        if not name and replaced_forward(module):
            raise ValueError(
                f"the forward of {type(module).__name__} was replaced after it was made, which a trace does not see: "
                "pass torch.nn.Sequential(model)"
            )
        if any(isinstance(tensor, UninitializedParameter) for tensor in module.parameters(recurse=False)):
            raise ValueError(f"{name or 'the network'} ({type(module).__name__}) has no weights yet: run it once")


def _explanation(model: nn.Module, tracer: _Tracer, error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_HERE)]
    line = f", {Path(frames[-1].filename).name}:{frames[-1].lineno}: `{frames[-1].line}`" if frames else ""
    where = f"module {tracer.where!r}" if tracer.where else "its own forward"
    advice = (
        "Should it depend on the shape of the input, pass example=, a batch of that shape. Should it depend on values"
    )
    if tracer.example is not None:
        advice = f"The example had shape {tuple(tracer.example.shape[1:])} per image. If this depends on values"
    return (
        f"cannot read {type(model).__name__}: tracing stopped in {where}{line} ({error}). "
        f"{advice}, the network has no one graph: pass a submodule that has."
    )
