"""What it costs to move one unit onto another: distances between all rows of two matrices, by matrix products."""

import torch
from torch import Tensor

from hetlib.errors import unknown

METRICS = ("euclidean", "squared", "cosine")
NORMALISATIONS = ("none", "log", "max", "median", "mean")
BLOCK = 2**18
"""Features times rows that are centred at a time: they stay in the cache."""


@torch.no_grad()
def cost_matrix(
    x: Tensor, y: Tensor, metric: str = "euclidean", *, samples: int = 1, normalise: str = "none"
) -> Tensor:
    """Distances between the rows of two matrices.

    No gradients are kept. Beside the result, only a block of features is ever held.

    Parameters
    ----------
    x, y : Tensor of shape (n, d) and (m, d)
        One row per unit, all of its activations or weights.
    metric : {"euclidean", "squared", "cosine"}
        The Euclidean distance, its square, or one minus the cosine of the angle (1 beside a row of zeros).
    samples : int
        Squared Euclidean distances are divided by this number.
    normalise : {"none", "log", "max", "median", "mean"}
        Of the finished matrix: ``log(1 + cost)``, or division by its largest entry, its median (the lower of two), or
        its mean. A matrix whose divisor is 0 stays as it is.

    Returns
    -------
    Tensor of shape (n, m)
        In the common floating dtype of x and y, float32 at least. A squared distance is right to about
        ``eps * (|x - c|^2 + |y - c|^2)``, c being the mean of the rows of y; none is below 0.

    Raises
    ------
    ValueError
        If x and y are no matrices with equally many columns, one is empty, `samples` is below 1, or a name is unknown.

    References
    ----------
    Singh and Jaggi, *Model Fusion via Optimal Transport*, NeurIPS 2020: ground metric of the released code.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    if normalise not in NORMALISATIONS:
        raise unknown("normalisation", normalise, NORMALISATIONS)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not x.numel() or not y.numel():
        raise ValueError(f"no distances between the rows of {tuple(x.shape)} and {tuple(y.shape)}")
    if samples < 1:
        raise ValueError(f"samples: {samples} is below 1")
    cost = _cosine(x, y) if metric == "cosine" else _squared(x, y).div_(samples)
    return _normalised(cost.sqrt_() if metric == "euclidean" else cost, normalise)


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances as ``|x|^2 - 2 x y + |y|^2``, of rows less the mean of y's, because that sum cancels."""
    dtype = _dtype(x, y)
    cost = x.new_zeros(len(x), len(y), dtype=dtype)
    of_x, of_y = cost.new_zeros(len(x), 1), cost.new_zeros(len(y))
    few = max(256, BLOCK // (len(x) + len(y))) if x.device.type == "cpu" else x.shape[1]
    for a, b in zip(x.split(few, 1), y.split(few, 1), strict=True):
        a, b = a.to(dtype), b.to(dtype)
        centre = b.mean(0)
        a, b = a - centre, b - centre
        of_x += torch.linalg.vector_norm(a, dim=1, keepdim=True).square_()
        of_y += torch.linalg.vector_norm(b, dim=1).square_()
        cost.addmm_(a, b.T, alpha=-2)
    return cost.add_(of_x).add_(of_y).clamp_(min=0)


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    dtype = _dtype(x, y)
    x, y = x.to(dtype), y.to(dtype)
    tiny = torch.finfo(dtype).tiny
    of_x, of_y = (torch.linalg.vector_norm(rows, dim=1).clamp_(min=tiny) for rows in (x, y))
    return (x @ y.T).div_(of_x.unsqueeze(1)).div_(of_y).neg_().add_(1).clamp_(0, 2)


def _normalised(cost: Tensor, how: str) -> Tensor:
    if how == "none":
        return cost
    if how == "log":
        return cost.log1p_()
    scale = cost.max() if how == "max" else cost.median() if how == "median" else cost.mean()
    return cost.div_(torch.where(scale > 0, scale, torch.ones_like(scale)))


def _dtype(x: Tensor, y: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
