"""One weight tensor in another shape: kernels resampled, channels stacked cyclically."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hetlib.errors import of_kind, unknown, whole_numbers
from hetlib.kernels.fill import Fill
from hetlib.kernels.write import write

RESIZERS = ("bilinear", "nearest", "zero")
TOGETHER = 16
"""Input channels that are resampled together, a multiple of the numbers that torch interpolates in one vector."""


def resize(
    weight: Tensor,
    shape: Sequence[int],
    align_corners: bool = False,
    *,
    resizer: str = "bilinear",
    antialias: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Fit a weight into another shape: first the kernel size, then the width.

    Every h x w slice is resampled to H x W, each axis by itself, then both channel axes are stacked cyclically:
    ``out[o, i] = R[o % O_s, i % I_s]``. A wider target wraps round, a narrower one keeps the leading channels.
    Nothing is rescaled.

    Parameters
    ----------
    weight : Tensor of shape (O_s, I_s, h, w), (O_s, I_s) or (O_s,)
        A convolution's or linear layer's weight, or a vector over channels. Any floating type, any device.
    shape : sequence of int
        The wanted shape, with as many axes as `weight`.
    align_corners : bool
        False, the released code's last state, samples at pixel centres; True, its first commit, pins the corner taps.
    resizer : {"bilinear", "nearest", "zero"}
        How a kernel changes size. "zero" pads an axis with zeros round the centre, or crops it to that.
    antialias : bool
        Low-pass before downsizing, where the released method samples points.
    out : Tensor of `shape`, optional
        Written in place and returned; may have any type, device and strides.

    Returns
    -------
    Tensor
        Shape `shape`; of `weight`'s type and device unless `out` is given.

    Raises
    ------
    ValueError
        If the numbers of axes differ or are not 1, 2 or 4, an axis is empty, or `resizer` is unknown.

    References
    ----------
    Wang et al., *Heterogeneous Model Transfer between Different Neural Networks*, 2020 (OpenReview 7xArdn_FKtV):
    the released code's last state, which refuses kernels that are not square. The text of the paper gives no equation
    that we could check.
    """
    of_kind("weight", weight, Tensor)
    shape = tuple(whole_numbers("shape", shape))
    if out is None:
        _check(weight, shape, resizer)
        out = weight.new_empty(shape)
    write([resized(weight, out, align_corners, resizer=resizer, antialias=antialias)])
    return out


def resized(
    weight: Tensor,
    out: Tensor,
    align_corners: bool = False,
    *,
    resizer: str = "bilinear",
    antialias: bool = False,
    layer: str = "",
    **words: Any,
) -> Fill:
    """What `resize` writes into `out`, to be written with others at once: see `resize` and `hetlib.kernels.write`.

    `layer`, and `note` and `source` among `words`, are those of the fill.
    """
    _check(weight, tuple(out.shape), resizer)
    if weight.dim() != 4 or weight.shape[2:] == out.shape[2:]:
        return Fill(layer, out, weight, **words)
    resample = _resampling((out.shape[2], out.shape[3]), align_corners, resizer, antialias)
    # Only the leading channels that the target has room for. Inputs are cut at a multiple of the vector's length: torch
    # rounds the channels that do not fill a last vector otherwise, so a cut elsewhere would change last bits.
    outputs, inputs = out.shape[0], -(-out.shape[1] // TOGETHER) * TOGETHER
    return Fill(layer, out, weight[:outputs, :inputs], resample, **words)


def _check(weight: Tensor, shape: tuple[int, ...], resizer: str) -> None:
    if resizer not in RESIZERS:
        raise unknown("resizer", resizer, RESIZERS)
    here = tuple(weight.shape)
    if len(here) != len(shape) or len(here) not in (1, 2, 4):
        raise ValueError(f"cannot resize a weight of shape {here} to {shape}: both need the same 1, 2 or 4 axes")
    if 0 in here or min(shape) < 1:
        raise ValueError(f"cannot resize a weight of shape {here} to {shape}: every axis needs at least one entry")


@cache
def _resampling(
    size: tuple[int, int], align_corners: bool, resizer: str, antialias: bool
) -> Callable[[Tensor], Tensor]:
    """How kernels become this size: one object for all layers alike, so that a plan's check tries it once."""
    return partial(_resize_kernel, size=size, align_corners=align_corners, resizer=resizer, antialias=antialias)


def _resize_kernel(weight: Tensor, size: tuple[int, int], align_corners: bool, resizer: str, antialias: bool) -> Tensor:
    if not (align_corners or antialias):
        weight = _middle_taps(weight, size)
    if tuple(weight.shape[2:]) == size:
        return weight
    if antialias and size[0] > size[1] == 1:
        # torch 2.14 repeats the first row here instead of interpolating the rows, on the CPU. Columns it does right.
        return _resize_kernel(weight.mT, size[::-1], align_corners, resizer, antialias).mT
    if resizer == "zero":
        return _padded(weight, size)
    # Not every torch interpolates half precision on the CPU.
    real = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    # torch interpolates along the channels. Given the weight in that layout it leaves the result in it, too, and need
    # not turn it round: the caller copies the channels that are wanted to their places anyway.
    real = real.contiguous(memory_format=torch.channels_last)
    if resizer == "nearest":
        fitted = F.interpolate(real, size, mode="nearest-exact")
    else:
        fitted = F.interpolate(real, size, mode="bilinear", align_corners=align_corners, antialias=antialias)
    return fitted.to(weight.dtype)


def _middle_taps(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Kernels cut to the middle of each axis of odd length that shall have length 1: any resizer reads that alone."""
    for axis, length in zip((2, 3), size, strict=True):
        if length == 1 and weight.shape[axis] % 2 == 1:
            weight = weight.narrow(axis, weight.shape[axis] // 2, 1)
    return weight


def _padded(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Kernels padded with zeros round the centre, or cropped to it, each axis by itself."""
    height, width = ((wanted - have) // 2 for wanted, have in zip(size, weight.shape[2:], strict=True))
    below, right = size[0] - weight.shape[2] - height, size[1] - weight.shape[3] - width
    return F.pad(weight, (width, right, height, below))
