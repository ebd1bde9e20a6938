"""The launch that mixes tensors in place: a program for each block of a ring of tensors, each taking from the last."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hetlib.kernels.fill import Fill

BLOCK = 1024
"""Values of every tensor of a ring that a program mixes."""
FIELDS, STEP = 4, 3
"""Numbers that describe a ring, and a tensor of it."""
NEVER = 2**62
"""First program of the rings that fill the table up to a power of two."""
ROUNDED = {"enable_fp_fusion": False}
"""Both products are rounded before they are added, as on the CPU."""


@dataclass(frozen=True, eq=False)
class Launch:
    """A launch that is ready: may be called again, or captured into a CUDA graph, as long as the tensors live.

    Attributes
    ----------
    programs : int
        How many there are.
    table : Tensor
        int64: the first program of every ring, what describes the rings and their tensors, and float64 numbers.
    options : dict
        The kernel's constants.
    alive : list of Tensor
        What the table points to and nobody else may hold.
    """

    programs: int
    table: Tensor
    options: dict[str, Any]
    alive: list[Tensor]

    def __call__(self) -> None:
        with torch.cuda.device_of(self.table):
            _mix[(self.programs,)](self.table, **self.options, **ROUNDED)


def prepare(rings: Sequence[Sequence[Fill]]) -> list[Launch]:
    """What to call to mix all rings: one launch for each device and pair of types, its table already on the way.

    Parameters
    ----------
    rings : sequence of sequences of Fill
        See `hetlib.kernels.blend.rings`. The tensors of a ring have one shape and the same strides, without gaps.
    """
    groups: dict[tuple[torch.device, torch.dtype, torch.dtype], list[Sequence[Fill]]] = {}
    for ring in rings:
        groups.setdefault((ring[0].out.device, ring[0].weight.dtype, ring[0].out.dtype), []).append(ring)
    return [_prepare(*key, group) for key, group in groups.items()]


def _prepare(device: torch.device, taken: torch.dtype, written: torch.dtype, rings: list[Sequence[Fill]]) -> Launch:
    slots = max(16, triton.next_power_of_2(len(rings)))
    first = slots + FIELDS * len(rings)
    numbers = first + STEP * sum(len(ring) for ring in rings)
    table = torch.empty(numbers + sum(len(ring) for ring in rings), dtype=torch.int64, device=device)
    starts: list[int] = [0]
    fields: list[int] = []
    steps: list[int] = []
    given: list[float] = []
    alive: list[Tensor] = []
    for ring in rings:
        length = ring[0].out.numel()
        starts.append(starts[-1] + triton.cdiv(length, BLOCK))
        fields += [ring[0].weight.data_ptr(), length, len(ring), first + len(steps)]
        for fill in ring:
            if isinstance(fill.alpha, Tensor) and (fill.alpha.dim() or fill.alpha.device == device):
                share = fill.alpha.detach().to(device, torch.float64).contiguous()
                alive.append(share)
                place = share.data_ptr()
            else:
                place = table.data_ptr() + 8 * (numbers + len(given))
                given.append(float(fill.alpha))
            steps += [fill.out.data_ptr(), place, fill.out.stride(0) if _by_channel(fill) else max(1, length)]
    programs = starts.pop()
    whole = torch.tensor([*starts, *[NEVER] * (slots - len(starts)), *fields, *steps])
    told = torch.cat((whole, torch.tensor(given, dtype=torch.float64).view(torch.int64)))
    table[: len(told)].copy_(told.pin_memory() if device.type == "cuda" else told, non_blocking=True)
    options = {
        "SLOTS": slots,
        "FIELDS": FIELDS,
        "STEP": STEP,
        "BLOCK": BLOCK,
        "WEIGHT": _type(taken),
        "OUT": _type(written),
        "REAL": tl.float64 if torch.float64 in (taken, written) else tl.float32,
    }
    return Launch(programs, table, options, alive)


def _by_channel(fill: Fill) -> bool:
    return isinstance(fill.alpha, Tensor) and fill.alpha.dim() > 0


def _type(dtype: torch.dtype) -> tl.dtype:
    return getattr(tl, str(dtype).removeprefix("torch."))


@triton.jit
def _mix(
    table,
    SLOTS: tl.constexpr,
    FIELDS: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
    WEIGHT: tl.constexpr,
    OUT: tl.constexpr,
    REAL: tl.constexpr,
):
    program = tl.program_id(0)
    slots = tl.arange(0, SLOTS)
    ring = tl.sum((tl.load(table + slots) <= program).to(tl.int32), 0) - 1
    field = table + SLOTS + ring * FIELDS
    length = tl.load(field + 1).to(tl.int32)
    x = (program - tl.load(table + ring).to(tl.int32)) * BLOCK + tl.arange(0, BLOCK)
    inside = x < length

    # Each tensor takes what the one before it was: in a ring, the first one takes from the last one, which therefore is
    # read before anything is written. From then on, every old value is kept for the next tensor.
    donor = tl.load(tl.load(field).to(tl.pointer_type(WEIGHT)) + x, inside, 0).to(REAL)
    step = table + tl.load(field + 3)
    for _ in range(tl.load(field + 2)):
        out = tl.load(step).to(tl.pointer_type(OUT)) + x
        shares = tl.load(step + 1).to(tl.pointer_type(tl.float64))
        stays = tl.load(shares + x // tl.load(step + 2).to(tl.int32), inside, 0)
        own = tl.load(out, inside, 0).to(REAL)
        mixed = stays.to(REAL) * own + (1 - stays).to(REAL) * donor
        tl.store(out, mixed.to(OUT), inside)
        donor = own
        step += STEP
