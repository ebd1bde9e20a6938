"""Tensors mixed with others, any number of them at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hetlib.kernels.fill import Fill


def mixture(fills: Sequence[Fill], news: Sequence[Tensor]) -> Callable[[], None]:
    """Read what fills bring; the call of what is returned mixes it in: ``out = alpha * out + (1 - alpha) * new``.

    Both products are rounded before they are added, as in grafting's released code. So two tensors that take from one
    another, with coefficients that add up to 1, become equal to the bit; `torch.lerp` does not promise that. They are
    computed in float32, or in float64 where one of the two tensors is of that type.

    Parameters
    ----------
    fills : sequence of Fill
    news : sequence of Tensors
        What each brings, of the shape and device of its `out`. It may be overwritten before the call.
    """
    stays, comes = _shares(fills, reals := [_real(fill, new) for fill, new in zip(fills, news, strict=True)])
    brought = torch._foreach_mul([new.to(real) for new, real in zip(news, reals, strict=True)], comes)

    def mix() -> None:
        owns = [fill.out.to(real) for fill, real in zip(fills, reals, strict=True)]
        torch._foreach_mul_(owns, stays)
        torch._foreach_add_(owns, brought)
        for fill, own in zip(fills, owns, strict=True):
            if own is not fill.out:
                fill.out.copy_(own)

    return mix


def _real(fill: Fill, new: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(fill.out.dtype, new.dtype), torch.float32)


def _shares(fills: Sequence[Fill], reals: Sequence[torch.dtype]) -> tuple[list[Tensor], list[Tensor]]:
    """By what each tensor and what comes to it are multiplied; the two add up to 1 in float64."""
    numbers = {id(fill.alpha): torch.as_tensor(fill.alpha, dtype=torch.float64) for fill in fills}
    rests = {key: 1 - number for key, number in numbers.items()}
    fitted = lambda which: [
        _fitted(which[id(fill.alpha)], fill.out, real) for fill, real in zip(fills, reals, strict=True)
    ]
    return fitted(numbers), fitted(rests)


def _fitted(share: Tensor, out: Tensor, real: torch.dtype) -> Tensor:
    if share.dim():
        return share.to(out.device, real).view(-1, *[1] * (out.dim() - 1))
    # A number changes the type of no tensor but of another number, and one on the host is fit for any device.
    return share if out.dim() else share.to(real)


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
