"""Weights put together from the slices of others, any number of them at once: on a GPU in one launch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from hetlib.kernels.slices import gather_slices

BITS = 31
"""Of the reciprocals that the kernel divides by."""
TYPES = ({torch.float16, torch.bfloat16, torch.float32}, {torch.float32, torch.float64})
"""Between which the kernel converts."""


@dataclass(frozen=True, eq=False)
class Piece:
    """One weight to be written: where to, and which slices it is made of.

    Attributes
    ----------
    out : Tensor of shape (O, I, H, W), (O, I) or (O,)
        Written in place; may have any floating type, device and strides.
    weight : Tensor of shape (P, J, h, w), (P, J) or (P,)
        Its slices have numbers 0 to P * J - 1, row by row.
    taps : callable, optional
        How slices of h x w become H x W: linear, of tensors of shape (n, m, h, w). On a GPU it is called with the unit
        slices alone, which makes it a matrix. None if the sizes are equal.
    index : Tensor of shape (O, I), optional
        Whole numbers of the slices in every place, best on the CPU. None stacks cyclically:
        ``out[o, i] = weight[o % P, i % J]``.
    ground : Tensor of shape (Q, R, H, W), optional
        Its slices follow those of `weight` in number and are taken as they are.
    """

    out: Tensor
    weight: Tensor
    taps: Callable[[Tensor], Tensor] | None = None
    index: Tensor | None = None
    ground: Tensor | None = None


def write(pieces: Sequence[Piece]) -> None:
    """Write all pieces in place, as if everything were read before anything is written.

    On a GPU, pieces of one device and one pair of types (of `weight` and of `out`) share a single Triton launch. Every
    element of an output is written once, for one element read, or h * w of them where `taps` are given, most of them
    from a cache. One table goes to the device, from pinned memory and so without a wait: 150 bytes for each piece, the
    matrices, and 4 bytes for each slice where an index is given. Nothing comes back. What lies in memory that is also
    written to, such as a ground that is the target's own, is copied first, all of it in one call.

    On the CPU each piece is written by itself: a cyclic stack by copies that double what is there, an index by one
    gather. So are pieces on a GPU without Triton, of mixed devices, of double beside half precision, too large for the
    kernel's numbers, of strides that do not let H and W be one axis, and those that a gradient is asked of.

    Parameters
    ----------
    pieces : sequence of Piece
        Places must not overlap, but for one place given twice, where the last piece stays.

    Raises
    ------
    ValueError
        If shapes do not fit or the number of a slice is out of range, before anything is written; or if `taps` make
        slices of another size than the output's.
    """
    for piece in pieces:
        _check(piece)
    last = {(piece.out.data_ptr(), piece.out.shape, piece.out.stride()): piece for piece in pieces}
    apart = _apart(list(last.values()))
    together = [piece for piece in apart if _in_launch(piece)]
    if together:
        from hetlib.kernels import ragged_triton

        for launch in ragged_triton.prepare(together):
            launch()
        torch.autograd.graph.increment_version([piece.out for piece in together])
    for piece in apart:
        if piece not in together:
            _write(piece)


def sizes(shape: Sequence[int]) -> tuple[int, int, int]:
    """Outputs, inputs and taps of a weight; a vector is one output."""
    return (shape[0], shape[1], math.prod(shape[2:])) if len(shape) > 1 else (1, shape[0], 1)


def resampled(piece: Piece, slices: Tensor) -> Tensor:
    """Slices of the weight's size, made the size of the output's."""
    if piece.taps is None:
        return slices
    found, wanted = piece.taps(slices), piece.out.shape[2:]
    if found.shape[2:] != wanted:
        raise ValueError(f"kernels of {tuple(slices.shape[2:])} become {tuple(found.shape[2:])}, not {tuple(wanted)}")
    return found


def _check(piece: Piece) -> None:
    out, weight = tuple(piece.out.shape), tuple(piece.weight.shape)
    ground = tuple(piece.ground.shape) if piece.ground is not None else (0, 0, *out[2:])
    if len(out) != len(weight) or (piece.taps is None and weight[2:] != out[2:]) or ground[2:] != out[2:]:
        raise ValueError(f"slices of shapes {weight} and {ground} do not fit into {out}")
    if piece.index is None:
        if 0 in weight:
            raise ValueError(f"a weight of shape {weight} has no slices to fill {out} with")
        return
    if tuple(piece.index.shape) != out[:2] or len(out) < 2:
        raise ValueError(f"an index of shape {tuple(piece.index.shape)} does not number the slices of {out}")
    total = math.prod(weight[:2]) + math.prod(ground[:2])
    if not piece.index.numel():
        return
    low, high = (int(end) for end in piece.index.aminmax())
    if low < 0 or high >= total:
        raise ValueError(f"the index of {out} goes beyond the slices 0 to {total - 1}")


def _in_launch(piece: Piece) -> bool:
    tensors = [tensor for tensor in (piece.out, piece.weight, piece.ground) if tensor is not None]
    if not _on_gpu(piece) or len({tensor.device for tensor in tensors}) > 1:
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    return any({piece.out.dtype, piece.weight.dtype} <= types for types in TYPES) and _can_be_numbered(piece, tensors)


def _can_be_numbered(piece: Piece, tensors: list[Tensor]) -> bool:
    """Whether the kernel's 32-bit numbers and its quotients by reciprocals are exact, and H and W one axis of `out`."""
    try:
        piece.out.view(sizes(piece.out.shape))
    except RuntimeError:
        return False
    _, columns, taps = sizes(piece.out.shape)
    outputs, inputs, _ = sizes(piece.weight.shape)
    numbers = columns if piece.index is None else outputs * inputs
    span = max(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in tensors)
    return span < 2**31 and max(columns * taps * max(columns, taps), numbers * inputs) <= 2**BITS


def _on_gpu(piece: Piece) -> bool:
    return piece.out.is_cuda and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _apart(pieces: list[Piece]) -> list[Piece]:
    """The same pieces, but that none reads from memory that is written to, other than its own place on the CPU."""
    written = {piece.out.untyped_storage().data_ptr() for piece in pieces}
    exposed: dict[int, Tensor] = {}
    for piece in pieces:
        for pool in (piece.weight, piece.ground):
            if pool is None or pool.untyped_storage().data_ptr() not in written:
                continue
            if pool.data_ptr() != piece.out.data_ptr() or _on_gpu(piece):
                exposed[id(pool)] = pool
    if not exposed:
        return pieces
    copies = [torch.empty_like(pool) for pool in exposed.values()]
    torch._foreach_copy_(copies, list(exposed.values()))
    place = dict(zip(exposed, copies, strict=True))
    return [
        replace(
            piece,
            weight=place.get(id(piece.weight), piece.weight),
            ground=place.get(id(piece.ground), piece.ground),
        )
        for piece in pieces
    ]


def _write(piece: Piece) -> None:
    weight = resampled(piece, piece.weight)
    if piece.index is None:
        _stack_(piece.out, weight)
        return
    ground = weight[:0] if piece.ground is None else piece.ground
    piece.out.copy_(gather_slices(weight.to(piece.out), ground, piece.index))


def _stack_(out: Tensor, weight: Tensor) -> None:
    """Fill `out` with `weight` repeated over its channel axes, by doubling what is filled already."""
    axes = min(out.dim(), 2)
    corner = tuple(slice(min(have, want)) for have, want in zip(weight.shape[:axes], out.shape[:axes], strict=True))
    out[corner].copy_(weight[corner])
    filled = out[corner]
    for axis in reversed(range(axes)):
        done, want = filled.shape[axis], out.shape[axis]
        grown = out if axis == 0 else out.narrow(0, 0, filled.shape[0])
        while done < want:
            step = min(done, want - done)
            grown.narrow(axis, done, step).copy_(grown.narrow(axis, 0, step))
            done += step
        filled = grown
