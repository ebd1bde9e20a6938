"""Entropic transport plans by Sinkhorn iterations in the log domain."""

from math import inf, log, log2
from typing import NamedTuple

import torch
from torch import Tensor

LN2 = log(2.0)


DEEPEST = -87.0 / LN2
"""The least exponent of two that is taken as it is: below -126 a float32 power is no normal number."""


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


def _check(reg: float, iterations: int) -> None:
    if not reg > 0 or iterations < 1:
        raise ValueError(f"reg {reg} is not above 0, or iterations {iterations} below 1")


def _log_sum(exponents: Tensor, axis: int, clamp: bool) -> Tensor:
    """The logarithm of the sum of powers of two along an axis that stays, in place of the exponents."""
    largest = exponents.amax(axis, keepdim=True)
    return _power(exponents.sub_(largest), clamp).sum(axis, keepdim=True).log2_().add_(largest)


def _power(exponents: Tensor, clamp: bool) -> Tensor:
    return (exponents.clamp_(min=DEEPEST) if clamp else exponents).exp2_()
