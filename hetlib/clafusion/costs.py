"""What it costs to pair layers of two networks: how unlike what they put out is, or how unlike their sizes are."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from hetlib.chain import Chain, Network, eval_chain, evaluating, layer_outputs, neurons
from hetlib.checks import check_images, check_network
from hetlib.clafusion.blocks import Block, corresponding, groups
from hetlib.errors import known
from hetlib.kernels import transport_plan
from hetlib.kernels.cca import cca
from hetlib.kernels.cka import compare, gram
from hetlib.kernels.costs import cost_matrix

MEASURES = ("cka", "debiased", "neurons", "wasserstein", "cca", "index")


def layer_costs(deep: Network, shallow: Network, images: Tensor | None, measure: str = "cka") -> list[Tensor]:
    """What it costs to pair the blocks of two networks, group by group.

    Parameters
    ----------
    deep, shallow : nn.Module or Chain
        Two networks of as many groups (`groups`).
    images : Tensor of shape (N, ...) or None
        What both are run on, once and in evaluation mode.
    measure : {"cka", "debiased", "neurons", "wasserstein", "cca", "index"}
        One minus linear CKA, by the biased estimate (the released choice, which comes near 0 for any two wide
        layers) or the debiased one; the squared difference of the numbers of neurons; the exact transport cost between
        the neurons, each at the place of all its activations; one minus R^2_CCA; or the squared difference of the
        places in the group. Only "neurons" and "index" do not look at the images. "wasserstein" and "cca" keep
        the activations of all layers, the others none.

    Returns
    -------
    list of Tensors of shape (deep blocks, shallow blocks)
        In float64; without columns where only the deep network has residual blocks.

    Raises
    ------
    ValueError
        If the groups do not correspond, the measure is unknown, or it needs images and there are none.

    References
    ----------
    Nguyen et al., ICASSP 2023, section 3; Kornblith et al., ICML 2019.
    """
    known("measure", measure, MEASURES)
    chains = chains_of(deep, shallow, images)
    runs = corresponding(*chains)
    if measure in ("neurons", "index"):
        sizes = [[torch.tensor(_sizes(run, measure), dtype=torch.float64) for run in side] for side in runs]
        return [(rows[:, None] - columns).square() for rows, columns in zip(*sizes, strict=True)]
    if images is None:
        raise ValueError(f"the measure {measure!r} compares layers on images, and none are given")
    with evaluating(*(found.model for found in chains)):
        seen = [_represented(found, images, measure) for found in chains]
    kept = [[[now[block.last.name] for block in run] for run in side] for now, side in zip(seen, runs, strict=True)]
    return [_dissimilarity(rows, columns, measure).double() for rows, columns in zip(*kept, strict=True)]


def chains_of(
    deep: Network, shallow: Network, images: Tensor | None, names: tuple[str, str] = ("deep", "shallow")
) -> tuple[Chain, Chain]:
    """Both networks, read, with the images as examples; errors name what is no network, or no images."""
    for what, given in zip([f"the {name} network" for name in names], (deep, shallow), strict=True):
        check_network(what, given.model if isinstance(given, Chain) else given, values=True)
    if images is not None:
        check_images("images", images)
    return eval_chain(deep, images), eval_chain(shallow, images)


def _sizes(run: Sequence[Block], measure: str) -> list[int]:
    return [block.last.module.weight.shape[0] for block in run] if measure == "neurons" else [*range(len(run))]


def _represented(found: Chain, images: Tensor, measure: str) -> dict[str, Tensor]:
    wanted = {block.last.name for run in groups(found) for block in run}
    by_gram = measure in ("cka", "debiased")
    kept = {}
    for layer, value in layer_outputs(found, images):
        if layer.name not in wanted:
            continue
        if not value.isfinite().all():
            raise ValueError(f"{layer.name} puts out NaN or infinity: it cannot be compared")
        if len(value) > 1 and bool((value == value[:1]).all()):
            warnings.warn(f"{layer.name} puts out the same for all images: it is like no other layer", stacklevel=4)
        kept[layer.name] = gram(value, measure == "debiased") if by_gram else value.clone()
    return kept


def _dissimilarity(rows: list[Tensor], columns: list[Tensor], measure: str) -> Tensor:
    if not columns:
        return torch.zeros(len(rows), 0)
    if measure == "cca":
        return 1 - cca(rows, columns)
    if measure == "wasserstein":
        return torch.stack([torch.stack([_moved(a, b) for b in columns]) for a in rows])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of layers that do not vary, by number; here they have names
        return 1 - compare(rows, columns)


def _moved(a: Tensor, b: Tensor) -> Tensor:
    cost = cost_matrix(neurons(a), neurons(b))
    return (cost * transport_plan(cost)).sum()
