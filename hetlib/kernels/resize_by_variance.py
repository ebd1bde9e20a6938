"""A weight fitted into another's shape by the variance of its filters and slices.

Duong et al., *Heterogeneous Transfer Learning Using Variance-based Mapping and Pre-trained Feature Crossover*, AICI
2024 (DOI 10.1007/978-3-031-63929-6_21), after its released code.
"""

from collections.abc import Sequence
from functools import partial
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hetlib.errors import known, of_kind, positive, whole_numbers
from hetlib.kernels.fill import Fill
from hetlib.kernels.resize_width import he_normal, map_width, resize_width
from hetlib.kernels.select import shuffle_rows_
from hetlib.kernels.write import write

__all__ = ["fill", "filled", "resize_bias", "resize_kernel", "resize_width"]

POOLS = ("avg", "max")
PADS = ("zero", "init")
SHUFFLES = ("filters", "inputs")


def resize_kernel(
    weight: Tensor,
    size: int | Sequence[int],
    pool: str = "avg",
    *,
    pad: str = "zero",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fit kernels into another size: padded round the centre where they grow, pooled with stride 1 where they shrink.

    Parameters
    ----------
    weight : Tensor of shape (O, I, h, w)
        A convolution's weight.
    size : int or two ints
        The wanted height H and width W.
    pool : {"avg", "max"}
        Over windows of h - H + 1 by w - W + 1 taps.
    pad : {"zero", "init"}
        Zeros, or draws from He's normal distribution, fan out, for a weight of shape (O, I, H, W).
    generator : torch.Generator, optional
        Of "init"; torch's global one by default.

    Returns
    -------
    Tensor of shape (O, I, H, W)
        `weight` itself if nothing changes.

    Raises
    ------
    ValueError
        If a kernel would grow by an odd number of taps, and so have no centre, or a name is unknown.
    """
    known("pooling", pool, POOLS)
    known("padding", pad, PADS)
    of_kind("weight", weight, Tensor)
    sizes: Any = (size, size) if isinstance(size, Integral) else size
    here, there = tuple(weight.shape[2:]), tuple(whole_numbers("size", sizes, 1))
    if len(there) != len(here):
        raise ValueError(f"size must be a number or {len(here)} of them, got {there}")
    margins = _margins(here, there)
    weight = _pooled(weight, there, pool)
    if not any(margins):
        return weight
    shape = (*weight.shape[:2], *there)
    padded = weight.new_zeros(shape) if pad == "zero" else he_normal(weight, shape, generator)
    top, left = margins
    padded[:, :, top : top + weight.shape[2], left : left + weight.shape[3]] = weight
    return padded


def _margins(here: Sequence[int], there: Sequence[int]) -> list[int]:
    """How many taps are added on each side of a kernel, along each axis."""
    added = [max(0, want - have) for have, want in zip(here, there, strict=True)]
    if any(more % 2 for more in added):
        raise ValueError(f"a {here[0]}x{here[1]} kernel has no centre place in {there[0]}x{there[1]}: odd difference")
    return [more // 2 for more in added]


def _pooled(weight: Tensor, size: Sequence[int], pool: str) -> Tensor:
    """Kernels that are larger than a size made as small."""
    window = [max(0, have - want) + 1 for have, want in zip(weight.shape[2:], size, strict=True)]
    if window == [1, 1]:
        return weight
    return F.max_pool2d(weight, window, stride=1) if pool == "max" else _average(weight, window)


def _average(weight: Tensor, window: Sequence[int]) -> Tensor:
    """Averages over windows, stride 1, as one product: kernels are too small for a pooling of images to be quick."""
    height, width = weight.shape[2:]
    places = torch.eye(height * width, dtype=weight.dtype, device=weight.device).view(-1, 1, height, width)
    pooled = F.avg_pool2d(places, tuple(window), stride=1)
    shape = (*weight.shape[:2], *pooled.shape[2:])
    with torch.autocast(weight.device.type, enabled=False):
        return (weight.reshape(-1, height * width) @ pooled.flatten(1)).view(shape)


def fill(weight: Tensor, target: Tensor, **how: Any) -> Tensor:
    """What the released method places into a convolution: kernel size, then width, then a random order.

    Parameters
    ----------
    weight, target : Tensor of shape (O_s, I_s, h, w) and (O_t, I_t, H, W)
        Weights of the source and of the target; unchanged.
    **how
        See `filled`.

    Returns
    -------
    Tensor of shape (O_t, I_t, H, W)
    """
    out = target.clone()
    write([filled(weight, out, **how)])
    return out


def filled(
    weight: Tensor,
    out: Tensor,
    *,
    keep: str = "interleaved",
    drop: str = "random",
    pool: str = "avg",
    pad: str = "zero",
    shuffle: bool | str = True,
    generator: torch.Generator | None = None,
    legacy_random: bool = False,
    layer: str = "",
) -> Fill:
    """What `fill` writes over a target, to be written with others at once: see `hetlib.kernels.write`.

    Parameters
    ----------
    weight : Tensor of shape (O_s, I_s, h, w)
        The source's.
    out : Tensor of shape (O_t, I_t, H, W)
        The target's own weight, which will be overwritten.
    keep, drop : str
        See `resize_width`.
    pool, pad : str
        See `resize_kernel`.
    shuffle : bool or {"filters", "inputs"}
        Put the filters, and the slices of each filter by itself, into a random order, as the released code always
        does; or only one of the two. It leaves the set of slices of a filter as it is, and nothing of how filters of
        two layers were wired.
    generator : torch.Generator, optional
        Of all draws; torch's global one by default.
    legacy_random : bool
        Draw as the released code does since August 2023: see `pick`, and in its order.
    layer : str
        Name of the target's layer.

    Raises
    ------
    ValueError
        As `resize_kernel` and `resize_width`, or if `shuffle` is something else.
    """
    if not isinstance(shuffle, bool):
        known("shuffle", shuffle, SHUFFLES)
    size = tuple(out.shape[2:])
    if legacy_random and tuple(weight.shape[2:]) != size:
        torch.randn(*weight.shape[:2], *size, generator=generator)  # drawn there, and not used for padding with zeros
    resample = None
    if pad == "zero" and any(_margins(weight.shape[2:], size)):
        # Filters are chosen before zeros are added; these are added to the chosen slices alone, when they are written.
        resample = partial(resize_kernel, size=size)
        size = tuple(map(min, weight.shape[2:], size))
    weight = resize_kernel(weight, size, pool, pad=pad, generator=generator)
    index, ground = map_width(weight, out, keep, drop, None, generator, legacy_random)
    if shuffle in (True, "filters"):
        index = index.index_select(0, torch.randperm(len(index), generator=generator))
    if shuffle in (True, "inputs"):
        shuffle_rows_(index, generator, one_by_one=legacy_random)
    return Fill(layer, out, weight, resample, index, ground)


def resize_bias(bias: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Fit a vector into another length: its middle, or itself in the middle of its own entries, drawn with repetition.

    Parameters
    ----------
    bias : Tensor of shape (m,)
    n : int
        The wanted length.
    generator : torch.Generator, optional
        Of the draw; torch's global one by default.

    Returns
    -------
    Tensor of shape (n,)
    """
    m, n = len(bias), positive("n", n)
    if m >= n:
        start = (m - n) // 2
        return bias[start : start + n].clone()
    filled = bias[torch.randint(0, m, (n,), generator=generator).to(bias.device)]
    start = (n - m) // 2
    filled[start : start + m] = bias
    return filled
