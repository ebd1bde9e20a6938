"""Networks that vote."""

from collections.abc import Iterable, Sequence
from math import inf

import torch
from torch import Tensor, nn

from hetlib.checks import check_network
from hetlib.errors import finite_numbers, of_kind


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
        of_kind("models", models, Iterable, words="networks in a list")
        networks = list(models)
        for number, model in enumerate(networks, 1):
            check_network(f"network {number}", model)
        if not networks:
            raise ValueError("models: an ensemble needs one network or more")
        self.models = nn.ModuleList(networks)
        given = [1.0] * len(networks) if weights is None else finite_numbers("weights", weights, len(networks), low=0)
        if not 0 < sum(given) < inf:
            raise ValueError(f"weights must be finite and not all 0, got {given}")
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
