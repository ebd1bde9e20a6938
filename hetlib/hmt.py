"""HMT: the weights of one convolutional chain placed into another of different depth, width and kernel size.

Wang, Lai, Liang, Wang, *Heterogeneous Model Transfer between Different Neural Networks*, 2020 (OpenReview 7xArdn_FKtV).

>>> HMT = Transfer(ByPosition(), (Cyclic(),))
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from hetlib.chain import Network, main_path
from hetlib.errors import seed_of, whole_numbers
from hetlib.kernels.resize_cyclic import resize
from hetlib.match import by_position
from hetlib.transfer import Context, Cyclic, Pair, Transfer, TransferReport

__all__ = ["ByPosition", "Cyclic", "resize", "transfer"]


@dataclass(frozen=True)
class ByPosition:
    """Convolutions paired position by position along their chains, the source's put in some order before.

    The chain of a network is every 2-D convolution in registration order, without those under a module called
    `downsample`; for the order "longest" it is the longest path through the network's graph instead. Where the source's
    order ends, the rest of the target stays unpaired.

    Attributes
    ----------
    order : {"chain", "longest", "shuffle", "interval"} or sequence of int
        "longest" pairs the convolutions of `hetlib.chain.Chain.longest`, for which both networks are traced; for the
        others see `hetlib.match.by_position`.
    seed : int, optional
        Of the "shuffle" order, if that shall not be the released one.

    References
    ----------
    The released code of the paper in its last state; "longest" is what its abstract speaks of.
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
            If a network has no convolution, the order is invalid, or a network cannot be traced where that is needed.
        """
        here, there = self._chains(context)
        for role, model, layers in (("source", context.source, here), ("target", context.target, there)):
            if not layers:
                raise ValueError(f"the {role} ({type(model).__name__}) has no 2-D convolution to transfer")
        picks = by_position(len(here), len(there), self.order, self.seed)
        return [Pair(name, here[pick]) for name, pick in zip(there, picks, strict=True) if pick is not None]

    def _chains(self, context: Context) -> tuple[list[str], list[str]]:
        """The names of the convolutions of the source's chain, and of the target's."""
        if self.order == "longest":
            ours, theirs = context.source_chain.longest(), context.target_chain.longest()
            return [layer.name for layer in ours], [layer.name for layer in theirs]
        here, there = map(main_path, context.layers_of(nn.Conv2d))
        return [name for name, _ in here], [name for name, _ in there]


def transfer(
    source: Network,
    target: Network,
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

    The chain of a network is what the released code takes for it: every 2-D convolution in registration order, without
    those under a module called `downsample`. This is the main path of a ResNet whose projections bear that name. Where
    they have another name (RegNet's `proj`) they are in the chain; where the name stands for something else, layers of
    the main path are not. ``order="longest"`` goes by the graph instead. Whatever is not in the target's chain keeps
    its values, as do biases, batch norms and linear layers.

    Parameters
    ----------
    source : nn.Module or Chain
        The network that has learned something; unchanged. Where a network is given as its `hetlib.chain.chain`, which
        can be read with an example, it is not traced again.
    target : nn.Module or Chain
        The network to be fed. Modified in place, once everything has been checked.
    order : {"chain", "longest", "shuffle", "interval"} or sequence of int
        Order of the source's layers before pairing, see `hetlib.match.by_position`. "longest" takes the path from input
        to output that has most convolutions, projections left out, as the chain of either network, and pairs the two in
        order; both networks are traced for it.
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
        If a network has no convolution, or cannot be traced where the order needs that, the order or the resizer is
        unknown, or noise is negative.

    References
    ----------
    The released code of the paper in its last state. The "longest chain" of its abstract is not computed there;
    ``order="longest"`` computes it.
    """
    how = (align_corners, resizer, antialias, correct_gain, batch_norm, noise)
    sentence = Transfer(ByPosition(order, seed), (Cyclic(*how),))
    name = f"HMT, {order if isinstance(order, str) else 'explicit'} order"
    return replace(sentence(source, target, seed=0 if seed is None else seed), method=name)
