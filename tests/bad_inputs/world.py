"""Networks, images and files that bad inputs are given with, values that are bad, and the shape of a case."""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from hetlib import zoo
from hetlib.data import Images


@dataclass(frozen=True)
class Case:
    """A call that must be refused: the error holds all the words."""

    name: str
    words: tuple[str, ...]
    call: Callable[[], Any]


def each(name: str, words: str, call: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Case]:
    """A case for every value of an argument."""
    for value in values:
        shown = type(value).__name__ if isinstance(value, torch.Tensor | nn.Module | Images) else repr(value)
        yield Case(f"{name} {shown[:40]}", tuple(words.split()), partial(call, value))


def one(name: str, words: str, call: Callable[[], Any]) -> Case:
    """A single case."""
    return Case(name, tuple(words.split()), call)


VECTOR = torch.tensor([0.5, 0.25])
NO_NUMBERS = ["0.5", 1j, [0.5], VECTOR, True, nan]
SHARES = [*NO_NUMBERS, None, inf, -inf, -0.5, 1.5]
"""Where a number from 0 to 1 is needed."""
POSITIVE = [*NO_NUMBERS, None, inf, -inf, -1.0, 0]
"""Where a finite number above 0 is needed."""
NOT_NEGATIVE = [*NO_NUMBERS, None, inf, -inf, -1e-9]
"""Where a finite number of at least 0 is needed."""
FINITE = [*NO_NUMBERS, None, inf, -inf]
"""Where any finite number will do."""
COUNTS = [0, -1, 1.5, nan, inf, "3", True, 2**70, VECTOR, [1], None]
"""Where a whole number of at least 1 is needed."""


def but(values: Iterable[Any], *dropped: Any) -> list[Any]:
    """The values without some, told apart by how they are written: 1 is not True."""
    return [value for value in values if repr(value) not in map(repr, dropped)]


SEEDS = [2**70, -(2**70), 1.5, nan, "7", True, VECTOR, [1]]
NAMES = ["nonsense", "", 3, None, ["a"], VECTOR, {"a": 1}, nan]
"""Where one of some names is needed."""
NETWORKS = [None, "resnet8", 3, VECTOR, {"weight": VECTOR}, nn.Linear]
"""Where a network is needed."""


def _images(count: int, classes: int, shape: tuple[int, ...] = (1, 8, 8)) -> Images:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)
    names = tuple("abcdefgh"[:classes])
    return Images("tiny", "train", pixels, torch.arange(count) % classes, names, (0.5,), (0.25,))


def _made() -> SimpleNamespace:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = SimpleNamespace(
            a=zoo.build("resnet8", 4, 1, 0.25),
            b=zoo.build("resnet8", 4, 1, 0.5),
            deep=zoo.build("mlp", 4, 1, hidden=(6, 5), in_features=16),
            shallow=zoo.build("mlp", 4, 1, hidden=(6,), in_features=16),
            images=torch.randn(8, 1, 8, 8),
            pixels=torch.randn(8, 1, 4, 4),
            train=_images(16, 4),
            small=_images(16, 4, (1, 4, 4)),
            matrix=torch.rand(5, 3),
            logits=torch.randn(2, 6, 4),
        )
        for name in ("a", "b", "deep", "shallow"):
            broken = deepcopy(getattr(found, name))
            next(broken.parameters()).data.view(-1)[0] = nan
            setattr(found, f"nan_{name}", broken)
            setattr(found, f"meta_{name}", deepcopy(getattr(found, name)).to("meta"))
            setattr(found, f"twin_{name}", deepcopy(getattr(found, name)))
        found.lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(4))
        found.double = deepcopy(found.deep).double()
    return found


w = _made()
"""The world: no case may change anything in it."""


def state_of(world: SimpleNamespace) -> dict[str, Any]:
    """Every tensor of the world, by name, as it is now."""
    found: dict[str, Any] = {}
    for name, thing in vars(world).items():
        if isinstance(thing, nn.Module):
            tensors = {**dict(thing.named_parameters()), **dict(thing.named_buffers())}
            found |= {f"{name}.{key}": value for key, value in tensors.items()}
            found |= {f"{name}.{key}.training": module.training for key, module in thing.named_modules()}
        elif isinstance(thing, Images):
            found |= {f"{name}.images": thing.images, f"{name}.labels": thing.labels}
        else:
            found[name] = thing
    return {name: _bytes(value) if isinstance(value, torch.Tensor) else repr(value) for name, value in found.items()}


def _bytes(tensor: torch.Tensor) -> Any:
    if tensor.is_meta or is_lazy(tensor):
        return type(tensor), tensor.dtype
    return tensor.dtype, tuple(tensor.shape), tensor.detach().numpy().tobytes()


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is not what it was, to the bit."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]
