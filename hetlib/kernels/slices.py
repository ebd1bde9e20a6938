"""A weight put together from the slices of two others."""

import torch
from torch import Tensor


def gather_slices(weight: Tensor, ground: Tensor, index: Tensor) -> Tensor:
    """Take every slice of a new weight from one of two.

    Parameters
    ----------
    weight : Tensor of shape (O, I, ...)
        Its slices have numbers 0 to O * I - 1, row by row.
    ground : Tensor of shape (P, J, ...)
        Its slices follow, with the same trailing axes.
    index : Tensor of shape (M, N)
        int64, the number of the slice in every place.

    Returns
    -------
    Tensor of shape (M, N, ...)
        Of the type and device of `weight`.

    Raises
    ------
    ValueError
        If the slices differ in shape.
    """
    if weight.shape[2:] != ground.shape[2:]:
        raise ValueError(f"slices of shapes {tuple(weight.shape)} and {tuple(ground.shape)} cannot be mixed")
    pool = torch.cat((weight.flatten(2).flatten(0, 1), ground.to(weight).flatten(2).flatten(0, 1)))
    return pool.index_select(0, index.flatten()).view(*index.shape, *weight.shape[2:])
