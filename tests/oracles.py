"""The methods as plain loops, slow and obvious: what the fast code is compared with."""

from math import atan, pi

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


def antialiasing_matrix(size: int, target: int) -> Tensor:
    """Rows of triangles round the centres of the pixels, as wide as the pixels are where these get larger."""
    scale = size / target
    width = max(scale, 1.0)
    matrix = torch.zeros(target, size, dtype=torch.float64)
    for row in range(target):
        for tap in range(size):
            matrix[row, tap] = max(0.0, 1 - abs(tap + 0.5 - scale * (row + 0.5)) / width)
    return matrix / matrix.sum(1, keepdim=True)


def resampling_matrix(
    size: int, target: int, align_corners: bool = False, resizer: str = "bilinear", antialias: bool = False
) -> Tensor:
    """What HMT does to one axis of a kernel, from the definition: a row for each tap of the result."""
    if resizer == "bilinear":
        return antialiasing_matrix(size, target) if antialias else interpolation_matrix(size, target, align_corners)
    matrix = torch.zeros(target, size, dtype=torch.float64)
    for row in range(target):
        tap = (2 * row + 1) * size // (2 * target) if resizer == "nearest" else row - (target - size) // 2
        if 0 <= tap < size:
            matrix[row, tap] = 1
    return matrix


def resize(weight: Tensor, shape: tuple[int, ...], align_corners: bool = False, **how) -> Tensor:
    """HMT one kernel at a time: resample both axes of the slice, write it to every place it wraps round to."""
    down, across = (resampling_matrix(weight.shape[axis], shape[axis], align_corners, **how) for axis in (2, 3))
    out = torch.zeros(shape, dtype=torch.float64)
    for o in range(shape[0]):
        for i in range(shape[1]):
            kernel = weight[o % weight.shape[0], i % weight.shape[1]].double()
            out[o, i] = down @ kernel @ across.T
    return out


def plain_width(weight, target, keep, drop, base):
    """TLV's eight cases of width, filter by filter and slice by slice, after the released code's description."""

    def choose(values, n, how):
        order = sorted(range(len(values)), key=lambda i: float(values[i]))
        step = len(values) // n
        first = 0 if n == len(values) else 1
        return {"max": order[-n:], "min": order[:n], "interleaved": order[first::step][:n]}[how]

    variance = lambda tensor: tensor.var(correction=0)
    (outputs, inputs), (wanted, slots) = weight.shape[:2], target.shape[:2]
    if outputs > wanted:
        weight = weight[choose([variance(f) for f in weight], wanted, keep)]
    if outputs < wanted:
        out = (base if inputs > slots else target).clone()
        rows = choose([variance(f) for f in out], outputs, drop)
    else:
        out = torch.zeros(wanted, max(inputs, slots), *weight.shape[2:]) if inputs > slots else target.clone()
        rows = range(wanted)
    for i, row in enumerate(rows):
        columns = choose([variance(s) for s in out[row]], inputs, drop) if inputs < slots else range(inputs)
        for j, column in enumerate(columns):
            out[row, column] = weight[i, j]
    if inputs > slots:
        out = torch.stack([f[choose([variance(s) for s in f], slots, keep)] for f in out])
    return out


def plain_entropy(weight: Tensor, bins: int = 10) -> Tensor:
    """Grafting's entropy bin by bin, as the released code goes about it: each bin finds the minimum anew.

    A constant tensor, where that code crashes, has entropy 0.
    """
    scale = (weight.max() - weight.min()) / bins
    found = torch.zeros((), dtype=torch.float64)
    for b in range(bins):
        low, high = weight.min() + b * scale, weight.min() + (b + 1) * scale
        share = ((weight >= low) & (weight < high)).sum().double() / weight.numel()
        if share != 0:
            found -= (share * share.log()).cpu()
    return found


def plain_graft(states: list[dict[str, Tensor]], a: float = 0.4, c: float = 500.0) -> list[dict[str, Tensor]]:
    """What networks become, each from itself and the one before it: tensor by tensor, by the released rule of names."""
    grafted = []
    for i, own in enumerate(states):
        donor, new, alpha = states[i - 1], {}, 0.5
        for key, value in own.items():
            if "conv" in key:
                difference = float(plain_entropy(value) - plain_entropy(donor[key]))
                alpha = round(a / pi * atan(c * difference) + 0.5, 2)
            new[key] = value * alpha + donor[key] * (1 - alpha)
        grafted.append(new)
    return grafted
