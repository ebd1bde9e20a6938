"""A weight fitted into another's shape by the variance of its filters and slices.

Duong et al., *Heterogeneous Transfer Learning Using Variance-based Mapping and Pre-trained Feature Crossover*, AICI
2024 (DOI 10.1007/978-3-031-63929-6_21), after its released code.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hetlib.errors import unknown
from hetlib.kernels.fill import Fill, gather_slices
from hetlib.kernels.select import HOW, moments, of_filters, permutations, pick
from hetlib.kernels.write import write

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
    if pool not in POOLS:
        raise unknown("pooling", pool, POOLS)
    if pad not in PADS:
        raise unknown("padding", pad, PADS)
    here, there = tuple(weight.shape[2:]), (size, size) if isinstance(size, int) else tuple(size)
    margins = [max(0, want - have) for have, want in zip(here, there, strict=True)]
    if any(margin % 2 for margin in margins):
        raise ValueError(f"a {here[0]}x{here[1]} kernel has no centre place in {there[0]}x{there[1]}: odd difference")
    window = [max(0, have - want) + 1 for have, want in zip(here, there, strict=True)]
    if window != [1, 1]:
        weight = F.max_pool2d(weight, window, stride=1) if pool == "max" else _average(weight, window)
    if not any(margins):
        return weight
    shape = (*weight.shape[:2], *there)
    padded = weight.new_zeros(shape) if pad == "zero" else _he_normal(weight, shape, generator)
    top, left = margins[0] // 2, margins[1] // 2
    padded[:, :, top : top + weight.shape[2], left : left + weight.shape[3]] = weight
    return padded


def _average(weight: Tensor, window: Sequence[int]) -> Tensor:
    """Averages over windows, stride 1, as one product: kernels are too small for a pooling of images to be quick."""
    height, width = weight.shape[2:]
    places = torch.eye(height * width, dtype=weight.dtype, device=weight.device).view(-1, 1, height, width)
    pooled = F.avg_pool2d(places, tuple(window), stride=1)
    shape = (*weight.shape[:2], *pooled.shape[2:])
    with torch.autocast(weight.device.type, enabled=False):
        return (weight.reshape(-1, height * width) @ pooled.flatten(1)).view(shape)


def _he_normal(like: Tensor, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """He's normal draw, fan out, on the CPU so that one seed gives one tensor everywhere."""
    fan_out = shape[0] * math.prod(shape[2:])
    return (torch.randn(*shape, generator=generator) * math.sqrt(2 / fan_out)).to(like)


def resize_width(
    weight: Tensor,
    target: Tensor,
    keep: str = "interleaved",
    drop: str = "min",
    base: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    legacy_random: bool = False,
) -> Tensor:
    """Fit a weight into another's numbers of filters and inputs, by the variance of filters and slices.

    Where the target is narrower, the source's filters (or, in each filter by itself, its slices) are chosen from;
    where it is wider, the target's own are chosen to be replaced and the rest stay. More filters with fewer inputs
    start from `base` instead of the target: filters first, then inputs.

    Parameters
    ----------
    weight : Tensor of shape (O_s, I_s, h, w)
        The source, its kernels already of the target's size.
    target : Tensor of shape (O_t, I_t, h, w)
        What the target holds; unchanged.
    keep, drop : str
        How filters of the source are kept and filters of the target dropped, see `pick`.
    base : Tensor of shape (O_t, I_s, h, w), optional
        Used for O_s < O_t and I_s > I_t only; by default a draw from He's normal distribution, fan out.
    generator, legacy_random
        See `pick`.

    Returns
    -------
    Tensor of shape (O_t, I_t, h, w)

    Raises
    ------
    ValueError
        If kernels differ in size, or a way to choose gives too few filters.
    """
    index, ground = _map_width(weight, target, keep, drop, base, generator, legacy_random)
    return gather_slices(weight, ground, index)


def _map_width(
    weight: Tensor,
    target: Tensor,
    keep: str,
    drop: str,
    base: Tensor | None,
    generator: torch.Generator | None,
    legacy_random: bool,
) -> tuple[Tensor, Tensor]:
    """Numbers of the slices, of `weight` and behind them of the ground, that make up the result; and that ground."""
    if weight.shape[2:] != target.shape[2:]:
        raise ValueError(f"kernels differ: {tuple(weight.shape)} and {tuple(target.shape)}; resize_kernel comes first")
    for how in (keep, drop):
        if how not in HOW:
            raise unknown("way to choose", how, HOW)

    def choose(variance: Tensor, n: int, how: str) -> Tensor:
        chosen = pick(variance, n, how, generator=generator, legacy_random=legacy_random)
        if chosen.shape[-1] != n:
            raise ValueError(f"{how} chooses {chosen.shape[-1]} filters where {n} are needed: take another way")
        return chosen

    (outputs, inputs), (wanted, slots) = weight.shape[:2], target.shape[:2]
    ground = _ground(weight, target, base, generator, legacy_random)
    # Numbers of slices are worked out on the CPU, whatever holds the slices: they are small, and sorted faster there.
    mean, variance = (moment.cpu() for moment in moments(weight))
    if not variance.isfinite().all():
        raise ValueError(f"a weight of shape {tuple(weight.shape)} holds values that are not finite")
    ground_mean, ground_variance = (moment.cpu() for moment in moments(ground.to(weight)))
    index = torch.arange(outputs * inputs).view(outputs, inputs)
    rows = torch.arange(wanted)
    if outputs > wanted:
        index = index[choose(of_filters(mean, variance), wanted, keep)]
    elif outputs < wanted:
        rows = choose(of_filters(ground_mean, ground_variance), outputs, drop)
    if outputs < wanted or inputs < slots:
        columns = (
            choose(ground_variance[rows], inputs, drop) if inputs < slots else torch.arange(inputs).expand_as(index)
        )
        own = torch.arange(ground_variance.numel()) + outputs * inputs
        places = rows.unsqueeze(1) * ground.shape[1] + columns
        # Along one axis this writes in order, so that of two writes to one place the later stays.
        index = own.scatter_(0, places.flatten(), index.flatten()).view_as(ground_variance)
    if inputs > slots:
        of_slices = torch.cat((variance.flatten(), ground_variance.flatten()))[index]
        index = index.gather(1, choose(of_slices, slots, keep))
    return index, ground


def _ground(
    weight: Tensor, target: Tensor, base: Tensor | None, generator: torch.Generator | None, legacy_random: bool
) -> Tensor:
    """What is written over where a layer grows: the target, or a base for more filters with fewer inputs."""
    if len(weight) >= len(target) or weight.shape[1] <= target.shape[1]:
        return target
    shape = (len(target), *weight.shape[1:])
    if base is not None:
        if base.shape != shape:
            raise ValueError(f"base must have the shape {shape}, got {tuple(base.shape)}")
        return base
    if legacy_random:
        torch.randn(*shape, generator=generator)  # drawn and overwritten there
    return _he_normal(weight, shape, generator)


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
    if shuffle not in (True, False, *SHUFFLES):
        raise unknown("shuffle", str(shuffle), ("True", "False", *SHUFFLES))
    size = tuple(out.shape[2:])
    if legacy_random and tuple(weight.shape[2:]) != size:
        torch.randn(*weight.shape[:2], *size, generator=generator)  # drawn there, and not used for padding with zeros
    weight = resize_kernel(weight, size, pool, pad=pad, generator=generator)
    index, ground = _map_width(weight, out, keep, drop, None, generator, legacy_random)
    if shuffle in (True, "filters"):
        index = index[torch.randperm(len(index), generator=generator)]
    if shuffle in (True, "inputs"):
        index = index.gather(1, permutations(index.shape[0], index.shape[1], generator))
    return Fill(layer, out, weight, index=index, base=ground)


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
    m = len(bias)
    if m >= n:
        start = (m - n) // 2
        return bias[start : start + n].clone()
    filled = bias[torch.randint(0, m, (n,), generator=generator).to(bias.device)]
    start = (n - m) // 2
    filled[start : start + m] = bias
    return filled
