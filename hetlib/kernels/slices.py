"""A weight put together from the slices of two others."""

from torch import Tensor


def gather_slices(weight: Tensor, ground: Tensor, index: Tensor) -> Tensor:
    """Take every slice of a new weight from one of two.

    Parameters
    ----------
    weight : Tensor of shape (O, I, ...)
        Its slices have numbers 0 to O * I - 1, row by row.
    ground : Tensor of shape (P, J, ...)
        Its slices follow, with the same trailing axes.
    index : Tensor of shape (M, N)
        int64, the number of the slice in every place; on the CPU it costs no synchronisation.

    Returns
    -------
    Tensor of shape (M, N, ...)
        Of the type and device of `weight`.

    Raises
    ------
    ValueError
        If the slices differ in shape.
    """
    if weight.shape[2:] != ground.shape[2:]:
        raise ValueError(f"slices of shapes {tuple(weight.shape)} and {tuple(ground.shape)} cannot be mixed")
    slices, others = (tensor.flatten(2).flatten(0, 1) for tensor in (weight, ground))
    numbers = index.flatten().cpu()
    of_weight = numbers < len(slices)
    take = lambda pool, chosen: pool.index_select(0, chosen.to(pool.device))
    if of_weight.all():
        out = take(slices, numbers)
    else:
        # Twice over some places: cheaper than to join both weights, which takes as much memory again.
        out = take(others, (numbers - len(slices)).clamp_(min=0)).to(weight)
        places = of_weight.nonzero().squeeze(1)
        out.index_copy_(0, places.to(out.device), take(slices, numbers[places]))
    return out.view(*index.shape, *weight.shape[2:])
