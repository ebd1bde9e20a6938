"""Weights put together from the slices of others, any number of them at once: on a GPU in one launch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 31
"""Of the reciprocals that the kernel divides by."""


@dataclass(frozen=True, eq=False)
class Fill:
    """What one tensor of a target becomes; nothing is computed before it is written.

    Attributes
    ----------
    layer : str
        Name of the target's layer that the tensor belongs to, for messages and reports.
    out : Tensor of shape (O, I, H, W), (O, I) or (O,)
        Written in place; may have any floating type, device and strides.
    weight : Tensor of shape (P, J, h, w), (P, J) or (P,)
        Its slices have numbers 0 to P * J - 1, row by row.
    resample : callable, optional
        How slices of h x w become H x W: linear, of tensors of shape (n, m, h, w). On a GPU it is called with the unit
        slices alone, which makes it a matrix. None if the sizes are equal.
    index : Tensor of shape (O, I), optional
        Whole numbers of the slices in every place, best on the CPU. None stacks cyclically:
        ``out[o, i] = weight[o % P, i % J]``.
    base : Tensor of shape (Q, R, H, W), optional
        Its slices follow those of `weight` in number and are taken as they are.
    alpha : float or Tensor of shape () or (O,)
        How much `out` keeps of its own values: ``alpha * out + (1 - alpha) * new``. 0 replaces them, 1 keeps them; a
        vector has one number per output channel.
    note : str
        What happens, in the report's words; or why the layer keeps its values.
    source : str or None
        Name of the source's layer that `weight` comes from; None where it comes from none.
    kind : {"", "convolution", "linear layer", "norm", "other"}
        What the target's layer is, for blends that tell kinds apart; empty until a blend is about to be asked.
    """

    layer: str
    out: Tensor
    weight: Tensor
    resample: Callable[[Tensor], Tensor] | None = None
    index: Tensor | None = None
    base: Tensor | None = None
    alpha: float | Tensor = 0.0
    note: str = ""
    source: str | None = None
    kind: str = ""

    @property
    def keeps(self) -> bool:
        """Whether the tensor stays as it is."""
        return not isinstance(self.alpha, Tensor) and self.alpha == 1


def keep(layer: str, out: Tensor, why: str) -> Fill:
    """A fill that changes nothing: it says in the report why a layer keeps its values."""
    return Fill(layer, out, out, alpha=1.0, note=f"kept: {why}")


def sizes(shape: Sequence[int]) -> tuple[int, int, int]:
    """Outputs, inputs and kernel area of a weight; a vector is one output."""
    return (shape[0], shape[1], math.prod(shape[2:])) if len(shape) > 1 else (1, shape[0], 1)


def resampled(fill: Fill, slices: Tensor) -> Tensor:
    """Slices of the weight's size, made the size of the output's."""
    if fill.resample is None:
        return slices
    found, wanted = fill.resample(slices), fill.out.shape[2:]
    if found.shape[2:] != wanted:
        raise ValueError(f"kernels of {tuple(slices.shape[2:])} become {tuple(found.shape[2:])}, not {tuple(wanted)}")
    return found


def gather_slices(
    weight: Tensor, base: Tensor, index: Tensor, resample: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Take every slice of a new weight from one of two.

    Parameters
    ----------
    weight : Tensor of shape (O, I, ...)
        Its slices have numbers 0 to O * I - 1, row by row.
    base : Tensor of shape (P, J, ...)
        Its slices follow.
    index : Tensor of shape (M, N)
        int64, the number of the slice in every place; on the CPU it costs no synchronisation.
    resample : callable, optional
        How the slices of `weight` that are taken become the size of the base's; of tensors of shape (1, m, ...).

    Returns
    -------
    Tensor of shape (M, N, ...)
        Of the type and device of the slices of `weight` that are taken.

    Raises
    ------
    ValueError
        If the slices differ in shape.
    """
    slices, others = (tensor.flatten(2).flatten(0, 1) for tensor in (weight, base))
    numbers = index.flatten().cpu()
    of_weight = numbers < len(slices)
    whole = bool(of_weight.all())
    taken = take(slices, numbers if whole else numbers[of_weight]).view(1, -1, *weight.shape[2:])
    taken = taken if resample is None else resample(taken)
    if taken.shape[2:] != base.shape[2:]:
        raise ValueError(f"slices of shapes {tuple(weight.shape)} and {tuple(base.shape)} cannot be mixed")
    shape = (*index.shape, *taken.shape[2:])
    if whole:
        return taken.view(shape)
    # Twice over some places: cheaper than to join both weights, which takes as much memory again.
    out = take(others, (numbers - len(slices)).clamp_(min=0)).to(taken)
    places = of_weight.nonzero().squeeze(1)
    return out.index_copy_(0, places.to(out.device), taken.view(-1, *out.shape[1:])).view(shape)


def take(slices: Tensor, numbers: Tensor, out: Tensor | None = None) -> Tensor:
    """Slices by number, into `out` if it is given; NumPy copies short ones in half the time.

    Parameters
    ----------
    slices : Tensor of shape (n, ...)
    numbers : Tensor of shape (m,)
        On the CPU, from 0 to n - 1.
    out : Tensor of shape (m, ...), optional
        Contiguous, of the type and device of `slices`, none of which it may overlap.

    Returns
    -------
    Tensor of shape (m, ...)
    """
    asked = torch.is_grad_enabled() and slices.requires_grad
    if slices.is_cpu and slices.dtype in (torch.float32, torch.float64) and not asked:
        values, places = slices.detach().numpy(), numbers.numpy()
        if out is None:
            return torch.from_numpy(values.take(places, axis=0))
        # "clip" because NumPy would take into a copy of `out` otherwise; whoever gives one has checked the numbers.
        values.take(places, axis=0, out=out.detach().numpy(), mode="clip")
        return out
    return torch.index_select(slices, 0, numbers.to(slices.device), out=out)
