"""CLAFusion as data: what a training can start from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from hetlib.clafusion import transfer
from hetlib.transfer import TransferReport


@dataclass(frozen=True)
class Fusion:
    """`hetlib.clafusion.transfer` with its options, called as a `hetlib.transfer.Transfer` is.

    Attributes
    ----------
    options : mapping
        Keyword arguments of `hetlib.clafusion.transfer`.
    """

    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self, sources: nn.Module | Sequence[nn.Module], target: nn.Module, images: Tensor, seed: int = 0
    ) -> TransferReport:
        """Fuse networks, or balance a single one, into a target of the shape that it has.

        Parameters
        ----------
        sources : nn.Module or sequence of them
        target : nn.Module
            Written in place.
        images : Tensor of shape (N, ...)
            Normalised, which layers and neurons are compared on.
        seed : int
            Of random maps, unless the options have one.

        Raises
        ------
        ValueError
            As `hetlib.clafusion.transfer`.
        """
        networks = [sources] if isinstance(sources, nn.Module) else list(sources)
        return transfer(networks, target, images, **({"seed": seed} | dict(self.options)))
