"""One graft as data: what each network of a ring takes, from whom, and how much of its own it keeps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.errors import finite, known, positive, seed_of, whole
from hetlib.grafting.blends import ByEntropy, ByNorm
from hetlib.grafting.checks import check_ring, tensors_of
from hetlib.grafting.fits import CopyByActivation, CopyByScale, Internal, Noise
from hetlib.kernels.fill import Fill
from hetlib.kernels.graft import check_settings
from hetlib.kernels.write import write
from hetlib.merging import match_weights
from hetlib.transfer import Copy, SameName, Transfer, unpaired
from hetlib.transfer.transfer import blended

State = dict[str, Tensor]
APART = 10**6
"""Between the seeds of two networks: more than there are epochs, which are seeds too."""
CHOICES = {
    "criterion": ("entropy", "l1", "activation", "none"),
    "scion": ("external", "noise", "internal"),
    "level": ("layer", "filter", "network"),
}


@dataclass(frozen=True)
class Grafting:
    """How networks of one architecture graft; the call grafts them, in place, all at once from what they were before.

    Network i takes from network i - 1, and the first from the last.

    Attributes
    ----------
    a, c, decimals, bins
        Of the coefficient, see `ByEntropy`; `a` = 0 is plain averaging.
    criterion : {"entropy", "l1", "activation", "none"}
        What coefficients compare: the entropy or the absolute sum of a convolution's weights, the entropy of what it
        puts out on images, or nothing, which averages.
    scion : {"external", "noise", "internal"}
        What is grafted: another network's weights; noise, or the layer's own strong filters, onto invalid filters. The
        last two need no ring, and `criterion`, `level` and `align` have no part in them.
    level : {"layer", "filter", "network"}
        One coefficient for each convolution (the published method); for each filter, by the scales of batch norms,
        without a criterion (`CopyByScale`); or the mean of all networks.
    named : bool
        The released rule for which tensors have coefficients of their own, see `ByEntropy`. It knows keys alone, so
        that neither filters nor activations can be asked for.
    align : bool
        Reorder the donor's channels to lie nearest to the network's before they blend (`hetlib.merging.match_weights`).
    threshold : float
        Filters are invalid whose absolute weights sum to less.

    Raises
    ------
    ValueError
        If `a` is not from 0 to 1, `bins` or the threshold is not positive, a choice is unknown, or `named` stands
        beside the level "filter" or the criterion "activation".

    References
    ----------
    Meng et al., *Filter Grafting for Deep Neural Networks*, CVPR 2020 (arXiv 2001.05868).
    """

    a: float = 0.4
    c: float = 500.0
    decimals: int | None = 2
    bins: int = 10
    criterion: str = "entropy"
    scion: str = "external"
    level: str = "layer"
    named: bool = False
    align: bool = False
    threshold: float = 0.1

    def __post_init__(self):
        check_settings(self.a, self.c, self.decimals)
        positive("bins", self.bins)
        finite("threshold", self.threshold, above=0)
        for name, valid in CHOICES.items():
            known(name, getattr(self, name), valid)
        if self.named and (self.level == "filter" or self.criterion == "activation"):
            asked = f"level {self.level!r}, criterion {self.criterion!r}"
            raise ValueError(f"the released rule (named) goes by keys and whole layers, not by {asked}")

    @property
    def sentence(self) -> Transfer:
        """What one network of the ring takes from its donor, as match, fits and blend."""
        how = (self.a, self.c, self.decimals, self.bins)
        if self.level == "filter":
            return Transfer(SameName(), (CopyByScale(),))
        if self.criterion == "activation":
            return Transfer(SameName(), (CopyByActivation(*how),))
        blends: dict[str, Any] = {"entropy": ByEntropy(*how), "l1": ByNorm(*how), "none": 0.5}
        return Transfer(SameName(), (Copy(),), blends[self.criterion])

    def __call__(
        self,
        networks: Sequence[Any],
        images: Tensor | None = None,
        seed: int = 0,
        epoch: int = 0,
    ) -> list[Fill]:
        """Graft networks, or state dicts, in place; see `plan`, whose fills are given back once they are written."""
        fills = self.plan(networks, images, seed, epoch)
        with torch.no_grad():
            write(fills)
        return fills

    @torch.no_grad()
    def plan(
        self,
        networks: Sequence[Any],
        images: Tensor | None = None,
        seed: int = 0,
        epoch: int = 0,
    ) -> list[Fill]:
        """Work out and check what every tensor of every network becomes; nothing is written.

        Parameters
        ----------
        networks : sequence of nn.Module, or of state dicts
            Of one architecture. State dicts go by the released rule (`named`), for they do not say what a layer is.
        images : Tensor of shape (N, ...), optional
            For the activations.
        seed, epoch : int
            Of the noise, and how much of it is left.

        Returns
        -------
        list of Fill
            The networks' one after another, as many for each.

        Raises
        ------
        ValueError
            If networks are fewer than two, differ in architecture (the first differing entry is named) or, on the CPU,
            hold values that are not finite (which network, which tensor); on a GPU the training itself meets those.
        """
        alone = self.scion != "external"
        seed, epoch = seed_of(seed), whole("epoch", epoch, 0)
        check_ring(networks, fewest=1 if alone else 2)
        if alone:
            step = Noise(epoch, self.threshold) if self.scion == "noise" else Internal(self.threshold)
            sentence = Transfer(unpaired, (step,))
            # Every network has noise of its own, and other noise in every epoch.
            seeds = range(seed, seed + APART * len(networks), APART)
            alike = zip(map(_whole, networks), seeds, strict=True)
            return [fill for net, own in alike for fill in sentence.plan(net, net, seed=own)]
        if self.level == "network":
            states = [tensors_of(network) for network in networks]
            means = {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}
            return [fill for state in states for fill in replaced(state, means)]
        return self.take(networks, [networks[k - 1] for k in range(len(networks))], images, seed)

    @torch.no_grad()
    def take(
        self, networks: Sequence[Any], donors: Sequence[Any], images: Tensor | None = None, seed: int = 0
    ) -> list[Fill]:
        """Work out what every network takes from its donor; nothing is checked or written.

        Parameters
        ----------
        networks, donors : sequence of nn.Module, or of state dicts
            One donor for each network, of the same architecture.
        images, seed
            As for `plan`.
        """
        if self.align:
            donors = [
                match_weights(_whole(a), _whole(b), seed=seed).model for a, b in zip(donors, networks, strict=True)
            ]
        named = self.named or not isinstance(networks[0], nn.Module)
        if named:
            plans = [_by_key(self, donor, own) for donor, own in zip(donors, networks, strict=True)]
        else:
            bare = replace(self.sentence, blend=0.0)
            plans = [bare.plan(donor, own, images, seed) for donor, own in zip(donors, networks, strict=True)]
        return self._blended(plans, named)

    def _blended(self, plans: list[list[Fill]], named: bool) -> list[Fill]:
        """The plans with their coefficients, which are measured for all networks in one go."""
        blend = self.sentence.blend
        together = [fill for plan in plans for fill in plan]
        if not isinstance(blend, ByEntropy):
            return blended(together, blend)
        shares = [share for each in replace(blend, named=named).together(plans) for share in each]
        return blended(together, lambda fills: shares)


def _whole(network: Any) -> nn.Module:
    """A network as such; a state dict is refused where more has to be known of it than its tensors."""
    if not isinstance(network, nn.Module):
        raise TypeError("state dicts do not say which layers they belong to: give the networks themselves")
    return network


def _by_key(how: Grafting, donor: Any, own: Any) -> list[Fill]:
    """A fill for every floating tensor of a state dict, in its order, under its own key."""
    if how.level == "filter" or how.criterion == "activation":
        _whole(own)
    given = tensors_of(donor)
    return [Fill(key, out, given[key], note="grafted", source=key) for key, out in tensors_of(own).items()]


def replaced(state: State, means: State) -> list[Fill]:
    """Fills by which every tensor of a network becomes the mean of all networks' tensors."""
    return [Fill(key, out, means[key], note="mean of all networks", source=key) for key, out in state.items()]
