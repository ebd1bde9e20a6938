"""The methods as plain loops, slow and obvious: what the fast code is compared with."""

import torch
from torch import Tensor


def interpolation_matrix(size: int, target: int, align_corners: bool) -> Tensor:
    """Rows of 1-D linear interpolation weights, from the definition of the two sampling conventions."""
    matrix = torch.zeros(target, size, dtype=torch.float64)
    for row in range(target):
        if align_corners:
            at = row * (size - 1) / (target - 1) if target > 1 else 0.0
        else:
            at = min(max((row + 0.5) * size / target - 0.5, 0.0), size - 1.0)
        low = min(int(at), size - 1)
        high = min(low + 1, size - 1)
        matrix[row, low] += 1 - (at - low)
        matrix[row, high] += at - low
    return matrix


def resize(weight: Tensor, shape: tuple[int, ...], align_corners: bool = False) -> Tensor:
    """HMT one kernel at a time: resample the slice, write it to every place it wraps round to."""
    matrix = interpolation_matrix(weight.shape[-1], shape[-1], align_corners)
    out = torch.zeros(shape, dtype=torch.float64)
    for o in range(shape[0]):
        for i in range(shape[1]):
            kernel = weight[o % weight.shape[0], i % weight.shape[1]].double()
            out[o, i] = matrix @ kernel @ matrix.T
    return out
