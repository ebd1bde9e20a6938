"""How alike layers are by canonical correlation, beside `hetlib.kernels.cka`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hetlib.kernels.cka import check, gram, named


@torch.no_grad()
def cca(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
    """Mean squared canonical correlation, R^2_CCA, of every layer of one network with every layer of another.

    It asks how much the spaces share that the features span over the samples, whatever the features' scales. So it
    says nothing once there are as many features as samples: the space is then whole, and any two are alike.

    Parameters
    ----------
    xs, ys : sequences of Tensor of shape (N, ...)
        Activations on the same N samples in the same order; axes after the first are features.

    Returns
    -------
    Tensor of shape (len(xs), len(ys))
        From 0 to 1, in float64: ``|Q_x^T Q_y|^2 / min(rank_x, rank_y)`` with orthonormal bases Q of the centred
        features. Directions weaker than float32's rounding of the strongest are no part of a basis, so dead and
        repeated features count for nothing. A layer that does not vary has 0 with every other. No gradients are kept.

    Raises
    ------
    ValueError
        If there are no layers, they differ in samples, there are fewer than 2, or a layer, which is named, holds
        values that are not finite.

    References
    ----------
    Kornblith et al., *Similarity of Neural Network Representations Revisited*, ICML 2019, table 1, where the divisor is
    the smaller number of features: the rank, if they are independent.
    """
    layers = named(xs, ys)
    check(layers, least=2)
    bases = [_basis(layer, name) for name, layer in layers.items()]
    rows = [torch.stack([_shared(a, b) for b in bases[len(xs) :]]) for a in bases[: len(xs)]]
    return torch.stack(rows).clamp_(max=1)


def _basis(layer: Tensor, name: str) -> Tensor:
    """Orthonormal columns that span the centred features: from the Gram, which is small and shows the rank."""
    matrix = gram(layer.double())
    if not matrix.isfinite().all():
        raise ValueError(f"{name}: values that are not finite, or too large to square")
    values, vectors = torch.linalg.eigh(matrix)
    return vectors[:, values > len(matrix) * torch.finfo(torch.float32).eps ** 2 * values[-1].clamp(min=0)]


def _shared(a: Tensor, b: Tensor) -> Tensor:
    return (a.T @ b).square().sum() / max(1, min(a.shape[1], b.shape[1]))
