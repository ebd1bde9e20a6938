"""How much of every unit moves onto which: exact transport plans, and entropic ones, all with uniform marginals."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import fsum, gcd

import numpy as np
import torch
from torch import Tensor

from hetlib.checks import check_real, check_tensors
from hetlib.errors import positive

PIVOTS = 2**40
"""How many pivots the network simplex may take; its own 100,000 end 2,048 units before the optimum."""
OUTLIER = 1e6
"""Times the median, from where on a cost is cut."""
TOLERANCE = 1e-6
"""How far from the least a plan's cost may be, as a part of it."""
ROUNDING = 64 * float(np.finfo(np.float64).eps)
"""Of the largest cost at stake, what a unit's share of a total may be by rounding alone."""


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
        If the network simplex did not reach the optimum, as its own dual solution tells: where costs that matter are
        of sizes too different for float64.

    References
    ----------
    Singh and Jaggi, *Model Fusion via Optimal Transport*, NeurIPS 2020. Crouse's assignment (SciPy) at equal widths,
    Bonneel's network simplex (POT) at unequal ones.
    """
    check_real("the cost", cost)
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
    check_tensors("costs", costs, 0)
    if threads is not None:
        positive("threads", threads)
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
    n, m = cost.shape
    # The solver calls costs below 0 infeasible.
    cost = cost - cost.min()
    # It stops early where costs are tiny beside the largest one, which therefore is cut: a plan that is best then and
    # uses no cost that was cut is best.
    largest = cost.max() or 1.0
    bound = min(largest, OUTLIER * np.median(cost) or largest)
    plan, doubt = _simplex(cost, bound)
    while bound < largest and plan[cost > bound].any():
        bound = min(largest, OUTLIER * bound)
        plan, doubt = _simplex(cost, bound)
    total, mass = (plan * cost).sum(), plan.sum()
    if 0 < total < bound / OUTLIER:
        # Nor can the best plan use a cost above the whole of another plan's. A total that may be rounding alone, as
        # between layers that are equal, need not be the least.
        finer, finer_doubt = _simplex(cost, 2 * total)
        if not finer_doubt or total > ROUNDING * mass * bound:
            plan, doubt = finer, finer_doubt
    if doubt:
        raise RuntimeError(f"no optimal plan of {n} by {m} units: {doubt}")
    return plan / mass


def _simplex(cost: np.ndarray, bound: float) -> tuple[np.ndarray, str]:
    """The best plan of costs that are cut at a bound, in whole units of mass; and why it may not be the best."""
    from ot.lp import emd

    n, m = cost.shape
    common, scaled = gcd(n, m), np.minimum(cost, bound) / bound
    # Whole numbers of mass move without rounding.
    here, there = np.full(n, m / common), np.full(m, n / common)
    plan, outcome = emd(here, there, scaled, numItermax=PIVOTS, log=True)
    return plan, outcome["warning"] or _doubt(plan, scaled, outcome["u"], outcome["v"])


def _doubt(plan: np.ndarray, cost: np.ndarray, u: np.ndarray, v: np.ndarray) -> str:
    """Why a plan may not be the best; nothing where its dual solution proves that it is, but for rounding."""
    total, mass = (plan * cost).sum(), plan.sum()
    # By duality, no plan costs less than `least` if no u_i + v_j is above the cost.
    least = plan.sum(1) @ u + plan.sum(0) @ v
    excess = (u[:, None] + v - cost).max()
    if total - least <= TOLERANCE * total + ROUNDING * mass and excess <= TOLERANCE * total / mass + ROUNDING:
        return ""
    return "their costs are of sizes too different for the precision of float64"
