"""The launch of `hetlib.kernels.write`: a program for each block of a row of each output, whichever fill it is of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from hetlib.kernels.fill import BITS, Fill, resampled, sizes

BLOCK = 1024
"""Elements that a program writes."""
FIELDS = 18
"""Numbers that describe a fill, in the order that the kernel reads them in."""
NEVER = 2**62
"""First program of the fills that fill the table up to a power of two."""


@dataclass(frozen=True, eq=False)
class Launch:
    """A launch that is ready: may be called again, or captured into a CUDA graph, as long as the weights live.

    Attributes
    ----------
    programs : int
        How many there are.
    table : Tensor
        int64: the first program of every fill, what describes the fills, their matrices and indices.
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


def prepare(fills: Sequence[Fill]) -> list[Launch]:
    """What to call to write all fills: one launch for each device and pair of types, its table already on the way.

    Parameters
    ----------
    fills : sequence of Fill
        Checked, and none of them reading what is written: see `hetlib.kernels.write.write`.
    """
    groups: dict[tuple[torch.device, torch.dtype, torch.dtype], list[Fill]] = {}
    for fill in fills:
        groups.setdefault((fill.out.device, fill.weight.dtype, fill.out.dtype), []).append(fill)
    return [_prepare(*key, group) for key, group in groups.items()]


def _prepare(device: torch.device, taken: torch.dtype, written: torch.dtype, fills: list[Fill]) -> Launch:
    options = _options(fills, taken, written)
    slots = options["SLOTS"]
    starts: list[int] = [0]
    fields: list[int] = []
    behind: list[Tensor] = []
    alive: list[Tensor] = []
    end = slots + FIELDS * len(fills)
    for fill in fills:
        rows, columns, area = sizes(fill.out.shape)
        starts.append(starts[-1] + rows * triton.cdiv(columns * area, BLOCK))
        numbers, parts, pools = _describe(fill, end)
        end += sum(len(part) for part in parts)
        fields += numbers
        behind += parts
        alive += pools
    programs = starts.pop()
    table = torch.cat((torch.tensor([*starts, *[NEVER] * (slots - len(starts)), *fields]), *behind))
    if device.type == "cuda":
        table = table.pin_memory().to(device, non_blocking=True)
    return Launch(programs, table, options, tuple(alive))


def _options(fills: list[Fill], taken: torch.dtype, written: torch.dtype) -> dict[str, Any]:
    real = torch.float64 if torch.float64 in (taken, written) else torch.float32
    return {
        "SLOTS": max(16, triton.next_power_of_2(len(fills))),
        "FIELDS": FIELDS,
        "BLOCK": BLOCK,
        "BITS": BITS,
        "WEIGHT": _type(taken),
        "OUT": _type(written),
        "REAL": _type(real),
        # Constants, because a plain copy alone takes half the instructions and a third of the registers.
        "RESAMPLED": any(fill.resample is not None for fill in fills),
        "INDEXED": any(fill.index is not None for fill in fills),
    }


def _describe(fill: Fill, end: int) -> tuple[list[int], list[Tensor], list[Tensor]]:
    """The fields of a fill, what of it stands in the table from `end` on (in units of 8 bytes), and its pools."""
    weight = fill.weight.reshape(sizes(fill.weight.shape))
    pools = [weight]
    outputs, inputs, source_area = weight.shape
    _, columns, area = sizes(fill.out.shape)
    row, slice_, tap = fill.out.view(sizes(fill.out.shape)).stride()
    parts: list[Tensor] = []
    matrix = index = base = 0
    if fill.resample is not None:
        matrix = end
        parts.append(_matrix(fill).view(torch.int64))
    if fill.index is not None:
        index = end + sum(len(part) for part in parts)
        numbers = fill.index.flatten().to("cpu", torch.int32)
        parts.append(F.pad(numbers, (0, len(numbers) % 2)).view(torch.int64))
    if fill.base is not None:
        pools.append(fill.base.to(fill.out.dtype).contiguous())
        base = pools[1].data_ptr()
    place = [fill.out.data_ptr(), row, slice_, tap, columns, area, _reciprocal(area if tap <= slice_ else columns)]
    source = [weight.data_ptr(), *weight.stride(), outputs, inputs, _reciprocal(inputs)]
    return [*place, *source, source_area if matrix else 0, matrix, index, base], parts, pools


def _matrix(fill: Fill) -> Tensor:
    """The linear map of slices, a row for each source tap: float64, flat."""
    kernel = fill.weight.shape[2:]
    area = math.prod(kernel)
    return resampled(fill, torch.eye(area, dtype=torch.float64).view(area, 1, *kernel)).flatten()


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
    # A program first looks for its fill: the last of those whose first program is not beyond it. Counting them takes
    # one comparison a fill, all at once. Then it reads that fill's fields.
    slots = tl.arange(0, SLOTS)
    program = tl.program_id(0)
    fill = tl.sum((tl.load(table + slots) <= program).to(tl.int32), 0) - 1
    field = table + SLOTS + fill * FIELDS
    out = tl.load(field).to(tl.pointer_type(OUT))
    out_slice = tl.load(field + 2).to(tl.int32)
    out_tap = tl.load(field + 3).to(tl.int32)
    columns = tl.load(field + 4).to(tl.int32)
    area = tl.load(field + 5).to(tl.int32)
    weight = tl.load(field + 7).to(tl.pointer_type(WEIGHT))
    weight_row = tl.load(field + 8).to(tl.int32)
    weight_slice = tl.load(field + 9).to(tl.int32)
    weight_tap = tl.load(field + 10).to(tl.int32)
    outputs = tl.load(field + 11).to(tl.int32)
    inputs = tl.load(field + 12).to(tl.int32)

    # Lanes follow the output's memory: area run fastest in it, or (channels_last) inputs do.
    block = program - tl.load(table + fill).to(tl.int32)
    blocks = tl.cdiv(columns * area, BLOCK)
    o = block // blocks
    x = (block - o * blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = x < columns * area
    tap_fastest = out_tap <= out_slice
    major = _quotient(x, tl.load(field + 6), BITS)
    minor = x - major * tl.where(tap_fastest, area, columns)
    i = tl.where(tap_fastest, major, minor)
    t = tl.where(tap_fastest, minor, major)
    out += o * tl.load(field + 1)

    # Which slice of the source comes here: cyclic, (o mod O_s, i mod I_s), or what the index says. Numbers count slices
    # row by row, the source's first and those of the base behind them.
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
    source_area = 0
    if RESAMPLED:
        source_area = tl.load(field + 14).to(tl.int32)
    if source_area == 0:
        value = tl.load(weight + offset + t * weight_tap, of_weight, 0).to(OUT)
    else:
        # Another kernel size is a linear map of the taps: each one written is a weighted sum over all those read.
        coefficients = (table + tl.load(field + 15)).to(tl.pointer_type(tl.float64), bitcast=True)
        total = tl.zeros((BLOCK,), REAL)
        for u in range(source_area):
            coefficient = tl.load(coefficients + u * area + t, inside, 0).to(REAL)
            total += coefficient * tl.load(weight + offset + u * weight_tap, of_weight, 0).to(REAL)
        value = total.to(OUT)
    if INDEXED:
        base = tl.load(field + 17)
        if base != 0:
            others = base.to(tl.pointer_type(OUT)) + (number - outputs * inputs) * area + t
            value = tl.where(of_weight, value, tl.load(others, inside & (number >= outputs * inputs), 0))
    tl.store(out + i * out_slice + t * out_tap, value, inside)
