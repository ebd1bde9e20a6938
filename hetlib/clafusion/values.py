"""The plan of a value from those of the layers that put out its channels, and the tensors that scale values."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, fx

from hetlib.chain import Call, Chain, Value


def value_plans(source: Value | None, target: Value | None, plans: Mapping[int, Tensor]) -> list[Tensor]:
    """Plans from the channels of a value in one network to those of the same value in another.

    Parameters
    ----------
    source, target : Value or None
        As `hetlib.chain.Chain.values` has them; None, the network's input, does not move.
    plans : mapping of int to Tensor of shape (neurons of source, neurons of target)
        Those of the layers. A layer without one does not move.

    Returns
    -------
    list of Tensor of shape (channels in source, channels in target)
        One for each origin of the value; none where it does not move.

    Raises
    ------
    ValueError
        If the two values come from different layers, or channels that do not move differ in number.
    """
    if source is None or target is None:
        return []
    if source.layers is not None and source.layers == target.layers:
        return [plans[layer] for layer in source.layers if layer in plans]
    return [_plan(here, there, plans) for here, there in zip(source.origins, target.origins, strict=True)]


def scaling(found: Chain) -> dict[tuple[str, str], Value | None]:
    """The parameters outside the layers, each by its module's name and its key: what it scales or shifts.

    That is None for the network's input, which does not move.
    """
    layers = {layer.name for layer in found.layers}
    acts: dict[tuple[str, str], Value | None] = {}
    for node in found.graph.nodes:
        module = Call.of(found.model, node).module
        if node.op == "get_attr":
            owner, _, key = str(node.target).rpartition(".")
            tensor = found.model.get_submodule(owner)._parameters.get(key)
            if tensor is not None:
                acts[owner, key] = _met(found, node, tensor.numel())
        elif module is not None and str(node.target) not in layers:
            acts |= {(str(node.target), key): found.values.get(node) for key, _ in module.named_parameters()}
    return acts


def _met(found: Chain, node: fx.Node, count: int) -> Value | None:
    """The first value that a tensor of so many numbers meets channel by channel, itself or laid out before."""
    for user in node.users:
        if user.op == "call_module":
            continue
        value, before, after = found.values.get(user), found.flow_of(node), found.flow_of(user)
        same = before is None or (after is not None and np.array_equal(before.slots, after.slots))
        if value is None and len(user.all_input_nodes) == 1 and same:
            value = _met(found, user, count)
        channels = value.origins[0].shape[1] if value is not None else 0
        if count == channels or (value is not None and value.spread and count % channels == 0):
            return value
    return None


def _plan(here: np.ndarray, there: np.ndarray, plans: Mapping[int, Tensor]) -> Tensor:
    like = next(iter(plans.values()))
    made = like.new_zeros(here.shape[1], there.shape[1])
    copies = torch.from_numpy(_copy_numbers(here)), torch.from_numpy(_copy_numbers(there))
    for layer in np.union1d(here[0], there[0]).tolist():
        rows, columns = (torch.from_numpy(np.flatnonzero(side[0] == layer)) for side in (here, there))
        if layer in plans:
            own = [torch.from_numpy(side[1])[places] for side, places in ((here, rows), (there, columns))]
            block = plans[layer][own[0]][:, own[1]]
            block = block * (copies[0][rows].unsqueeze(1) == copies[1][columns]).to(block)
        elif len(rows) == len(columns):
            block = torch.eye(len(rows)).to(like)
        else:
            raise ValueError(f"{len(rows)} channels that do not move are joined here, and {len(columns)} there")
        made[rows.unsqueeze(1), columns] = block
    return made


def _copy_numbers(origins: np.ndarray) -> np.ndarray:
    """For every channel how often the same one came before it: copies move each onto its like."""
    seen: dict[tuple[int, int], int] = {}
    numbers = []
    for origin in zip(*origins.tolist(), strict=True):
        numbers.append(seen.get(origin, 0))
        seen[origin] = numbers[-1] + 1
    return np.array(numbers)
