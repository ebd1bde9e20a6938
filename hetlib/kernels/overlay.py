"""A tensor laid centrally over another of any shape: what fits is taken, the rest stays."""

from torch import Tensor


def overlay(weight: Tensor, target: Tensor) -> Tensor:
    """Lay a weight over a target, along every axis centred: cropped where it is larger, a part where it is smaller.

    Parameters
    ----------
    weight, target : Tensor
        With as many axes each; unchanged.

    Returns
    -------
    Tensor
        Shape, type and device of `target`.

    Raises
    ------
    ValueError
        If they differ in their numbers of axes.

    References
    ----------
    ClipTransfer of DPIAT's released code (KamilPiechowiak/iatransfer); TLI's injection is the same.
    """
    here, there = tuple(weight.shape), tuple(target.shape)
    if len(here) != len(there):
        raise ValueError(f"a weight of shape {here} cannot be laid over one of shape {there}: other numbers of axes")
    taken, place = [], []
    for have, want in zip(here, there, strict=True):
        low, margin, size = max(0, have - want) // 2, max(0, want - have) // 2, min(have, want)
        taken.append(slice(low, low + size))
        place.append(slice(margin, margin + size))
    out = target.clone()
    out[tuple(place)] = weight[tuple(taken)].to(out)
    return out
