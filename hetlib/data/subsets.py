"""Parts of labelled images: by class, a few of each, and the two halves of a skill transfer."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil

import torch

from hetlib.checks import check_sequence
from hetlib.data.images import Images
from hetlib.errors import finite, of_kind, positive, seed_of, whole, whole_numbers


def class_split(data: Images, groups: Iterable[Sequence[int]]) -> list[Images]:
    """Divide a data set into parts that share no class, each labelled from 0 in the order its group lists.

    Parameters
    ----------
    data : Images
        What to divide.
    groups : iterable of sequences of int
        The labels of each part, for instance `[range(0, 50), range(50, 100)]`.

    Returns
    -------
    list of Images
        One for each group.

    Raises
    ------
    ValueError
        If a label does not exist or is listed twice.
    """
    of_kind("data", data, Images)
    check_sequence(f"the groups of the classes of {data.name}", groups, "lists of labels")
    parts = [whole_numbers(f"the classes of {data.name}", group) for group in groups]
    listed = [label for part in parts for label in part]
    if len(set(listed)) < len(listed) or not set(listed) <= set(range(data.num_classes)):
        valid = f"each of 0..{data.num_classes - 1} at most once"
        raise ValueError(f"the classes of {data.name} can be listed {valid}, got {parts}")
    return [_keep(data, part) for part in parts]


def few_shot(data: Images, per_class: int, seed: int = 0) -> Images:
    """Draw `per_class` images of every class without replacement, class after class.

    Raises
    ------
    ValueError
        If a class has fewer images; the message names it. If `per_class` is no whole number of at least 1.
    """
    of_kind("data", data, Images)
    positive("per_class", per_class)
    generator = torch.Generator().manual_seed(seed_of(seed))
    order = torch.randperm(len(data), generator=generator)
    labels = data.labels.cpu()[order]
    parts = [order[labels == label][:per_class] for label in range(data.num_classes)]
    for title, part in zip(data.classes, parts, strict=True):
        if len(part) < per_class:
            raise ValueError(f"{data.name} has {len(part)} images of class {title!r}, and per_class is {per_class}")
    return data.subset(torch.cat(parts))


def skill_split(data: Images, label: int, share: float = 0.1, seed: int = 0) -> tuple[Images, Images]:
    """Divide a data set into a special part, all images of one class and a few others, and a general one, the rest.

    Parameters
    ----------
    data : Images
        What to divide; every part keeps all classes.
    label : int
        The special class, of which the general part has nothing.
    share : float
        Of the images of the other classes, the part that is special too, rounded up.
    seed : int
        Of the draw of these.

    Returns
    -------
    special, general : Images

    Raises
    ------
    ValueError
        If there is no such label, or the share is not from 0 to 1.

    References
    ----------
    Nguyen et al., *On Cross-Layer Alignment for Model Fusion of Heterogeneous Neural Networks*, ICASSP 2023, skill
    transfer, after Singh and Jaggi, *Model Fusion via Optimal Transport*, NeurIPS 2020.
    """
    of_kind("data", data, Images)
    label = whole(f"label, a class of {data.name},", label, 0, data.num_classes - 1)
    finite("share", share, 0, 1)
    generator = torch.Generator().manual_seed(seed_of(seed))
    labels = data.labels.cpu()
    others = (labels != label).nonzero().flatten()
    few = others[torch.randperm(len(others), generator=generator)[: ceil(share * len(others))]]
    special = labels == label
    special[few] = True
    return data.subset(special.nonzero().flatten()), data.subset((~special).nonzero().flatten())


def _keep(data: Images, labels: list[int]) -> Images:
    rank = torch.full((data.num_classes,), -1)
    rank[labels] = torch.arange(len(labels))
    relabelled = rank.to(data.labels.device)[data.labels]
    part = replace(data, labels=relabelled, classes=tuple(data.classes[label] for label in labels), tasks={})
    return part.subset((relabelled >= 0).nonzero().flatten())
