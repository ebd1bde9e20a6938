"""The launch of `hetlib.kernels.transport`: a program for each cost matrix, from its first iteration to its plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hetlib.kernels.sinkhorn import DEEPEST, LN2, Entropic, _check, _is_coarse, _narrow

ROWS, COLUMNS = 32, 128
"""Of the tile of float32 that a program looks at; half the rows in float64, or registers spill."""
WARPS = 16
"""Of a program. Few programs share a GPU, and each has to hide by itself how long its costs take to arrive."""
HEADER, FIELDS, FACTS = 3, 7, 4
"""Numbers that describe all problems, that describe one, and that a program tells of its own."""
LOWEST = -(2.0**126)
"""Exponent of what is no part of a matrix: finite, so that no difference of two is NaN."""


@dataclass(frozen=True, eq=False)
class Launch:
    """A launch that is ready, and may be called again: it writes the same places.

    Attributes
    ----------
    costs, plans, rows, columns : list of Tensor
        Of each problem: contiguous and of one dtype, float32 or float64. All but the costs are written.
    facts : Tensor of shape (problems, 4), float64
        Written: how many iterations were run, the error, how many costs are NaN or infinity, and the largest potentials
        of rows and columns, added, as powers of two.
    table : Tensor
        int64: what the kernel reads.
    options : dict
        The kernel's constants.
    """

    costs: list[Tensor]
    plans: list[Tensor]
    rows: list[Tensor]
    columns: list[Tensor]
    facts: Tensor
    table: Tensor
    options: dict[str, Any]

    def __call__(self) -> None:
        with torch.cuda.device_of(self.table):
            _solve[(len(self.costs),)](self.table, **self.options, num_warps=WARPS)


def solve(costs: Sequence[Tensor], reg: float, iterations: int, tolerance: float) -> list[Entropic]:
    """What `hetlib.kernels.transport.sinkhorns` returns, from one launch for each device and dtype among the results.

    The host waits once for each launch, for the facts of all its problems. Problems for which float32 was too coarse
    are then launched again in float64.

    Parameters
    ----------
    costs : sequence of Tensors of shape (n, m)
        Matrices, none of them empty.
    reg, iterations, tolerance
        As `sinkhorns` takes them, checked.

    Raises
    ------
    ValueError
        If a cost holds NaN or infinity, or differences beyond its dtype, or float64 is too coarse for one.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for number, cost in enumerate(costs):
        groups.setdefault((cost.device, _check(cost.dtype, reg, iterations)), []).append(number)
    found: dict[int, Entropic] = {}
    launches = [prepare([costs[i] for i in group], reg, iterations, tolerance) for group in groups.values()]
    for launch in launches:
        launch()
    coarse: list[int] = []
    for (_, real), group, launch in zip(groups, groups.values(), launches, strict=True):
        written = zip(group, launch.plans, launch.rows, launch.columns, launch.facts.tolist(), strict=True)
        for number, plan, rows, columns, (step, error, spoilt, reach) in written:
            shape = costs[number].shape
            if spoilt:
                raise ValueError(f"a cost of shape {tuple(shape)} holds NaN or infinity, or differences beyond {real}")
            if _is_coarse(shape, real, reg, reach):
                coarse.append(number)
            found[number] = Entropic(plan, rows, columns, int(step), error)
    if coarse:
        finer = solve([costs[number].double() for number in coarse], reg, iterations, tolerance)
        for number, fine in zip(coarse, finer, strict=True):
            found[number] = _narrow(fine, found[number].plan.dtype)
    return [found[number] for number in range(len(costs))]


def prepare(costs: Sequence[Tensor], reg: float, iterations: int, tolerance: float) -> Launch:
    """What to call to solve the problems of one device and one dtype of result; its table is already on the way."""
    device, real = costs[0].device, _check(costs[0].dtype, reg, iterations)
    costs = [cost.detach().to(real).contiguous() for cost in costs]
    plans = [torch.empty_like(cost) for cost in costs]
    heights, widths = [len(cost) for cost in costs], [cost.shape[1] for cost in costs]
    potentials = torch.empty(sum(heights) + sum(widths), dtype=real, device=device).split([*heights, *widths])
    rows, columns = list(potentials[: len(costs)]), list(potentials[len(costs) :])
    facts = torch.empty(len(costs), FACTS, dtype=torch.float64, device=device)
    numbers = [
        number
        for cost, *written in zip(costs, plans, rows, columns, facts, strict=True)
        for number in (*cost.shape, cost.data_ptr(), *(place.data_ptr() for place in written))
    ]
    settings = torch.tensor([reg * LN2, tolerance], dtype=torch.float64).view(torch.int64)
    table = torch.cat((torch.tensor([iterations]), settings, torch.tensor(numbers)))
    if device.type == "cuda":
        table = table.pin_memory().to(device, non_blocking=True)
    options = {
        "HEADER": HEADER,
        "FIELDS": FIELDS,
        "ROWS": ROWS * 4 // real.itemsize,
        "COLUMNS": COLUMNS,
        "DEEPEST": DEEPEST,
        "LOWEST": LOWEST,
        "REAL": getattr(tl, str(real).removeprefix("torch.")),
    }
    return Launch(costs, plans, rows, columns, facts, table, options)


@triton.jit
def _solve(
    table,
    HEADER: tl.constexpr,
    FIELDS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEEPEST: tl.constexpr,
    LOWEST: tl.constexpr,
    REAL: tl.constexpr,
):
    settings = table.to(tl.pointer_type(tl.float64), bitcast=True)
    last = tl.load(table)
    unit = tl.load(settings + 1).to(REAL)
    tolerance = tl.load(settings + 2)
    field = table + HEADER + tl.program_id(0) * FIELDS
    n = tl.load(field)
    m = tl.load(field + 1)
    cost = tl.load(field + 2).to(tl.pointer_type(REAL))
    plan = tl.load(field + 3).to(tl.pointer_type(REAL))
    rows = tl.load(field + 4).to(tl.pointer_type(REAL))
    columns = tl.load(field + 5).to(tl.pointer_type(REAL))
    facts = tl.load(field + 6).to(tl.pointer_type(tl.float64))

    lowest = _lowest(cost, n * m, ROWS * COLUMNS, REAL)
    step = 0
    while step < last:
        step += 1
        # Nothing has written the potentials before the first step: there they count as 0.
        known = step > 1
        wrong = _fit(cost, lowest, 1, m, columns, rows, m, n, known, known, unit, COLUMNS, ROWS, DEEPEST, LOWEST, REAL)
        _fit(cost, lowest, m, 1, rows, columns, n, m, known, True, unit, ROWS, COLUMNS, DEEPEST, LOWEST, REAL)
        last = tl.where((step % 10 == 0) & (wrong < tolerance), step, last)
    spoilt, row_reach = _spread(cost, lowest, plan, rows, columns, n, m, unit, ROWS, COLUMNS, DEEPEST, REAL)
    error, column_reach = _finish(plan, lowest, columns, n, m, ROWS, COLUMNS, REAL)
    tl.store(facts, step)
    tl.store(facts + 1, error)
    tl.store(facts + 2, spoilt)
    tl.store(facts + 3, (row_reach + column_reach) / unit)


@triton.jit
def _lowest(cost, count, SPAN: tl.constexpr, REAL: tl.constexpr):
    """The least cost, which counts as 0: a constant added to all of them changes no plan, but takes digits from it."""
    lanes = tl.arange(0, SPAN)
    lowest = tl.full((SPAN,), float("inf"), REAL)
    for start in range(0, count, SPAN):
        lowest = tl.minimum(lowest, tl.load(cost + start + lanes, start + lanes < count, float("inf")))
    return tl.min(lowest, 0)


@triton.jit
def _fit(
    cost,
    lowest,
    own_stride,
    other_stride,
    own,
    other,
    own_count,
    other_count,
    own_known,
    other_known,
    unit,
    OWN: tl.constexpr,
    OTHER: tl.constexpr,
    DEEPEST: tl.constexpr,
    LOWEST: tl.constexpr,
    REAL: tl.constexpr,
):
    """Fits the potentials of one side to those of the other, and tells what mass was in a wrong place."""
    # The new potential of row i is -unit * log2(n * sum_j 2^((other_j - cost_ij) / unit)). The sum is taken tile by
    # tile, relative to the largest exponent so far, so that no power overflows and the costs are read only once.
    lanes = tl.arange(0, OWN)
    others = tl.arange(0, OTHER)
    offsets = lanes[:, None] * own_stride + others[None, :] * other_stride
    scale = 1 / unit
    wrong = tl.full((), 0, REAL)
    for start in range(0, own_count, OWN):
        mine = start + lanes < own_count
        largest = tl.full((OWN, OTHER), LOWEST, REAL)
        total = tl.zeros((OWN, OTHER), REAL)
        for begin in range(0, other_count, OTHER):
            theirs = begin + others < other_count
            inside = mine[:, None] & theirs[None, :]
            price = tl.load(cost + start * own_stride + begin * other_stride + offsets, inside, 0) - lowest
            potential = tl.load(other + begin + others, theirs & other_known, 0)
            exponent = tl.where(inside, (potential[None, :] - price) * scale, LOWEST)
            # Each lane keeps the largest exponent that it has met, and a sum in units of its power: one power for each
            # cost, and no lane waits for another before the last tile.
            power = tl.exp2(tl.maximum(-tl.abs(exponent - largest), DEEPEST))
            total = tl.where(exponent > largest, total * power + 1, total + power)
            largest = tl.maximum(largest, exponent)
        top = tl.max(largest, 1)
        total = tl.sum(total * tl.exp2(tl.maximum(largest - top[:, None], DEEPEST)), 1)
        fitted = -(tl.log2(own_count.to(REAL)) + tl.log2(total) + top) * unit
        before = tl.load(own + start + lanes, mine & own_known, 0)
        wrong += tl.sum(tl.where(mine, tl.abs(tl.exp2((before - fitted) * scale) - 1), 0))
        # Several threads hold the same potential: all have to have read it before one writes it.
        tl.debug_barrier()
        tl.store(own + start + lanes, fitted, mine)
    tl.debug_barrier()
    return wrong / own_count.to(REAL)


@triton.jit
def _spread(
    cost,
    lowest,
    plan,
    rows,
    columns,
    n,
    m,
    unit,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEEPEST: tl.constexpr,
    REAL: tl.constexpr,
):
    """Writes the plan, counts the costs that are no numbers, and tells the largest potential of a row."""
    i = tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    offsets = i[:, None] * m + j[None, :]
    scale = 1 / unit
    spoilt = tl.full((), 0, tl.int32)
    reach = tl.full((), 0, REAL)
    for start in range(0, n, ROWS):
        high = start + i < n
        row = tl.load(rows + start + i, high, 0)
        reach = tl.maximum(reach, tl.max(tl.abs(row), 0))
        # Potentials are rounded, and a row's sum with them: the first round finds the sum that the second divides by.
        norm = tl.full((ROWS,), 1, REAL)
        for final in range(2):
            total = tl.zeros((ROWS,), REAL)
            for begin in range(0, m, COLUMNS):
                wide = begin + j < m
                inside = high[:, None] & wide[None, :]
                corner = start * m + begin
                price = tl.load(cost + corner + offsets, inside, 0) - lowest
                column = tl.load(columns + begin + j, wide, 0)
                exponent = (row[:, None] + column[None, :] - price) * scale
                share = tl.where(inside & (exponent >= DEEPEST), tl.exp2(exponent), 0)
                total += tl.sum(share, 1)
                tl.store(plan + corner + offsets, share / norm[:, None], inside & (final == 1))
                spoilt += tl.sum((tl.abs(price) < float("inf")).to(tl.int32) ^ 1) * final
            norm = tl.where(high, total * n.to(REAL), 1)
    tl.debug_barrier()
    return spoilt, reach


@triton.jit
def _finish(plan, lowest, columns, n, m, ROWS: tl.constexpr, COLUMNS: tl.constexpr, REAL: tl.constexpr):
    """Tells the plan's error and the largest potential of a column, to which the least cost is then added."""
    i = tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    offsets = i[:, None] * m + j[None, :]
    error = tl.full((), 0, tl.float64)
    reach = tl.full((), 0, REAL)
    for begin in range(0, m, COLUMNS):
        wide = begin + j < m
        total = tl.zeros((COLUMNS,), tl.float64)
        for start in range(0, n, ROWS):
            inside = (start + i < n)[:, None] & wide[None, :]
            total += tl.sum(tl.load(plan + start * m + begin + offsets, inside, 0).to(tl.float64), 0)
        error += tl.sum(tl.where(wide, tl.abs(total - 1 / m.to(tl.float64)), 0), 0)
        column = tl.load(columns + begin + j, wide, 0)
        reach = tl.maximum(reach, tl.max(tl.abs(column), 0))
        # Several threads hold the same potential: all have to have read it before one writes it.
        tl.debug_barrier()
        tl.store(columns + begin + j, column + lowest, wide)
    return error, reach
