"""Tensors mixed with others, any number of them at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hetlib.kernels.fill import Fill


def mixed(fills: Sequence[Fill], news: Sequence[Tensor]) -> Sequence[Tensor]:
    """What the tensors of fills become: ``alpha * out + (1 - alpha) * new``. Nothing is written.

    Both products are rounded before they are added, as in grafting's released code. So two tensors that take from one
    another, with coefficients that add up to 1, become equal to the bit; `torch.lerp` does not promise that.

    Parameters
    ----------
    fills : sequence of Fill
    news : sequence of Tensors
        What each fill brings, of the shape and device of its `out`.

    Returns
    -------
    sequence of Tensors
        In float32, or float64 where one of the two is.
    """
    if not fills:
        return []
    owns = [fill.out.to(_real(fill, new)) for fill, new in zip(fills, news, strict=True)]
    shares = [_shares(fill, own) for fill, own in zip(fills, owns, strict=True)]
    kept = torch._foreach_mul(owns, [stays for stays, _ in shares])
    come = torch._foreach_mul([new.to(own.dtype) for new, own in zip(news, owns, strict=True)], [c for _, c in shares])
    return torch._foreach_add(kept, come)


def _real(fill: Fill, new: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (fill.out.dtype, new.dtype) else torch.float32


def _shares(fill: Fill, own: Tensor) -> tuple[Tensor, Tensor]:
    """By what the two sides are multiplied; in float64 they add up to 1."""
    stays = torch.as_tensor(fill.alpha, dtype=torch.float64)
    comes = 1 - stays
    if (
        not stays.dim()
    ):  # a number changes the type of no tensor but of another number; the host's is fit for any device
        return (stays, comes) if own.dim() else (stays.to(own.dtype), comes.to(own.dtype))
    shape = (-1, *[1] * (own.dim() - 1))
    return stays.to(own).view(shape), comes.to(own).view(shape)


def rings(fills: Sequence[Fill]) -> list[list[Fill]]:
    """The same fills in lists, in each of which every fill but the first takes from the tensor of the one before it.

    In a closed ring, the first fill takes from the tensor of the last one. Where two fills take from one tensor, only
    the first of them follows it.
    """
    writers = {place(fill.out): n for n, fill in enumerate(fills)}
    follower: dict[int, int] = {}
    heads = []
    for n, fill in enumerate(fills):
        writer = writers.get(place(fill.weight))
        if writer is None or follower.setdefault(writer, n) != n:
            heads.append(n)
    found, seen = [], set[int]()
    for head in [*heads, *range(len(fills))]:  # what no head leads to is in closed rings
        ring = []
        at: int | None = head
        while at is not None and at not in seen:
            seen.add(at)
            ring.append(fills[at])
            at = follower.get(at)
        if ring:
            found.append(ring)
    return found


def place(tensor: Tensor) -> tuple:
    """Equal for tensors that are the same memory, read in the same way."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
