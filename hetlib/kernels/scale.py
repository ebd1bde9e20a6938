"""Numbers brought to where their products neither over- nor underflow, by powers of two, which round nothing."""

import math

import torch
from torch import Tensor


def extreme(sizes: Tensor) -> bool:
    """Whether products of two numbers of these sizes may over- or underflow; 0 may be what is left of a small one.

    Looking costs a synchronisation on a GPU.
    """
    reach = 2.0 ** (math.frexp(torch.finfo(sizes.dtype).max)[1] // 4)
    low, high = (float(end) for end in sizes.aminmax())
    return not (1 / reach < low and high < reach)


def exponents(rows: Tensor) -> Tensor:
    """Of two, in the largest number of every row: (n, 1) for (n, d)."""
    low, high = torch.aminmax(rows, dim=1, keepdim=True)
    return torch.frexp(torch.maximum(low.neg(), high)).exponent


def shifted(values: Tensor, by: Tensor) -> Tensor:
    """Values times 2 to the power of `by`, in two steps, for one power alone may be out of range."""
    half = by // 2
    return torch.ldexp(torch.ldexp(values, half), by - half)
