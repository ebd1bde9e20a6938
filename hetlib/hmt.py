"""HMT: the weights of one convolutional chain placed into another of different depth, width and kernel size.

Wang, Lai, Liang, Wang, *Heterogeneous Model Transfer between Different Neural Networks*, 2020 (OpenReview 7xArdn_FKtV).

>>> HMT = Transfer(ByPosition(), (Cyclic(),))
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from hetlib.chain import main_path
from hetlib.errors import seed_of, whole_numbers
from hetlib.kernels.resize_cyclic import resize
from hetlib.match import by_position
from hetlib.transfer import Context, Cyclic, Pair, Transfer, TransferReport

__all__ = ["ByPosition", "Cyclic", "resize", "transfer"]


@dataclass(frozen=True)
class ByPosition:
    """Convolutions paired position by position along their chains, the source's put in some order before.

    The chain of a network is every 2-D convolution in registration order, without those under a module called
    `downsample`. Where the source's order ends, the rest of the target stays unpaired.

    Attributes
    ----------
    order : {"chain", "shuffle", "interval"} or sequence of int
        See `hetlib.match.by_position`.
    seed : int, optional
        Of the "shuffle" order, if that shall not be the released one.

    References
    ----------
    The released code of the paper in its last state.
    """

    order: str | Sequence[int] = "chain"
    seed: int | None = None

    def __post_init__(self):
        if not isinstance(self.order, str):
            object.__setattr__(self, "order", tuple(whole_numbers("order", self.order)))
        if self.seed is not None:
            seed_of(self.seed)

    def __call__(self, context: Context) -> list[Pair]:
        """The pairs, in the order of the target's chain.

        Raises
        ------
        ValueError
            If a network has no convolution, or the order is invalid.
        """
        here, there = map(main_path, context.layers_of(nn.Conv2d))
        for role, model, layers in (("source", context.source, here), ("target", context.target, there)):
            if not layers:
                raise ValueError(f"the {role} ({type(model).__name__}) has no 2-D convolution to transfer")
        picks = by_position(len(here), len(there), self.order, self.seed)
        return [Pair(name, here[pick][0]) for (name, _), pick in zip(there, picks, strict=True) if pick is not None]


def transfer(
    source: nn.Module,
    target: nn.Module,
    order: str | Sequence[int] = "chain",
    align_corners: bool = False,
    *,
    resizer: str = "bilinear",
    antialias: bool = False,
    correct_gain: bool = False,
    batch_norm: bool = False,
    noise: float = 0.0,
    seed: int | None = None,
) -> TransferReport:
    """Place the source's convolutions into the target's, position by position along their chains.

    The chain of a network is every 2-D convolution in registration order, without those under a module called
    `downsample`. Biases, batch norms, projection shortcuts and linear layers of the target keep their values.

    Parameters
    ----------
    source : nn.Module
        The network that has learned something; unchanged.
    target : nn.Module
        The network to be fed. Modified in place, once everything has been checked.
    order : {"chain", "shuffle", "interval"} or sequence of int
        Order of the source's layers before pairing, see `hetlib.match.by_position`.
    align_corners, resizer, antialias
        How kernels change size, see `resize`.
    correct_gain : bool
        Multiply each weight by fan_in(source) / fan_in(target), so that a constant input keeps its response: the
        released code has this line, commented out.
    batch_norm : bool
        Also place scale, shift and running statistics of the batch norm that follows each fed convolution.
    noise : float
        Standard deviation of Gaussian noise on repeated output filters, relative to that of the layer's weights.
        Without it, repeated filters below the last layer never separate in training.
    seed : int, optional
        Seed of `noise`, and of the "shuffle" order if that shall not be the released one.

    Returns
    -------
    TransferReport
        One row per convolution and linear layer of the target.

    Raises
    ------
    ValueError
        If a network has no convolution, the order is invalid, a matched kernel is not square, or noise is negative.

    References
    ----------
    The released code of the paper in its last state. "Longest chain" in the abstract is not computed there either;
    ``hetlib.chain.chain(model).longest()`` computes it.
    """
    how = (align_corners, resizer, antialias, correct_gain, batch_norm, noise)
    sentence = Transfer(ByPosition(order, seed), (Cyclic(*how),))
    name = f"HMT, {order if isinstance(order, str) else 'explicit'} order"
    return replace(sentence(source, target, seed=0 if seed is None else seed), method=name)
