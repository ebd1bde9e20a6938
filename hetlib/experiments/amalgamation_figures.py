"""Pictures of knowledge amalgamation: the pool, how sure its networks are, which images each wins, and the loss."""

from collections.abc import Mapping, Sequence
from math import ceil, log
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from hetlib.data import Images
from hetlib.lab import figures
from hetlib.lab.figures import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hetlib.training import History


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(7.2, height), layout="constrained")


def _show(ax: Any, image: Tensor, title: str = "") -> None:
    ax.imshow(image.permute(1, 2, 0).numpy())
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, size=7, weight="normal")


def examples(data: Images, columns: int = 8) -> "Figure":
    """Images of every attribute, as many of each, or of some classes, below the names of all that they are or have."""
    has = data.labels if data.labels.dim() == 2 else torch.nn.functional.one_hot(data.labels, data.num_classes)
    shown = min(columns, has.shape[1])
    each = [torch.nonzero(has[:, n * has.shape[1] // shown])[: columns // shown, 0] for n in range(shown)]
    chosen = torch.cat(each).tolist()
    figure = _figure(1.9)
    for ax, n in zip(figure.subplots(1, len(chosen)), chosen, strict=True):
        names = [name.replace("_", " ") for name, one in zip(data.classes, has[n], strict=True) if one]
        _show(ax, data.images[n], "\n".join(names) or "none")
    return figure


def pool(sources: Mapping[int, Sequence[str]], wanted: Sequence[str]) -> "Figure":
    """Sources left, attributes right, a line where a source knows an attribute; what is wanted is coloured."""
    figure = _figure(4.2)
    ax = figure.subplots()
    names = [*wanted, *sorted({name for known in sources.values() for name in known} - set(wanted))]
    place = {name: n / (len(names) - 1) for n, name in enumerate(names)}
    for n, (number, known) in enumerate(sources.items()):
        y = n / (len(sources) - 1)
        ax.text(-0.02, y, f"source {number}", ha="right", va="center")
        for name in known:
            asked = name in wanted
            colour, wide = (PALETTE["vermilion"], 2.0) if asked else ("#999999", 0.9)
            ax.plot([0, 1], [y, place[name]], color=colour, linewidth=wide, zorder=2 if asked else 1)
    for name, y in place.items():
        weight, colour = ("bold", PALETTE["vermilion"]) if name in wanted else ("normal", "black")
        ax.text(1.02, y, name.replace("_", " "), va="center", color=colour, weight=weight)
    ax.set(xlim=(-0.3, 1.5), ylim=(1.05, -0.05), title="What each source knows, and what is wanted")
    ax.axis("off")
    return figure


def certainty(entropies: Mapping[str, tuple[Tensor, Tensor]], classes: int = 2) -> "Figure":
    """For every network the entropies of its right and of its wrong predictions, as histograms of equal area."""
    figure = _figure(2.9)
    spots = figure.subplots(1, len(entropies), squeeze=False, sharex=True, sharey=True)[0]
    edges = torch.linspace(0, ceil(10 * log(classes)) / 10, 15).tolist()
    for ax, (title, (right, wrong)) in zip(spots, entropies.items(), strict=True):
        for values, label, colour in ((right, "right", PALETTE["blue"]), (wrong, "wrong", PALETTE["vermilion"])):
            shown = f"{label} ({len(values)}, mean {float(values.mean()):.2f})" if len(values) else f"{label} (0)"
            each = [1 / max(1, len(values)) / (edges[1] - edges[0])] * len(values)
            ax.hist(values.tolist(), bins=edges, weights=each, alpha=0.55, color=colour, label=shown)
        ax.set(title=title)
        ax.legend(loc="upper right", fontsize=8, handlelength=1)
    figure.supxlabel("entropy of the prediction (nats)")
    spots[0].set_ylabel("density")
    return figure


def won(images: Tensor, entropies: Tensor, names: Sequence[str], columns: int = 7) -> "Figure":
    """A row of images for every source that is surest of them; above each image, all sources' entropies.

    `images` are (n, 3, H, W) and `entropies` (sources, n).
    """
    figure = _figure(1.15 * len(names) + 0.3)
    winner = entropies.argmin(0)
    for row, (spots, name) in enumerate(zip(figure.subplots(len(names), columns, squeeze=False), names, strict=True)):
        mine = torch.nonzero(winner == row)[:, 0]
        for ax in spots:
            ax.set(xticks=[], yticks=[], frame_on=False)
        for ax, n in zip(spots, mine.tolist(), strict=False):
            _show(ax, images[n], " / ".join(f"{float(value):.2f}" for value in entropies[:, n]))
        spots[0].set_ylabel(f"{name}\nwins {len(mine)}")
    return figure


def common_space(bridges: Mapping[str, tuple[Sequence[float], Tensor, Tensor]]) -> "Figure":
    """What bridges make of features: the length of the teacher's rows, and both networks' images in the common space.

    Each value is the mean length after every step, and where the student's and the teacher's images end, (images, 2).
    """
    figure = _figure(2.9)
    lengths, *spaces = figure.subplots(1, 1 + len(bridges))
    for (title, (rows, *_)), dash in zip(bridges.items(), figures.DASHES, strict=False):
        lengths.plot(rows, linestyle=dash, label=title)
    lengths.set(xlabel="step", title="Length of the rows of T", ylim=(0, None))
    lengths.legend(loc="center right", bbox_to_anchor=(1, 0.72))
    reach = 1.1 * max(float(each.abs().max()) for _, *both in bridges.values() for each in both)
    for ax, (title, (_, student, teacher)) in zip(spaces, bridges.items(), strict=True):
        for points, label, mark in ((teacher, "source", "o"), (student, "component", "x")):
            ax.scatter(*points.T.tolist(), s=12, marker=mark, alpha=0.6, label=label)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), title=f"Common space\n{title}", aspect="equal")
        ax.set(xlabel="channel 1", ylabel="channel 2" if ax is spaces[0] else "")
    spaces[0].legend(loc="lower left")
    return figure


def terms(curves: Mapping[str, Tensor], taps: int) -> "Figure":
    """The terms of a component's loss over its epochs, the mean over its teachers; a panel for each training.

    Each value is (epochs, teachers, taps + 2).
    """
    figure = _figure(3.0)
    labels = [*(f"tap {n}" for n in range(1, taps + 1)), "logits", "row norms"]
    spots = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    for ax, (title, values) in zip(spots, curves.items(), strict=True):
        epochs = range(1, len(values) + 1)
        for label, dash, line in zip(labels, figures.DASHES, values.mean(1).T, strict=False):
            ax.plot(epochs, line.clamp_min(1e-6).tolist(), linestyle=dash, label=label)
        ax.set(title=title, xlabel="epoch", yscale="log")
    spots[0].set_ylabel("mean of the term")
    spots[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def losses(known: Mapping[str, "History"], label: str, history: "History | None") -> "Figure":
    """Training losses over epochs, finished ones in grey; the legend has the accuracies at the end."""
    ax = figures.axes()
    ended = lambda one: f", {one.top1[-1]:.1f} %" if one.top1 else ""
    for (name, done), dash in zip(known.items(), figures.DASHES[1:], strict=False):
        ax.plot(range(1, done.epochs + 1), done.loss, color="grey", linestyle=dash, label=name + ended(done))
    if history is not None:
        ax.plot(range(1, history.epochs + 1), history.loss, "o-", label=label + ended(history))
    ax.set(xlabel="epoch", ylabel="training loss", title=label if history else f"{label}: press Run")
    ax.legend(loc="upper right")
    return cast("Figure", ax.figure)


def accuracies(values: Mapping[str, Sequence[float]], majority: float, title: str) -> "Figure":
    """Bars of accuracies with intervals and seeds; a line for who always says what is more frequent."""
    ax = figures.axes(7, 0.33 * len(values) + 1.2)
    figure = figures.bars_with_intervals(ax, values, title=title)
    ax.axvline(majority, color="grey", linewidth=1)
    ax.set_xlabel("test accuracy (%); grey line: who always says what is more frequent")
    ax.set_xlim(min(majority, *(min(seeds) for seeds in values.values())) - 3, 100)
    return figure


def by_task(scores: Mapping[str, Mapping[str, float]], majority: Mapping[str, float]) -> "Figure":
    """Accuracies of several networks side by side for every task, with the majority's as a line."""
    ax = figures.axes(7.2, 3.0)
    width = 0.8 / len(scores)
    for n, ((label, of_task), colour) in enumerate(zip(scores.items(), figures.COLOURS, strict=False)):
        places = [task + (n - (len(scores) - 1) / 2) * width for task in range(len(majority))]
        ax.bar(places, [of_task[task] for task in majority], width=0.9 * width, color=colour, label=label)
    for place, share in enumerate(majority.values()):
        ax.plot([place - 0.45, place + 0.45], [share, share], color="black", linewidth=1)
    ax.set_xticks(range(len(majority)), [name.replace("_", " ") for name in majority])
    ax.set(ylim=(min(majority.values()) - 8, 100), ylabel="test accuracy (%)")
    ax.set_title("Black lines: who always says what is more frequent")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return cast("Figure", ax.figure)


def reliability(found: Mapping[str, tuple[Tensor, Tensor]], guessing: float = 0.5, bins: int = 8) -> "Figure":
    """How often networks are right where they are so sure; each value is (confidence, right), both (images,)."""
    ax = figures.axes(7.2, 3.2)
    edges = torch.linspace(guessing, 1.0, bins + 1)
    ax.plot([100 * guessing, 100], [100 * guessing, 100], color="grey", linewidth=1)
    for (label, (confidence, right)), dash in zip(found.items(), figures.DASHES, strict=False):
        inside = torch.bucketize(confidence, edges[1:-1])
        kept = [n for n in range(bins) if int((inside == n).sum()) >= 5]
        x = [100 * float(confidence[inside == n].mean()) for n in kept]
        ax.plot(
            x, [100 * float(right[inside == n].double().mean()) for n in kept], linestyle=dash, marker=".", label=label
        )
    ax.set(xlabel="how sure (%)", ylabel="how often right (%)", title="A calibrated network lies on the grey line")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return cast("Figure", ax.figure)
