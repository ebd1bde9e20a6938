"""The launches of `hetlib.kernels.mmd`: three forward and one backward, however many pairs of features there are.

Here distances are sums of squared differences, not read off a Gram: they are exact where features nearly agree, which
in float32 a Gram's are not, and the narrowest kernel looks at nothing else. A program compares a tile of rows with
another. Nothing is added atomically, so the same features always give the same bits.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, DEPTH = 16, 32
"""Rows of a tile, and features of these that are compared at a time."""
WIDTH = 64
"""Features of a row whose gradient a program writes."""
FIELDS = 5
"""Numbers that describe a pair: where its networks' features are, where their gradients go, how many features."""
SHORTEST = 1e-12
"""The least length that a row is divided by."""


def forward(rows: Sequence[Tensor], sigmas: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Discrepancies (P,), and for each pair the matrix that times its rows is the gradient, (P, 2N, 2N).

    Parameters
    ----------
    rows : sequence of Tensor of shape (N, features)
        x0, y0, x1, y1, ...: contiguous, of one dtype, float32 or float64, and one device.
    sigmas : sequence of float
        Bandwidths.
    """
    pairs, samples, device, dtype = len(rows) // 2, len(rows[0]), rows[0].device, rows[0].dtype
    count, tiles = 2 * samples, triton.cdiv(2 * samples, ROWS)
    table, settings = _table(rows, rows), torch.tensor([-0.5 / sigma**2 for sigma in sigmas], dtype=torch.float64)
    inverse = torch.empty(pairs, count, dtype=dtype, device=device)
    coefficients = torch.empty(pairs, count, count, dtype=dtype, device=device)
    along = torch.empty(pairs, count, tiles, dtype=dtype, device=device)
    values = torch.empty(pairs, tiles, tiles, dtype=dtype, device=device)
    found = torch.empty(pairs, dtype=dtype, device=device)
    options = _options(dtype, count)
    with torch.cuda.device_of(found):
        _lengths[(pairs * count,)](table, inverse, SHORTEST=SHORTEST, **options)
        factors = _moved(settings, device)
        compared = {"SIGMAS": len(sigmas), "TILES": tiles, "ROWS": ROWS, "DEPTH": DEPTH, "LONGEST": 0.5 / SHORTEST}
        _compare[(pairs * tiles * tiles,)](table, factors, inverse, coefficients, along, values, **compared, **options)
        summed = {"TILES": tiles, "SLOTS": triton.next_power_of_2(tiles), "LANES": triton.next_power_of_2(count)}
        _finish[(pairs,)](inverse, coefficients, along, values, found, **summed, **options)
    return found, coefficients


def backward(rows: Sequence[Tensor], coefficients: Tensor, grads: Tensor) -> list[Tensor]:
    """The gradients of all rows, from those of the discrepancies (P,)."""
    changes = [torch.empty_like(each) for each in rows]
    count, widest = coefficients.shape[1], max(each.shape[1] for each in rows)
    blocks, tiles = triton.cdiv(widest, WIDTH), triton.cdiv(count, ROWS)
    options = _options(coefficients.dtype, count) | {"TILES": tiles, "BLOCKS": blocks, "ROWS": ROWS, "WIDTH": WIDTH}
    with torch.cuda.device_of(coefficients):
        programs = (len(coefficients) * tiles * blocks,)
        _gradient[programs](_table(rows, changes), coefficients, grads.contiguous(), **options)
    return changes


def _options(dtype: torch.dtype, count: int) -> dict[str, Any]:
    return {"FIELDS": FIELDS, "COUNT": count, "REAL": getattr(tl, str(dtype).removeprefix("torch."))}


def _table(rows: Sequence[Tensor], changes: Sequence[Tensor]) -> Tensor:
    fields = [
        (x.data_ptr(), y.data_ptr(), dx.data_ptr(), dy.data_ptr(), x.shape[1])
        for x, y, dx, dy in zip(rows[::2], rows[1::2], changes[::2], changes[1::2], strict=True)
    ]
    return _moved(torch.tensor(fields), rows[0].device)


def _moved(numbers: Tensor, device: torch.device) -> Tensor:
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers


@triton.jit
def _places(field, rows, width, COUNT: tl.constexpr, REAL: tl.constexpr):
    """Where rows of a pair begin: the first half are the one network's, the second half the other's."""
    own = tl.load(field).to(tl.pointer_type(REAL))
    other = tl.load(field + 1).to(tl.pointer_type(REAL))
    half: tl.constexpr = COUNT // 2
    return tl.where(rows < half, own + rows * width, other + (rows - half) * width)


@triton.jit
def _lengths(table, inverse, SHORTEST: tl.constexpr, FIELDS: tl.constexpr, COUNT: tl.constexpr, REAL: tl.constexpr):
    program = tl.program_id(0)
    field = table + program // COUNT * FIELDS
    width = tl.load(field + 4)
    place = _places(field, program % COUNT, width, COUNT, REAL)
    lanes = tl.arange(0, 256)
    total = tl.zeros((256,), REAL)
    for start in range(0, width, 256):
        value = tl.load(place + start + lanes, start + lanes < width, 0)
        total += value * value
    tl.store(inverse + program, 1 / tl.maximum(tl.sqrt(tl.sum(total, 0)), SHORTEST))


@triton.jit
def _compare(
    table,
    factors,
    inverse,
    coefficients,
    along,
    values,
    SIGMAS: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    LONGEST: tl.constexpr,
    FIELDS: tl.constexpr,
    COUNT: tl.constexpr,
    REAL: tl.constexpr,
):
    program = tl.program_id(0)
    pair = program // (TILES * TILES)
    tile_i = program // TILES % TILES
    tile_j = program % TILES
    field = table + pair * FIELDS
    width = tl.load(field + 4)
    i = tile_i * ROWS + tl.arange(0, ROWS)
    j = tile_j * ROWS + tl.arange(0, ROWS)
    inside_i = i < COUNT
    inside_j = j < COUNT
    inverse_i = tl.load(inverse + pair * COUNT + i, inside_i, 0)
    inverse_j = tl.load(inverse + pair * COUNT + j, inside_j, 0)
    place_i = _places(field, tl.minimum(i, COUNT - 1), width, COUNT, REAL)
    place_j = _places(field, tl.minimum(j, COUNT - 1), width, COUNT, REAL)
    lanes = tl.arange(0, DEPTH)
    distance = tl.zeros((ROWS, ROWS), REAL)
    for start in range(0, width, DEPTH):
        there = (start + lanes < width)[None, :]
        u = tl.load(place_i[:, None] + (start + lanes)[None, :], there, 0) * inverse_i[:, None]
        v = tl.load(place_j[:, None] + (start + lanes)[None, :], there, 0) * inverse_j[:, None]
        apart = u[:, None, :] - v[None, :, :]
        distance += tl.sum(apart * apart, 2)
    value = tl.zeros((ROWS, ROWS), REAL)
    slope = tl.zeros((ROWS, ROWS), REAL)
    for number in tl.static_range(SIGMAS):
        factor = tl.load(factors + number).to(REAL)
        power = tl.exp(distance * factor)
        value += power
        slope += power * factor
    half: tl.constexpr = COUNT // 2
    side = tl.where((i < half)[:, None] == (j < half)[None, :], 1.0, -1.0).to(REAL) / (half * half)
    inside = inside_i[:, None] & inside_j[None, :]
    side = tl.where(inside, side, 0)
    tl.store(values + program, tl.sum(tl.sum(value * side, 1), 0))
    # Times the other row's unit vector this is the gradient, but for its part along the row itself: see `_from_grams`.
    # What a row does to itself cancels, but not in float32: its slope is up to half a million.
    slope = tl.where(i[:, None] == j[None, :], 0, -4 * slope * side)
    # A row of zeros has no direction: its square is 0, not 1.
    square_i = (inverse_i < LONGEST).to(REAL)
    square_j = (inverse_j < LONGEST).to(REAL)
    straight = tl.sum(slope * (square_i[:, None] + square_j[None, :] - distance) / 2, 1)
    tl.store(along + (pair * COUNT + i) * TILES + tile_j, straight, inside_i)
    corner = coefficients + pair.to(tl.int64) * COUNT * COUNT
    tl.store(corner + i[:, None] * COUNT + j[None, :], slope * inverse_i[:, None] * inverse_j[None, :], inside)


@triton.jit
def _finish(
    inverse,
    coefficients,
    along,
    values,
    found,
    TILES: tl.constexpr,
    SLOTS: tl.constexpr,
    LANES: tl.constexpr,
    FIELDS: tl.constexpr,
    COUNT: tl.constexpr,
    REAL: tl.constexpr,
):
    pair = tl.program_id(0)
    slots = tl.arange(0, SLOTS)
    lanes = tl.arange(0, LANES)
    total = tl.zeros((SLOTS,), REAL)
    straight = tl.zeros((LANES,), REAL)
    for tile in range(TILES):
        total += tl.load(values + (pair * TILES + tile) * TILES + slots, slots < TILES, 0)
        straight += tl.load(along + (pair * COUNT + lanes) * TILES + tile, lanes < COUNT, 0)
    tl.store(found + pair, tl.sum(total, 0))
    scale = tl.load(inverse + pair * COUNT + lanes, lanes < COUNT, 0)
    diagonal = coefficients + pair.to(tl.int64) * COUNT * COUNT + lanes * (COUNT + 1)
    tl.store(diagonal, tl.load(diagonal, lanes < COUNT, 0) - straight * scale * scale, lanes < COUNT)


@triton.jit
def _gradient(
    table,
    coefficients,
    grads,
    TILES: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    FIELDS: tl.constexpr,
    COUNT: tl.constexpr,
    REAL: tl.constexpr,
):
    program = tl.program_id(0)
    pair = program // (TILES * BLOCKS)
    field = table + pair * FIELDS
    width = tl.load(field + 4)
    i = program // BLOCKS % TILES * ROWS + tl.arange(0, ROWS)
    columns = program % BLOCKS * WIDTH + tl.arange(0, WIDTH)
    inside_i = i < COUNT
    within = columns < width
    corner = coefficients + pair.to(tl.int64) * COUNT * COUNT
    total = tl.zeros((ROWS, WIDTH), REAL)
    for j in range(COUNT):
        coefficient = tl.load(corner + i * COUNT + j, inside_i, 0)
        row = tl.load(_places(field, j, width, COUNT, REAL) + columns, within, 0)
        total += coefficient[:, None] * row[None, :]
    total *= tl.load(grads + pair)
    place = _places(field + 2, tl.minimum(i, COUNT - 1), width, COUNT, REAL)
    tl.store(place[:, None] + columns[None, :], total, inside_i[:, None] & within[None, :])
