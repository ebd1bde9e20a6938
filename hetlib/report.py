"""What a transfer did, layer by layer: readable as text, as HTML and as a picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

HEADER = ("target layer", "shape", "source layer", "shape", "what was done")


@dataclass(frozen=True)
class Row:
    """One target layer.

    Attributes
    ----------
    target : str
        Dotted name of the target layer.
    target_shape : tuple of int
        Shape of its weight.
    source : str or None
        Dotted name of the layer it was fed from; None if it kept its own weights.
    source_shape : tuple of int or None
        Shape of that layer's weight.
    done : str
        What happened, in words.
    """

    target: str
    target_shape: tuple[int, ...]
    source: str | None = None
    source_shape: tuple[int, ...] | None = None
    done: str = "kept"

    def cells(self) -> tuple[str, ...]:
        """The five columns as text."""
        return (
            self.target,
            _shape(self.target_shape),
            self.source or "-",
            _shape(self.source_shape),
            self.done,
        )


@dataclass(frozen=True)
class TransferReport:
    """What a transfer did to every layer of the target, in the order of its chain.

    Attributes
    ----------
    method : str
        Name of the transfer and of its settings.
    rows : tuple of Row
        One per target layer.
    sources : tuple of (str, shape)
        Every layer of the source's chain, used or not.
    """

    method: str
    rows: tuple[Row, ...]
    sources: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def matched(self) -> tuple[Row, ...]:
        """The rows whose layer was fed from the source."""
        return tuple(row for row in self.rows if row.source is not None)

    def _title(self) -> str:
        return f"{self.method}: {len(self.matched)} of {len(self)} target layers fed"

    def __str__(self) -> str:
        table = [HEADER, *(row.cells() for row in self.rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(HEADER))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
        ]
        return "\n".join([self._title(), lines[0], "-" * len(lines[0]), *lines[1:]])

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in HEADER)
        body = "".join(
            f"<tr style='opacity:{1 if row.source else 0.5}'>"
            + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row.cells())
            + "</tr>"
            for row in self.rows
        )
        title = f"<caption style='text-align:left'>{escape(self._title())}</caption>"
        return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def plot(self, ax=None):
        """Draw both chains as columns of boxes with an arrow per transferred layer; what is untouched is grey.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.figure.Figure
        """
        import matplotlib.pyplot as plt

        targets = [(row.target, row.target_shape) for row in self.rows]
        fed = {row.source for row in self.matched}
        if ax is None:
            _, ax = plt.subplots(figsize=(7, 0.42 * max(len(self.sources), len(targets)) + 0.9), layout="constrained")
        spots = _column(ax, 0.0, self.sources, fed)
        ends = _column(ax, 1.0, targets, {row.target for row in self.matched})
        for row in self.matched:
            start, end = spots[row.source], ends[row.target]
            ax.annotate(
                "",
                (0.71, end),
                (0.29, start),
                arrowprops={"arrowstyle": "-|>", "color": "#0072B2", "lw": 1.3},
            )
        deepest = max(len(self.sources), len(targets))
        ax.set(xlim=(-0.32, 1.32), ylim=(deepest - 0.3, -1.1), title=self._title())
        ax.text(0, -0.75, "source", ha="center", va="center", weight="bold")
        ax.text(1, -0.75, "target", ha="center", va="center", weight="bold")
        ax.axis("off")
        return ax.figure


def _column(ax, x: float, layers, bright) -> dict[str, float]:
    for y, (name, shape) in enumerate(layers):
        on = name in bright
        box = {
            "boxstyle": "round,pad=0.25",
            "fc": "#dcecf7" if on else "#f2f2f2",
            "ec": "#0072B2" if on else "#bbbbbb",
        }
        text = f"{name}  {_shape(shape)}"
        ax.text(x, y, text, ha="center", va="center", size=8, bbox=box, color="black" if on else "#888888")
    return {name: float(y) for y, (name, _) in enumerate(layers)}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape))
