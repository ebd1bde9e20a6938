"""Filters ranked by how much they vary, and some of them chosen."""

import numpy as np
import torch
from torch import Tensor

from hetlib.errors import known, of_kind, shown, whole

BLOCK = 2**17
"""Taps whose deviations are held at a time."""
FEW = 64
"""Taps up to which a product is faster than a reduction."""
HOW = ("interleaved", "max", "min", "two_tailed", "random")


def pick(
    variance: Tensor,
    n: int,
    how: str = "interleaved",
    *,
    generator: torch.Generator | None = None,
    legacy_random: bool = False,
) -> Tensor:
    """Choose `n` of N filters by their variance.

    Parameters
    ----------
    variance : Tensor of shape (..., N)
        One value per filter; with leading axes every row is chosen from by itself.
    n : int
        How many to choose, 1 to N.
    how : {"interleaved", "max", "min", "two_tailed", "random"}
        Of the filters in ascending order of variance, the sort being stable: those at positions 1, 1 + s, 1 + 2 s, ...
        with ``s = N // n``; the last n; the first n; the first and the last ``n // 2`` (one fewer than n if n is odd,
        but the first if n is 1); or n at random.
    generator : torch.Generator, optional
        Of "random"; torch's global one by default.
    legacy_random : bool
        Draw "random" with repetition and never the last filter, as the released code has since August 2023.

    Returns
    -------
    Tensor of shape (..., n)
        int64 indices into the last axis, in ascending order of variance, or in the order drawn.

    Raises
    ------
    ValueError
        If `how` is unknown or `n` is not from 1 to N; for `legacy_random` if there is only one filter.

    References
    ----------
    Duong et al., *Heterogeneous Transfer Learning Using Variance-based Mapping and Pre-trained Feature Crossover*,
    AICI 2024, released code.
    """
    of_kind("variance", variance, Tensor)
    known("way to choose", how, HOW)
    if not variance.ndim:
        raise ValueError(f"variance has one value per filter, and it is {shown(variance)}")
    total = variance.shape[-1]
    n = whole(f"n, how many of {total} filters to choose,", n, 1, total)
    if how == "random":
        rows = variance.shape[:-1].numel()
        drawn = _draw(rows, n, total, generator, legacy_random)
        return drawn.view(*variance.shape[:-1], n).to(variance.device)
    first = {"max": total - n, "interleaved": int(n < total)}.get(how, 0)
    ascending = _ascending(variance, first if n == 1 else None)
    if how == "two_tailed" and n > 1:
        return torch.cat((ascending[..., : n // 2], ascending[..., -(n // 2) :]), -1)
    step = total // n if how == "interleaved" else 1
    return ascending[..., first : first + step * (n - 1) + 1 : step]


def _ascending(values: Tensor, rank: int | None = None) -> Tensor:
    """A stable argsort along the last axis; where one rank alone is asked for, the others may stand in any order."""
    if not values.numel() or torch.equal(*values.detach().aminmax()):  # as where kernels have one tap: all slices tie
        return torch.arange(values.shape[-1], device=values.device).expand_as(values)
    if values.is_cuda or values.dtype != torch.float32:
        return values.argsort(dim=-1, stable=True)
    # NumPy sorts whole numbers with vector instructions, six times as fast as a stable argsort. The value's bits, made
    # to order like the value, stand above its position, and so ties keep their order. Adding 0 makes -0 equal to 0.
    bits = (values.detach() + 0.0).contiguous().numpy().view(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= np.arange(values.shape[-1])
    if rank is None:
        keys.sort(axis=-1)
    else:
        keys.partition(rank, axis=-1)
    keys &= 0xFFFFFFFF
    return torch.from_numpy(keys)


def _draw(rows: int, n: int, total: int, generator: torch.Generator | None, legacy: bool) -> Tensor:
    if legacy:
        if total == 1:
            raise ValueError("the released way of drawing at random cannot choose from one filter")
        return torch.randint(0, total - 1, (rows, n), generator=generator)
    return permutations(rows, total, generator)[:, :n]


def permutations(rows: int, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Independent random orders of n things, one a row, drawn one by one as in the released code: int64, (rows, n)."""
    return torch.stack([torch.randperm(n, generator=generator) for _ in range(rows)])


def shuffle_rows_(table: Tensor, generator: torch.Generator | None = None, *, one_by_one: bool = False) -> Tensor:
    """Put the entries of each row of a contiguous table on the CPU into a random order of its own, in place.

    NumPy shuffles all rows in one call; `one_by_one` draws each order by torch instead, as the released code does.
    """
    if one_by_one:
        return table.copy_(table.gather(1, permutations(len(table), table.shape[1], generator)))
    entries = table.numpy()
    numpy_generator(generator).permuted(entries, axis=1, out=entries)
    return table


def numpy_generator(generator: torch.Generator | None) -> np.random.Generator:
    """A generator of NumPy's that starts from one number drawn by torch's."""
    return np.random.Generator(np.random.SFC64(int(torch.randint(2**62, (), generator=generator))))


@torch.no_grad()
def moments(weight: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and population variance of every slice of a weight.

    Parameters
    ----------
    weight : Tensor of shape (O, I, ...)
    rows : Tensor of shape (R,), optional
        Numbers of the filters that are looked at; by default all, R = O.

    Returns
    -------
    mean, variance : Tensor of shape (R, I)
        In float32, or float64 if `weight` is. A slice of one tap has variance 0.
    """
    taps = weight.flatten(2)
    # Some filters at a time: these and their deviations stay in the cache.
    few = max(1, BLOCK // max(1, taps[0].numel()))
    blocks = taps.split(few)
    if rows is not None:
        numbers = rows.to(taps.device, non_blocking=True)
        blocks = [taps.index_select(0, some) for some in numbers.split(few)]
    found = [_moments(block.to(torch.promote_types(block.dtype, torch.float32))) for block in blocks]
    mean, variance = (torch.cat(parts) for parts in zip(*found, strict=True))
    return mean, variance


def _moments(taps: Tensor) -> tuple[Tensor, Tensor]:
    if taps.shape[2] == 1:
        return taps.squeeze(2), taps.new_zeros(taps.shape[:2])
    if taps.shape[2] > FEW:
        mean = taps.mean(2)
        return mean, torch.linalg.vector_norm(taps - mean.unsqueeze(2), dim=2).square() / taps.shape[2]
    # A product with a vector of ones, because a reduction over as few as nine elements is ten times slower.
    average = taps.new_full((taps.shape[2],), 1 / taps.shape[2])
    with torch.autocast(taps.device.type, enabled=False):
        mean = taps @ average
        return mean, (taps - mean.unsqueeze(2)).square_() @ average
