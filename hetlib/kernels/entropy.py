"""Entropy of weights by the rule of filter grafting: of whole tensors, or of every filter of one."""

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from hetlib.checks import check_real, check_tensors
from hetlib.errors import positive

FEW = 2**20
"""Comparisons of values with edges that `filter_entropy` holds in memory at once, one byte each."""


def weight_entropy(weights: Sequence[Tensor], bins: int = 10) -> Tensor:
    """How evenly the values of each tensor spread over equal bins between its own minimum and maximum.

    ``H = -sum_b p_b ln p_b``, where p_b is the share of the values that lie in bin b. The bins are those of the paper's
    released code: with ``s = (max - min) / bins``, bin b holds ``min + b * s <= x < min + (b + 1) * s``. So the maximum
    lies in no bin, unless rounding makes the last edge exceed it, and the shares add up to slightly less than 1. The
    edges have the precision of the tensor, at least float32. A constant tensor has entropy 0; with three bins or more,
    the largest entropy is ln(bins).

    Parameters
    ----------
    weights : sequence of Tensors
        Of any shapes and floating types, all on one device.
    bins : int
        How many, at least 1.

    Returns
    -------
    Tensor of shape (len(weights),), float64
        On the device of the weights.

    Raises
    ------
    ValueError
        If there is no bin, or if a tensor is empty, holds no floating-point numbers, or lies on another device than the
        first one. On the CPU also if a tensor holds NaN or infinity; on a GPU the host would have to wait to see that,
        and the entropy of such a tensor is NaN instead.

    Notes
    -----
    Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020.
    """
    check_tensors("weights", weights, 0)
    return entropies(weights, bins, [f"weights[{number}]" for number in range(len(weights))])


def entropies(weights: Sequence[Tensor], bins: int, names: Sequence[str]) -> Tensor:
    """What `weight_entropy` returns; its errors call the tensors by the given names."""
    check(weights, bins, names)
    if not weights:
        return torch.empty(0, dtype=torch.float64)
    if _on_gpu(weights[0]):
        return _launched(weights, bins)
    values = [_raised(weight) for weight in weights]
    if values[0].device.type != "cpu":
        return torch.cat([_of_rows(value.reshape(1, -1), bins) for value in values])
    reached = [_reached(value.numpy(), bins, name) for value, name in zip(values, names, strict=True)]
    lengths = np.array([[value.numel()] for value in values])
    return torch.from_numpy(_from_reached(np.array(reached), lengths))


def filter_entropy(weight: Tensor, bins: int = 10) -> Tensor:
    """How evenly the values of each filter spread over equal bins: `weight_entropy` of ``weight[0]``, ``weight[1]``...

    Parameters
    ----------
    weight : Tensor of shape (O, ...)
        Of a floating type.
    bins : int
        How many, at least 1.

    Returns
    -------
    Tensor of shape (O,), float64
        On the device of the weight.

    Raises
    ------
    ValueError
        As `weight_entropy` does; the first filter that holds NaN or infinity is named by its number.
    """
    check_real("weight", weight)
    if not weight.dim():
        raise ValueError("a weight of shape () has no filters")
    check([weight], bins, ["the weight"])
    raised = _raised(weight)
    if raised.device.type != "cpu":
        return _of_rows(raised.reshape(len(weight), -1), bins)
    values = raised.numpy().reshape(len(weight), -1)
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    finite = np.isfinite(low) & np.isfinite(high)
    if not finite.all():
        raise ValueError(f"filter {finite.argmin()} of the weight of shape {tuple(weight.shape)} holds NaN or infinity")
    edges = _edges(low, high, bins)
    few = max(1, FEW // (bins * values.shape[1]))
    reached = [_reached_by_row(values[n : n + few], edges[n : n + few]) for n in range(0, len(values), few)]
    return torch.from_numpy(_from_reached(np.concatenate(reached), values.shape[1]))


def check(weights: Sequence[Tensor], bins: int, names: Sequence[str]) -> None:
    """Refuse, by the given names, what has no entropy; NaN and infinity are not looked for."""
    positive("bins", bins)
    for weight, name in zip(weights, names, strict=True):
        if not weight.numel():
            raise ValueError(f"{name} of shape {tuple(weight.shape)} is empty")
        if not weight.is_floating_point():
            raise ValueError(f"{name} is of {weight.dtype}, not of a floating type")
        if weight.device != weights[0].device:
            raise ValueError(f"{name} lies on {weight.device}, {names[0]} on {weights[0].device}")


def launched_together(weights: Sequence[Tensor]) -> bool:
    """Whether one launch of each of Triton's kernels measures all of them."""
    return bool(weights) and _on_gpu(weights[0]) and len({weight.dtype for weight in weights}) == 1


def _on_gpu(weight: Tensor) -> bool:
    return weight.is_cuda and find_spec("triton") is not None


def _launched(weights: Sequence[Tensor], bins: int) -> Tensor:
    """Entropies from three launches for each type among the weights."""
    from hetlib.kernels import entropy_triton

    found: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(weight.dtype for weight in weights):
        where = [n for n, weight in enumerate(weights) if weight.dtype == dtype]
        measured = entropy_triton.prepare([weights[n] for n in where], bins)()
        if len(where) == len(weights):
            return measured
        found |= zip(where, measured, strict=True)
    return torch.stack([found[n] for n in range(len(weights))])


def _raised(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def _edges(low: np.ndarray, high: np.ndarray, bins: int) -> np.ndarray:
    """Upper edges of all bins, in the precision of the ends; the last axis is that of the bins."""
    with np.errstate(over="ignore", invalid="ignore"):  # a range beyond the largest number: all values are in bin 0
        return low + np.arange(1, bins + 1, dtype=low.dtype) * ((high - low) / low.dtype.type(bins))


def _reached(values: np.ndarray, bins: int, name: str) -> np.ndarray:
    """How many values of one tensor reach the upper edge of each bin."""
    flat = values.ravel(order="K")  # in the order of memory, so that a channels_last weight is not copied
    low, high = flat.min(), flat.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{name} of shape {values.shape} holds NaN or infinity")
    there = np.empty(flat.shape, dtype=bool)
    return np.array([np.count_nonzero(np.greater_equal(flat, edge, out=there)) for edge in _edges(low, high, bins)])


def _reached_by_row(rows: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many values of each of R rows reach each of its B edges: (R, M), (R, B) -> (R, B)."""
    there = rows[:, None] >= edges[:, :, None]
    # Eight truth values a byte, and then the ones in each: three times as fast as NumPy counts along an axis.
    return np.bitwise_count(np.packbits(there, axis=2)).sum(2, dtype=np.int32)


def _from_reached(reached: np.ndarray, lengths: np.ndarray | int) -> np.ndarray:
    """Entropies, from how many values reach the upper edge of each bin; all of them reach the lowest edge."""
    counts = -reached
    counts[:, 1:] += reached[:, :-1]
    counts[:, :1] += lengths
    shares = counts / lengths
    return np.vecdot(shares, -np.log(np.where(counts, shares, 1)))


def _of_rows(rows: Tensor, bins: int) -> Tensor:
    """Entropies of R rows of values on any device, without a wait: (R, M) -> (R,)."""
    low, high = rows.amin(1), rows.amax(1)
    step = (high - low) / torch.full_like(low, bins)  # a GPU would multiply by the reciprocal of a plain number
    reached = [(rows >= (low + number * step).unsqueeze(1)).sum(1) for number in range(1, bins + 1)]
    counts = -torch.stack(reached, 1).diff(prepend=torch.full_like(reached[0], rows.shape[1]).unsqueeze(1))
    found = torch.special.entr(counts.double() / rows.shape[1]).sum(1)
    return torch.where(low.isfinite() & high.isfinite(), found, torch.nan)
