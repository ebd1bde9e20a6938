"""What a checkpoint holds beside the network, and which training it belongs to."""

import json
import os
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.errors import of_kind
from hetlib.files import DamagedFile, checksum, load_tensors

OTHERS = {
    "data": "trained on other data",
    "start": "started from other weights",
    "model": "trained a network with other layers or settings",
    "objective": "minimised another objective",
    "batches": "took its batches in another way",
}
"""What is wrong where a part of the identity differs."""


def read(path: str | PathLike) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Tensors and facts of a checkpoint; None where there is none, and where it is damaged, which a warning says."""
    try:
        return load_tensors(path)
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        warnings.warn(f"{error}; training starts again from its first epoch", stacklevel=3)
        return None


def check_writable(path: str | PathLike) -> None:
    """Refuse, before there is anything to write, a path that a checkpoint could not be written to.

    Raises
    ------
    ValueError
        If something that is no file stands there: a folder, a pipe, or a link to nothing.
    OSError
        If the folder cannot be made or written to.
    """
    of_kind("checkpoint", path, str, PathLike)
    path = Path(path)
    if os.path.lexists(path) and not path.is_file():
        raise ValueError(f"{path} is no file, and none can be written in its place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{token_hex(4)}.part")
        part.touch(exist_ok=False)
        part.unlink()
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be written ({error.strerror})") from error


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as JSON gives them back: tuples become lists."""
    return json.loads(json.dumps(facts))


def describe(part: Any) -> list[str]:
    """What tells an objective, or a way of making batches, from another: its type, settings and values.

    Functions are told by name. Modules and dataclasses are told by their `repr`, and modules by their state as well.
    """
    kind = part if hasattr(part, "__qualname__") else type(part)
    told = [f"{kind.__module__}.{kind.__qualname__}"]
    if kind is not part:
        told.append(repr(part))
    if isinstance(part, nn.Module):
        told.append(checksum(part.state_dict()))
    return told


def check(path: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that another training wrote.

    Parameters
    ----------
    path : str
        Of the checkpoint, for the message.
    found, wanted : mapping
        Identities: of who wrote it, and of who is to go on from it. See `hetlib.training.Loop`.

    Raises
    ------
    ValueError
        If they differ; the message says in what.
    """
    for name, what in OTHERS.items():
        if found.get(name) != wanted[name]:
            raise ValueError(f"checkpoint {path} {what}; give another path, or delete it to start again")
    settings = found.get("recipe", {}) | {"seed": found.get("seed")}
    expected = wanted["recipe"] | {"seed": wanted["seed"]}
    if differing := [name for name in expected if settings.get(name) != expected[name]]:
        pairs = ", ".join(f"{name} was {settings.get(name)!r}, is {expected[name]!r}" for name in differing)
        raise ValueError(f"checkpoint {path} belongs to other settings: {pairs}; give another path or delete it")


def flat(name: str, tensors: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Tensors of a nested mapping under one name, its keys joined by dots; values of None are left out."""
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if isinstance(value, Mapping):
            found |= flat(f"{name}.{key}", value)
        elif value is not None:
            found[f"{name}.{key}"] = value
    return found


def under(name: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose key begins with a name and a dot, without these."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that its state dict had, from tensors keyed "<number of the parameter>.<name>"."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        like = parameters[int(index)]
        # Fused optimisers walk raw memory, so a moment has to lie in memory exactly as its parameter does.
        laid_out = torch.empty_like(like, dtype=value.dtype).copy_(value) if value.shape == like.shape else value
        state.setdefault(int(index), {})[name] = laid_out
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
