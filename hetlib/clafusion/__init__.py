"""CLAFusion: networks of different depth are aligned, balanced, transported onto one another and averaged.

Nguyen, Nguyen, Phung, Bui and Ho, *On Cross-Layer Alignment for Model Fusion of Heterogeneous Neural Networks*, ICASSP
2023, on top of Singh and Jaggi, *Model Fusion via Optimal Transport*, NeurIPS 2020. Its three steps are public:

>>> found = map_layers(deep, shallow, images)          # cross-layer alignment
>>> balanced = add_layers(found)                       # as deep as `deep`, the same function as `shallow`
>>> plans = neuron_plans(deep, balanced, images)       # which neurons of `deep` move onto which
>>> fused = fuse([deep, shallow], images)              # all of it, with the average

The last two lines are a sentence, once the networks are equally deep; its steps combine with those of other papers:

>>> Transfer(SameName(), (Transport(),), blend=0.5)(deep, balanced, images)
>>> Transfer(Align("cka", pins=(1, 1)), (Cyclic(),))(shallow, deep, images)     # HMT, with CLAFusion's map
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.chain import Chain, Network, eval_chain
from hetlib.checks import check_network, check_sequence
from hetlib.clafusion.add_layers import add_layers
from hetlib.clafusion.checks import (
    FUSE_OPTIONS,
    MAP_OPTIONS,
    STACK_OPTIONS,
    check_networks,
    check_options,
    check_settings,
)
from hetlib.clafusion.costs import layer_costs
from hetlib.clafusion.hmt_variants import stacked
from hetlib.clafusion.mapping import Align, map_layers
from hetlib.clafusion.merge_layers import merge_layers
from hetlib.clafusion.plans import neuron_plans
from hetlib.clafusion.transport import Transport, transport_neurons
from hetlib.clafusion.weights import fuse_weights
from hetlib.data import Images, sample
from hetlib.errors import of_kind, positive, seed_of
from hetlib.merging import average, check_sharing
from hetlib.transfer import Fill, Pair, Transfer, TransferReport

__all__ = [
    "Align",
    "Transport",
    "add_layers",
    "fuse",
    "fuse_weights",
    "layer_costs",
    "map_layers",
    "merge_layers",
    "neuron_plans",
    "sample",
    "transfer",
    "transport_neurons",
]


@torch.inference_mode(False)
def fuse(
    models: Sequence[Network],
    images: Tensor,
    *others: Any,
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
    models : sequence of nn.Module or Chain
        Two or more that classify the same images into the same classes. The deepest comes first; should it not, it is
        put there, with a warning. None is changed. Channels may be concatenated, split, shuffled and convolved in
        groups, and scaled by norms anywhere: docs/networks.md has what was tried.
    images : Tensor of shape (N, ...)
        Normalised images, which layers and neurons are compared on; 200 in the released runs.
    *others
        Nothing: whoever gives the networks one by one is told to give them in a list.
    step : float
        Of two networks, the weight of the shallow one, from 0 to 1.
    scheme : {"many-to-one", "iterative", "naive"}
        More than two are moved onto the first and averaged with equal weights; or one after the other onto the average
        so far, the newest with a weight of one half. "naive" averages without moving any neuron, which takes equal
        widths.
    balance : {"add", "merge"}
        Add layers to the shallow one (`add_layers`), or merge layers of the deep one (`merge_layers`; two networks).
    relu : {"sum", "majority", "average"}
        As `merge_layers` takes it.
    input_side : {"columns", "rows"}
        As `fuse_weights` takes it; only different widths tell them apart.
    **options
        `mapping`, `measure`, `pins`, `seed` of `map_layers`; `by`, `metric`, `after_relu`, `tie`, `last`, `reg` of
        `neuron_plans`.

    Returns
    -------
    nn.Module
        A new network. Statistics of its batch norms are taken anew from the images.

    Raises
    ------
    ValueError
        If there are fewer than two networks, they differ in classes, inputs or dtype or do not take the images, a
        weight is not finite, `step` is not from 0 to 1, or a step of the method cannot be done; the layer is named.
    TypeError
        If the networks are not given in a list.

    References
    ----------
    Nguyen et al., ICASSP 2023, sections 3 and 4; more than two networks as in its released code.
    """
    if others or isinstance(models, nn.Module | Chain):
        raise TypeError("fuse takes its models in a list, and then the images: fuse([a, b], images)")
    check_options("fuse", options, FUSE_OPTIONS)
    how = {name: value for name, value in options.items() if name in MAP_OPTIONS}
    plans = {name: value for name, value in options.items() if name not in MAP_OPTIONS}
    check_sequence("models", models, "networks")
    check_settings(len(models), step, scheme, balance, relu, input_side, plans)
    check_networks(models, images)
    first, *rest = _sorted(models, images)
    maps = [map_layers(first, other, images, **how) for other in rest]
    if balance == "merge":
        first, balanced = eval_chain(merge_layers(maps[0], images, relu), images), rest
    else:
        balanced = [eval_chain(add_layers(found, images), images) for found in maps]
    if scheme == "naive":
        if len(rest) == 1:
            return average([balanced[0].model, first.model], images, (step, 1 - step))
        return average([found.model for found in (first, *balanced)], images)
    plans["input_side"] = input_side
    if len(rest) == 1:
        return transport_neurons(first, balanced[0], images, step, **plans)
    if scheme == "iterative":
        fused = transport_neurons(balanced[0], first, images, 0.5, **plans)
        for other in balanced[1:]:
            fused = transport_neurons(other, fused, images, 0.5, **plans)
        return fused
    moved = [transport_neurons(other, first, images, 0.0, **plans) for other in balanced]
    return average([first.model, *moved], images)


def transfer(
    sources: Sequence[nn.Module],
    target: nn.Module,
    data: Images | Tensor,
    *,
    samples: int = 200,
    activation_seed: int = 21,
    hmt: str | None = None,
    **options: Any,
) -> TransferReport:
    """Fuse networks and write the result into a target of the shape that it has.

    Parameters
    ----------
    sources : sequence of nn.Module
        As `fuse` takes them. A single one is balanced to the target's depth, and does what it did.
    target : nn.Module
        Written in place, but for extra state that is no tensor.
    data : Images or Tensor of shape (N, ...)
        The training images, of which `sample` draws; or normalised images, which are taken as they are.
    samples, activation_seed : int
        How many are drawn, and the seed.
    hmt : str, optional
        Instead of fusing, stack by a variant of `hetlib.clafusion.hmt_variants.stack`: the deepest of two networks gets
        layers of the other; a single one gives them to the target as it is.
    **options
        Of `fuse`; of `stack` with `hmt`; or else for a single network of `map_layers`.

    Returns
    -------
    TransferReport
        Of a fusion, sources are the layers of the deepest network, and none where layers were merged. Of a single
        network, those that it had. With `hmt`, it says which layers HMT's copy fed from which.

    Raises
    ------
    ValueError
        As `fuse` does, or if the target has another shape: the tensor is named with both shapes.
    """
    check_sequence("sources", sources, "networks")
    check_network("target", target, values=True)
    of_kind("data", data, Images, Tensor, words="Images, or a Tensor of normalised images")
    positive("samples", samples)
    seed_of(activation_seed, "activation_seed")
    images = data if isinstance(data, Tensor) else sample(data, samples, activation_seed)
    check_networks([target, *sources] if len(sources) == 1 else sources, images)
    if hmt is not None:
        if len(sources) > 2:
            raise ValueError(f"{len(sources)} networks: HMT stacks one onto another")
        check_options("stacking", options, STACK_OPTIONS)
        deep, shallow = _sorted([target, *sources] if len(sources) == 1 else sources, images)
        made, fed = stacked(deep, shallow, images, hmt, **options)
        # For "add", the shallow network was fed, whose layers then got the names of the deep one's.
        taken = {row.source: row.source for row in fed.matched if row.source}
        report = _write_(target, made, deep, taken, "stacked", "the shallow network's own, or added")
        return replace(report if hmt == "add" else fed, method=f"HMT, {hmt}")
    if len(sources) == 1:
        deep, source = eval_chain(target, images), eval_chain(sources[0], images)
        _check_alike([deep, source])
        check_options("map_layers", options, MAP_OPTIONS)
        found = map_layers(deep, source, images, **options)
        made = add_layers(found, images)
        report = _write_(target, made, source, found.modules(), "taken", "added: it changes nothing")
        return replace(report, method="CLAFusion, balanced")
    ranked = _sorted(sources, images)
    made = fuse(ranked, images, **options)
    merged = options.get("balance") == "merge"
    taken = {} if merged else {name: name for name, _ in ranked[0].model.named_modules()}
    report = _write_(target, made, ranked[0], taken, "moved and averaged", "merged, moved and averaged")
    return replace(report, method=f"CLAFusion of {len(sources)} networks")


def _write_(
    target: nn.Module, made: nn.Module, source: Chain, taken: dict[str, str], done: str, rest: str
) -> TransferReport:
    """Write a network that was made into the target.

    `taken` names the source's module of each of the target's that has one; `done` and `rest` say in the report what
    happened to these and to the others.
    """
    state, own = (
        {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
        for model in (made, target)
    )
    for name in {**state, **own}:
        there, here = (tuple(side[name].shape) if name in side else "nothing" for side in (state, own))
        if there != here:
            raise ValueError(f"{name}: the result has {there}, the target {here}")
    check_sharing(target, state)
    fills = []
    for name, out in own.items():
        layer = name.rpartition(".")[0]
        note = done if layer in taken else rest
        fills.append(Fill(layer, out, state[name].detach(), note=note, source=taken.get(layer)))
    pairs = [Pair(mine, theirs) for mine, theirs in taken.items()]
    return Transfer(lambda context: pairs, (lambda context, pairs: fills,))(source, target)


def _sorted(models: Sequence[Network], images: Tensor) -> list[Chain]:
    """Networks of one task, read, and the deepest first."""
    if len(models) < 2:
        raise ValueError(f"{len(models)} network cannot be fused: it takes two or more")
    chains = [eval_chain(model, images) for model in models]
    _check_alike(chains)
    depths = [len(found.layers) for found in chains]
    deepest = depths.index(max(depths))
    if deepest == 0:
        return chains
    warnings.warn(
        f"the first network has {depths[0]} layers and network {deepest + 1} has {depths[deepest]}: the deepest is "
        "taken for the first, and step weighs the others",
        stacklevel=3,
    )
    return [chains[deepest], *chains[:deepest], *chains[deepest + 1 :]]


def _check_alike(chains: Sequence[Chain]) -> None:
    for what, layer, axis in (("classes", -1, 0), ("inputs", 0, 1)):
        weights = [(found.layers[layer].name, tuple(found.layers[layer].module.weight.shape)) for found in chains]
        if len({shape[axis] for _, shape in weights}) > 1:
            shapes = ", ".join(f"{name}.weight {shape}" for name, shape in weights)
            raise ValueError(f"the networks differ in {what}: {shapes}")
