"""Entropic transport plans by Sinkhorn iterations in the log domain."""

from math import inf, log, log2
from typing import NamedTuple

import torch
from torch import Tensor

from hetlib.checks import check_real
from hetlib.errors import finite, positive

LN2 = log(2.0)
DEEPEST = -87.0 / LN2
"""The least exponent of two that is taken as it is: below -126 a float32 power is no normal number."""
COARSEST = 1e-3
"""Share of an entry of the plan by which the rounding of its potentials may change it."""


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
        Mass in the wrong column of this very plan, of a total of 1; the largest of a batch.
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

    An iteration fits the columns and then the rows, so the rows always sum to 1 / n. A constant added to all costs
    changes no plan and takes no precision: costs are compared with the least one. Potentials that are large beside
    `reg` do: where rounding them may change an entry of the plan by more than 0.1 %, float32 costs are solved again in
    float64. No gradients are kept.

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
        0 all iterations are run. In float32 the error ends near ``1e-7 * (cost.max() - cost.min()) / reg``: ask for
        less in float64.
    clamp : bool
        Take exponents below -87, whose exponentials add nothing to a sum of at least 1, as -87. The result is the same;
        without it powers that underflow take several times as long on a CPU, and natural exponentials 50 times.

    Returns
    -------
    Entropic
        In the cost's dtype, float32 at least, or float64 if that is whole numbers. Not to have converged is no error:
        look at `iterations` and `error`.

    Raises
    ------
    ValueError
        If the cost is no matrix, is empty, holds NaN or infinity or differences beyond its dtype, `reg` is not above 0
        or beyond the dtype, `iterations` is below 1, or float64 is too coarse for such costs at this `reg`.
    TypeError
        If the cost is complex.

    References
    ----------
    Cuturi, *Sinkhorn Distances*, NIPS 2013; stabilised as in Feydy et al., AISTATS 2019.
    """
    check_real("the cost", cost)
    finite("tolerance", tolerance, 0)
    if cost.ndim < 2 or not cost.numel():
        raise ValueError(f"a cost of shape {tuple(cost.shape)} is no matrix of n by m units")
    real = _check(cost.dtype, reg, iterations)
    wide = cost.to(real)
    lowest = wide.amin((-2, -1), keepdim=True)
    logs = wide - lowest
    if not logs.isfinite().all():
        raise ValueError(f"a cost of shape {tuple(cost.shape)} holds NaN or infinity, or differences beyond {real}")
    # Powers of two throughout: torch takes them four times as fast as natural exponentials.
    logs /= -reg * LN2
    rows, columns, step = _iterate(logs, iterations, tolerance, clamp)
    reach = rows.abs().amax((-2, -1)) + columns.abs().amax((-2, -1))
    if _is_coarse(cost.shape, real, reg, float(reach.max())):
        return _narrow(sinkhorn(cost.double(), reg, iterations, tolerance=tolerance, clamp=clamp), real)
    exponents = logs.add_(rows).add_(columns)
    plan = _power(exponents.clone(), clamp).masked_fill_(exponents < DEEPEST, 0)
    # Potentials are rounded, and a row's sum with them.
    plan /= plan.sum(-1, keepdim=True) * plan.shape[-2]
    rows, columns = rows * (reg * LN2), columns * (reg * LN2) + lowest
    return Entropic(plan, rows.squeeze(-1), columns.squeeze(-2), step, _error(plan))


def _check(dtype: torch.dtype, reg: float, iterations: int) -> torch.dtype:
    """The dtype of the results, in which `reg` can be divided by."""
    finite("reg", reg, above=0)
    positive("iterations", iterations)
    real = torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else torch.float64
    tiny = torch.finfo(real).tiny
    if not tiny <= reg * LN2 <= 1 / tiny or iterations < 1:
        raise ValueError(f"reg {reg} is not above 0 and in the range of {real}, or iterations {iterations} below 1")
    return real


def _iterate(logs: Tensor, iterations: int, tolerance: float, clamp: bool) -> tuple[Tensor, Tensor, int]:
    """The potentials of rows and columns, as powers of two, and the number of iterations."""
    *batch, n, m = logs.shape
    rows, columns = logs.new_zeros(*batch, n, 1), logs.new_zeros(*batch, 1, m)
    room, wrong, step = torch.empty_like(logs), inf, 0
    for step in range(1, iterations + 1):
        fitted = -log2(m) - _log_sum(torch.add(logs, rows, out=room), -2, clamp)
        if step % 10 == 0:
            wrong = float((columns - fitted).exp2_().sub_(1).abs_().sum(-1).max() / m)
        columns = fitted
        rows = -log2(n) - _log_sum(torch.add(logs, columns, out=room), -1, clamp)
        if wrong < tolerance:
            break
    return rows, columns, step


def _is_coarse(shape: torch.Size, real: torch.dtype, reg: float, reach: float) -> bool:
    """Whether a dtype is too coarse for potentials whose largest ones, of rows and of columns, add up to `reach`."""
    # An entry's exponent is a sum of potentials and a cost that mostly cancel, each rounded. NaN is coarse as well.
    if reach * LN2 * torch.finfo(real).eps <= COARSEST:
        return False
    if real == torch.float64:
        raise ValueError(f"float64 is too coarse for a cost of shape {tuple(shape)} at reg {reg}: take a larger reg")
    return True


def _narrow(found: Entropic, real: torch.dtype) -> Entropic:
    """What was found in float64, in another dtype."""
    plan = found.plan.to(real)
    return Entropic(plan, found.rows.to(real), found.columns.to(real), found.iterations, _error(plan))


def _error(plan: Tensor) -> float:
    return float((plan.sum(-2, dtype=torch.float64) - 1 / plan.shape[-1]).abs().sum(-1).max())


def _log_sum(exponents: Tensor, axis: int, clamp: bool) -> Tensor:
    """The logarithm of the sum of powers of two along an axis that stays, in place of the exponents."""
    largest = exponents.amax(axis, keepdim=True)
    return _power(exponents.sub_(largest), clamp).sum(axis, keepdim=True).log2_().add_(largest)


def _power(exponents: Tensor, clamp: bool) -> Tensor:
    return (exponents.clamp_(min=DEEPEST) if clamp else exponents).exp2_()
