"""The launches of `hetlib.kernels.entropy` and `hetlib.kernels.graft`: extremes, counts, and what is made of them.

A program looks at one span of one tensor. The first launch finds the extremes of every span. The second one puts those
of a tensor together and counts, for every span, how many values reach the upper edge of each bin. The third one adds up
the counts. Nothing is added atomically, so the same weights always give the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 8192
"""Comparisons of values with edges that a program holds in registers."""
SPAN, SPANS = 4096, 1024
"""Values of a span, and how many spans a tensor has at most: those of larger tensors hold multiples of that."""
FIELDS, FACTS, SETTINGS = 5, 3, 3
"""Numbers that describe a tensor, those of them that the last launch needs, and the numbers that coefficients share."""
NEVER = 2**62
"""First program of the tensors that fill the table up to a power of two."""
ROUNDED = {"enable_fp_fusion": False}
"""Every product is rounded before it is added to something, so that edges are the CPU's to the bit."""


@dataclass(frozen=True, eq=False)
class Launches:
    """Three launches that are ready: may be called again, or captured into a CUDA graph, as long as the weights live.

    Attributes
    ----------
    out : Tensor of shape (n,), float64
        Written: entropies, or coefficients.
    ends : Tensor of shape (2, spans), float64
        Written: the extremes of every span; infinities where it holds NaN or infinity.
    reached : Tensor of shape (spans, edges), int32
        Written: how many values of every span reach each edge.
    table, last : Tensor
        int64: what the first two kernels read, and what the last one reads.
    options : dict
        The constants of the first two kernels, and of the last one.
    alive : list of Tensor
        What the table points to.
    """

    out: Tensor
    ends: Tensor
    reached: Tensor
    table: Tensor
    last: Tensor
    options: tuple[dict[str, Any], dict[str, Any]]
    alive: list[Tensor]

    def __call__(self) -> Tensor:
        measured, made = self.options
        spans = len(self.reached)
        with torch.cuda.device_of(self.out):
            _extremes[(spans,)](self.table, self.ends, spans, **measured, **ROUNDED)
            _count[(spans,)](self.table, self.ends, self.reached, spans, **measured, **ROUNDED)
            _finish[(len(self.out),)](self.last, self.ends, self.reached, self.out, **made, **ROUNDED)
        return self.out


def prepare(
    weights: Sequence[Tensor],
    bins: int,
    meeting: tuple[Sequence[int], Sequence[int]] | None = None,
    a: float = 0.0,
    c: float = 0.0,
    decimals: int | None = None,
) -> Launches:
    """What to call for the entropies of tensors, or for coefficients; its table is already on the way.

    Parameters
    ----------
    weights : sequence of Tensors
        Of one type and device; checked.
    bins : int
    meeting : pair of sequences of int, optional
        For each coefficient the numbers of two weights, a layer's own and its donor's. None asks for entropies.
    a, c, decimals
        See `hetlib.kernels.graft.coefficient`.
    """
    values = [_in_memory_order(weight) for weight in weights]
    device, slots = values[0].device, max(16, triton.next_power_of_2(len(values)))
    fields, starts = [], [0]
    for value in values:
        span = SPAN * triton.cdiv(value.numel(), SPAN * SPANS)
        count = triton.cdiv(value.numel(), span)
        fields.append((value.numel(), starts[-1], count, span, value.data_ptr()))
        starts.append(starts[-1] + count)
    spans = starts.pop()
    sides = [*zip(*meeting, strict=True)] if meeting else [(n,) for n in range(len(values))]
    table = torch.tensor([*starts, *[NEVER] * (slots - len(starts)), *(number for field in fields for number in field)])
    settings = torch.tensor([a / pi, c, 0.0 if decimals is None else 10.0**decimals], dtype=torch.float64)
    facts = torch.tensor([number for side in sides for n in side for number in fields[n][:FACTS]])
    whole = torch.cat((table, settings.view(torch.int64), facts))
    if device.type == "cuda":
        whole = whole.pin_memory().to(device, non_blocking=True)
    edges = triton.next_power_of_2(bins)
    return Launches(
        torch.empty(len(sides), dtype=torch.float64, device=device),
        torch.empty(2, spans, dtype=torch.float64, device=device),
        torch.empty(spans, edges, dtype=torch.int32, device=device),
        whole[: len(table)],
        whole[len(table) :],
        _options(values[0].dtype, slots, max(count for _, _, count, *_ in fields), bins, edges, len(sides[0])),
        values,
    )


def _options(
    dtype: torch.dtype, slots: int, spans: int, bins: int, edges: int, sides: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    measured = {
        "SLOTS": slots,
        "FIELDS": FIELDS,
        "SPANS": triton.next_power_of_2(spans),
        "BLOCK": max(16, TILE // edges),
        "BINS": bins,
        "EDGES": edges,
        "WEIGHT": getattr(tl, str(dtype).removeprefix("torch.")),
        "REAL": tl.float64 if dtype == torch.float64 else tl.float32,
    }
    made = {
        "SIDES": sides,
        "FACTS": FACTS,
        "SETTINGS": SETTINGS,
        "ROWS": max(1, TILE // edges // 4),
        "BINS": bins,
        "EDGES": edges,
    }
    return measured, made


def _in_memory_order(weight: Tensor) -> Tensor:
    """The values in any order that needs no copy, if they lie close together; of a type that the kernels read."""
    if weight.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        weight = weight.float()
    return weight.detach().permute(sorted(range(weight.dim()), key=weight.stride, reverse=True)).contiguous()


@triton.jit
def _described(table, SLOTS: tl.constexpr, FIELDS: tl.constexpr):
    """The fields of the tensor that the program looks at, and the first and the last value of its span."""
    program = tl.program_id(0)
    tensor = tl.sum((tl.load(table + tl.arange(0, SLOTS)) <= program).to(tl.int32), 0) - 1
    field = table + SLOTS + tensor * FIELDS
    span = tl.load(field + 3)
    begin = (program - tl.load(field + 1)) * span
    return field, begin, tl.minimum(begin + span, tl.load(field))


@triton.jit
def _extremes(
    table,
    ends,
    spans,
    SLOTS: tl.constexpr,
    FIELDS: tl.constexpr,
    SPANS: tl.constexpr,
    BLOCK: tl.constexpr,
    BINS: tl.constexpr,
    EDGES: tl.constexpr,
    WEIGHT: tl.constexpr,
    REAL: tl.constexpr,
):
    field, begin, end = _described(table, SLOTS, FIELDS)
    weight = tl.load(field + 4).to(tl.pointer_type(WEIGHT))
    lanes = tl.arange(0, BLOCK)
    low = tl.full((BLOCK,), float("inf"), REAL)
    high = tl.full((BLOCK,), float("-inf"), REAL)
    spoilt = tl.zeros((BLOCK,), tl.int32)
    for start in range(begin, end, BLOCK):
        inside = start + lanes < end
        value = tl.load(weight + start + lanes, inside, 0).to(REAL)
        low = tl.minimum(low, tl.where(inside, value, float("inf")))
        high = tl.maximum(high, tl.where(inside, value, float("-inf")))
        spoilt += (tl.abs(value) < float("inf")).to(tl.int32) ^ 1
    # A minimum passes over NaN, so that it has to be looked for.
    whole = tl.sum(spoilt, 0) == 0
    program = tl.program_id(0)
    tl.store(ends + program, tl.where(whole, tl.min(low, 0), float("-inf")).to(tl.float64))
    tl.store(ends + spans + program, tl.where(whole, tl.max(high, 0), float("inf")).to(tl.float64))


@triton.jit
def _count(
    table,
    ends,
    reached,
    spans,
    SLOTS: tl.constexpr,
    FIELDS: tl.constexpr,
    SPANS: tl.constexpr,
    BLOCK: tl.constexpr,
    BINS: tl.constexpr,
    EDGES: tl.constexpr,
    WEIGHT: tl.constexpr,
    REAL: tl.constexpr,
):
    field, begin, end = _described(table, SLOTS, FIELDS)
    weight = tl.load(field + 4).to(tl.pointer_type(WEIGHT))
    others = tl.arange(0, SPANS)
    known = others < tl.load(field + 2)
    place = ends + tl.load(field + 1) + others
    low = tl.min(tl.load(place, known, float("inf")), 0).to(REAL)
    high = tl.max(tl.load(place + spans, known, float("-inf")), 0).to(REAL)
    if REAL == tl.float32:  # noqa: SIM300
        step = tl.div_rn(high - low, tl.full((), BINS, REAL))  # a plain division is two bits less exact on a GPU
    else:
        step = (high - low) / tl.full((), BINS, REAL)
    edge = low + (tl.arange(0, EDGES) + 1).to(REAL) * step
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((EDGES,), tl.int32)
    for start in range(begin, end, BLOCK):
        value = tl.load(weight + start + lanes, start + lanes < end, float("-inf")).to(REAL)
        total += tl.sum((value[:, None] >= edge[None, :]).to(tl.int32), 0)
    tl.store(reached + tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES), total)


@triton.jit
def _finish(
    last,
    ends,
    reached,
    out,
    SIDES: tl.constexpr,
    FACTS: tl.constexpr,
    SETTINGS: tl.constexpr,
    ROWS: tl.constexpr,
    BINS: tl.constexpr,
    EDGES: tl.constexpr,
):
    program = tl.program_id(0)
    facts = last + SETTINGS + program * SIDES * FACTS
    found = _entropy(facts, ends, reached, ROWS, BINS, EDGES)
    if SIDES == 2:
        donor = _entropy(facts + FACTS, ends, reached, ROWS, BINS, EDGES)
        settings = last.to(tl.pointer_type(tl.float64), bitcast=True)
        found = tl.load(settings) * _arctan(tl.load(settings + 1) * (found - donor)) + 0.5
        scale = tl.load(settings + 2)
        # To add and take 2**52 rounds a smaller number to a whole one, half to even.
        rounded = (found * scale + 2.0**52 - 2.0**52) / tl.where(scale > 0, scale, 1)
        found = tl.where(scale > 0, rounded, found)
    tl.store(out + program, found)


@triton.jit
def _entropy(facts, ends, reached, ROWS: tl.constexpr, BINS: tl.constexpr, EDGES: tl.constexpr):
    length = tl.load(facts)
    first = tl.load(facts + 1)
    count = tl.load(facts + 2)
    bins = tl.arange(0, EDGES)
    rows = tl.arange(0, ROWS)
    upper = tl.zeros((EDGES,), tl.int64)
    lower = tl.zeros((EDGES,), tl.int64)
    low = tl.full((ROWS,), float("inf"), tl.float64)
    for start in range(0, count, ROWS):
        known = start + rows < count
        place = reached + (first + start + rows)[:, None] * EDGES + bins[None, :]
        upper += tl.sum(tl.load(place, known[:, None], 0).to(tl.int64), 0)
        lower += tl.sum(tl.load(place - 1, known[:, None] & (bins > 0)[None, :], 0).to(tl.int64), 0)
        low = tl.minimum(low, tl.load(ends + first + start + rows, known, float("inf")))
    held = tl.where(bins > 0, lower, length) - upper
    share = tl.where(bins < BINS, held, 0).to(tl.float64) / length.to(tl.float64)
    found = -tl.sum(share * tl.log(tl.where(share > 0, share, 1)), 0)
    return tl.where(tl.min(low, 0) > float("-inf"), found, float("nan"))


@triton.jit
def _arctan(x):
    """In float64: of 1 / x where x is large, then halved three times, and what is left by the first ten terms."""
    large = tl.abs(x) > 1
    t = tl.where(large, 1 / tl.where(large, x, 1), x)
    for _ in tl.static_range(3):
        t = t / (1 + tl.sqrt(1 + t * t))
    square = t * t
    total = tl.zeros_like(x)
    for term in tl.static_range(9, -1, -1):
        total = 1.0 / (2 * term + 1) - square * total
    angle = 8 * t * total
    quarter = tl.full((), 1.5707963267948966, tl.float64)
    return tl.where(large, tl.where(x > 0, quarter, -quarter) - angle, angle)
