"""How much of its own a network keeps in a graft: by the entropy of each convolution's weights, or by their norm."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hetlib.errors import positive
from hetlib.kernels.fill import Fill
from hetlib.kernels.graft import check_settings, coefficient, entropy_coefficients


@dataclass(frozen=True)
class ByEntropy:
    """Every convolution's own coefficient, from its entropy and its donor's; other tensors take the one before them.

    Attributes
    ----------
    a : float
        Width of the range, from 0 (plain averaging) to 1: coefficients are from 0.5 - a/2 to 0.5 + a/2.
    c : float
        Steepness. At the released 500 the coefficient is nearly a switch.
    decimals : int or None
        Coefficients are rounded to so many, as released; None does not round.
    bins : int
        Of the histogram, see `hetlib.kernels.weight_entropy`.
    named : bool
        The released rule: a coefficient of its own for every tensor whose name holds "conv", a bias or a batch norm
        too, and for no other. False goes by what the layers are.

    References
    ----------
    Meng et al., CVPR 2020, and the released code.
    """

    a: float = 0.4
    c: float = 500.0
    decimals: int | None = 2
    bins: int = 10
    named: bool = False

    def __post_init__(self):
        check_settings(self.a, self.c, self.decimals)
        positive("bins", self.bins)

    def __call__(self, fills: Sequence[Fill]) -> list[Tensor]:
        """The coefficient of each fill, one after another as the tensors stand in the network."""
        return self.together([fills])[0]

    def together(self, plans: Sequence[Sequence[Fill]]) -> list[list[Tensor]]:
        """The coefficients of the fills of several networks, measured in one go.

        Raises
        ------
        ValueError
            If a network has no tensor that coefficients are taken from, or the released rule has none for a tensor.
        """
        leading = [leaders(plan, self.named) for plan in plans]
        chosen = [plan[n] for plan, numbers in zip(plans, leading, strict=True) for n in numbers]
        found = iter(self.compare([fill.out for fill in chosen], [fill.weight for fill in chosen]).unbind())
        return [
            inherited(numbers, [next(found) for _ in numbers], len(plan))
            for plan, numbers in zip(plans, leading, strict=True)
        ]

    def compare(self, own: list[Tensor], donor: list[Tensor]) -> Tensor:
        """One coefficient for each pair of weights, as a tensor of shape (pairs,) on their device."""
        return entropy_coefficients(own, donor, self.a, self.c, self.decimals, self.bins)


@dataclass(frozen=True)
class ByNorm(ByEntropy):
    """As `ByEntropy`, with the sum of absolute weights in place of the entropy; `bins` has no part in it.

    Such sums differ by far more than entropies: at the released steepness nearly all coefficients are at an end of
    their range.
    """

    def compare(self, own: list[Tensor], donor: list[Tensor]) -> Tensor:
        """One coefficient for each pair of weights."""
        first, second = (torch.stack(torch._foreach_norm(list(weights), 1)) for weights in (own, donor))
        return coefficient(first, second, self.a, self.c, self.decimals)


def leaders(fills: Sequence[Fill], named: bool = False) -> list[int]:
    """The numbers of the fills that have a coefficient of their own.

    Raises
    ------
    ValueError
        If there are none; by the released rule also if one does not come first.
    """
    if named:
        numbers = [n for n, fill in enumerate(fills) if "conv" in fill.layer]
        if numbers[:1] != [0]:
            what = f"{fills[0].layer!r} comes before any" if numbers else "there is none"
            raise ValueError(
                f"the released rule takes coefficients from the tensors whose names hold 'conv', and {what}: "
                "give the networks themselves, so that their convolutions are known"
            )
        return numbers
    numbers = [n for n, fill in enumerate(fills) if fill.kind == "convolution" and fill.out.dim() > 1]
    if not numbers:
        raise ValueError("no convolution to take a coefficient from: criterion 'none' averages networks without any")
    return numbers


def inherited(numbers: Sequence[int], coefficients: Sequence[Tensor], count: int) -> list[Tensor]:
    """A coefficient for each of `count` fills: that of the last leader so far, or of the first where none was."""
    given = dict(zip(numbers, coefficients, strict=True))
    current, shares = coefficients[0], []
    for n in range(count):
        current = given.get(n, current)
        shares.append(current)
    return shares
