"""Pictures of filter grafting: a layer's ten bins, the curve of coefficients, and a ring over its epochs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from hetlib.chain import convolutions
from hetlib.grafting import coefficient
from hetlib.grafting.fits import sums
from hetlib.kernels.entropy import weight_entropy
from hetlib.lab import figures
from hetlib.lab.figures import PALETTE
from hetlib.merging import barrier

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _panels(columns: int, height: float = 2.9, **how: Any) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False, **how)[0]


def problem(images: Tensor, labels: Sequence[str], networks: int = 4) -> "Figure":
    """The task's images, one of each class, above the ring of networks, each taking from the one before it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    above, below = cast("Any", figure.subfigures(2, 1, height_ratios=(1, 1.5)))
    for ax, image, label in zip(above.subplots(1, len(labels)), images, labels, strict=True):
        ax.imshow(image.permute(1, 2, 0).numpy(), cmap="gray_r")
        ax.set(xticks=[], yticks=[], title=label)
    ax = below.subplots()
    for k in range(networks):
        ax.text(k, 0, f"network {k}", ha="center", va="center", bbox={"facecolor": "#DCECF7", "edgecolor": "#0072B2"})
        if k:
            ax.annotate("", (k - 0.3, 0), (k - 0.7, 0), arrowprops={"arrowstyle": "-|>", "linewidth": 1.6})
    turn = {"arrowstyle": "-|>", "linewidth": 1.6, "connectionstyle": "arc3,rad=-0.18"}
    ax.annotate("", (0, -0.25), (networks - 1, -0.25), arrowprops=turn)
    ax.text((networks - 1) / 2, 0.35, "after every epoch each network takes from the one before it", ha="center")
    ax.set(xlim=(-0.5, networks - 0.5), ylim=(-0.9, 0.6))
    ax.axis("off")
    return figure


def ten_bins(weights: Mapping[str, Tensor], bins: int = 10) -> "Figure":
    """Histograms of weights in equal bins between their own ends, side by side, each with its entropy."""
    figure, spots = _panels(len(weights), sharey=True)
    for ax, (title, weight) in zip(spots, weights.items(), strict=True):
        low, high = (float(end) for end in weight.aminmax())
        counts = torch.histc(weight.float(), bins, low, high) / weight.numel()
        edges = torch.linspace(low, high, bins + 1)
        ax.bar(edges[:-1], counts, width=(high - low) / bins, align="edge", color=PALETTE["sky"], edgecolor="white")
        ax.set(title=f"{title}\nH = {float(weight_entropy([weight], bins)[0]):.2f}", xlabel="weight")
        ax.locator_params(axis="x", nbins=4)
    spots[0].set_ylabel("share of the weights")
    return figure


def coefficient_curves(
    settings: Mapping[str, Mapping[str, Any]], differences: Sequence[float], reach: float = 0.3
) -> "Figure":
    """The coefficient over the difference of entropies, for several settings, with a run's own differences below."""
    ax = figures.axes(7.2, 3.4)
    x = torch.linspace(-reach, reach, 601, dtype=torch.float64)
    for (label, how), dash in zip(settings.items(), figures.DASHES, strict=False):
        ax.plot(x, coefficient(x, torch.zeros(()), **how), linestyle=dash, label=label)
    ax.plot(differences, [0.02] * len(differences), "|", color="black", markersize=9, label="differences in our run")
    ax.set(xlim=(-reach, reach), ylim=(0, 1), xlabel="own entropy - donor's entropy", ylabel="share kept")
    ax.set_title("The steeper the curve, the smaller the difference that decides")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return cast("Figure", ax.figure)


def heat_map(coefficients: Sequence[Mapping[str, Sequence[float]]], network: int = 0) -> "Figure":
    """The share that each layer of a network keeps, layers by epochs."""
    ax = figures.axes(7.2, 3.8)
    layers = list(coefficients[0])
    table = [[epoch[layer][network] for epoch in coefficients] for layer in layers]
    extent = (0.5, len(coefficients) + 0.5, len(layers) - 0.5, -0.5)
    shown = ax.imshow(table, aspect="auto", cmap="PuOr", vmin=0.3, vmax=0.7, interpolation="nearest", extent=extent)
    ax.set_yticks(range(len(layers)), layers, size=8)
    ax.set(xlabel="graft", title=f"What network {network} keeps of itself, layer by layer")
    ax.grid(visible=False)
    ax.figure.colorbar(shown, ax=ax, label="share kept")
    return cast("Figure", ax.figure)


def distances(rings: Mapping[str, Sequence[Mapping[str, Any]]], predicted: Mapping[str, float]) -> "Figure":
    """How far the networks of rings are apart, falling at every graft and growing in every epoch."""
    figure, spots = _panels(len(rings), sharey=True)
    for ax, (title, facts) in zip(spots, rings.items(), strict=True):
        x = [epoch + side for epoch in range(1, len(facts) + 1) for side in (0.0, 0.0)]
        y = [fact.get(name, fact["distance"]) for fact in facts for name in ("distance", "distance_after")]
        ax.plot(x, y, color=PALETTE["blue"], linewidth=1.2)
        ax.plot(x[::2], y[::2], ".", color=PALETTE["blue"], label="before the graft")
        ax.plot(x[1::2], y[1::2], ".", color=PALETTE["vermilion"], label="after it")
        low = [predicted[title] * each for each in y[::2]]
        ax.plot(x[::2], low, "--", color="black", linewidth=1, label=f"{predicted[title]:.2f} of before")
        ax.set(title=title, xlabel="epoch")
        ax.legend(loc="upper right")
    spots[0].set_ylabel("distance from their mean")
    return figure


def around_the_graft(history: Any, facts: Sequence[Mapping[str, Any]], chance: float) -> "Figure":
    """The accuracy of a network before each graft, after it, and after its batch norms were measured anew."""
    ax = figures.axes(7.2, 3.2)
    epochs = range(1, len(facts) + 1)
    ax.plot(history.evaluated, history.top1, "o-", markersize=3, label="before the graft")
    for name, label, dash in (("after", "after it", "--"), ("after_update_bn", "after it, statistics anew", "-.")):
        ax.plot(epochs, [fact[name][0] for fact in facts], linestyle=dash, label=label)
    ax.axhline(chance, color="grey", linewidth=1)
    ax.text(len(facts), chance, "chance", ha="right", va="bottom", color="grey")
    ax.set(xlabel="epoch", ylabel="top-1 accuracy (%)", title="Accuracy of network 0 around each graft")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return cast("Figure", ax.figure)


def filter_norms(
    models: Mapping[str, nn.Module], facts: Mapping[str, Sequence[Mapping[str, Any]]], threshold: float = 0.1
) -> "Figure":
    """Histograms of the absolute sums of networks' filters at the end; below, the share of invalid ones over time.

    `facts` has the facts of each network's ring, epoch by epoch; its last network is the one that is drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    above, below = cast("Any", figure.subfigures(2, 1, height_ratios=(1.5, 1)))
    spots, time = above.subplots(1, len(models), squeeze=False, sharex=True, sharey=True)[0], below.subplots()
    dashes = zip(models.items(), figures.DASHES, strict=False)
    for ax, ((title, model), dash) in zip(spots, dashes, strict=True):
        norms = torch.cat([sums(layer.weight).cpu() for _, layer in convolutions(model)]).clamp_min(1e-3)
        ax.hist(norms, bins=torch.logspace(-3, 2, 41).tolist(), color=PALETTE["blue"])
        ax.axvspan(1e-3, threshold, color="grey", alpha=0.25, linewidth=0)
        ax.set(xscale="log", xlim=(1e-3, 1e2), title=title, xlabel="sum of absolute weights")
        shares = [100 * fact["invalid"][-1] for fact in facts[title]]
        time.plot(range(1, len(shares) + 1), shares, linestyle=dash, label=title)
    spots[0].text(threshold / 10, spots[0].get_ylim()[1] * 0.9, "invalid", ha="center", color="#555555")
    spots[0].set_ylabel("filters")
    time.set(xlabel="epoch", ylabel="invalid (%)")
    time.set_ylim(-0.05 * max(1.0, time.get_ylim()[1]), max(1.0, time.get_ylim()[1]))
    time.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def accuracies(values: Mapping[str, Sequence[float]], chance: float, title: str) -> "Figure":
    """Bars of accuracies, for many arms: means, 95 % intervals, and seeds as dots. The axis begins near the lowest."""
    ax = figures.axes(7, 5.5)
    figure = figures.bars_with_intervals(ax, values, title=f"{title} (chance: {chance:.0f} %)")
    low = min(min(seeds) for seeds in values.values())
    ax.set_xlim(max(0.0, low - 5), 100)
    return figure


def barriers(curves: Mapping[str, Sequence[float]], chance: float) -> "Figure":
    """The loss on the straight line between two networks, one curve per pair, each with its barrier's height."""
    ax = figures.axes(7.2, 2.9)
    for (label, losses), dash in zip(curves.items(), figures.DASHES, strict=False):
        named = f"{label}\n(barrier {barrier(losses):.2f})"
        ax.plot([n / (len(losses) - 1) for n in range(len(losses))], losses, linestyle=dash, marker=".", label=named)
    ax.axhline(chance, color="grey", linewidth=1)
    ax.text(1, chance, "loss of guessing", ha="right", va="bottom", color="grey")
    ax.set(xlabel="way from one network to the other", ylabel="test loss (nats)")
    ax.set_ylim(0, 1.15 * max(chance, *(max(losses) for losses in curves.values())))
    ax.set_title("On the straight line between two networks")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return cast("Figure", ax.figure)
