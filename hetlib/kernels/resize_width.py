"""A weight's numbers of filters and inputs fitted into another's, by the variance of filters and slices.

Duong et al., *Heterogeneous Transfer Learning Using Variance-based Mapping and Pre-trained Feature Crossover*, AICI
2024 (DOI 10.1007/978-3-031-63929-6_21), after its released code.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hetlib.errors import known
from hetlib.kernels.fill import gather_slices
from hetlib.kernels.select import HOW, moments, numpy_generator, pick


def he_normal(like: Tensor, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """He's normal draw, fan out, on the CPU so that one seed gives one tensor everywhere."""
    fan_out = shape[0] * math.prod(shape[2:])
    return (torch.randn(*shape, generator=generator) * math.sqrt(2 / fan_out)).to(like)


def _he_chosen(
    like: Tensor, rows: tuple[int, int], target: Sequence[int], keep: str, generator: torch.Generator | None
) -> Tensor:
    """Of He's normal draw for filters of `rows` = (filters, inputs), only the slices that `keep` chooses of each.

    The variance of a normal slice says nothing of its mean, nor of the direction in which it deviates from it. So the
    variances are drawn first, from the gamma distribution that they have; then, for each one that is chosen, a slice,
    which is scaled to it. Where a choice does not look at variances any slice is as good.
    """
    slots, taps = target[1], math.prod(target[2:])
    slices = torch.randn(rows[0], slots, taps, generator=generator)
    if taps > 1 and keep != "random":
        drawn = numpy_generator(generator).standard_gamma((taps - 1) / 2, rows, dtype=np.float32)
        variance = torch.from_numpy(drawn) * (2 / taps)
        chosen = _choose(lambda: variance, rows, slots, keep, generator=generator, legacy_random=False)
        mean = slices.mean(2, keepdim=True)
        deviation = slices - mean
        wanted = variance.gather(1, chosen).unsqueeze(2)
        slices = mean + deviation * (wanted / deviation.square().mean(2, keepdim=True)).sqrt()
    fan_out = target[0] * taps
    return (slices * math.sqrt(2 / fan_out)).view(rows[0], *target[1:]).to(like)


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
    if weight.shape[2:] != target.shape[2:]:
        raise ValueError(f"kernels differ: {tuple(weight.shape)} and {tuple(target.shape)}; resize_kernel comes first")
    index, ground = map_width(weight, target, keep, drop, base, generator, legacy_random)
    return gather_slices(weight, ground, index)


def map_width(
    weight: Tensor,
    target: Tensor,
    keep: str,
    drop: str,
    base: Tensor | None,
    generator: torch.Generator | None,
    legacy_random: bool,
) -> tuple[Tensor, Tensor]:
    """Numbers of the slices, of `weight` and behind them of the ground, that make up the result; and that ground.

    Kernels of `weight` may be smaller than the target's: they are ranked as if padded with zeros.
    """
    _check(weight, keep, drop)
    choose = partial(_choose, generator=generator, legacy_random=legacy_random)
    (outputs, inputs), (wanted, slots) = weight.shape[:2], target.shape[:2]
    taps = math.prod(target.shape[2:])
    if outputs < wanted and inputs > slots and base is None and drop == "random" and not legacy_random:
        return _among_drawn(weight, target, keep, generator)
    ground = _ground(weight, target, base, generator, legacy_random)
    behind = ground.to(weight)
    kept, rows = torch.arange(outputs), torch.arange(wanted)
    if outputs > wanted:
        kept = choose(lambda: _filters(weight, taps), (outputs,), wanted, keep)
    elif outputs < wanted:
        rows = choose(lambda: _filters(behind, taps), (wanted,), outputs, drop)
    if outputs >= wanted and inputs > slots:
        columns = choose(lambda: _slices(weight, taps, kept), (wanted, inputs), slots, keep)
        return _numbers(kept, columns, inputs), ground
    index = _numbers(kept, torch.arange(inputs), inputs)
    if outputs < wanted or inputs < slots:
        columns = torch.arange(inputs).expand_as(index)
        if inputs < slots:
            columns = choose(lambda: _slices(behind, taps, rows), (len(rows), slots), inputs, drop)
        own = torch.arange(ground.shape[:2].numel()) + outputs * inputs
        # Along one axis this writes in order, so that of two writes to one place the later stays.
        places = _numbers(rows, columns, ground.shape[1])
        index = own.scatter_(0, places.flatten(), index.flatten()).view(ground.shape[:2])
    if inputs > slots:
        of_slices = lambda: torch.cat([_slices(pool, taps).flatten() for pool in (weight, behind)])[index]
        index = index.gather(1, choose(of_slices, (wanted, inputs), slots, keep))
    return index, ground


def _among_drawn(weight: Tensor, target: Tensor, keep: str, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """As `map_width`, for more filters with fewer inputs: the source's filters at random places among He's draws.

    Of both only the slices that are kept count, so no others are drawn. The ground is the draws alone.
    """
    (outputs, inputs), (wanted, slots) = weight.shape[:2], target.shape[:2]
    variance = lambda: _slices(weight, math.prod(target.shape[2:]))
    columns = _choose(variance, (outputs, inputs), slots, keep, generator=generator, legacy_random=False)
    others = _he_chosen(weight, (wanted - outputs, inputs), target.shape, keep, generator)
    own = torch.arange(others.shape[:2].numel()).view(-1, slots) + outputs * inputs
    index = torch.cat((_numbers(torch.arange(outputs), columns, inputs), own))
    return index.index_select(0, torch.randperm(wanted, generator=generator)), others


def _check(weight: Tensor, keep: str, drop: str) -> None:
    """Refuse unknown ways to choose, and values that cannot be ranked."""
    for how in (keep, drop):
        known("way to choose", how, HOW)
    # A sum is finite only if all its terms are; in bf16 and fp16 it would be rounded, or overflow.
    if not weight.sum(dtype=torch.promote_types(weight.dtype, torch.float32)).isfinite():
        raise ValueError(f"a weight of shape {tuple(weight.shape)} holds values that are not finite")


def _numbers(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Numbers of the slices in these columns of these filters, in a weight with so many inputs."""
    return rows.unsqueeze(1) * width + columns


def _slices(weight: Tensor, taps: int, rows: Tensor | None = None) -> Tensor:
    """Variances of the slices of some filters, by default all: of shape (R, I).

    They are on the CPU, whatever holds the weight: they are small, and sorted faster there. Slices of fewer than `taps`
    taps are looked at as if padded with zeros to as many.
    """
    share = math.prod(weight.shape[2:]) / taps
    mean, variance = moments(weight, rows)
    if share != 1:
        # With a share s of the taps, the mean of squares, variance + mean ** 2, and the mean become s times theirs.
        variance = mean.square().mul_(1 - share).add_(variance).mul_(share)
    return variance.cpu()


def _filters(weight: Tensor, taps: int) -> Tensor:
    """Variances of whole filters, of shape (O,): each is looked at as one long slice."""
    return _slices(weight.flatten(1).unsqueeze(1), taps * weight.shape[1]).squeeze(1)


def _choose(
    variance: Callable[[], Tensor],
    shape: Sequence[int],
    n: int,
    how: str,
    *,
    generator: torch.Generator | None,
    legacy_random: bool,
) -> Tensor:
    """Choose n along the last axis of a variance of this shape, which is asked for only if it matters."""
    values = torch.zeros(()).expand(*shape) if how == "random" else variance()
    chosen = pick(values, n, how, generator=generator, legacy_random=legacy_random)
    if chosen.shape[-1] != n:
        raise ValueError(f"{how} chooses {chosen.shape[-1]} filters where {n} are needed: take another way")
    return chosen


def _ground(
    weight: Tensor, target: Tensor, base: Tensor | None, generator: torch.Generator | None, legacy_random: bool
) -> Tensor:
    """What is written over where a layer grows: the target, or a base for more filters with fewer inputs."""
    if len(weight) >= len(target) or weight.shape[1] <= target.shape[1]:
        return target
    shape = (len(target), weight.shape[1], *target.shape[2:])
    if base is not None:
        if base.shape != shape:
            raise ValueError(f"base must have the shape {shape}, got {tuple(base.shape)}")
        return base
    if legacy_random:
        torch.randn(*shape, generator=generator)  # drawn and overwritten there
    return he_normal(weight, shape, generator)
