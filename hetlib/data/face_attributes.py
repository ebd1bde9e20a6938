"""The attributes of the rendered faces: which there are, how common, and how they come together in real photographs.

`TABLE` was computed once from the attributes of images 1 to 10,000 of CelebA (Liu et al., *Deep Learning Face
Attributes in the Wild*, ICCV 2015). A row names an attribute and gives its rate in thousandths, then its correlation
with the attribute of every row above, in hundredths.
"""

from functools import cache

import torch
from torch import Tensor

TABLE = """
Arched_Eyebrows 266
Attractive 511 26
Bags_Under_Eyes 206 -9 -17
Bangs 148 -3 7 -5
Big_Lips 239 25 6 0 3
Big_Nose 240 -8 -29 35 -7 7
Black_Hair 243 0 1 -1 -4 7 7
Blond_Hair 145 12 16 -10 9 0 -15 -23
Blurry 51 -8 -18 -3 -1 -3 -4 -4 -1
Brown_Hair 203 1 13 -6 7 -2 -14 -26 -17 -3
Bushy_Eyebrows 145 -2 4 10 -7 3 15 26 -14 -7 -6
Chubby 59 -10 -24 16 -9 -1 32 1 -9 -1 -10 0
Double_Chin 47 -9 -21 19 -8 -2 29 -3 -7 -1 -9 -1 53
Goatee 64 -11 -15 9 -9 4 21 5 -10 -3 -5 10 15 5
Gray_Hair 44 -10 -21 18 -6 -8 20 -12 -4 -1 -11 -5 23 26 1
Heavy_Makeup 382 44 48 -29 12 14 -28 -4 25 -14 9 -12 -18 -15 -21 -15
High_Cheekbones 452 17 14 8 5 4 6 2 12 -9 1 -5 3 6 -10 0 28
Male 422 -41 -41 29 -17 -16 36 11 -31 2 -11 24 24 22 31 19 -67 -25
Mouth_Slightly_Open 481 8 2 4 2 4 5 -4 9 -3 0 -3 2 7 -6 1 12 41 -11
Narrow_Eyes 117 1 -7 10 2 11 8 0 -2 7 -3 2 6 7 1 4 -4 3 2 11
Oval_Face 279 -2 19 -12 0 -12 -10 1 5 -8 3 2 -2 -6 0 -5 20 20 -10 9 -10
Pale_Skin 44 5 8 -3 6 5 -6 -4 8 -1 -2 -2 -3 -2 -4 -1 3 -9 -7 -5 0 -5
Pointy_Nose 271 14 21 -11 1 5 -16 -4 12 -7 5 0 -12 -8 -9 -4 27 5 -22 1 -4 0 1
Receding_Hairline 77 -4 -19 12 -12 2 21 0 -7 0 -11 -3 18 19 7 25 -12 1 13 1 2 0 -4 -4
Rosy_Cheeks 62 24 16 -9 8 8 -4 -5 15 -6 2 -3 -5 -4 -6 -4 29 23 -21 14 -1 8 -5 18 -4
Sideburns 58 -12 -10 8 -8 -5 13 3 -10 -2 -3 13 11 2 50 1 -19 -14 29 -7 0 -3 -4 -6 3 -6
Smiling 482 11 14 12 7 2 10 -1 9 -5 2 -1 3 8 -7 1 18 68 -15 53 6 19 -7 3 0 20 -7
Wearing_Lipstick 466 47 49 -27 17 19 -30 -6 28 -13 10 -16 -21 -18 -24 -17 80 29 -79 12 -2 14 5 25 -14 26 -23 19
Wearing_Necklace 123 20 9 -4 11 15 -3 -4 13 -1 -1 -7 -6 -4 -8 -4 18 13 -28 10 1 -6 -1 6 -5 12 -8 10 26
Wearing_Necktie 74 -13 -16 19 -9 -7 19 1 -11 0 -6 7 21 21 5 23 -22 -6 33 -4 2 -5 -2 -6 13 -7 7 -1 -26 -11
Young 777 15 40 -23 3 11 -29 12 6 -6 11 9 -29 -31 -9 -39 25 0 -29 -1 -3 10 4 8 -20 4 -8 -3 25 2 -23
"""
NAMES = tuple(row.split()[0] for row in TABLE.strip().splitlines())
"""Those that the groups hair, eye and face of knowledge amalgamation name, spelt and ordered as in CelebA."""


@cache
def statistics() -> tuple[Tensor, Tensor]:
    """The rate of every attribute, (31,), and the correlation of every two, (31, 31), both float64."""
    rows = [[int(number) for number in row.split()[1:]] for row in TABLE.strip().splitlines()]
    correlation = torch.eye(len(rows), dtype=torch.float64)
    for number, row in enumerate(rows):
        correlation[number, :number] = correlation[:number, number] = torch.tensor(row[1:]) / 100
    return torch.tensor([row[0] for row in rows], dtype=torch.float64) / 1000, correlation


@cache
def _regressions() -> tuple[Tensor, Tensor, Tensor]:
    """The order in which attributes are drawn, those that are most correlated with others first, (31,); the constant
    of the regression of each on those before it, (31,); and its weights, (31, 31), a lower triangle.
    """
    rate, correlation = statistics()
    order = correlation.square().sum(0).argsort(descending=True)
    rate, spread = rate[order], (rate * (1 - rate))[order].sqrt()
    covariance = correlation[order][:, order] * spread.outer(spread)
    weights = torch.zeros_like(covariance)
    for k in range(1, len(order)):
        weights[k, :k] = torch.linalg.solve(covariance[:k, :k], covariance[:k, k])
    return order, rate - weights @ rate, weights


def draw_attributes(count: int, generator: torch.Generator) -> Tensor:
    """Draw the attributes of faces, one after the other, each by linear regression on those drawn before.

    Rates and correlations would be exactly those of the table if all predictions were probabilities. Predictions below
    0 and above 1 are cut, which moves a rate by at most 0.012 and a correlation by at most 0.055.

    Parameters
    ----------
    count : int
        How many faces.
    generator : torch.Generator
        Of the CPU.

    Returns
    -------
    Tensor
        int64, (count, 31), 0 or 1.

    References
    ----------
    Qaqish, *A family of multivariate binary distributions for simulating correlated binary variables with specified
    marginal means and correlations*, Biometrika 90, 2003.
    """
    order, constant, weights = _regressions()
    chance = torch.rand(len(order), count, generator=generator, dtype=torch.float64)
    drawn = torch.empty_like(chance)
    for k in range(len(order)):
        drawn[k] = chance[k] < constant[k] + weights[k, :k] @ drawn[:k]
    return drawn[order.argsort()].T.long()
