"""How far two networks' features of the same images are apart as distributions: squared maximum mean discrepancies.

Luo et al., *Knowledge Amalgamation from Heterogeneous Networks by Common Feature Learning*, IJCAI 2019, after its
released code. Everything follows from the Gram of a student's and a teacher's features: distances, kernels and, in the
backward pass, gradients as one product of matrices.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hetlib.checks import check_tensors
from hetlib.errors import finite_numbers

SIGMAS = (0.001, 0.01, 0.05, 0.1, 0.2, 1.0, 2.0)
"""The released bandwidths."""
SHORTEST = 1e-12
"""The least length that a row is divided by, as in `torch.nn.functional.normalize`."""


def mmd(xs: Sequence[Tensor], ys: Sequence[Tensor], sigmas: Sequence[float] = SIGMAS) -> Tensor:
    """Squared maximum mean discrepancy of every pair of features, with a sum of Gaussian kernels.

    Features are flattened and scaled to unit length, image by image. With ``k(u, v) = sum_s exp(-|u - v|² / (2 s²))`` a
    pair's discrepancy is ``mean k(x, x') + mean k(y, y') - 2 mean k(x, y)``, the means over all pairs of images, each
    with itself included. Distances come from the Gram, in
    float64; its diagonal makes that of a vector from itself exactly 0.

    Parameters
    ----------
    xs, ys : sequences of Tensor of shape (N, ...)
        xs[i] and ys[i] have as many numbers an image; other pairs may have other sizes. Half precision is computed in
        float32.
    sigmas : sequence of float
        Bandwidths.

    Returns
    -------
    Tensor of shape (len(xs),)
        In the widest dtype of the features, float32 at least. Gradients, which are exact, reach xs and ys.

    Raises
    ------
    ValueError
        If there are no pairs, a pair differs in size, a bandwidth is not positive, or pairs differ in N.

    Notes
    -----
    On a GPU, three launches of Triton's serve all pairs forward, and one backward.
    """
    for what, features in (("xs", xs), ("ys", ys)):
        check_tensors(what, features)
    if len(xs) != len(ys):
        raise ValueError(f"no pairs of features: {len(xs)} and {len(ys)}")
    if not (widths := finite_numbers("the bandwidths sigmas", sigmas, above=0)):
        raise ValueError("the bandwidths sigmas must be one or more")
    for number, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if x.dim() < 2 or len(x) != len(xs[0]) or len(y) != len(x) or x[0].numel() != y[0].numel():
            raise ValueError(
                f"pair {number}: features of shape {tuple(x.shape)} and {tuple(y.shape)} are not both (N, ...) of the "
                f"same N = {len(xs[0])} images and of one size"
            )
    dtype = torch.float32
    for each in (*xs, *ys):
        dtype = torch.promote_types(dtype, each.dtype)
    rows = [each.to(dtype).flatten(1) for pair in zip(xs, ys, strict=True) for each in pair]
    return (_Launched if _on_gpu(rows[0]) else _MMD).apply(tuple(widths), *rows)


def _on_gpu(rows: Tensor) -> bool:
    return rows.is_cuda and find_spec("triton") is not None


class _Launched(torch.autograd.Function):
    """`_MMD` in Triton's launches."""

    @staticmethod
    def forward(ctx: Any, sigmas: tuple[float, ...], *rows: Tensor) -> Tensor:
        from hetlib.kernels import mmd_triton

        whole = [each.contiguous() for each in rows]
        found, coefficients = mmd_triton.forward(whole, sigmas)
        ctx.save_for_backward(coefficients, *whole)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from hetlib.kernels import mmd_triton

        coefficients, *whole = ctx.saved_tensors
        return None, *mmd_triton.backward(whole, coefficients, grads[0])


class _MMD(torch.autograd.Function):
    """`mmd` of rows x0, y0, x1, y1, ... of one dtype."""

    @staticmethod
    def forward(ctx: Any, sigmas: tuple[float, ...], *rows: Tensor) -> Tensor:
        stacked = [torch.cat(pair) for pair in zip(rows[::2], rows[1::2], strict=True)]
        with torch.autocast(rows[0].device.type, enabled=False):
            # In float64: the narrowest kernel turns a rounding of 1e-7 in a distance into one of 5 % in a value.
            grams = torch.stack([wide @ wide.T for wide in (pair.double() for pair in stacked)])
        found, coefficients = _from_grams(grams, sigmas)
        ctx.save_for_backward(coefficients.to(rows[0].dtype), *stacked)
        return found.to(rows[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        coefficients, *stacked = ctx.saved_tensors
        with torch.autocast(coefficients.device.type, enabled=False):
            scaled = coefficients * grads[0].view(-1, 1, 1)
            changes = [matrix @ pair for matrix, pair in zip(scaled, stacked, strict=True)]
        return None, *(half for change in changes for half in change.tensor_split(2))


def _from_grams(grams: Tensor, sigmas: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Discrepancies, and for each pair the matrix that times the features (2N, D) is the gradient: (P, 2N, 2N).

    With features z of unit length, S_ij = ±1/N² (plus within a network, minus between the two) and k' the derivative of
    the kernel in the squared distance, the gradient in z_i is ``4 sum_j S_ij k'_ij (z_i - z_j)``. What of this points
    along z_i is lost in scaling to unit length, which leaves ``-4 sum_j S_ij k'_ij (z_j - cos_ij z_i)``, divided by the
    length of row i.
    """
    samples = grams.shape[1] // 2
    lengths = grams.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt().clamp(min=SHORTEST)
    inverse = lengths.reciprocal()
    cosines = grams * inverse.unsqueeze(2) * inverse.unsqueeze(1)
    own = cosines.diagonal(dim1=1, dim2=2)
    distances = (own.unsqueeze(2) + own.unsqueeze(1) - 2 * cosines).clamp_(min=0)
    factors = [-0.5 / sigma**2 for sigma in sigmas]
    values, slopes = torch.zeros_like(distances), torch.zeros_like(distances)
    for factor in factors:
        power = (distances * factor).exp_()
        values += power
        slopes.add_(power, alpha=factor)
    sides = torch.full((2 * samples,), 1.0 / samples, dtype=grams.dtype, device=grams.device)
    sides[samples:] = -1.0 / samples
    found = torch.einsum("pij,i,j->p", values, sides, sides)
    slopes.mul_(sides.outer(sides)).mul_(-4)
    slopes.diagonal(dim1=1, dim2=2).zero_()  # what a row does to itself cancels, up to a rounding of large numbers
    along = (slopes * cosines).sum(2)
    coefficients = slopes.mul_(inverse.unsqueeze(2)).mul_(inverse.unsqueeze(1))
    coefficients.diagonal(dim1=1, dim2=2).sub_(along * inverse.square())
    return found, coefficients
