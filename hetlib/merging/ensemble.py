"""Networks that vote."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Networks that vote: the average of their logits.

    Parameters
    ----------
    models : iterable of nn.Module
        Of equally many classes; kept, not copied.
    weights : sequence of float, optional
        One per network, at least 0; divided by their sum. Equal by default.

    Raises
    ------
    ValueError
        If there is no network, or the weights are not one per network, negative, or all 0.
    """

    def __init__(self, models: Iterable[nn.Module], weights: Sequence[float] | None = None):
        super().__init__()
        self.models = nn.ModuleList(models)
        given = [1.0] * len(self.models) if weights is None else [float(weight) for weight in weights]
        if not given or len(given) != len(self.models):
            raise ValueError(f"an ensemble of {len(self.models)} networks cannot have {len(given)} weights")
        if not (min(given) >= 0 and 0 < sum(given) < float("inf")):
            raise ValueError(f"weights must be at least 0, finite and not all 0, got {given}")
        self.weights = tuple(weight / sum(given) for weight in given)
        # A module is born in training mode: `evaluate` would restore that, and wake the batch norms of its members.
        self.training = any(model.training for model in self.models)

    def forward(self, images: Tensor) -> Tensor:
        """The weighted average of the logits, (B, classes)."""
        pairs = zip(self.weights, self.models, strict=True)
        return torch.stack([weight * model(images) for weight, model in pairs]).sum(0)

    def extra_repr(self) -> str:
        """The weights, by which two ensembles of the same networks can differ."""
        return f"weights={self.weights}"
