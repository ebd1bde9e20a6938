"""One look for all figures, and the pictures that several notebooks draw.

Every function returns a figure that pyplot does not know of: as the last line of a cell it is shown once, and none is
left open behind it.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from hetlib.lab.statistics import interval
from hetlib.training import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by readers of every colour vision.
PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
COLOURS = tuple(PALETTE.values())
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)), (0, (3, 1)))


def style(zoom: float = 1.0) -> None:
    """Set matplotlib to the one style: readable at half a page's width, and small as a file.

    `zoom` scales figures and all that is in them alike, from 0.5 to 3 (else a ValueError): 1 is 700 pixels wide and
    fits a laptop, 1.5 a projector.
    """
    if not 0.5 <= zoom <= 3:
        raise ValueError(f"zoom must be from 0.5 to 3, got {zoom!r}")
    import matplotlib.style
    from cycler import cycler

    matplotlib.style.use(Path(__file__).with_suffix(".mplstyle"))
    dpi = 100 * zoom
    matplotlib.rcParams.update({"axes.prop_cycle": cycler(color=COLOURS), "figure.dpi": dpi, "savefig.dpi": dpi})


def axes(width: float = 7, height: float = 3.4) -> "Axes":
    """One pair of axes in a new figure of that many inches; its figure is ``.figure``."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()


def curves(
    ax: "Axes | None",
    histories: Mapping[str, Sequence[Sequence[float]]],
    x: Sequence[float] | None = None,
    xlabel: str = "epoch",
    ylabel: str = "top-1 accuracy (%)",
    title: str = "",
) -> "Figure":
    """Draw one line per label, the mean over seeds, in a band of its 95 % interval.

    Parameters
    ----------
    ax : Axes or None
        Where to draw; None makes a new figure.
    histories : mapping of str to sequences
        For each label one sequence per seed, all of one length (else a ValueError); a single seed has no band.
    x : sequence of float, optional
        Where the values lie; by default 1, 2, ...
    """
    ax = ax or axes()
    for (label, seeds), colour, dash in zip(histories.items(), cycle(COLOURS), cycle(DASHES), strict=False):
        if len({len(values) for values in seeds}) != 1:
            raise ValueError(f"{label}: the seeds have {[len(values) for values in seeds]} values, they must agree")
        means, halves = zip(*(interval(column) for column in zip(*seeds, strict=True)), strict=True)
        where = x if x is not None else range(1, len(means) + 1)
        marker = "o" if len(means) == 1 else ""  # one point makes no line
        ax.plot(where, means, color=colour, linestyle=dash, marker=marker, label=f"{label} (n = {len(seeds)})")
        if len(seeds) > 1:
            low, high = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
            ax.fill_between(where, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if histories:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return cast("Figure", ax.figure)


def bars_with_intervals(
    ax: "Axes | None",
    values: Mapping[str, Sequence[float]],
    xlabel: str = "top-1 accuracy (%)",
    title: str = "",
) -> "Figure":
    """Draw one horizontal bar per label, the first at the top: mean, 95 % interval, and every seed as a dot.

    `ax` is where to draw, None makes a new figure; `xlabel` names the unit.
    """
    ax = ax or axes(height=0.5 * len(values) + 1.2)
    for y, seeds in enumerate(values.values()):
        mean, half = interval(seeds)
        ax.barh(y, mean, height=0.62, color=PALETTE["sky"], alpha=0.55)
        ax.plot(seeds, [y] * len(seeds), "o", color=PALETTE["blue"], markeredgecolor="white", zorder=5)
        if not math.isnan(half):
            ax.errorbar(mean, y, xerr=half, color="black", capsize=5, linewidth=1.6)
        right = max(*seeds, mean + (0 if math.isnan(half) else half))
        ax.annotate(f"{mean:.1f}", (right, y), xytext=(8, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(values)), list(values))
    ax.set(xlabel=xlabel, title=title)
    ax.margins(x=0.12)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return cast("Figure", ax.figure)


def kernel_strip(kernels: Mapping[str, Tensor], title: str = "", unit: str = "weight") -> "Figure":
    """Draw kernels as images, one row per label, all on one colour scale that is symmetric about zero.

    A row is (n, height, width), or (n, 3, height, width) for kernels over red, green and blue, which are drawn as
    colours about a middle grey. Rows may differ in number and size; other axes, or colour in some rows only, are a
    ValueError. `unit` is what the colours measure.
    """
    from matplotlib.figure import Figure

    colour = all(row.ndim == 4 and row.shape[1] == 3 for row in kernels.values())
    for label, row in kernels.items():
        if row.ndim != 3 and not colour:
            raise ValueError(f"{label}: kernels must be (n, height, width), got {tuple(row.shape)}")
    most = max(len(row) for row in kernels.values())
    figure = Figure(figsize=(7, 7 / (most + 2) * len(kernels) + 0.9), layout="constrained")
    spots = figure.subplots(len(kernels), most, squeeze=False)
    limit = max(torch.as_tensor(row).abs().max().item() for row in kernels.values()) or 1.0
    for line, (label, row) in zip(spots, kernels.items(), strict=True):
        for ax in line:
            ax.set(xticks=[], yticks=[], frame_on=False)
        for ax, kernel in zip(line, row, strict=False):
            shown = torch.as_tensor(kernel).detach().cpu().float()
            shown = shown.permute(1, 2, 0) / limit / 2 + 0.5 if colour else shown
            image = ax.imshow(shown.numpy(), cmap="PuOr", vmin=-limit, vmax=limit)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    if not colour:
        figure.colorbar(image, ax=spots, label=unit, shrink=0.9)
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def learning(known: Mapping[str, History], label: str, history: History | None) -> "Figure":
    """Draw a training as it goes on, beside finished ones in grey; without a history it asks to press Run."""
    ax = axes()
    for (name, done), dash in zip(known.items(), DASHES[1:], strict=False):
        ax.plot(done.evaluated, done.top1, color="grey", linestyle=dash, label=name)
    if history is not None:
        ax.plot(history.evaluated, history.top1, "o-", label=label)
    state = "press Run" if history is None else f"training loss {history.loss[-1]:.2f} in epoch {history.epochs}"
    ax.set(xlabel="epoch", ylabel="top-1 accuracy (%)", title=f"{label}: {state}")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return cast("Figure", ax.figure)
