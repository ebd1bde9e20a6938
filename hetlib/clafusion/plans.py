"""Which neurons of one network move onto which of another of equal depth: transport plans, layer by layer."""

from collections import Counter

import torch
from torch import Tensor

from hetlib.chain import Chain, Network, evaluating, layer_outputs, neurons
from hetlib.chain.inherited import NORMS
from hetlib.clafusion.blocks import check_modules, is_one_for_all
from hetlib.clafusion.costs import chains_of
from hetlib.clafusion.streams import Block, streams
from hetlib.clafusion.values import value_plans
from hetlib.clafusion.weights import transport_inputs
from hetlib.errors import finite, known
from hetlib.kernels.costs import METRICS, cost_matrix
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
        sum of equal branches) have one plan all the same. In both cases neurons that the network tells apart (those of
        one group of a grouped convolution, of one part of a split) move among one another alone.
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
    known("source of costs", by, SOURCES)
    known("metric", metric, METRICS)
    if reg is not None:
        finite("reg", reg, above=0)
    if tie and by == "weights":
        raise ValueError("plans by weights are made one after the other and cannot be tied: take hetlib.rebasin")
    chains = chains_of(source, target, images, ("source", "target"))
    for found in chains:
        check_modules(found)
    _check_constants(*chains)
    if [layer.name for layer in chains[0].layers] != [layer.name for layer in chains[1].layers]:
        raise ValueError("plans need two networks with the same layers: balance them first")
    if by == "activations" and images is None:
        raise ValueError("activations are compared on images, and none are given; by='weights' needs none")
    count = len(chains[0].layers) - (not last)
    moving = streams(*chains, tie)[:count]
    if by == "weights":
        return _by_weights(*chains, moving, metric, reg)
    costs = _by_activations(*chains, images, moving, metric, after_relu)  # type: ignore[arg-type]
    solved = dict(zip(costs, _solved([*costs.values()], reg), strict=True))
    return [_assembled(chains, number, blocks, solved) for number, blocks in enumerate(moving)]


def _check_constants(source: Chain, target: Chain) -> None:
    """Raise if the two hold other constants, which no plan moves; a norm's statistics are taken anew and may differ."""
    theirs = dict(target.model.named_buffers())
    for name, tensor in source.model.named_buffers():
        other = theirs.get(name)
        norm = isinstance(source.model.get_submodule(name.rpartition(".")[0]), NORMS)
        if other is None or norm or not tensor.is_floating_point():
            continue
        ours, others = (tensor[:1], other[:1]) if is_one_for_all(tensor) else (tensor, other)
        if ours.shape == others.shape and not torch.equal(ours, others):
            raise ValueError(f"{name} is another constant in the source than in the target: neither can stand for both")


def _solved(costs: list[Tensor], reg: float | None) -> list[Tensor]:
    return transport_plans(costs) if reg is None else [found.plan for found in sinkhorns(costs, reg)]


def _assembled(
    chains: tuple[Chain, Chain], number: int, blocks: list[Block], solved: dict[tuple[int, int], Tensor]
) -> Tensor:
    """The plan of a layer from those of its blocks; neurons of different blocks do not move onto one another."""
    shape = [len(found.layers[number].module.weight) for found in chains]
    if len(blocks) == 1 and _is_whole(blocks[0], shape[0]):
        return solved[blocks[0].key]
    plan = next(iter(solved.values())).new_zeros(shape)
    for block in blocks:
        for rows, columns in zip(block.rows.T, block.columns.T, strict=True):
            plan[rows.unsqueeze(1), columns] = solved[block.key] * (len(rows) / shape[0])
    return plan


def _is_whole(block: Block, count: int) -> bool:
    """Whether a block is all of a layer's neurons, in their order on both sides."""
    return len(block.rows) == count and all(
        index.shape[1] == 1 and torch.equal(index[:, 0], torch.arange(len(index))) for index in block[1:]
    )


def _part(cost: Tensor, block: Block) -> Tensor:
    """The cost among the neurons of a block; of those that move together, the mean."""
    if _is_whole(block, len(cost)):
        return cost
    parts = [cost[rows][:, columns] for rows, columns in zip(block.rows.T, block.columns.T, strict=True)]
    return torch.stack(parts).mean(0)


def _by_activations(
    source: Chain, target: Chain, images: Tensor, moving: list[list[Block]], metric: str, after_relu: bool
) -> dict[tuple[int, int], Tensor]:
    of_layer = {layer.name: blocks for layer, blocks in zip(source.layers, moving, strict=False)}
    final = source.layers[-1].name
    sums: dict[tuple[int, int], Tensor] = {}
    squared = metric in ("euclidean", "squared")  # distances over batches of images add up only if they are squared
    batches = images.split(BATCH) if squared else [images]
    with evaluating(source.model, target.model):
        for batch in batches:
            sides = (layer_outputs(found, batch) for found in (source, target))
            for (layer, one), (_, other) in zip(*sides, strict=True):
                if layer.name not in of_layer:
                    continue
                if one.shape[2:] != other.shape[2:]:
                    raise ValueError(f"{layer.name} puts out {tuple(one.shape)} here and {tuple(other.shape)} there")
                if after_relu and layer.name != final:
                    one, other = one.relu(), other.relu()
                cost = cost_matrix(neurons(one), neurons(other), "squared" if squared else metric)
                if not cost.isfinite().all():
                    raise ValueError(f"{layer.name} puts out NaN or infinity: its neurons cannot be matched")
                for block in of_layer[layer.name]:
                    sums[block.key] = sums.get(block.key, 0) + _part(cost, block)
    shares = Counter(block.key for blocks in moving for block in blocks)
    means = {key: total / shares[key] for key, total in sums.items()}
    return {key: cost.sqrt() if metric == "euclidean" else cost for key, cost in means.items()}


def _by_weights(
    source: Chain, target: Chain, moving: list[list[Block]], metric: str, reg: float | None
) -> list[Tensor]:
    inputs = source.inputs(), target.inputs()
    plans: dict[int, Tensor] = {}
    solved: dict[tuple[int, int], Tensor] = {}
    for i, blocks in enumerate(moving):
        if new := [block for block in blocks if block.key not in solved]:
            here, there = (side[i] for side in inputs)
            came = value_plans(here, there, plans)
            moved = transport_inputs(source.layers[i].module.weight, came, spread=here.spread if here else "")
            cost = cost_matrix(moved.flatten(1), target.layers[i].module.weight.flatten(1), metric)
            if not cost.isfinite().all():
                raise ValueError(f"{source.layers[i].name} holds NaN or infinity: its neurons cannot be matched")
            found = _solved([_part(cost, block) for block in new], reg)
            solved |= {block.key: plan for block, plan in zip(new, found, strict=True)}
        plans[i] = _assembled((source, target), i, blocks, solved)
    return [plans[i] for i in range(len(moving))]
