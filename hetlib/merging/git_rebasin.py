"""Git Re-Basin's weight matching: a network's channels reordered to lie nearest to another network's.

Which channels move together is read from the network (`hetlib.chain.Chain.axes`), where the paper types it by hand.
"""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hetlib.chain import Group, chain
from hetlib.checks import check_network
from hetlib.errors import seed_of, whole
from hetlib.merging.interpolate import check_alike

ROUNDING = 1e-12
"""Gains below this share of what two sets of weights could have in common at most are no gains."""

Weights = dict[str, Tensor]


class Matching(NamedTuple):
    """What `match_weights` finds.

    Attributes
    ----------
    model : nn.Module
        A copy of the source with its channels reordered; the function is the source's.
    groups : tuple of Group
        The free groups of channels, in execution order.
    permutations : tuple of Tensor, int64, shape (size of the group,)
        One for each group: channel j of `model` is channel ``permutation[j]`` of the source.
    distances : tuple of float
        Euclidean distance between all parameters of the model and the target's, before and after every sweep; it never
        rises. The last two are equal unless `sweeps` ran out.
    """

    model: nn.Module
    groups: tuple[Group, ...]
    permutations: tuple[Tensor, ...]
    distances: tuple[float, ...]


@torch.inference_mode(False)
@torch.no_grad()
def match_weights(
    source: nn.Module, target: nn.Module, *, seed: int = 0, sweeps: int = 100, example: Tensor | None = None
) -> Matching:
    """Reorder the source's channels, without changing its function, until it lies nearest to the target.

    One group of channels after another, in random order, takes the best order that the present order of the others
    admits, until none finds a better one. That is a local optimum; with a single hidden layer it is the global one.

    Parameters
    ----------
    source : nn.Module
        The network to be reordered; unchanged.
    target : nn.Module
        A network with equal names and shapes; unchanged.
    seed : int
        Of the order in which groups are visited. Equal seeds give equal results.
    sweeps : int
        Visit every group at most so many times.
    example : Tensor, optional
        A batch of inputs, needed only by networks that `hetlib.chain.chain` cannot read without.

    Returns
    -------
    Matching
        Its model has the source's mode, dtype and device. Buffers (running statistics) move with their channels, but
        only parameters decide where to.

    Raises
    ------
    ValueError
        If the networks differ in a name or a shape (both shapes are named), weights are not finite, or the source
        cannot be traced.

    References
    ----------
    Ainsworth, Hayase, Srinivasa, *Git Re-Basin: Merging Models modulo Permutation Symmetries*, ICLR 2023, algorithm 1.
    """
    for what, given in (("source", source), ("target", target)):
        check_network(what, given, values=True)
    whole("sweeps", sweeps, 0)
    generator = torch.Generator().manual_seed(seed_of(seed))
    check_alike(source, target)
    model = copy.deepcopy(source)
    state = model.state_dict()
    # Each shared tensor is a parameter once, so that it counts once.
    goal = {name: value.to(state[name]) for name, value in target.named_parameters() if name in state}
    groups = tuple(group for group in chain(model, example).axes if group.fixed is None)
    orders = [torch.arange(group.size) for group in groups]
    places = [{member.name for member in group.members} & goal.keys() for group in groups]
    distances, settled = [_distance(state, goal)], set[int]()
    for _ in range(sweeps):
        for number in torch.randperm(len(groups), generator=generator).tolist():
            if number in settled:
                continue
            settled.add(number)
            better = _better(groups[number], state, goal)
            if better is not None:
                groups[number].permute_(state, better)
                orders[number] = orders[number][better]
                settled -= {other for other, names in enumerate(places) if names & places[number]}
        distances.append(_distance(state, goal))
        if len(settled) == len(groups):
            break
    model.load_state_dict(state)
    return Matching(model, groups, tuple(orders), tuple(distances))


def _better(group: Group, state: Weights, goal: Weights) -> Tensor | None:
    """The order of a group that brings it nearest to its goal, None if it is as near as it can be."""
    from scipy.optimize import linear_sum_assignment

    alike = torch.zeros(group.size, group.size, dtype=torch.float64)
    for own, wanted in _channels(group, state, goal):
        alike += (wanted @ own.T).cpu()
    if not alike.isfinite().all():
        raise ValueError(f"weights are not finite where the channels of {group.members[0].name} stand")
    order = torch.from_numpy(linear_sum_assignment(alike.numpy(), maximize=True)[1])
    # Where a tensor holds the group on both its axes, the sum above is only near the truth: what is gained decides.
    names = {member.name for member in group.members} & goal.keys()
    moved = dict(state)
    group.permute_(moved, order)
    gain = sum(_product(goal[name], moved[name].double() - state[name]) for name in names)
    most = sum(float(goal[name].double().norm() * state[name].double().norm()) for name in names)
    return order if gain > ROUNDING * most else None


def _channels(group: Group, state: Weights, goal: Weights) -> Iterator[tuple[Tensor, Tensor]]:
    """What is compared: matrices with one row per channel, for every parameter that carries the group."""
    for member in group.members:
        if member.name in goal:
            own, wanted = (member.channels(weights[member.name]) for weights in (state, goal))
            dtype = torch.promote_types(own.dtype, torch.float32)
            yield own.to(dtype), wanted.to(dtype)


def _product(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b).sum())


def _distance(state: Weights, goal: Weights) -> float:
    return sum(float((state[name].double() - goal[name]).square().sum()) for name in goal) ** 0.5
