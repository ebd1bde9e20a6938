"""The launch of `hetlib.kernels.ragged`: a program for each block of a row of each output, whichever piece it is of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from hetlib.kernels.ragged import BITS, Piece, resampled, sizes

BLOCK = 1024
"""Elements that a program writes."""
FIELDS = 18
"""Numbers that describe a piece, in the order that the kernel reads them in."""
NEVER = 2**62
"""First program of the pieces that fill the table up to a power of two."""


@dataclass(frozen=True, eq=False)
class Launch:
    """A launch that is ready: may be called again, or captured into a CUDA graph, as long as the weights live.

    Attributes
    ----------
    programs : int
        How many there are.
    table : Tensor
        int64: the first program of every piece, what describes the pieces, their matrices and indices.
    options : dict
        The kernel's constants.
    alive : tuple of Tensor
        What the table points to and nobody else may hold.
    """

    programs: int
    table: Tensor
    options: dict[str, Any]
    alive: tuple[Tensor, ...]

    def __call__(self) -> None:
        with torch.cuda.device_of(self.table):
            _write[(self.programs,)](self.table, **self.options)


def prepare(pieces: Sequence[Piece]) -> list[Launch]:
    """What to call to write all pieces: one launch for each device and pair of types, its table already on the way.

    Parameters
    ----------
    pieces : sequence of Piece
        Checked, and none of them reading what is written: see `hetlib.kernels.ragged.write`.
    """
    groups: dict[tuple[torch.device, torch.dtype, torch.dtype], list[Piece]] = {}
    for piece in pieces:
        groups.setdefault((piece.out.device, piece.weight.dtype, piece.out.dtype), []).append(piece)
    return [_prepare(*key, group) for key, group in groups.items()]


def _prepare(device: torch.device, taken: torch.dtype, written: torch.dtype, pieces: list[Piece]) -> Launch:
    options = _options(pieces, taken, written)
    slots = options["SLOTS"]
    starts: list[int] = [0]
    fields: list[int] = []
    behind: list[Tensor] = []
    alive: list[Tensor] = []
    end = slots + FIELDS * len(pieces)
    for piece in pieces:
        rows, columns, taps = sizes(piece.out.shape)
        starts.append(starts[-1] + rows * triton.cdiv(columns * taps, BLOCK))
        numbers, parts, pools = _describe(piece, end)
        end += sum(len(part) for part in parts)
        fields += numbers
        behind += parts
        alive += pools
    programs = starts.pop()
    table = torch.cat((torch.tensor([*starts, *[NEVER] * (slots - len(starts)), *fields]), *behind))
    if device.type == "cuda":
        table = table.pin_memory().to(device, non_blocking=True)
    return Launch(programs, table, options, tuple(alive))


def _options(pieces: list[Piece], taken: torch.dtype, written: torch.dtype) -> dict[str, Any]:
    real = torch.float64 if torch.float64 in (taken, written) else torch.float32
    return {
        "SLOTS": max(16, triton.next_power_of_2(len(pieces))),
        "FIELDS": FIELDS,
        "BLOCK": BLOCK,
        "BITS": BITS,
        "WEIGHT": _type(taken),
        "OUT": _type(written),
        "REAL": _type(real),
        # Constants, because a plain copy alone takes half the instructions and a third of the registers.
        "RESAMPLED": any(piece.taps is not None for piece in pieces),
        "INDEXED": any(piece.index is not None for piece in pieces),
    }


def _describe(piece: Piece, end: int) -> tuple[list[int], list[Tensor], list[Tensor]]:
    """The fields of a piece, what of it stands in the table from `end` on (in units of 8 bytes), and its pools."""
    weight = piece.weight.reshape(sizes(piece.weight.shape))
    pools = [weight]
    outputs, inputs, source_taps = weight.shape
    _, columns, taps = sizes(piece.out.shape)
    row, slice_, tap = piece.out.view(sizes(piece.out.shape)).stride()
    parts: list[Tensor] = []
    matrix = index = ground = 0
    if piece.taps is not None:
        matrix = end
        parts.append(_matrix(piece).view(torch.int64))
    if piece.index is not None:
        index = end + sum(len(part) for part in parts)
        numbers = piece.index.flatten().to("cpu", torch.int32)
        parts.append(F.pad(numbers, (0, len(numbers) % 2)).view(torch.int64))
    if piece.ground is not None:
        pools.append(piece.ground.to(piece.out.dtype).contiguous())
        ground = pools[1].data_ptr()
    place = [piece.out.data_ptr(), row, slice_, tap, columns, taps, _reciprocal(taps if tap <= slice_ else columns)]
    source = [weight.data_ptr(), *weight.stride(), outputs, inputs, _reciprocal(inputs)]
    return [*place, *source, source_taps if matrix else 0, matrix, index, ground], parts, pools


def _matrix(piece: Piece) -> Tensor:
    """The linear map of slices, a row for each source tap: float64, flat."""
    kernel = piece.weight.shape[2:]
    taps = math.prod(kernel)
    return resampled(piece, torch.eye(taps, dtype=torch.float64).view(taps, 1, *kernel)).flatten()


def _reciprocal(divisor: int) -> int:
    """Rounded up, so that its product with an x, shifted back, is the quotient while x * divisor < 2**BITS."""
    return -(-(2**BITS) // max(1, divisor))


def _type(dtype: torch.dtype) -> tl.dtype:
    return getattr(tl, str(dtype).removeprefix("torch."))


@triton.jit
def _quotient(x, reciprocal, BITS: tl.constexpr):
    # A division by a number known at run time only takes some forty instructions, and this one four.
    return ((x.to(tl.uint32).to(tl.uint64) * reciprocal.to(tl.uint64)) >> BITS).to(tl.int32)


@triton.jit
def _write(
    table,
    SLOTS: tl.constexpr,
    FIELDS: tl.constexpr,
    BLOCK: tl.constexpr,
    BITS: tl.constexpr,
    WEIGHT: tl.constexpr,
    OUT: tl.constexpr,
    REAL: tl.constexpr,
    RESAMPLED: tl.constexpr,
    INDEXED: tl.constexpr,
):
    slots = tl.arange(0, SLOTS)
    program = tl.program_id(0)
    piece = tl.sum((tl.load(table + slots) <= program).to(tl.int32), 0) - 1
    field = table + SLOTS + piece * FIELDS
    out = tl.load(field).to(tl.pointer_type(OUT))
    out_slice = tl.load(field + 2).to(tl.int32)
    out_tap = tl.load(field + 3).to(tl.int32)
    columns = tl.load(field + 4).to(tl.int32)
    taps = tl.load(field + 5).to(tl.int32)
    weight = tl.load(field + 7).to(tl.pointer_type(WEIGHT))
    weight_row = tl.load(field + 8).to(tl.int32)
    weight_slice = tl.load(field + 9).to(tl.int32)
    weight_tap = tl.load(field + 10).to(tl.int32)
    outputs = tl.load(field + 11).to(tl.int32)
    inputs = tl.load(field + 12).to(tl.int32)

    # Lanes follow the output's memory: taps run fastest in it, or (channels_last) inputs do.
    block = program - tl.load(table + piece).to(tl.int32)
    blocks = tl.cdiv(columns * taps, BLOCK)
    o = block // blocks
    x = (block - o * blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = x < columns * taps
    tap_fastest = out_tap <= out_slice
    major = _quotient(x, tl.load(field + 6), BITS)
    minor = x - major * tl.where(tap_fastest, taps, columns)
    i = tl.where(tap_fastest, major, minor)
    t = tl.where(tap_fastest, minor, major)
    out += o * tl.load(field + 1)

    row = o % outputs
    number = i
    of_weight = inside
    if INDEXED:
        index = tl.load(field + 16)
        if index != 0:
            number = tl.load((table + index).to(tl.pointer_type(tl.int32), bitcast=True) + o * columns + i, inside, 0)
            of_weight = inside & (number < outputs * inputs)
    quotient = _quotient(number, tl.load(field + 13), BITS)
    offset = (number - quotient * inputs) * weight_slice
    if INDEXED:
        offset += tl.where(index != 0, quotient, row) * weight_row
    else:
        weight += row * weight_row
    source_taps = 0
    if RESAMPLED:
        source_taps = tl.load(field + 14).to(tl.int32)
    if source_taps == 0:
        value = tl.load(weight + offset + t * weight_tap, of_weight, 0).to(OUT)
    else:
        coefficients = (table + tl.load(field + 15)).to(tl.pointer_type(tl.float64), bitcast=True)
        total = tl.zeros((BLOCK,), REAL)
        for u in range(source_taps):
            coefficient = tl.load(coefficients + u * taps + t, inside, 0).to(REAL)
            total += coefficient * tl.load(weight + offset + u * weight_tap, of_weight, 0).to(REAL)
        value = total.to(OUT)
    if INDEXED:
        ground = tl.load(field + 17)
        if ground != 0:
            others = ground.to(tl.pointer_type(OUT)) + (number - outputs * inputs) * taps + t
            value = tl.where(of_weight, value, tl.load(others, inside & (number >= outputs * inputs), 0))
    tl.store(out + i * out_slice + t * out_tap, value, inside)
