"""Layers paired position by position, after the source's were put in some order."""

from collections.abc import Sequence

import torch

from hetlib.errors import seed_of, unknown, whole_numbers
from hetlib.match.ratio import check_lengths

ORDERS = ("chain", "longest", "shuffle", "interval")
RELEASED_SHUFFLE = (3, 1, 0, 7, 4, 6, 2)  # of VGG11's eight convolutions; the sixth never appears


def by_position(
    n_source: int, n_target: int, order: str | Sequence[int] = "chain", seed: int | None = None
) -> list[int | None]:
    """Pair the chains position by position after putting the source in some order; tails stay unmatched.

    Parameters
    ----------
    n_source, n_target : int
        How many layers the two chains have.
    order : {"chain", "longest", "shuffle", "interval"} or sequence of int
        "chain" leaves the source as it is, and so does "longest", of chains that are chosen otherwise (see
        `hetlib.hmt.ByPosition`); "interval" keeps every second layer; "shuffle" takes the order of the released
        ablation (3, 1, 0, 7, 4, 6, 2), as far as the source has such layers. A sequence lists source layers.
    seed : int, optional
        Draw the shuffle from this seed, over all layers of the source, instead of taking the released one.

    Returns
    -------
    list of int or None
        The source layer of each target layer, None where the source has no more.

    Raises
    ------
    ValueError
        If a chain is empty, the order is unknown, or an index is out of range or repeated.

    References
    ----------
    Wang et al., *Heterogeneous Model Transfer between Different Neural Networks*, 2020, released code.
    """
    check_lengths(n_source, n_target)
    taken = _source_order(n_source, order, seed)
    return [taken[i] if i < len(taken) else None for i in range(n_target)]


def _source_order(n_source: int, order: str | Sequence[int], seed: int | None) -> list[int]:
    if not isinstance(order, str):
        return _explicit(n_source, order)
    if order in ("chain", "longest"):
        return list(range(n_source))
    if order == "interval":
        return list(range(0, n_source, 2))
    if order == "shuffle":
        if seed is not None:
            return torch.randperm(n_source, generator=torch.Generator().manual_seed(seed_of(seed))).tolist()
        return [i for i in RELEASED_SHUFFLE if i < n_source]
    raise unknown("order", order, (*ORDERS, "a sequence of source indices"))


def _explicit(n_source: int, order: Sequence[int]) -> list[int]:
    indices = whole_numbers("order", order)
    if wrong := [i for i in indices if not 0 <= i < n_source]:
        raise ValueError(f"order: {wrong} out of range, the source has layers 0 to {n_source - 1}")
    if repeated := sorted({i for i in indices if indices.count(i) > 1}):
        raise ValueError(f"order: source layers {repeated} are repeated; each may feed one target layer")
    return indices
