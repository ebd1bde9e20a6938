"""How much of every unit moves onto which: exact transport plans, and entropic ones, all with uniform marginals."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from math import fsum, gcd, inf, log, log2
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

PIVOTS = 2**40
"""How many pivots the network simplex may take; its own 100,000 end 2,048 units before the optimum."""
LN2 = log(2.0)
DEEPEST = -87.0 / LN2
"""The least exponent of two that is taken as it is: below -126 a float32 power is no normal number."""


def transport_plan(cost: Tensor) -> Tensor:
    """Move n units onto m at the least total cost, each unit holding an equal share of the mass.

    Parameters
    ----------
    cost : Tensor of shape (n, m)

    Returns
    -------
    Tensor of shape (n, m)
        Rows sum to 1 / n, columns to 1 / m. Found in float64; in the dtype of the cost, or float64 if that is whole
        numbers, and on its device. Equal widths give a permutation over n: the identity if nothing is cheaper, as
        where the costs of a layer of zeros are all alike. Unequal ones give at most n + m - 1 entries that are not 0.

    Raises
    ------
    ValueError
        If the cost is no matrix, is empty, or holds NaN or infinity.
    RuntimeError
        If the network simplex reports that it did not reach the optimum.

    References
    ----------
    Singh and Jaggi, *Model Fusion via Optimal Transport*, NeurIPS 2020. Crouse's assignment (SciPy) at equal widths,
    Bonneel's network simplex (POT) at unequal ones.
    """
    if cost.ndim != 2 or not cost.numel():
        raise ValueError(f"a cost of shape {tuple(cost.shape)} is no matrix of n by m units")
    matrix = np.ascontiguousarray(cost.detach().to("cpu", torch.float64).numpy())
    if not np.isfinite(matrix).all():
        raise ValueError("the cost holds NaN or infinity")
    plan = _assignment(matrix) if len(matrix) == matrix.shape[1] else _flow(matrix)
    return torch.from_numpy(plan).to(cost.device, cost.dtype if cost.is_floating_point() else None)


def transport_plans(costs: Sequence[Tensor], threads: int | None = None) -> list[Tensor]:
    """`transport_plan` of every cost, several at a time: the solvers let go of Python's lock.

    Parameters
    ----------
    costs : sequence of Tensors of shape (n, m)
        Of any sizes; the largest are begun first.
    threads : int, optional
        How many are solved at a time, by default as many as this process may use cores.

    Returns
    -------
    list of Tensors of shape (n, m)

    Raises
    ------
    ValueError, RuntimeError
        As `transport_plan` does.
    """
    largest_first = sorted(range(len(costs)), key=lambda i: -costs[i].numel())
    with ThreadPoolExecutor(threads or _cores()) as pool:
        running = {i: pool.submit(transport_plan, costs[i]) for i in largest_first}
        return [running[i].result() for i in range(len(costs))]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _assignment(cost: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cost)
    # fsum rounds once, so that sums of equal numbers in another order are equal.
    if fsum(cost.diagonal().tolist()) <= fsum(cost[rows, columns].tolist()):
        columns = rows
    plan = np.zeros_like(cost)
    plan[rows, columns] = 1 / len(cost)
    return plan


def _flow(cost: np.ndarray) -> np.ndarray:
    from ot.lp import emd

    n, m = cost.shape
    common = gcd(n, m)
    # The solver calls costs below 0 infeasible and stops early where they are tiny. Whole numbers of mass move without
    # rounding.
    cost = cost - cost.min()
    cost /= cost.max() or 1.0
    plan, outcome = emd(np.full(n, m / common), np.full(m, n / common), cost, numItermax=PIVOTS, log=True)
    if outcome["warning"]:
        raise RuntimeError(f"no optimal plan of {n} by {m} units: {outcome['warning']}")
    return plan / (n * m / common)


class Entropic(NamedTuple):
    """What `sinkhorn` finds.

    Attributes
    ----------
    plan : Tensor of shape (..., n, m)
        ``exp((rows_i + columns_j - cost_ij) / reg)``.
    rows, columns : Tensor of shape (..., n) and (..., m)
        The potentials, in units of the cost.
    iterations : int
        How many were run.
    error : float
        Mass that was in the wrong column before the last iteration, of a total of 1; the largest of a batch.
    """

    plan: Tensor
    rows: Tensor
    columns: Tensor
    iterations: int
    error: float


@torch.no_grad()
def sinkhorn(
    cost: Tensor, reg: float, iterations: int = 1000, *, tolerance: float = 1e-4, clamp: bool = True
) -> Entropic:
    """Entropic transport between uniform marginals, in the log domain.

    An iteration fits the columns and then the rows, so the rows always sum to 1 / n. No gradients are kept.

    Parameters
    ----------
    cost : Tensor of shape (..., n, m)
        Leading axes are independent problems, which run until the last of them is done.
    reg : float
        Weight of the entropy, in units of the cost.
    iterations : int
        At most so many.
    tolerance : float
        Stop when, of a total of 1, less mass than this is in a wrong column; looked at in every tenth iteration. With
        0 all iterations are run. In float32 the error ends near ``1e-7 * cost.max() / reg``: ask for less in float64.
    clamp : bool
        Take exponents below -87, whose exponentials add nothing to a sum of at least 1, as -87. The result is the same;
        without it powers that underflow take several times as long on a CPU, and natural exponentials 50 times.

    Returns
    -------
    Entropic
        In the cost's dtype, float32 at least. Not to have converged is no error: look at `iterations` and `error`.

    Raises
    ------
    ValueError
        If the cost is no matrix, is empty or holds NaN or infinity, `reg` is not above 0, or `iterations` is below 1.

    References
    ----------
    Cuturi, *Sinkhorn Distances*, NIPS 2013; stabilised as in Feydy et al., AISTATS 2019.
    """
    if cost.ndim < 2 or not cost.numel() or not cost.isfinite().all():
        raise ValueError(f"a cost of shape {tuple(cost.shape)} is no matrix of n by m units, or holds NaN or infinity")
    _check(reg, iterations)
    *_, n, m = cost.shape
    # Powers of two throughout: torch takes them four times as fast as natural exponentials.
    logs = cost.to(torch.promote_types(cost.dtype, torch.float32)) / (-reg * LN2)
    rows, columns = logs.new_zeros(*logs.shape[:-1], 1), logs.new_zeros(*logs.shape[:-2], 1, m)
    room, error, step = torch.empty_like(logs), inf, 0
    for step in range(1, iterations + 1):
        fitted = -log2(m) - _log_sum(torch.add(logs, rows, out=room), -2, clamp)
        if step % 10 == 0 or step == iterations:
            error = float((columns - fitted).exp2_().sub_(1).abs_().sum(-1).max() / m)
        columns = fitted
        rows = -log2(n) - _log_sum(torch.add(logs, columns, out=room), -1, clamp)
        if error < tolerance:
            break
    exponents = torch.add(logs, rows, out=room).add_(columns)
    plan = _power(exponents.clone(), clamp).masked_fill_(exponents < DEEPEST, 0)
    return Entropic(plan, rows.squeeze(-1) * (reg * LN2), columns.squeeze(-2) * (reg * LN2), step, error)


def sinkhorns(
    costs: Sequence[Tensor], reg: float, iterations: int = 1000, *, tolerance: float = 1e-4
) -> list[Entropic]:
    """`sinkhorn` of every cost, whatever their sizes: on a GPU, all iterations of all of them in one Triton launch.

    There one program works on one cost until this one is done, reads it twice in every iteration, the L2 cache mostly
    holding it, and writes the plan. The host waits once, for the numbers of iterations and the errors. Costs on several
    devices, or of float64 beside others, take a launch each. On the CPU, and on a GPU without Triton, they are solved
    one after the other.

    Parameters
    ----------
    costs : sequence of Tensors of shape (n, m)
    reg, iterations, tolerance
        As `sinkhorn` takes them. Each problem stops by itself, in every tenth iteration.

    Returns
    -------
    list of Entropic
        Potentials of a launch are `sinkhorn`'s but for rounding: within 1e-5 for costs and a `reg` up to 1 in float32.

    Raises
    ------
    ValueError
        As `sinkhorn` does, or if a cost has more than two axes.
    """
    for cost in costs:
        if cost.ndim != 2 or not cost.numel():
            raise ValueError(f"a cost of shape {tuple(cost.shape)} is no matrix of n by m units")
    _check(reg, iterations)
    if costs and all(_on_gpu(cost) for cost in costs):
        from hetlib.kernels import transport_triton

        return transport_triton.solve(costs, reg, iterations, tolerance)
    return [sinkhorn(cost, reg, iterations, tolerance=tolerance) for cost in costs]


def _check(reg: float, iterations: int) -> None:
    if not reg > 0 or iterations < 1:
        raise ValueError(f"reg {reg} is not above 0, or iterations {iterations} below 1")


def _on_gpu(cost: Tensor) -> bool:
    return cost.is_cuda and find_spec("triton") is not None


def _log_sum(exponents: Tensor, axis: int, clamp: bool) -> Tensor:
    """The logarithm of the sum of powers of two along an axis that stays, in place of the exponents."""
    largest = exponents.amax(axis, keepdim=True)
    return _power(exponents.sub_(largest), clamp).sum(axis, keepdim=True).log2_().add_(largest)


def _power(exponents: Tensor, clamp: bool) -> Tensor:
    return (exponents.clamp_(min=DEEPEST) if clamp else exponents).exp2_()
