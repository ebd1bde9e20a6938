"""What a transfer did, layer by layer: readable as text, as HTML and as a picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = ("target layer", "shape", "source layer", "shape", "what was done")
BLUE = "#0072B2"


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


@dataclass(frozen=True, repr=False)
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
        return f"{self._title()}\n{aligned([HEADER, *(row.cells() for row in self.rows)])}"

    __repr__ = __str__

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

    def plot(self, title: str = "") -> "Figure":
        """Draw both chains as columns of layers, wide where they have many channels, with an arrow per fed layer.

        Parameters
        ----------
        title : str
            The finding; by default the method and how many layers it fed.

        Returns
        -------
        matplotlib.figure.Figure
            Not known to pyplot, so that it is shown once and not left open. What no arrow touches is grey.
        """
        from matplotlib.figure import Figure

        targets = tuple((row.target, row.target_shape) for row in self.rows)
        deepest = max(len(self.sources), len(targets))
        widest = max(shape[0] for _, shape in (*self.sources, *targets))
        figure = Figure(figsize=(7, 0.36 * deepest + 1), layout="constrained")
        ax = figure.subplots()
        fed = ({row.source for row in self.matched}, {row.target for row in self.matched})
        places = [_column(ax, x, layers, fed[x], widest) for x, layers in enumerate((self.sources, targets))]
        for row in self.matched:
            ends = (0.71, places[1][row.target]), (0.29, places[0][row.source])
            ax.annotate(
                "", *ends, arrowprops={"arrowstyle": "-|>", "color": BLUE, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
            )
        ax.set(xlim=(-0.34, 1.34), ylim=(deepest - 0.3, -1.5), title=title or self._title())
        ax.axis("off")
        return figure


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text in columns, the first line ruled off as their heading."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, *rest = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([head, "-" * len(head), *rest])


def _column(
    ax, x: int, layers: tuple[tuple[str, tuple[int, ...]], ...], fed: set, widest: int
) -> dict[str | None, int]:
    """Draw one network and say at which height each of its layers stands."""
    from matplotlib.patches import FancyBboxPatch

    ax.text(x, -1, ("source", "target")[x], ha="center", va="center", weight="bold")
    for y, (name, shape) in enumerate(layers):
        half = 0.2 + 0.08 * (shape[0] / widest) ** 0.5
        edge, fill, ink = (BLUE, "#DCECF7", "black") if name in fed else ("#BBBBBB", "#F4F4F4", "#767676")
        box = FancyBboxPatch((x - half, y - 0.34), 2 * half, 0.68, boxstyle="round,pad=0,rounding_size=0.03")
        box.set(edgecolor=edge, facecolor=fill)
        ax.add_patch(box)
        ax.text(x, y, f"{name}  {_shape(shape)}", ha="center", va="center", size=8, color=ink)
    return {name: y for y, (name, _) in enumerate(layers)}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "×".join(map(str, shape))
