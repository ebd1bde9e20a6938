"""The cross-layer alignment of a deep and a shallow network at the least cost."""

from math import comb, inf

import torch
from torch import Tensor

from hetlib.checks import check_real
from hetlib.errors import shown, whole, whole_numbers


def align(cost: Tensor, pins: tuple[int, int] = (1, 1), *, legacy_single: bool = False) -> list[int]:
    """Map every layer of the shallow network to one of the deep network, in order, at the least total cost.

    Parameters
    ----------
    cost : Tensor of shape (deep, shallow)
        What it costs to pair two layers; any finite numbers.
    pins : (int, int)
        How many of the first, and of the last, layers are paired with each other whatever they cost. A single shallow
        layer that is pinned at both ends goes to the first deep layer.
    legacy_single : bool
        Give a single shallow layer the first deep one whatever the costs and pins, as the released code does.

    Returns
    -------
    list of int
        The deep layer of each shallow layer, strictly increasing. Of equally good ones it is the lowest, decided from
        the last layer backwards.

    Raises
    ------
    ValueError
        If a cost is not finite, there are fewer rows than columns, there are no columns, or no map keeps the pins.

    References
    ----------
    Nguyen et al., *On Cross-Layer Alignment for Model Fusion of Heterogeneous Neural Networks*, ICASSP 2023. The
    released options are ``pins = (start - 1, free_end)``.
    """
    check_real("the cost", cost)
    cost = cost.double()
    if cost.ndim != 2 or not cost.shape[1]:
        raise ValueError(f"the cost has shape {tuple(cost.shape)}, not (deep, shallow)")
    (m, n), (first, last) = cost.shape, check_pins(pins)
    if m < n:
        raise ValueError(f"{m} deep and {n} shallow layers: the rows of the cost belong to the deeper network")
    if not cost.isfinite().all():
        raise ValueError("the cost holds NaN or infinity")
    if not legal_maps(m, n, pins):
        raise ValueError(
            f"no map of {n} layers into {m} pairs the first {first} and the last {last} with each other, as pins ask"
        )
    if m == n or (n == 1 and (first or legacy_single)):
        return list(range(n))
    last = min(last, n)  # only of a single layer more may be pinned than there are
    table = least_costs(cost[first : m - last, first : n - last], (0, 0)).tolist()
    # Read the map back from the last free layer to the first. Among the first `end` deep layers, the least cost for k
    # shallow ones stays the same without the last of them exactly if the last is not needed: drop it. What is left then
    # ends in the partner of layer k, and the layers before it share the deep layers above it.
    free: list[int] = []
    end = len(table)
    for k in range(n - first - last, 0, -1):
        while end > k and table[end - 1][k - 1] == table[end - 2][k - 1]:
            end -= 1
        end -= 1
        free.insert(0, end)
    return [*range(first), *(first + i for i in free), *range(m - last, m)]


@torch.no_grad()
def least_costs(cost: Tensor, pins: tuple[int, int] = (1, 1)) -> Tensor:
    """Fill the table of the dynamic programme that `align` reads its map from.

    Parameters
    ----------
    cost : Tensor of shape (deep, shallow)
        What it costs to pair two layers.
    pins : (int, int)
        As `align` takes them.

    Returns
    -------
    Tensor of shape (deep, shallow)
        Entry (l, k) is the least cost of mapping the first k + 1 shallow layers into the first l + 1 deep ones,
        in float64; infinite where the layers do not fit or the pins forbid it.

    References
    ----------
    Nguyen et al., ICASSP 2023: cross-layer alignment.
    """
    check_real("the cost", cost)
    if cost.ndim != 2:
        raise ValueError(f"the cost has shape {tuple(cost.shape)}, not (deep, shallow)")
    (m, n), (first, last) = cost.shape, check_pins(pins)
    deep, shallow = torch.arange(m).unsqueeze(1), torch.arange(n)
    forbidden = (shallow < first) & (deep != shallow) | (shallow >= n - last) & (deep != shallow + m - n)
    pairs = cost.double().masked_fill(forbidden.to(cost.device), inf)
    # best[l, k] is the least cost of k shallow layers among the first l deep ones. Either the last of these has no
    # partner, or it is that of the last shallow layer: best[l, k] = min(best[l-1, k], best[l-1, k-1] + cost[l-1, k-1]).
    best = pairs.new_full((m + 1, n + 1), inf)
    best[:, 0] = 0
    for end in range(m):
        best[end + 1, 1:] = torch.minimum(best[end, 1:], best[end, :-1] + pairs[end])
    return best[1:, 1:]


def legal_maps(m: int, n: int, pins: tuple[int, int] = (1, 1)) -> int:
    """How many maps `align` chooses from.

    Parameters
    ----------
    m, n : int
        How many layers the deep and the shallow network have.
    pins : (int, int)
        As `align` takes them.

    Returns
    -------
    int
        The strictly increasing maps of n into m layers that keep the pins; 0 if m < n or the pins contradict.

    Raises
    ------
    ValueError
        If n < 1 or a number of pins is negative.
    """
    m, n, pins = whole("m", m, 0), whole("n", n), check_pins(pins)
    if m == n or (n == 1 and any(pins)):
        return int(m > 0)
    pinned = sum(pins)
    return comb(m - pinned, n - pinned) if pinned <= n <= m else 0


def check_pins(pins: tuple[int, int]) -> tuple[int, int]:
    """Return how many layers are pinned at the beginning and at the end; a ValueError that names the pins, if not two.

    Raises
    ------
    ValueError
        If they are not two whole numbers of at least 0.
    """
    found = whole_numbers("pins", pins, 0)
    if len(found) != 2:
        raise ValueError(f"pins must be two numbers, for the first layers and the last, got {shown(pins)}")
    return found[0], found[1]
