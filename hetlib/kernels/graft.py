"""How much of its own weights a network keeps when it takes in those of another: filter grafting's coefficient."""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor

from hetlib.checks import check_tensors
from hetlib.errors import finite, whole
from hetlib.kernels.blend import place
from hetlib.kernels.entropy import check, entropies, launched_together


def coefficient(
    own: Tensor | float, donor: Tensor | float, a: float = 0.4, c: float = 500.0, decimals: int | None = 2
) -> Tensor:
    """The share of its own weights that a layer keeps: ``a / pi * arctan(c * (own - donor)) + 0.5``.

    Parameters
    ----------
    own, donor : Tensors of any shapes that broadcast
        Entropies, or other numbers that measure how much a layer's and its donor's weights carry.
    a : float
        From 0 to 1. Shares lie between ``0.5 - a / 2`` and ``0.5 + a / 2``; 0 gives a plain average.
    c : float
        How soon a difference tells: with the paper's 500 the arctan is almost a step.
    decimals : int or None
        How many the result is rounded to, 0 to 15, half to even as in the released code; None does not round.

    Returns
    -------
    Tensor, float64

    Raises
    ------
    ValueError
        If `a` is not from 0 to 1, or `decimals` not from 0 to 15.

    Notes
    -----
    Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020.
    """
    check_settings(a, c, decimals)
    for what, numbers in (("own", own), ("donor", donor)):
        if not isinstance(numbers, Tensor):
            finite(what, numbers)
    first, second = (torch.as_tensor(numbers, dtype=torch.float64) for numbers in (own, donor))
    share = a / pi * torch.arctan(c * (first - second)) + 0.5
    return share if decimals is None else share.round(decimals=decimals)


def entropy_coefficients(
    own: Sequence[Tensor],
    donor: Sequence[Tensor],
    a: float = 0.4,
    c: float = 500.0,
    decimals: int | None = 2,
    bins: int = 10,
) -> Tensor:
    """The coefficients of layers from the entropies of their weights and of their donors'.

    A tensor that is given several times, such as one that is both a layer's own and another one's donor, is measured
    once. On a GPU with Triton, weights of one type take three launches for all that is done here, and no wait.

    Parameters
    ----------
    own, donor : sequences of Tensors
        The n-th of one meets the n-th of the other. See `hetlib.kernels.weight_entropy`.
    a, c, decimals
        See `coefficient`.
    bins : int
        See `hetlib.kernels.weight_entropy`.

    Returns
    -------
    Tensor of shape (len(own),), float64
        On the device of the weights.

    Raises
    ------
    ValueError
        If the sequences differ in length; as `coefficient` does, or as `hetlib.kernels.weight_entropy` does of
        ``own[n]`` or ``donor[n]``.
    """
    for what, weights in (("own", own), ("donor", donor)):
        check_tensors(what, weights, 0)
    if len(own) != len(donor):
        raise ValueError(f"{len(own)} weights of its own and {len(donor)} of the donor")
    check_settings(a, c, decimals)
    weights = [*own, *donor]
    names = [f"{side}[{n}]" for side in ("own", "donor") for n in range(len(own))]
    keys = [place(weight) for weight in weights]
    first: dict[tuple, int] = {}
    for n, key in enumerate(keys):
        first.setdefault(key, n)
    measured, called = [weights[n] for n in first.values()], [names[n] for n in first.values()]
    row = {key: n for n, key in enumerate(first)}
    rows = [row[key] for key in keys]
    if launched_together(measured):
        from hetlib.kernels import entropy_triton

        check(measured, bins, called)
        return entropy_triton.prepare(measured, bins, (rows[: len(own)], rows[len(own) :]), a, c, decimals)()
    found = entropies(measured, bins, called)
    ours, theirs = found[torch.tensor(rows, dtype=torch.int64, device=found.device).view(2, len(own))]
    return coefficient(ours, theirs, a, c, decimals)


def check_settings(a: float, c: float, decimals: int | None) -> None:
    """Refuse what coefficients cannot be made by: see `coefficient`."""
    finite("a, the range of coefficients,", a, 0, 1)
    finite("c, the steepness of coefficients,", c)
    if decimals is not None:
        whole("decimals", decimals, 0, 15)
