"""What a transfer did, layer by layer: readable as text, as HTML and as a picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from torch import nn

from hetlib.chain.nested import kind_of
from hetlib.kernels.fill import Fill

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADER = ("target layer", "shape", "source layer", "shape", "what was done")
BLUE = "#0072B2"
COUNTED = ("convolution", "linear layer")
"""Kinds of layers that reports count, whatever the method, so that their numbers can be compared."""


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
    kind : {"convolution", "linear layer", "norm", "other"}
        What the layer is.
    fed : bool
        Whether it was written, from a source layer or from a draw.
    """

    target: str
    target_shape: tuple[int, ...]
    source: str | None = None
    source_shape: tuple[int, ...] | None = None
    done: str = "kept"
    kind: str = "convolution"
    fed: bool = False

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
    """What a transfer did to every layer of the target, in order of registration.

    Attributes
    ----------
    method : str
        Name of the transfer and of its settings.
    rows : tuple of Row
        One per convolution and linear layer of the target, written or not, and per other layer that was written.
    sources : tuple of (str, shape)
        Every convolution and linear layer of the source, and every other layer that fed one.
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
        counted = {kind: [row.fed for row in self.rows if row.kind == kind] for kind in COUNTED}
        each = [f"{sum(fed)} of {len(fed)} {kind}{'s' * (len(fed) != 1)}" for kind, fed in counted.items() if fed]
        done = [fed for kind in counted.values() for fed in kind]
        drawn = sum(row.fed and row.source is None for row in self.rows)
        title = f"{self.method}: {sum(done)} of {len(done)} layers fed"
        title += f" ({', '.join(each)})" if len(each) > 1 else ""
        return title + (f", of these {drawn} from no source" if drawn else "")

    def __str__(self) -> str:
        return f"{self._title()}\n{aligned([HEADER, *(row.cells() for row in self.rows)])}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in HEADER)
        body = "".join(
            f"<tr style='opacity:{1 if row.fed else 0.5}'>"
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
        fed = ({row.source for row in self.matched}, {row.target for row in self.rows if row.fed})
        places = [_column(ax, x, layers, fed[x], widest) for x, layers in enumerate((self.sources, targets))]
        for row in self.matched:
            ends = (0.71, places[1][row.target]), (0.29, places[0][row.source])
            ax.annotate(
                "", *ends, arrowprops={"arrowstyle": "-|>", "color": BLUE, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
            )
        ax.set(xlim=(-0.34, 1.34), ylim=(deepest - 0.3, -1.5), title=title or self._title())
        ax.axis("off")
        return figure


def report(
    method: str,
    modules: tuple[Mapping[str, nn.Module], Mapping[str, nn.Module]],
    layers: tuple[Mapping[str, nn.Module], Mapping[str, nn.Module]],
    pairs: Mapping[str, str],
    fills: Sequence[Fill],
) -> TransferReport:
    """Say what fills did to a target.

    Parameters
    ----------
    method : str
        Name of the transfer.
    modules : two mappings of str to nn.Module
        All modules of the source and of the target by name, each network itself under "".
    layers : two mappings of str to nn.Module
        Those of them that are layers with weights, in order of registration.
    pairs : mapping of str to str
        For each matched layer of the target the layer of the source.
    fills : sequence of Fill
        What was written, and what says why a layer keeps its values.

    Returns
    -------
    TransferReport
    """
    by_layer: dict[str, list[Fill]] = {}
    for fill in fills:
        by_layer.setdefault(fill.layer, []).append(fill)
    (givers, receivers), (source, target) = layers, modules
    listed = {name: layer for name, layer in receivers.items() if name in by_layer or kind_of(layer) in COUNTED}
    listed |= {name: target[name] for name in by_layer if name not in receivers}
    rows = tuple(_row(name, layer, by_layer.get(name, []), source, pairs.get(name)) for name, layer in listed.items())
    giving = {row.source for row in rows}
    given = [(name, layer) for name, layer in givers.items() if name in giving or kind_of(layer) in COUNTED]
    return TransferReport(method, rows, tuple((name, _weight_shape(layer)) for name, layer in given))


def described(step: Any) -> str:
    """A step as text: a dataclass with the settings that are not its defaults; a function by its name."""
    if not is_dataclass(step):
        return str(getattr(step, "__name__", step))
    found = {f.name: getattr(step, f.name) for f in fields(step) if getattr(step, f.name) != f.default}
    return f"{type(step).__name__}({', '.join(f'{name}={value!r}' for name, value in found.items())})"


def _row(name: str, layer: nn.Module, fills: list[Fill], source: Mapping[str, nn.Module], partner: str | None) -> Row:
    written = [fill for fill in fills if not fill.keeps]
    giver = next((fill.source for fill in written if fill.source is not None), None)
    notes = "; ".join(dict.fromkeys(fill.note for fill in (written or fills) if fill.note))
    if not notes and not written:
        notes = "kept: paired with no source layer" if partner is None else f"kept: no step feeds it from {partner}"
    shape = None if giver is None else _weight_shape(source[giver])
    return Row(name, _weight_shape(layer), giver, shape, notes or "written", kind_of(layer), bool(written))


def _weight_shape(layer: nn.Module) -> tuple[int, ...]:
    weight: Any = getattr(layer, "weight", ())
    if isinstance(weight, tuple):  # a layer without one
        weight = next(iter((*layer.parameters(recurse=False), *layer.buffers(recurse=False))), None)
    return () if weight is None else tuple(weight.shape)


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
