"""Many entropic transport plans at once."""

from collections.abc import Sequence
from importlib.util import find_spec

from torch import Tensor

from hetlib.checks import check_real
from hetlib.kernels.sinkhorn import Entropic, _check, sinkhorn


def sinkhorns(
    costs: Sequence[Tensor], reg: float, iterations: int = 1000, *, tolerance: float = 1e-4
) -> list[Entropic]:
    """`sinkhorn` of every cost, whatever their sizes: on a GPU, all iterations of all of them in one Triton launch.

    There one program works on one cost until this one is done, reads it twice in every iteration, the L2 cache mostly
    holding it, and writes the plan. The host waits once, for the numbers of iterations and the errors. Costs on several
    devices, or of float64 beside others, take a launch each, and those for which float32 is too coarse another one. On
    the CPU, and on a GPU without Triton, they are solved one after the other.

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
    ValueError, TypeError
        As `sinkhorn` does, or if a cost has more than two axes.
    """
    for cost in costs:
        check_real("the cost", cost)
        if cost.ndim != 2 or not cost.numel():
            raise ValueError(f"a cost of shape {tuple(cost.shape)} is no matrix of n by m units")
        _check(cost.dtype, reg, iterations)
    if costs and all(_on_gpu(cost) for cost in costs):
        from hetlib.kernels import sinkhorn_triton

        return sinkhorn_triton.solve(costs, reg, iterations, tolerance)
    return [sinkhorn(cost, reg, iterations, tolerance=tolerance) for cost in costs]


def _on_gpu(cost: Tensor) -> bool:
    return cost.is_cuda and find_spec("triton") is not None
