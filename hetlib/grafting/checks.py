"""What networks of a ring have to be: several, of one architecture, with finite weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hetlib.checks import check_sequence
from hetlib.errors import of_kind


def tensors_of(network: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The floating tensors of a network, or of a state dict, by key: what a graft blends. Counters are left out."""
    state = network.state_dict() if isinstance(network, nn.Module) else network
    return {key: value for key, value in state.items() if value.is_floating_point()}


def check_ring(networks: Sequence[Any], fewest: int = 2) -> None:
    """Refuse networks that cannot graft.

    Raises
    ------
    ValueError
        If they are fewer than `fewest`, one stands twice, two differ in an entry (the first is named, with both
        shapes), or a tensor on the CPU is not finite. On a GPU that would cost a wait for it.
    """
    check_sequence("networks", networks, "networks, or of their state dicts")
    for k, network in enumerate(networks):
        of_kind(f"network {k}", network, nn.Module, Mapping, words="a network (nn.Module), or a state dict")
        if isinstance(network, nn.Module) != isinstance(networks[0], nn.Module):
            raise TypeError("networks and state dicts cannot stand in one ring: give the networks themselves")
        for key, value in (network.state_dict() if isinstance(network, nn.Module) else network).items():
            if isinstance(value, Tensor) and value.is_meta:
                raise ValueError(f"network {k}: {key} has no values yet, it is on meta: move it off")
    if len(networks) < fewest:
        raise ValueError(f"a ring needs at least {fewest} networks, got {len(networks)}")
    if len({id(network) for network in networks}) < len(networks):
        raise ValueError("a network stands in the ring twice: give copies")
    check_same([described(network) for network in networks])
    for k, network in enumerate(networks):
        check_finite(k, tensors_of(network))


def check_same(states: Sequence[Mapping[str, Any]]) -> None:
    """Refuse networks of different architecture.

    Parameters
    ----------
    states : sequence of mapping
        What `described` gives, one for each network.

    Raises
    ------
    ValueError
        If two differ in an entry: the first is named, with both shapes.
    """
    for k, state in enumerate(states[1:], start=1):
        for key in [*states[0], *state]:
            if states[0].get(key) != state.get(key):
                here, there = (_words(each.get(key)) for each in (states[0], state))
                raise ValueError(f"networks 0 and {k} differ in {key!r}: {here} and {there}; nothing was grafted")


def described(network: Any) -> dict[str, Any]:
    """What a network's entries are, by key: shape and type; or, of a lazy one, nothing but that."""
    state = network.state_dict() if isinstance(network, nn.Module) else network
    return {key: None if is_lazy(value) else (tuple(value.shape), value.dtype) for key, value in state.items()}


def _words(entry: Any) -> str:
    return "nothing" if entry is None else f"{entry[0]} of {str(entry[1]).removeprefix('torch.')}"


def check_finite(k: int, tensors: Mapping[str, Tensor]) -> None:
    """Refuse network `k` with a ValueError if a tensor on the CPU is not finite; the first such is named."""
    there = [(key, value.detach()) for key, value in tensors.items() if value.device.type == "cpu" and value.numel()]
    if not there:
        return
    # The norms of all tensors in one call. NaN or infinity among the values makes a norm that is not finite. So may
    # large values, and therefore the values themselves are looked at again.
    norms = torch.stack([each.double() for each in torch._foreach_norm([value for _, value in there])])
    for n in torch.nonzero(~norms.isfinite())[:, 0].tolist():
        key, value = there[n]
        count = int((~value.isfinite()).sum())
        if count:
            raise ValueError(
                f"network {k}: {count} of {value.numel()} values of {key!r} are not finite; nothing was grafted"
            )
