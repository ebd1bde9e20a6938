"""Figures of fused networks: maps of layers, costs and their dynamic programme, neurons before and after a plan."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from hetlib.lab.figures import COLOURS, DASHES, PALETTE, axes
from hetlib.match import least_costs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bridge(
    deep: Sequence[int], shallow: Sequence[int], taken: Sequence[int], inputs: int, balance: str = "add"
) -> "Figure":
    """Draw two networks of different depth, and between them the balanced one.

    Parameters
    ----------
    deep, shallow : sequences of int
        Widths of their hidden layers.
    taken : sequence of int
        The deep layer of each shallow one.
    inputs : int
        Numbers an image holds: the width of an identity before the first layer.
    balance : {"add", "merge"}
        Whether identity layers, drawn in orange, are added to the shallow one, or layers of the deep one merged.
    """
    ax = axes(7, 3.4)
    last = [sum(t <= i for t in taken) for i in range(len(deep))]
    added = [shallow[count - 1] if count else inputs for count in last]
    middle = added if balance == "add" else [deep[i] for i in taken]
    for height, widths in ((2, deep), (1, middle), (0, shallow)):
        for i, width in enumerate(widths):
            place = i if len(widths) == len(deep) else taken[i]
            new = height == 1 and balance == "add" and i not in taken
            colour = PALETTE["vermilion" if new else ("green", "black", "blue")[height]]
            size = 0.9 * width / max(*deep, *shallow, *middle)
            ax.barh(height, size, left=place - size / 2, height=0.3, color=colour, alpha=0.8)
            ax.text(place, height + 0.27, str(width), ha="center", size=9)
    for place in taken:
        for low in (0, 1):
            ax.plot((place, place), (low + 0.4, low + 0.84), ":", color="#888888", zorder=0)
    ax.set(yticks=(0, 1, 2), yticklabels=("shallow", "balanced", "deep"), ylim=(-0.4, 2.6), xlabel="hidden layer")
    ax.set_xticks(range(len(deep)), [str(i + 1) for i in range(len(deep))])
    what = "the shallow network and identity layers (orange)" if balance == "add" else "the deep network, merged"
    ax.set_title(f"map {_counted(taken)}: {what}")
    ax.grid(visible=False)
    return cast("Figure", ax.figure)


def alignment(cost: Tensor, taken: Sequence[int], pins: tuple[int, int] = (0, 0), title: str = "") -> "Figure":
    """Draw what each pair of layers costs, and beside it the table of the dynamic programme; yellow marks the map.

    Parameters
    ----------
    cost : Tensor of shape (deep, shallow)
        Of each pair.
    taken : sequence of int
        The deep layer of each shallow one.
    pins : (int, int)
        How many of the first and the last pairs are pinned; the table is blank where they forbid it.
    title : str
        Over both.
    """
    from matplotlib.figure import Figure

    m, n = cost.shape
    figure = Figure(figsize=(7.4, 3.8), layout="constrained")
    panels = {"cost of a pair": cost, "least cost so far": least_costs(cost, pins)}
    for ax, (name, values) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        ax.imshow(values.where(values.isfinite(), torch.nan), cmap="Blues", alpha=0.7, aspect="auto")
        ax.plot(range(n), taken, "s-", color=PALETTE["yellow"], markersize=30, linewidth=3, alpha=0.8)
        for i, k in ((i, k) for i in range(m) for k in range(n) if values[i, k].isfinite()):
            ax.text(k, i, f"{values[i, k]:.3g}", ha="center", va="center", size=9, zorder=3)
        ax.set_xticks(range(n), [str(k + 1) for k in range(n)])
        ax.set_yticks(range(m), [str(i + 1) for i in range(m)])
        ax.set(title=name, xlabel="layer of the shallow network", ylabel="layer of the deep network")
        ax.grid(visible=False)
    figure.suptitle(title)
    return figure


def neurons(one: Tensor, other: Tensor, plan: Tensor, title: str = "") -> "Figure":
    """Draw how far the neurons of two layers are apart, as trained and sorted by a transport plan.

    Parameters
    ----------
    one, other : Tensor of shape (images, neurons)
        Activations on the same images.
    plan : Tensor of shape (neurons of one, neurons of other)
        Each neuron of `other` stands beside the one that most of its mass comes from.
    title : str
        Over both; the mean distances along the diagonals are added.
    """
    from matplotlib.figure import Figure

    panels = {
        "as trained": torch.cdist(one.T, other.T),
        "sorted": torch.cdist(one.T[plan.argmax(0)], other.T),
    }
    figure = Figure(figsize=(7.4, 3.8), layout="constrained")
    both = figure.subplots(1, 2)
    for ax, (name, distances) in zip(both, panels.items(), strict=True):
        shown = ax.imshow(distances, cmap="Blues_r", vmin=0)
        mean = float(distances.diagonal().mean())
        ax.set(
            xlabel="neuron of the second network",
            ylabel="neuron of the first network",
            title=f"{name}: diagonal mean {mean:.1f}",
        )
        ax.grid(visible=False)
    figure.colorbar(shown, ax=both, label="distance of activations", shrink=0.85)
    figure.suptitle(title)
    return figure


def paths(
    lines: Mapping[str, Sequence[float]], steps: Sequence[float], ylabel: str, spreads: Mapping[str, Sequence[float]]
) -> "Figure":
    """Draw scores on the way from one network to another, and beside them how much averaged neurons vary.

    Parameters
    ----------
    lines : mapping of str to sequence of float
        A score per step for each way to prepare the first network.
    steps : sequence of float
        Weight of the second network.
    ylabel : str
        The score, with its unit.
    spreads : mapping of str to sequence of float
        Per layer the variance in the middle of the way, over the mean of the ends'; for some of the `lines`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    looks = {
        name: {"color": colour, "linestyle": dash} for name, colour, dash in zip(lines, COLOURS, DASHES, strict=False)
    }
    for name, scores in lines.items():
        left.plot(steps, scores, label=name, **looks[name])
    left.set(xlabel="weight of the second network", ylabel=ylabel, title="From one network to another")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=len(lines), fontsize=9)
    for (name, ratios), mark in zip(spreads.items(), "os^", strict=False):
        places = range(1, len(ratios) + 1)
        right.plot(places, ratios, marker=mark, **looks[name])
    right.set(xlabel="layer", ylabel="variance / parents' variance", title="Averages vary less", ylim=(0, 1.15))
    right.set_xticks(places)
    return figure


def dots(values: Mapping[str, Mapping[Sequence[int], Sequence[float]]], title: str = "") -> "Figure":
    """Draw a dot per run over the maps of layers, a colour per way of fusing.

    Parameters
    ----------
    values : mapping of str to mapping of map to sequence of float
        For each way, for each map the accuracies of all runs, in percent.
    title : str
        The finding.
    """
    ax = axes(7, 3.6)
    maps = list(next(iter(values.values())))
    for shift, ((way, found), colour) in enumerate(zip(values.items(), COLOURS, strict=False)):
        spots = [(place, score) for place, taken in enumerate(maps) for score in found[taken]]
        where = [place + 0.18 * (shift - (len(values) - 1) / 2) for place, _ in spots]
        ax.plot(where, [score for _, score in spots], "o", color=colour, alpha=0.5, markersize=4, label=way)
    ax.set(xlabel="map", ylabel="top-1 accuracy (%)", title=title)
    ax.set_xticks(range(len(maps)), [_counted(taken) for taken in maps], rotation=45)
    ax.legend(loc="lower left", ncols=len(values), fontsize=8)
    return cast("Figure", ax.figure)


def _counted(taken: Sequence[int]) -> str:
    """A map as people count it, from 1."""
    return f"({', '.join(str(i + 1) for i in taken)})"
