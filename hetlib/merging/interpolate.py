"""The straight line between two networks of equal shape, and how high the loss rises on it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from hetlib.checks import check_network
from hetlib.errors import check_callable, finite, finite_numbers, whole

T = TypeVar("T")
MOST = 10**6
"""Points of a curve: more are a mistake."""


@torch.inference_mode(False)
@torch.no_grad()
def between(a: nn.Module, b: nn.Module, share: float) -> nn.Module:
    """The network that stands at ``(1 - share) * a + share * b``.

    Parameters
    ----------
    a, b : nn.Module
        Networks of equal shape; unchanged.
    share : float
        0 gives a's values, 1 b's, all to the bit; what lies outside extrapolates.

    Returns
    -------
    nn.Module
        A copy of `a`, its mode, dtype and device, with real and complex parameters and buffers interpolated; where both
        hold one infinity it stays. Other buffers and extra state are b's, such as the number of batches that a batch
        norm has seen; with a share of 0 a's.

    Raises
    ------
    ValueError
        If the networks differ in shape, see `check_alike`, or in what is shared, see `check_sharing`.
    """
    finite("share", share)
    check_alike(a, b)
    point, ends = copy.deepcopy(a), b.state_dict()
    # Everything is mixed before anything is written: a shared tensor stands under several names.
    mixed = {}
    for name, value in point.state_dict().items():
        mixed[name] = _mixed(value, ends[name], share)
    check_sharing(point, mixed)
    point.load_state_dict(mixed)
    return point


def _mixed(a: Any, b: Any, share: float) -> Any:
    if not isinstance(a, Tensor):  # extra state of a module, which only this knows how to read
        return a if share == 0 else copy.deepcopy(b)
    b = b.to(a)
    if share in (0, 1) or not (a.is_floating_point() or a.is_complex()):
        return a if share == 0 else b
    mixed = torch.lerp(a, b, share)
    # From infinity, lerp's step to the other end is infinite or undefined even where both are equal.
    apart = torch.where(a == b, a, (1 - share) * a + share * b)
    return torch.where(mixed.isfinite(), mixed, apart)


def curve(
    a: nn.Module,
    b: nn.Module,
    score: Callable[[nn.Module], T],
    steps: int | Sequence[float] = 11,
    finish: Callable[[nn.Module], None] | None = None,
) -> list[T]:
    """Score the networks on the straight line from one to the other.

    Parameters
    ----------
    a, b : nn.Module
        Networks of equal shape; unchanged.
    score : callable
        Is given a network, a new one at every point, see `between`.
    steps : int or sequence of float
        How many points, evenly spaced and both ends among them, or the points themselves: 0 is `a`, 1 is `b`.
    finish : callable, optional
        Repairs each network in place before it is scored, the ends as well: by new batch norm statistics, say.

    Returns
    -------
    list
        What `score` returned, in the order of the points.

    Raises
    ------
    ValueError
        If there are fewer than two steps, or the networks differ in shape, see `check_alike`.
    """
    check_callable("score", score)
    if finish is not None:
        check_callable("finish", finish)
    if isinstance(steps, Sequence):
        shares = finite_numbers("steps", steps)
    else:
        count = whole("steps, which both ends are among,", steps, 2, MOST)
        shares = [i / (count - 1) for i in range(count)]
    scores = []
    for share in shares:
        point = between(a, b, share)
        if finish is not None:
            finish(point)
        scores.append(score(point))
    return scores


def barrier(losses: Sequence[float], at: Sequence[float] | None = None) -> float:
    """How far the loss rises above the straight line from its first to its last value.

    Parameters
    ----------
    losses : sequence of float
        Along the line, see `curve`.
    at : sequence of float, optional
        Where on the line, ascending; evenly spaced by default.

    Returns
    -------
    float
        In the unit of the losses, never below 0, where the line is nowhere higher than its ends suggest. NaN if a loss
        is.

    Raises
    ------
    ValueError
        If there are fewer than two losses, or `at` has another length or does not ascend.

    References
    ----------
    Frankle et al., *Linear Mode Connectivity and the Lottery Ticket Hypothesis*, ICML 2020, with the ends weighted as
    in Entezari et al., *The Role of Permutation Invariance in Linear Mode Connectivity*, ICLR 2022.
    """
    heights = np.array(finite_numbers("losses", losses, finite=False))
    places = np.arange(len(heights)) if at is None else np.array(finite_numbers("places (at)", at))
    if len(heights) < 2 or len(places) != len(heights) or not (np.diff(places) > 0).all():
        raise ValueError(f"no barrier of {len(heights)} losses at {places.tolist()}: two at least, places ascending")
    expected = np.interp(places, places[[0, -1]], heights[[0, -1]])
    return float(np.max(heights[1:-1] - expected[1:-1], initial=0.0))


def check_alike(a: nn.Module, b: nn.Module) -> None:
    """Refuse networks whose state dicts differ in a name or a shape, or for extra state that is no tensor in its type.

    Raises
    ------
    ValueError
        Names the first entry that differs and both shapes.
    """
    for what, model in (("the first network", a), ("the second network", b)):
        check_network(what, model, values=True)
    one, other = ({name: _described(value) for name, value in model.state_dict().items()} for model in (a, b))
    for name in [*one, *other]:
        if one.get(name) != other.get(name):
            shapes = " and ".join(str(shapes.get(name, "missing")) for shapes in (one, other))
            raise ValueError(f"the networks differ in shape: {name} is {shapes}")


def check_sharing(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Refuse values, by the names of a network's tensors, of which it would have to hold two in one tensor.

    Raises
    ------
    ValueError
        Names the tensor's two names.
    """
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        other = first.setdefault(id(tensor), name)
        if other == name or not isinstance(tensor, Tensor) or name not in values:
            continue
        if not torch.allclose(values[name], values[other], rtol=0, atol=0, equal_nan=True):
            raise ValueError(
                f"{other} and {name} are one tensor in one network and differ in another: untie them first"
            )


def _described(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
