"""CLAFusion: networks of different depth are aligned, balanced, transported onto one another and averaged.

Nguyen, Nguyen, Phung, Bui and Ho, *On Cross-Layer Alignment for Model Fusion of Heterogeneous Neural Networks*, ICASSP
2023, on top of Singh and Jaggi, *Model Fusion via Optimal Transport*, NeurIPS 2020. Its three steps are public:

>>> found = map_layers(deep, shallow, images)          # cross-layer alignment
>>> balanced = add_layers(found)                       # as deep as `deep`, the same function as `shallow`
>>> plans = neuron_plans(deep, balanced, images)       # which neurons of `deep` move onto which
>>> fused = fuse([deep, shallow], images)              # all of it, with the average
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.balance import add_layers, merge_layers
from hetlib.chain import Chain, chain
from hetlib.crosslayer import map_layers
from hetlib.data import Images, normalise
from hetlib.errors import unknown
from hetlib.fusion import fuse_weights
from hetlib.layercosts import layer_costs
from hetlib.otfusion import mean, move
from hetlib.plans import neuron_plans
from hetlib.report import Row, TransferReport
from hetlib.stacking import VARIANTS, stack

__all__ = [
    "add_layers",
    "fuse",
    "fuse_weights",
    "layer_costs",
    "map_layers",
    "merge_layers",
    "move",
    "neuron_plans",
    "sample",
    "transfer",
]
BALANCES = ("add", "merge")
SCHEMES = ("many-to-one", "iterative", "naive", *(f"hmt-{variant}" for variant in VARIANTS))
MAP_OPTIONS = ("mapping", "measure", "pins", "generator")


def fuse(
    models: Sequence[nn.Module],
    images: Tensor,
    *,
    step: float = 0.5,
    scheme: str = "many-to-one",
    balance: str = "add",
    relu: str = "sum",
    input_side: str = "columns",
    **options: Any,
) -> nn.Module:
    """Fuse networks of different depth, and of different width, into one.

    Two networks: the shallow one is balanced, the deep one moved onto its neurons, and the two are averaged; the result
    has the depth of the deep and the widths of the shallow one (balanced by merging: its depth as well). More: every
    other one is balanced and moved onto the deepest, whose shape the result has.

    Parameters
    ----------
    models : sequence of nn.Module
        Two or more that classify the same images into the same classes. The deepest comes first; should it not, it is
        put there, with a warning. None is changed.
    images : Tensor of shape (N, ...)
        Normalised images, which layers and neurons are compared on; 200 in the released runs.
    step : float
        Of two networks, the weight of the shallow one, from 0 to 1.
    scheme : {"many-to-one", "iterative", "naive", "hmt-only", "hmt-average", "hmt-transport", "hmt-add"}
        More than two are moved onto the first and averaged with equal weights; or one after the other onto the average
        so far, the newest with a weight of one half. "naive" averages without moving any neuron, which takes equal
        widths. The others are the variants of `hetlib.stacking.stack`, a baseline for two networks, with `order` for
        option.
    balance : {"add", "merge"}
        Add layers to the shallow one (`add_layers`), or merge layers of the deep one (`merge_layers`; two networks).
    relu : {"sum", "majority", "average"}
        As `merge_layers` takes it.
    input_side : {"columns", "rows"}
        As `fuse_weights` takes it; only different widths tell them apart.
    **options
        `mapping`, `measure`, `pins`, `generator` of `map_layers`; `by`, `metric`, `after_relu`, `tie`, `last`, `reg` of
        `neuron_plans`.

    Returns
    -------
    nn.Module
        A new network. Statistics of its batch norms are taken anew from the images.

    Raises
    ------
    ValueError
        If there are fewer than two networks, they differ in classes or input channels, a weight is not finite, `step`
        is not from 0 to 1, or a step of the method cannot be done; the layer is named.

    References
    ----------
    Nguyen et al., ICASSP 2023, sections 3 and 4; more than two networks as in its released code.
    """
    if scheme not in SCHEMES:
        raise unknown("scheme", scheme, SCHEMES)
    if balance not in BALANCES:
        raise unknown("balance", balance, BALANCES)
    if not 0 <= step <= 1:
        raise ValueError(f"step {step}: the weight of the shallow network is from 0 to 1")
    if (balance == "merge" or scheme.startswith("hmt-")) and len(models) > 2:
        raise ValueError(f"{len(models)} networks are balanced by adding layers and fused by transport or naively")
    first, *others = _sorted(models)
    if scheme.startswith("hmt-"):
        return stack(first, others[0], images, scheme.removeprefix("hmt-"), **options)
    how = {name: value for name, value in options.items() if name in MAP_OPTIONS}
    plans = {name: value for name, value in options.items() if name not in MAP_OPTIONS} | {"input_side": input_side}
    plans |= {"naive": scheme == "naive"}
    maps = [map_layers(first, other, images, **how) for other in others]
    if len(others) == 1 and balance == "merge":
        return move(merge_layers(maps[0], images, relu), others[0], images, step, **plans)
    balanced = [add_layers(found) for found in maps]
    if len(others) == 1:
        return move(first, balanced[0], images, step, **plans)
    if scheme == "iterative":
        fused = first
        for other in balanced:
            fused = move(other, fused, images, 0.5, **plans)
        return fused
    moved = [move(other, first, images, 0.0, **plans) for other in balanced]
    return mean([first, *moved], images)


def sample(data: Images, count: int = 200, seed: int = 21) -> Tensor:
    """Draw the images that layers and neurons are compared on: normalised, not augmented, float32.

    Parameters
    ----------
    data : Images
        The training images.
    count : int
        How many, without repetition; all if there are no more.
    seed : int
        Of the draw. 21 is the number of the released runs, whose images, drawn with augmentation, are others.

    Returns
    -------
    Tensor of shape (count, channels, height, width)
    """
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count]
    return normalise(data.images[order.to(data.images.device)], data.mean, data.std)


def transfer(
    sources: Sequence[nn.Module],
    target: nn.Module,
    data: Images,
    *,
    samples: int = 200,
    activation_seed: int = 21,
    **options: Any,
) -> TransferReport:
    """Fuse networks and write the result into a target of the shape that it has.

    Parameters
    ----------
    sources : sequence of nn.Module
        As `fuse` takes them. A single one is balanced to the target's depth, and does what it did; if a `scheme` is
        given, it is fused with the target itself.
    target : nn.Module
        Written in place.
    data : Images
        The training images, of which `sample` draws.
    samples, activation_seed : int
        How many are drawn, and the seed.
    **options
        Of `fuse`, or for a single network of `map_layers`.

    Returns
    -------
    TransferReport
        One row per layer of the target; the sources' layers are those of the first.

    Raises
    ------
    ValueError
        As `fuse` does, or if the target has another shape: the tensor is named with both shapes.
    """
    images = sample(data, samples, activation_seed)
    one = len(sources) == 1
    if one and "scheme" not in options:
        fused = add_layers(map_layers(target, sources[0], images, **options))
    else:
        fused = fuse([target, *sources] if one else sources, images, **options)
    made, wanted = fused.state_dict(), target.state_dict()
    for name, tensor in wanted.items():
        if name not in made or made[name].shape != tensor.shape:
            there = tuple(made[name].shape) if name in made else "nothing"
            raise ValueError(f"{name}: the result has {there}, the target {tuple(tensor.shape)}")
    target.load_state_dict(made)
    first = {layer.name: tuple(layer.module.weight.shape) for layer in chain(sources[0]).layers}
    done = "balanced" if one else f"average of {len(sources)}"
    rows = []
    for layer in chain(target).layers:
        # Where layers were merged, a name no longer tells whose weights they are.
        known = layer.name in first and options.get("balance") != "merge"
        source = layer.name if known else None
        rows.append(Row(layer.name, tuple(layer.module.weight.shape), source, first[source] if source else None, done))
    return TransferReport(f"CLAFusion of {len(sources)}", tuple(rows), tuple(first.items()))


def _sorted(models: Sequence[nn.Module]) -> list[nn.Module]:
    """The deepest first."""
    if len(models) < 2:
        raise ValueError(f"{len(models)} network cannot be fused: it takes two or more")
    chains = [chain(model) for model in models]
    _check_alike(chains)
    depths = [len(found.layers) for found in chains]
    deepest = depths.index(max(depths))
    if deepest == 0:
        return [*models]
    warnings.warn(
        f"the first network has {depths[0]} layers and network {deepest + 1} has {depths[deepest]}: the deepest is "
        "taken for the first, and step weighs the others",
        stacklevel=3,
    )
    return [models[deepest], *models[:deepest], *models[deepest + 1 :]]


def _check_alike(chains: Sequence[Chain]) -> None:
    for what, layer, axis in (("classes", -1, 0), ("inputs", 0, 1)):
        sizes = [found.layers[layer].module.weight.shape[axis] for found in chains]
        if len(set(sizes)) > 1:
            raise ValueError(f"the networks differ in {what}: {', '.join(map(str, sizes))}")
    for number, found in enumerate(chains):
        for name, parameter in found.model.named_parameters():
            if not parameter.isfinite().all():
                raise ValueError(f"{name} of network {number + 1} holds NaN or infinity")
