"""Fills written in place, any number of them at once: on a GPU in one launch."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from hetlib.kernels.blend import mixture, place, rings
from hetlib.kernels.fill import BITS, Fill, gather_slices, resampled, sizes, take

TYPES = ({torch.float16, torch.bfloat16, torch.float32}, {torch.float32, torch.float64})
"""Between which the kernel converts."""


def write(fills: Sequence[Fill]) -> None:
    """Write all fills in place, as if everything were read before anything is written.

    On a GPU, fills of one device and one pair of types (of `weight` and of `out`) share a single Triton launch. Every
    element of an output is written once, for one element read, or h * w of them where `resample` is given, most of them
    from a cache. One table goes to the device, from pinned memory and so without a wait: 150 bytes for each fill, the
    matrices, and 4 bytes for each slice where an index is given. Nothing comes back. What lies in memory that is also
    written to, such as a base that is the target's own, is copied first, all of it in one call.

    On the CPU each fill is written by itself: a cyclic stack by copies that double what is there, an index by one
    gather, straight to its place where it can be. So are fills on a GPU without Triton, of mixed devices, of double
    beside half precision, too large for the kernel's numbers, of strides that do not let H and W be one axis, and those
    that a gradient is asked of.

    Fills that keep a part of what is there (`alpha`) are mixed by `hetlib.kernels.blend.mixture`, in a few calls for
    all of them. On a GPU, those that take a whole tensor of the same shape and strides share one launch for each pair
    of types. In a ring of such tensors nothing is copied first. Coefficients on the device are read there.

    Parameters
    ----------
    fills : sequence of Fill
        Places must not overlap, but for one place given twice, where the last fill stays. Fills that keep what is there
        (`alpha` 1) are passed over.

    Raises
    ------
    ValueError
        If shapes do not fit or the number of a slice is out of range, before anything is written; or if `resample`
        makes slices of another size than the output's.
    """
    fills = [fill for fill in fills if not fill.keeps]
    for fill in fills:
        _check(fill)
    last = {place(fill.out): fill for fill in fills}
    blended, plain = _parted(last.values(), _blends)
    at_once, one_by_one = _parted(blended, _in_blend_launch)
    mix = mixture(one_by_one, [_new(fill) for fill in one_by_one]) if one_by_one else None
    plain, circles = _apart(plain, rings(at_once))
    together, alone = _parted(plain, _in_launch)
    launches: list[Callable[[], None]] = []
    if circles:
        from hetlib.kernels import blend_triton

        launches += blend_triton.prepare(circles)
    if together:
        from hetlib.kernels import fill_triton

        launches += fill_triton.prepare(together)
    for launch in launches:
        launch()
    torch.autograd.graph.increment_version([fill.out for fill in (*together, *at_once)])
    for fill in alone:
        _write(fill.out, fill)
    if mix:
        mix()


def _parted(fills: Iterable[Fill], test: Callable[[Fill], bool]) -> tuple[list[Fill], list[Fill]]:
    """Those that pass the test, and the others."""
    found: tuple[list[Fill], list[Fill]] = [], []
    for fill in fills:
        found[not test(fill)].append(fill)
    return found


def _check(fill: Fill) -> None:
    out, weight = tuple(fill.out.shape), tuple(fill.weight.shape)
    base = tuple(fill.base.shape) if fill.base is not None else (0, 0, *out[2:])
    layer = f"{fill.layer}: " if fill.layer else ""
    if len(out) != len(weight) or (fill.resample is None and weight[2:] != out[2:]) or base[2:] != out[2:]:
        raise ValueError(f"{layer}slices of shapes {weight} and {base} do not fit into {out}")
    if isinstance(fill.alpha, Tensor) and tuple(fill.alpha.shape) not in ((), out[:1]):
        raise ValueError(f"{layer}coefficients of shape {tuple(fill.alpha.shape)} for a tensor of shape {out}")
    if fill.index is None:
        if 0 in weight:
            raise ValueError(f"{layer}a weight of shape {weight} has no slices to fill {out} with")
        return
    if tuple(fill.index.shape) != out[:2] or len(out) < 2:
        raise ValueError(f"{layer}an index of shape {tuple(fill.index.shape)} does not number the slices of {out}")
    total = math.prod(weight[:2]) + math.prod(base[:2])
    if not fill.index.numel():
        return
    low, high = (int(end) for end in fill.index.aminmax())
    if low < 0 or high >= total:
        raise ValueError(f"{layer}the index of {out} goes beyond the slices 0 to {total - 1}")


def _in_launch(fill: Fill) -> bool:
    return _launchable(fill) and _can_be_numbered(fill)


def _in_blend_launch(fill: Fill) -> bool:
    """Whether the two tensors can be walked through side by side, in the order of memory."""
    out = fill.out
    if not (_launchable(fill) and _is_whole(fill) and fill.weight.stride() == out.stride() and 0 < out.numel() < 2**31):
        return False
    if isinstance(fill.alpha, Tensor) and fill.alpha.dim() and out.stride(0) * len(out) != out.numel():
        return False
    return out.permute(sorted(range(out.dim()), key=out.stride, reverse=True)).is_contiguous()


def _launchable(fill: Fill) -> bool:
    tensors = _tensors(fill)
    if not _on_gpu(fill) or len({tensor.device for tensor in tensors}) > 1:
        return False
    if _needs_gradient(tensors):
        return False
    return any({fill.out.dtype, fill.weight.dtype} <= types for types in TYPES)


def _tensors(fill: Fill) -> list[Tensor]:
    return [tensor for tensor in (fill.out, fill.weight, fill.base) if tensor is not None]


def _can_be_numbered(fill: Fill) -> bool:
    """Whether the kernel's 32-bit numbers and its quotients by reciprocals are exact, and H and W one axis of `out`."""
    try:
        fill.out.view(sizes(fill.out.shape))
    except RuntimeError:
        return False
    _, columns, area = sizes(fill.out.shape)
    outputs, inputs, _ = sizes(fill.weight.shape)
    numbers = columns if fill.index is None else outputs * inputs
    span = max(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in _tensors(fill))
    return span < 2**31 and max(columns * area * max(columns, area), numbers * inputs) <= 2**BITS


def _on_gpu(fill: Fill) -> bool:
    return fill.out.is_cuda and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _apart(plain: list[Fill], circles: list[list[Fill]]) -> tuple[list[Fill], list[list[Fill]]]:
    """The same fills, but that none reads from memory that is written to, except its own place on the CPU.

    In rings that is allowed where the launch reads first: of the tensor before, and in a closed ring of the last one.
    """
    heads = [ring[0] for ring in circles if place(ring[0].weight) != place(ring[-1].out)]
    written = {fill.out.untyped_storage().data_ptr() for fill in (*plain, *(f for ring in circles for f in ring))}
    exposed: dict[int, Tensor] = {}
    for fill in (*plain, *heads):
        for pool in (fill.weight, fill.base):
            if pool is None or pool.untyped_storage().data_ptr() not in written:
                continue
            if pool.data_ptr() != fill.out.data_ptr() or _on_gpu(fill):
                exposed[id(pool)] = pool
    if not exposed:
        return plain, circles
    copies = [torch.empty_like(pool) for pool in exposed.values()]
    torch._foreach_copy_(copies, list(exposed.values()))
    copy = dict(zip(exposed, copies, strict=True))
    elsewhere = lambda fill: replace(
        fill, weight=copy.get(id(fill.weight), fill.weight), base=copy.get(id(fill.base), fill.base)
    )
    found = [[elsewhere(ring[0]) if ring[0] in heads else ring[0], *ring[1:]] for ring in circles]
    return [elsewhere(fill) for fill in plain], found


def _blends(fill: Fill) -> bool:
    return isinstance(fill.alpha, Tensor) or fill.alpha != 0


def _is_whole(fill: Fill) -> bool:
    """Whether each value of the weight goes to the same place of the output."""
    return fill.index is None and fill.resample is None and fill.weight.shape == fill.out.shape


def _new(fill: Fill) -> Tensor:
    """What a fill brings: the weight itself where it fits as it is."""
    if _is_whole(fill) and fill.weight.device == fill.out.device:
        return fill.weight
    new = torch.empty_like(fill.out)
    _write(new, fill)
    return new


def _write(out: Tensor, fill: Fill) -> None:
    if fill.index is None:
        _stack_(out, resampled(fill, fill.weight))
    elif _takes_straight(out, fill, fill.index):
        slices = fill.weight.flatten(2).flatten(0, 1)
        take(slices, fill.index.flatten(), out.view(-1, *slices.shape[1:]))
        torch.autograd.graph.increment_version([out])
    else:
        base = out[:0] if fill.base is None else fill.base
        out.copy_(gather_slices(fill.weight, base, fill.index, lambda slices: resampled(fill, slices).to(out)))


def _takes_straight(out: Tensor, fill: Fill, index: Tensor) -> bool:
    """Whether slices of the weight alone, as they are, go to places on the CPU, none of which is read from."""
    weight = fill.weight
    if not (out.is_cpu and weight.is_cpu and index.is_cpu and out.is_contiguous() and out.dtype == weight.dtype):
        return False
    if fill.resample is not None or not index.numel() or _needs_gradient((out, weight)):
        return False
    apart = out.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()
    return apart and int(index.max()) < weight.shape[0] * weight.shape[1]


def _needs_gradient(tensors: Iterable[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _stack_(out: Tensor, weight: Tensor) -> None:
    """Fill `out` with `weight` repeated over its channel axes: each row along its inputs, then all rows at once."""
    if not out.numel():
        return
    if not out.dim():  # a counter of batches
        out.copy_(weight)
        return
    filled = out[: len(weight)]
    if out.dim() > 1:
        corner = filled[:, : weight.shape[1]]
        _repeat_(filled, corner.copy_(weight[: len(filled), : corner.shape[1]]), 1)
    else:
        filled.copy_(weight[: len(filled)])
    _repeat_(out, filled, 0)


def _repeat_(out: Tensor, given: Tensor, axis: int) -> None:
    """Repeat along an axis what `out` begins with: whole copies by one broadcast, then the part of a last one."""
    have, want = given.shape[axis], out.shape[axis]
    times, rest = divmod(want, have)
    if times > 1:
        whole = out.narrow(axis, have, (times - 1) * have)
        whole.view(*out.shape[:axis], times - 1, have, *out.shape[axis + 1 :]).copy_(given.unsqueeze(axis))
    if rest:
        out.narrow(axis, times * have, rest).copy_(given.narrow(axis, 0, rest))
