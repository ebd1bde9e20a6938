"""What a network takes in a graft other than a donor's layers: by activations, filter by filter, noise, its own."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hetlib.chain import evaluating
from hetlib.chain.nested import Leaf, check, flatten, kind_of, leaves, only
from hetlib.checks import check_images, check_network, taking
from hetlib.errors import finite, positive, whole
from hetlib.grafting.blends import inherited, leaders
from hetlib.kernels.entropy import weight_entropy
from hetlib.kernels.fill import Fill, keep
from hetlib.kernels.graft import check_settings, coefficient
from hetlib.transfer import Context, Copy, Pair


@dataclass(frozen=True)
class CopyByActivation:
    """Every tensor of paired modules, blended by the entropy of what each convolution puts out on images.

    Attributes
    ----------
    a, c, decimals, bins
        As for `hetlib.grafting.ByEntropy`.
    """

    a: float = 0.4
    c: float = 500.0
    decimals: int | None = 2
    bins: int = 10

    def __post_init__(self):
        check_settings(self.a, self.c, self.decimals)
        positive("bins", self.bins)

    def __call__(self, context: Context, pairs: list[Pair]) -> Iterator[Fill]:
        """The copies, each with its coefficient.

        Raises
        ------
        ValueError
            If there are no images, or no convolution.
        """
        if context.images is None:
            raise ValueError("activations are compared on images, and none were given")
        check_images("images", context.images)
        modules = dict(context.target.named_modules())
        fills = [replace(fill, kind=kind_of(modules[fill.layer])) for fill in Copy()(context, pairs)]
        numbers = leaders(fills)
        names = [(fills[n].layer, fills[n].source or fills[n].layer) for n in numbers]
        own = _entropies(context.target, [name for name, _ in names], context.images, self.bins)
        donor = _entropies(context.source, [name for _, name in names], context.images, self.bins)
        shares = inherited(numbers, coefficient(own, donor, self.a, self.c, self.decimals).unbind(), len(fills))
        yield from (replace(fill, alpha=share) for fill, share in zip(fills, shares, strict=True))


@dataclass(frozen=True)
class CopyByScale:
    """Convolutions blended filter by filter, by the scale of the batch norm that follows; the classifier is kept.

    Filter j keeps the share ``|own scale_j| / (|own scale_j| + |donor scale_j|)`` of its weights and bias and of its
    batch norm. The released script meant this; what it does is to blend each batch norm once per filter, which leaves
    the donor's.

    References
    ----------
    Meng et al., CVPR 2020, filter-level grafting, and the authors' script for VGG16.
    """

    def __call__(self, context: Context, pairs: list[Pair]) -> Iterator[Fill]:
        """The copies, each with a coefficient for every filter.

        Raises
        ------
        ValueError
            If no convolution is followed by a batch norm that scales.
        """
        norms = {layer.name: layer.norm for layer in context.target_chain.layers}
        by_target = {pair.target: pair for pair in pairs}
        followed = False
        for name, layer in leaves(only(flatten(context.target), nn.Conv2d)):
            norm = norms.get(name)
            if norm is None or name not in by_target or norm not in by_target:
                yield keep(name, layer.weight, "no batch norm that scales follows it")
                continue
            followed = True
            source, target = (each.weight.detach().abs() for each in context.layers(by_target[norm]))
            share = target / (target + source).clamp_min(torch.finfo(target.dtype).tiny)
            for fill in Copy()(context, [by_target[name], by_target[norm]]):
                yield replace(fill, alpha=share, note="blended filter by filter")
        if not followed:
            raise ValueError("no convolution is followed by a batch norm, whose scale filters are blended by")


@dataclass(frozen=True)
class Noise:
    """Noise added to invalid filters: those whose absolute weights sum to less than a threshold.

    Attributes
    ----------
    epoch : int
        The noise's standard deviation is ``0.975 ** epoch``.
    threshold : float
        Of the sum of a filter's absolute weights.

    References
    ----------
    Meng et al., CVPR 2020, noise as scion, and the released code.
    """

    epoch: int = 0
    threshold: float = 0.1

    def __post_init__(self):
        whole("epoch", self.epoch, 0)
        finite("threshold", self.threshold, above=0)

    def __call__(self, context: Context, pairs: list[Pair]) -> Iterator[Fill]:
        """A fill for each convolution with an invalid filter; the source is not looked at."""
        for name, layer in _convolutions(context.target):
            weight, new = layer.weight, layer.weight.detach().clone()
            for j in torch.nonzero(sums(weight) < self.threshold)[:, 0].tolist():
                drawn = torch.randn(weight.shape[1:], generator=context.generator)
                new[j] += drawn.to(weight) * 0.975**self.epoch
            yield _changed(name, weight, new, "noise added to invalid filters")


@dataclass(frozen=True)
class Internal:
    """The strongest filters of a layer added to its invalid ones: the weakest takes the strongest, and so on.

    Attributes
    ----------
    threshold : float
        As for `Noise`.

    References
    ----------
    Meng et al., CVPR 2020, internal filters as scions, and the released code.
    """

    threshold: float = 0.1

    def __post_init__(self):
        finite("threshold", self.threshold, above=0)

    def __call__(self, context: Context, pairs: list[Pair]) -> Iterator[Fill]:
        """A fill for each convolution with an invalid filter; the source is not looked at."""
        for name, layer in _convolutions(context.target):
            weight, new = layer.weight, layer.weight.detach().clone()
            strength = sums(weight)
            order = strength.argsort(stable=True)
            weak = order[: int((strength < self.threshold).sum())]
            new[weak] += weight.detach()[order.flip(0)[: len(weak)]]
            yield _changed(name, weight, new, "strong filters added to invalid ones")


def sums(weight: Tensor) -> Tensor:
    """The sum of absolute weights of each filter (output channel), shape (O,)."""
    return weight.detach().abs().flatten(1).sum(1)


def invalid_filters(model: nn.Module, threshold: float = 0.1) -> tuple[int, int]:
    """How many filters of a network's convolutions are invalid, and how many there are.

    A filter is an output channel; it is invalid if its absolute weights sum to less than the threshold, however many
    they are: filters of depthwise convolutions, with few weights, are so more easily.

    References
    ----------
    Meng et al., CVPR 2020, and the released code.
    """
    check_network("model", model, values=True)
    finite("threshold", threshold, above=0)
    found = [sums(layer.weight) for _, layer in _convolutions(model)]
    return sum(int((each < threshold).sum()) for each in found), sum(map(len, found))


def _convolutions(model: nn.Module) -> list[Leaf]:
    layers = list(leaves(only(flatten(model), nn.modules.conv._ConvNd)))
    check(layers, "target")
    return layers


def _changed(name: str, weight: Tensor, new: Tensor, note: str) -> Fill:
    """A fill of a layer's weight, if that changes."""
    same = torch.equal(weight, new)
    return keep(name, weight, "no invalid filter") if same else Fill(name, weight, new, note=note)


@torch.no_grad()
def _entropies(model: nn.Module, names: list[str], images: Tensor, bins: int) -> Tensor:
    """The entropy of the outputs of some layers on images, in the order of their names."""
    seen: dict[str, Tensor] = {}

    def measure(name: str):
        return lambda module, inputs, out: seen.__setitem__(name, weight_entropy([out], bins)[0])

    hooks = [model.get_submodule(name).register_forward_hook(measure(name)) for name in names]
    try:
        with taking("a network of the ring", images), evaluating(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([seen[name] for name in names])
