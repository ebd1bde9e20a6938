"""Costs and plans of transport beside what they replace: broadcasting, POT's solvers, one layer after the other."""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import ot
import torch
from torch import Tensor

from benchmarks.harness import Bar, faster, milliseconds, within, without_bar
from hetlib.kernels import transport_plan
from hetlib.kernels.costs import cost_matrix
from hetlib.kernels.sinkhorn import sinkhorn
from hetlib.kernels.transport import transport_plans

LAYERS = [64] * 7 + [128] * 9 + [256] * 13 + [512] * 7
"""Widths of a ResNet-34's 36 convolutions."""
ITERATIONS = 50
IDLE = 1.8
"""Both cores count as idle where two threads do what touches no memory so many times as fast as one; twice is all."""


def run() -> Iterator[Bar]:
    """Measure the bars of cost matrices, exact plans and entropic ones."""
    yield from costs()
    yield from plans()
    yield layers()
    yield from entropic()


def costs() -> list[Bar]:
    """All distances between 256 and 256 rows of 2,304 weights."""
    x, y = draw(256, 2304), draw(256, 2304, seed=1)
    ours = lambda: cost_matrix(x, y)
    broadcast = lambda: (x.unsqueeze(1) - y).abs().pow(2).sum(2).sqrt()  # as the released code writes |x - y|^p
    torch.testing.assert_close(ours(), broadcast(), rtol=1e-5, atol=1e-4)
    measured, product = milliseconds(ours, lambda: x @ y.T, repeats=21)
    # One call in a row of ten, as there are many layers: the first finds no cache after gigabytes of broadcasting.
    ten, slow = milliseconds(lambda: [ours() for _ in range(10)], broadcast, repeats=7)
    name, how = "cost matrix 256 x 256, d = 2,304", "centred, one product"
    return [
        faster(name, how, "broadcast over rows, columns, features", ten / 10, slow, 200),
        within(name, how, "the bare product", measured, product, 1.5),
    ]


def plans() -> Iterator[Bar]:
    """Exact plans of matching layers, where the optimum is near a permutation, and of unrelated ones."""
    for n, at_least in ((64, 1), (256, 1), (512, 1.2), (1024, 1.2)):
        for name, noise in (("alike", 0.5), ("unrelated", None)):
            measured, reference = exact(between(n, noise))
            yield faster(f"plan {n} x {n}, {name}", "assignment", "ot.emd", measured, reference, at_least)
    measured, reference = exact(between(512, None)[:, :256], repeats=15)
    yield within("plan 512 x 256", "network simplex", "ot.emd", measured, reference, 1.15)


def exact(cost: Tensor, repeats: int = 7) -> list[float]:
    """Milliseconds of our plan and of POT's, once both are seen to cost the same."""
    ours = lambda: transport_plan(cost)
    pot = lambda: torch.from_numpy(ot.emd([], [], cost.double().numpy(), numItermax=10**9))
    totals = [(cost.double() * plan.double()).sum() for plan in (ours(), pot())]
    torch.testing.assert_close(*totals, rtol=1e-7, atol=0)
    return milliseconds(ours, pot, repeats=repeats)


def layers() -> Bar:
    """A ResNet-34's layers on two cores: time by the clock, so no bar where other work leaves less than two cores."""
    matrices = [between(n, 0.5 if i % 2 else None, seed=i) for i, n in enumerate(LAYERS)]
    several, one = (lambda threads=threads: transport_plans(matrices, threads) for threads in (2, 1))
    assert all(torch.equal(a, b) for a, b in zip(several(), one(), strict=True))
    measured, reference, apart, alone = by_the_clock(several, one, lambda: hashes(2), lambda: hashes(1))
    name, how, other = "plans of 36 layers, by the clock", "two threads", "one thread"
    if alone < IDLE * apart:
        return without_bar(name, f"{how}, cores not idle", other, measured, reference)
    return faster(name, how, other, measured, reference, 1.6)


def hashes(threads: int) -> None:
    """Work in pieces of some milliseconds that needs a core, no memory and, while it lasts, not Python's lock."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda salt: hashlib.pbkdf2_hmac("sha256", b"", bytes([salt]), 10_000), range(20)))


def entropic() -> Iterator[Bar]:
    """Iterations on costs whose exponentials underflow, beside POT in the same precision."""
    cost = between(512, None)
    cost /= cost.max()
    yield underflowing(cost, 5e-4, "torch, float32", atol=1e-5)
    yield underflowing(cost.double(), 1.25e-4, "NumPy, float64", atol=1e-9)


def underflowing(cost: Tensor, reg: float, kind: str, atol: float) -> Bar:
    """One precision, in the form POT takes it."""
    theirs = cost if cost.dtype == torch.float32 else cost.numpy()
    settings: dict[str, Any] = {"numItermax": ITERATIONS, "stopThr": 0, "log": True, "warn": False}
    ours = lambda: sinkhorn(cost, reg, ITERATIONS, tolerance=0)
    pot = lambda: ot.bregman.sinkhorn_log(theirs[:0, 0], theirs[:0, 0], theirs, reg, **settings)
    with np.errstate(over="ignore"):  # POT also returns exponentials of its potentials
        plan, facts = pot()
        for own, other in zip(ours()[:3], (plan, facts["log_u"] * reg, facts["log_v"] * reg), strict=True):
            torch.testing.assert_close(own, torch.as_tensor(other), rtol=0, atol=atol)
        measured, reference = milliseconds(ours, pot, repeats=5)
    name = f"log-Sinkhorn 512 x 512, {ITERATIONS} iterations"
    return faster(name, "clamped powers of two", f"POT's sinkhorn_log, {kind}", measured, reference, 8)


def by_the_clock(*works: Callable[[], object], repeats: int = 15) -> list[float]:
    """Median elapsed time of each, in milliseconds; they take turns."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, taken in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            taken.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(taken) for taken in times]


def between(n: int, noise: float | None, seed: int = 0) -> Tensor:
    """Distances from n units to their shuffled, noisy copies, or to other units altogether."""
    x, other = draw(n, 200, seed=seed), draw(n, 200, seed=seed + 1000)
    if noise is None:
        return cost_matrix(x, other)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return cost_matrix(x, x[order] + noise * other)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
