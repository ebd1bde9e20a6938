"""Layers paired by how alike their shapes are: along two flat lists, or block by block."""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hetlib.checks import check_real
from hetlib.errors import check_callable, shown, whole_numbers
from hetlib.match.ratio import check_lengths

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
KINDS = (*CONVOLUTIONS, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def shape_score(a: Sequence[int], b: Sequence[int]) -> float:
    """How alike two shapes are: the product over axes of the smaller size over the larger; 0 for other numbers of axes.

    References
    ----------
    DPIAT's released code (KamilPiechowiak/iatransfer): ShapeScore.
    """
    return _score(*(whole_numbers("a shape", shape, 1) for shape in (a, b)))


def _score(a: Sequence[int], b: Sequence[int]) -> float:
    if len(a) != len(b):
        return 0.0
    score = 1.0
    for x, y in zip(a, b, strict=True):
        score *= min(x / y, y / x)
    return score


def by_score(scores: Tensor) -> list[int | None]:
    """Flat matching: the most likeness along two lists, where going forward is free and going back costs.

    With the best prefix ending at source layer k, feeding a target layer from source layer j earns its score, less
    ``(k - j + 1) / 2`` if j lies at or before k. A target layer that would earn nothing is left out.

    Parameters
    ----------
    scores : Tensor of shape (n_target, n_source)
        Likeness of every pair, 0 where a pair is ruled out.

    Returns
    -------
    list of int or None
        The source layer of each target layer.

    Raises
    ------
    ValueError
        If a chain is empty.

    References
    ----------
    Flat dynamic programming ("DPF") of DPIAT's toolkit as TLV's release carries it. Its last step indexes the list of
    target layers by a source layer; this one does not.
    """
    check_real("scores", scores)
    if scores.ndim != 2 or not scores.isfinite().all():
        raise ValueError(f"scores must be finite and of shape (n_target, n_source), got {shown(scores)}")
    n_target, n_source = scores.shape
    check_lengths(n_source, n_target)
    scores = scores.double()
    back = torch.arange(n_source + 1).unsqueeze(1) - torch.arange(1, n_source + 1)
    penalty = torch.where(back >= 0, -(back + 1) / 2, torch.zeros(())).double()  # (previous k from 0, next j from 1)
    best = torch.zeros(n_source + 1, dtype=torch.float64)
    steps = []
    for row in scores:
        before, previous = (best.unsqueeze(1) + penalty).max(0)
        fed = torch.cat((best.new_tensor([-torch.inf]), before + row))
        value, ends = torch.where(fed > best, fed, best).cummax(0)
        steps.append((fed > best, previous, ends))
        best = value
    picks: list[int | None] = []
    j = n_source
    for taken, previous, ends in reversed(steps):
        j = int(ends[j])
        picks.append(j - 1 if taken[j] else None)
        j = int(previous[j - 1]) if taken[j] else j
    picks.reverse()
    return [j if j is not None and scores[i, j] > 0 else None for i, j in enumerate(picks)]


def by_blocks(sources: Sequence, targets: Sequence, score: Callable[[Any, Any], float]) -> list[tuple[Any, Any]]:
    """DPIAT's matching: along two lists of layers and blocks, a source item serves a run of target items.

    Serving a run earns the sum of its scores over the square root of its length; runs and source items keep their
    order. A layer and a block earn nothing together; two blocks earn what matching what is in them earns.

    Parameters
    ----------
    sources, targets : sequence of items and lists of items
        As `hetlib.chain.nested` gives them.
    score : callable
        Of a source item and a target item, at least 0.

    Returns
    -------
    list of (target item, source item)
        Every pair of items that are no lists and have a score above 0, in the order of the targets.

    References
    ----------
    Dynamic programming of DPIAT's released code (KamilPiechowiak/iatransfer), matching "dp".
    """
    check_callable("score", score)
    return _align(sources, targets, score)[1]


def likeness(a: tuple[str, Any], b: tuple[str, Any]) -> float:
    """`shape_score` of the weights of two layers, each a name and a module; 0 for layers of different kinds."""
    return _score(a[1].weight.shape, b[1].weight.shape) if _of_one_kind(a[1], b[1]) else 0.0


def _of_one_kind(a: nn.Module, b: nn.Module) -> bool:
    """Whether two layers are of one class, or derive from one of `KINDS`, as one with weight norm does from its own.

    A batch norm over several GPUs is told no number of axes, so it is like any.
    """
    if any(isinstance(layer, nn.SyncBatchNorm) for layer in (a, b)):
        return all(isinstance(layer, _BatchNorm) for layer in (a, b))
    return type(a) is type(b) or any(isinstance(a, kind) and isinstance(b, kind) for kind in KINDS)


def pair_by_score(sources: Sequence, targets: Sequence) -> list[tuple[Any, Any]]:
    """Two lists of layers matched by `by_score` of their `likeness`: pairs of (target layer, source layer)."""
    scores = [[likeness(source, target) for source in sources] for target in targets]
    picks = by_score(torch.tensor(scores, dtype=torch.float64).view(len(targets), len(sources)))
    return [(leaf, sources[pick]) for leaf, pick in zip(targets, picks, strict=True) if pick is not None]


def _align(sources: Sequence, targets: Sequence, score: Callable[[Any, Any], float]) -> tuple[float, list]:
    """What two lists earn together, and the pairs that earn it."""
    likeness = [[_likeness(source, target, score) for source in sources] for target in targets]
    value = [[0.0] * (len(sources) + 1) for _ in range(len(targets) + 1)]
    begins = [[0] * (len(sources) + 1) for _ in range(len(targets) + 1)]  # the run that ends here; 0: there is none
    for i in range(1, len(targets) + 1):
        for j in range(1, len(sources) + 1):
            value[i][j] = max(value[i - 1][j], value[i][j - 1])
            total = 0.0
            for first in range(i, 0, -1):
                total += likeness[first - 1][j - 1][0]
                earned = total / sqrt(i - first + 1) + value[first - 1][j - 1]
                if earned > value[i][j]:
                    value[i][j], begins[i][j] = earned, first
    pairs: list[tuple[Any, Any]] = []
    i, j = len(targets), len(sources)
    while i and j:
        if first := begins[i][j]:
            pairs[:0] = [pair for k in range(first, i + 1) for pair in likeness[k - 1][j - 1][1]]
            i, j = first - 1, j - 1
        elif value[i - 1][j] >= value[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return value[-1][-1], pairs


def _likeness(source: Any, target: Any, score: Callable[[Any, Any], float]) -> tuple[float, list]:
    if isinstance(source, list) and isinstance(target, list):
        return _align(source, target, score)
    if isinstance(source, list) or isinstance(target, list):
        return 0.0, []
    earned = score(source, target)
    return earned, [(target, source)] if earned > 0 else []
