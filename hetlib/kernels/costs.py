"""What it costs to move one unit onto another: distances between all rows of two matrices, by matrix products."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from hetlib.checks import check_real
from hetlib.errors import known, whole
from hetlib.kernels.scale import exponents, extreme, shifted

METRICS = ("euclidean", "squared", "cosine", "correlation")
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
    metric : {"euclidean", "squared", "cosine", "correlation"}
        The Euclidean distance, its square, one minus the cosine of the angle (1 beside a row of zeros), or one minus
        Pearson's correlation of the rows (1 beside a row that does not vary).
    samples : int
        Squared Euclidean distances are divided by this number.
    normalise : {"none", "log", "max", "median", "mean"}
        Of the finished matrix: ``log(1 + cost)``, or division by its largest entry, its median (the lower of two), or
        its mean. A matrix whose divisor is 0 stays as it is.

    Returns
    -------
    Tensor of shape (n, m)
        In the common floating dtype of x and y, float32 at least. A squared distance is right to about
        ``eps * (|x - c|^2 + |y - c|^2)``, c being the mean of the rows of y; none is below 0. A correlation is right
        to about ``eps + (eps * mean / deviation)^2`` of the rows, whatever their scales.

    Raises
    ------
    ValueError
        If x and y are no matrices with equally many columns, one is empty, `samples` is below 1, or a name is unknown.

    References
    ----------
    Singh and Jaggi, *Model Fusion via Optimal Transport*, NeurIPS 2020: ground metric of the released code. Stoica et
    al., *ZipIt! Merging Models from Different Tasks without Training*, ICLR 2024: correlation.
    """
    known("metric", metric, METRICS)
    known("normalisation", normalise, NORMALISATIONS)
    check_real("the rows x", x)
    check_real("the rows y", y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not x.numel() or not y.numel():
        raise ValueError(f"no distances between the rows of {tuple(x.shape)} and {tuple(y.shape)}")
    samples = whole("samples", samples)
    if metric in ("cosine", "correlation"):
        cost = (_cosine if metric == "cosine" else _correlation)(x, y)
    else:
        cost = _distances(x, y, metric == "euclidean", samples)
    return _normalised(cost, normalise)


def _distances(x: Tensor, y: Tensor, rooted: bool, samples: int) -> Tensor:
    """Squared distances over `samples`, or their roots, of numbers of any size."""
    cost, sizes = _squared(x, y)
    if not extreme(sizes.max().sqrt()):
        cost.div_(samples)
        return cost.sqrt_() if rooted else cost
    x, y = x.to(cost.dtype), y.to(cost.dtype)
    largest = torch.maximum(*(exponents(rows.reshape(1, -1)).squeeze() for rows in (x, y)))
    cost = _squared(shifted(x, -largest), shifted(y, -largest))[0].div_(samples)
    return shifted(cost.sqrt_(), largest) if rooted else shifted(cost, 2 * largest)


def _squared(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances as ``|x|^2 - 2 x y + |y|^2``, of rows less the mean of y's, because that sum cancels.

    And the squared lengths of all rows: (n + m,).
    """
    cost = x.new_zeros(len(x), len(y), dtype=_dtype(x, y))
    of_x, of_y = cost.new_zeros(len(x), 1), cost.new_zeros(len(y))
    for a, b in _blocks(x, y):
        centre = b.mean(0)
        a, b = a - centre, b - centre
        of_x += torch.linalg.vector_norm(a, dim=1, keepdim=True).square_()
        of_y += torch.linalg.vector_norm(b, dim=1).square_()
        cost.addmm_(a, b.T, alpha=-2)
    return cost.add_(of_x).add_(of_y).clamp_(min=0), torch.cat((of_x.squeeze(1), of_y))


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    dtype = _dtype(x, y)
    x, y = x.to(dtype), y.to(dtype)
    of_x, of_y = (torch.linalg.vector_norm(rows, dim=1) for rows in (x, y))
    if extreme(torch.cat((of_x, of_y))):
        x, y = (shifted(rows, -exponents(rows)) for rows in (x, y))
        of_x, of_y = (torch.linalg.vector_norm(rows, dim=1) for rows in (x, y))
    tiny = torch.finfo(dtype).tiny
    of_x, of_y = of_x.clamp_(min=tiny), of_y.clamp_(min=tiny)
    return (x @ y.T).div_(of_x.unsqueeze(1)).div_(of_y).neg_().add_(1).clamp_(0, 2)


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """The cosine between rows less their own means, which are found first: products of large means would cancel."""
    cost = x.new_zeros(len(x), len(y), dtype=_dtype(x, y))
    of_x, of_y = cost.new_zeros(len(x), 1), cost.new_zeros(len(y), 1)
    (mean_x, range_x), (mean_y, range_y) = (_mean_and_range(rows, cost.dtype) for rows in (x, y))
    for a, b in _blocks(x, y):
        a, b = (a - mean_x).div_(range_x), (b - mean_y).div_(range_y)
        of_x += torch.linalg.vector_norm(a, dim=1, keepdim=True).square_()
        of_y += torch.linalg.vector_norm(b, dim=1, keepdim=True).square_()
        cost.addmm_(a, b.T)
    tiny = torch.finfo(cost.dtype).tiny
    of_x, of_y = of_x.sqrt_().clamp_(min=tiny), of_y.sqrt_().clamp_(min=tiny)
    return cost.div_(of_x).div_(of_y.T).neg_().add_(1).clamp_(0, 2)


def _mean_and_range(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of every row; a row that does not vary has an infinite range, so that division by it gives exactly 0."""
    mean = sum(part.sum(1, keepdim=True, dtype=dtype) for part in rows.split(_few(rows, rows), 1)) / rows.shape[1]
    low, high = rows.amin(1, keepdim=True).to(dtype), rows.amax(1, keepdim=True).to(dtype)
    return mean, torch.where(high == low, math.inf, high - low)


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same features of both, in the dtype of the result."""
    dtype, few = _dtype(x, y), _few(x, y)
    for a, b in zip(x.split(few, 1), y.split(few, 1), strict=True):
        yield a.to(dtype), b.to(dtype)


def _few(x: Tensor, y: Tensor) -> int:
    """How many features are centred at a time."""
    return max(256, BLOCK // (len(x) + len(y))) if x.device.type == "cpu" else x.shape[1]


def _normalised(cost: Tensor, how: str) -> Tensor:
    if how == "none":
        return cost
    if how == "log":
        return cost.log1p_()
    scale = cost.max() if how == "max" else cost.median() if how == "median" else cost.mean()
    return cost.div_(torch.where(scale > 0, scale, torch.ones_like(scale)))


def _dtype(x: Tensor, y: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
