"""Which source layer feeds which target layer.

Every function here answers with one source index, or None, per target layer, in the order of the target's chain.
"""

from collections.abc import Sequence

import torch

from hetlib.errors import unknown

ORDERS = ("chain", "shuffle", "interval")
RELEASED_SHUFFLE = (3, 1, 0, 7, 4, 6, 2)  # of VGG11's eight convolutions; the sixth never appears


def by_ratio(n_source: int, n_target: int) -> list[int]:
    """Spread the source's layers over the target's in proportion to depth.

    Parameters
    ----------
    n_source, n_target : int
        How many layers the two chains have.

    Returns
    -------
    list of int
        For each target layer i the source layer ``round(i * n_source / n_target)``, halves to even, within range.

    Raises
    ------
    ValueError
        If a chain is empty.

    References
    ----------
    Duong et al., *Heterogeneous Transfer Learning Using Variance-based Mapping*, AICI 2024: index matching of the
    released code.
    """
    _check_lengths(n_source, n_target)
    return [min(round(i * n_source / n_target), n_source - 1) for i in range(n_target)]


def by_position(
    n_source: int, n_target: int, order: str | Sequence[int] = "chain", seed: int | None = None
) -> list[int | None]:
    """Pair the chains position by position after putting the source in some order; tails stay unmatched.

    Parameters
    ----------
    n_source, n_target : int
        How many layers the two chains have.
    order : {"chain", "shuffle", "interval"} or sequence of int
        "chain" leaves the source as it is; "interval" keeps every second layer; "shuffle" takes the order of the
        released ablation (3, 1, 0, 7, 4, 6, 2), as far as the source has such layers. A sequence lists source layers.
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
    _check_lengths(n_source, n_target)
    taken = _source_order(n_source, order, seed)
    return [taken[i] if i < len(taken) else None for i in range(n_target)]


def _source_order(n_source: int, order: str | Sequence[int], seed: int | None) -> list[int]:
    if order == "chain":
        return list(range(n_source))
    if order == "interval":
        return list(range(0, n_source, 2))
    if order == "shuffle":
        if seed is not None:
            return torch.randperm(n_source, generator=torch.Generator().manual_seed(seed)).tolist()
        return [i for i in RELEASED_SHUFFLE if i < n_source]
    if isinstance(order, str):
        raise unknown("order", order, (*ORDERS, "a sequence of source indices"))
    return _explicit(n_source, order)


def _explicit(n_source: int, order: Sequence[int]) -> list[int]:
    indices = [int(i) for i in order]
    if wrong := [i for i in indices if not 0 <= i < n_source]:
        raise ValueError(f"order: {wrong} out of range, the source has layers 0 to {n_source - 1}")
    if repeated := sorted({i for i in indices if indices.count(i) > 1}):
        raise ValueError(f"order: source layers {repeated} are repeated; each may feed one target layer")
    return indices


def _check_lengths(n_source: int, n_target: int) -> None:
    for role, length in (("source", n_source), ("target", n_target)):
        if length < 1:
            raise ValueError(f"the {role} has no layers to match")
