"""Pictures of HMT: the tasks, the networks, which layer feeds which, and filters that stay alike."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from hetlib.chain import convolutions
from hetlib.data import Images
from hetlib.lab import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tasks(sets: Mapping[str, Images], per_row: int = 6) -> "Figure":
    """Draw the first image of every class of some sets of images; a set has as many rows as it needs."""
    from matplotlib.figure import Figure

    rows = [-(-images.num_classes // per_row) for images in sets.values()]
    figure = Figure(figsize=(7.2, 1.35 * sum(rows) + 0.5), layout="constrained")
    spots = figure.subplots(sum(rows), per_row, squeeze=False)
    for ax in spots.flat:
        ax.set(xticks=[], yticks=[], frame_on=False)
    first = 0
    for (name, images), count in zip(sets.items(), rows, strict=True):
        for label, ax in zip(range(images.num_classes), spots[first : first + count].flat, strict=False):
            ax.imshow(images.images[images.labels == label][0].permute(1, 2, 0).numpy())
            ax.set_title(images.classes[label], size=9, weight="normal", loc="center")
        spots[first, 0].set_ylabel(name)
        first += count
    title = f"The first training image of every class: {' above, '.join(sets)} below"
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def silhouettes(models: Mapping[str, nn.Module]) -> "Figure":
    """Draw networks side by side, a bar for each convolution that is as wide as its output channels are many."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    widths = {name: [layer.out_channels for _, layer in convolutions(model)] for name, model in models.items()}
    widest, deepest = max(map(max, widths.values())), max(map(len, widths.values()))
    for ax, (name, bars), colour in zip(
        figure.subplots(1, len(models)), widths.items(), cycle(figures.COLOURS), strict=False
    ):
        places = range(1, len(bars) + 1)
        ax.barh(places, bars, left=[-bar / 2 for bar in bars], color=colour)
        for place, bar in zip(places, bars, strict=True):
            ax.text(0.56 * widest, place, bar, va="center", size=9)
        ax.set(xlim=(-0.54 * widest, 0.75 * widest), ylim=(deepest + 0.6, 0.4), xticks=[], yticks=places)
        ax.set(title=name, xlabel="output channels", ylabel="convolution")
        ax.grid(visible=False)
    return figure


def orders(pairs: Mapping[str, Mapping[str, Sequence[int]]], sources: int) -> "Figure":
    """Draw which layer feeds which, a column for each order and a row for each target.

    Parameters
    ----------
    pairs : mapping of str to mapping of str to sequence of int
        By target and order: for each layer that is fed, from the first on, the number of its source layer.
    sources : int
        How many layers the source has.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.3 * len(pairs)), layout="constrained")
    spots = figure.subplots(len(pairs), max(map(len, pairs.values())), squeeze=False)
    for line, (target, by_order) in zip(spots, pairs.items(), strict=True):
        for ax, (order, feeding) in zip(line, by_order.items(), strict=True):
            for layer in range(sources):
                ax.text(layer, 1, str(layer), ha="center", va="bottom", color="black" if layer in feeding else "grey")
            for place, layer in enumerate(feeding):
                arrow = {"arrowstyle": "-|>", "color": figures.PALETTE["blue"], "linewidth": 1.2}
                ax.annotate("", (place, 0.05), (layer, 0.97), arrowprops=arrow)
                ax.text(place, 0, str(place), ha="center", va="top")
            ax.set(xlim=(-0.6, sources - 0.4), ylim=(-0.25, 1.25), xticks=[], yticks=[], title=order)
            ax.set_frame_on(False)
        line[0].set_ylabel(f"{target}       VGG11", size=9)
    return figure


def alike(filters: Mapping[str, Tensor]) -> "Figure":
    """Draw the distances between the filters of every layer; black is 0.

    `filters` holds, by layer, a row for each filter. The title is the rank: how many singular values are above 1 % of
    the largest.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 2.5), layout="constrained")
    spots = figure.subplots(1, len(filters), squeeze=False)
    for ax, (layer, rows) in zip(spots[0], filters.items(), strict=True):
        apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        picture = ax.imshow((apart / apart.max()).numpy(), cmap="magma", vmin=0, vmax=1)
        rank = int(torch.linalg.matrix_rank(rows, rtol=1e-2))
        ax.set_title(f"rank {rank} of {len(rows)}", size=9)
        ax.set(xlabel=f"filter of {layer}", xticks=[0, len(rows) // 2], yticks=[0, len(rows) // 2])
        ax.grid(visible=False)
    figure.colorbar(picture, ax=spots, label="distance, relative", shrink=0.8)
    return figure


def apart(gaps: Mapping[str, Sequence[float]], levels: Sequence[float]) -> "Figure":
    """Draw how far a filter is from its copy, as a part of its length: a line for each layer over levels of noise."""
    ax = figures.axes(6.4, 2.8)
    for (layer, values), dash, colour in zip(
        gaps.items(), figures.DASHES, (*figures.COLOURS[:4], "grey"), strict=False
    ):
        shown = [100 * value or torch.nan for value in values]  # 0 has no place on this axis
        ax.plot(range(len(levels)), shown, linestyle=dash, marker="o", color=colour, label=layer)
    ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    ax.set(yscale="log", xlabel="noise on copies, in standard deviations", ylabel="apart (% of a filter's length)")
    ax.set_title("Copies end about as far apart as noise put them")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return cast("Figure", ax.figure)


def accuracies(values: Mapping[str, Mapping[str, Sequence[float]]], chance: float) -> "Figure":
    """Draw bars of accuracies with intervals and seeds, by target and start, with a line where guessing is."""
    from matplotlib.figure import Figure

    counts = [len(arms) for arms in values.values()]
    figure = Figure(figsize=(7, 0.42 * sum(counts) + 1.2), layout="constrained")
    spots = figure.subplots(len(values), 1, height_ratios=counts, sharex=True, squeeze=False)[:, 0]
    for ax, (target, arms) in zip(spots, values.items(), strict=True):
        figures.bars_with_intervals(ax, arms, xlabel="", title=target)
        ax.axvline(chance, color="grey", linestyle=":")
    spots[-1].set_xlabel("top-1 accuracy (%); dotted: guessing")
    return figure


def over_time(lines: Mapping[str, Sequence], epochs: Sequence[int], chance: float, title: str) -> "Figure":
    """Draw accuracies over epochs with their bands, from 0 on, with a line where guessing is."""
    ax = figures.axes()
    ax.axhline(chance, color="grey", linestyle=":", label="guessing")
    figure = figures.curves(ax, lines, epochs, title=title)
    ax.set_ylim(bottom=0)
    return figure
