"""Which neurons of one network move onto which of another of equal depth: transport plans, layer by layer."""

from collections import Counter

import torch
from torch import Tensor

from hetlib.chain import Chain, Network, eval_chain, evaluating, layer_outputs, neurons
from hetlib.clafusion.blocks import check_modules
from hetlib.clafusion.streams import streams
from hetlib.clafusion.weights import transport_inputs
from hetlib.errors import unknown
from hetlib.kernels import transport_plan
from hetlib.kernels.costs import METRICS, cost_matrix
from hetlib.kernels.sinkhorn import sinkhorn
from hetlib.kernels.sinkhorn_batched import sinkhorns
from hetlib.kernels.transport import transport_plans

SOURCES = ("activations", "weights")
BATCH = 50
"""Images that go through two networks at a time; more of them leave the cache."""


@torch.no_grad()
def neuron_plans(
    source: Network,
    target: Network,
    images: Tensor | None,
    *,
    by: str = "activations",
    metric: str = "euclidean",
    after_relu: bool = False,
    tie: bool = False,
    last: bool = False,
    reg: float | None = None,
) -> list[Tensor]:
    """Transport plans from the neurons of every layer of one network to those of another.

    Both networks are run side by side, in evaluation mode; no activations are kept.

    Parameters
    ----------
    source, target : nn.Module or Chain
        Two networks with the same layers, at any widths.
    images : Tensor of shape (N, ...) or None
        What both are run on; not looked at by weights.
    by : {"activations", "weights"}
        Compare what neurons put out on the images, at every pixel; or their incoming weights, the source's inputs
        having followed the layers before.
    metric : {"euclidean", "squared", "cosine", "correlation"}
        As `hetlib.kernels.costs.cost_matrix` has it.
    after_relu : bool
        Compare activations after a ReLU; those of the last layer have none.
    tie : bool
        One plan for all layers whose channels are coupled (`hetlib.chain.Chain.axes`), as those of a residual stream,
        from the mean of their costs. Otherwise each layer has its own, as in the released code, and a shortcut may join
        neurons that moved differently; layers that meet elsewhere (a module called twice, a shared tensor, a gate, a
        sum of equal branches) have one plan all the same.
    last : bool
        Match the outputs of the last layer as well, as the released code does, which may exchange classes.
    reg : float, optional
        Weight of the entropy, for plans by `sinkhorn`; exact ones by default.

    Returns
    -------
    list of Tensors of shape (neurons of source, neurons of target)
        One per layer of the chain, in order of execution, but for the last unless `last`.

    Raises
    ------
    ValueError
        If the networks have different layers, activations differ in shape, one is not finite, a name is unknown, or
        `sinkhorn` refuses `reg`.

    References
    ----------
    Singh and Jaggi, NeurIPS 2020; Ainsworth et al., *Git Re-Basin*, ICLR 2023, for `tie`; Stoica et al., *ZipIt!*,
    ICLR 2024, for "correlation".
    """
    if by not in SOURCES:
        raise unknown("source of costs", by, SOURCES)
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    if tie and by == "weights":
        raise ValueError("plans by weights are made one after the other and cannot be tied: take hetlib.rebasin")
    chains = eval_chain(source, images), eval_chain(target, images)
    for found in chains:
        check_modules(found)
    if [layer.name for layer in chains[0].layers] != [layer.name for layer in chains[1].layers]:
        raise ValueError("plans need two networks with the same layers: balance them first")
    count = len(chains[0].layers) - (not last)
    moving = streams(*chains, tie)[:count]
    if by == "weights":
        return _by_weights(*chains, moving, metric, reg)
    if images is None:
        raise ValueError("activations are compared on images, and none are given; by='weights' needs none")
    costs = _by_activations(*chains, images, moving, metric, after_relu)
    solved = dict(zip(costs, _solved([*costs.values()], reg), strict=True))
    return [solved[stream] for stream in moving]


def _solved(costs: list[Tensor], reg: float | None) -> list[Tensor]:
    return transport_plans(costs) if reg is None else [found.plan for found in sinkhorns(costs, reg)]


def _by_activations(
    source: Chain, target: Chain, images: Tensor, moving: list[int], metric: str, after_relu: bool
) -> dict[int, Tensor]:
    stream = {layer.name: number for layer, number in zip(source.layers, moving, strict=False)}
    final = source.layers[-1].name
    sums: dict[int, Tensor] = {}
    squared = metric in ("euclidean", "squared")  # distances over batches of images add up only if they are squared
    batches = images.split(BATCH) if squared else [images]
    with evaluating(source.model, target.model):
        for batch in batches:
            sides = (layer_outputs(found, batch) for found in (source, target))
            for (layer, one), (_, other) in zip(*sides, strict=True):
                if layer.name not in stream:
                    continue
                if one.shape[2:] != other.shape[2:]:
                    raise ValueError(f"{layer.name} puts out {tuple(one.shape)} here and {tuple(other.shape)} there")
                if after_relu and layer.name != final:
                    one, other = one.relu(), other.relu()
                cost = cost_matrix(neurons(one), neurons(other), "squared" if squared else metric)
                if not cost.isfinite().all():
                    raise ValueError(f"{layer.name} puts out NaN or infinity: its neurons cannot be matched")
                sums[stream[layer.name]] = sums.get(stream[layer.name], 0) + cost
    shares = Counter(moving)
    means = {number: total / shares[number] for number, total in sums.items()}
    return {number: cost.sqrt() if metric == "euclidean" else cost for number, cost in means.items()}


def _by_weights(source: Chain, target: Chain, moving: list[int], metric: str, reg: float | None) -> list[Tensor]:
    feeds = source.feeds()
    plans: list[Tensor] = []
    for i, stream in enumerate(moving):
        if stream != i:
            plans.append(plans[stream])
            continue
        moved = transport_inputs(source.layers[i].module.weight, [plans[j] for j in feeds[i]])
        cost = cost_matrix(moved.flatten(1), target.layers[i].module.weight.flatten(1), metric)
        if not cost.isfinite().all():
            raise ValueError(f"{source.layers[i].name} holds NaN or infinity: its neurons cannot be matched")
        plans.append(transport_plan(cost) if reg is None else sinkhorn(cost, reg).plan)
    return plans
