"""Pictures of TLV: filters by number, and figures shown one after another."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def numbered(grids: Mapping[str, Tensor], per_colour: int = 1) -> "Figure":
    """Draw tables of numbered things side by side, each entry with its number.

    Parameters
    ----------
    grids : mapping of str to Tensor
        Per title an integer table, rows being output channels and columns inputs; what is below 0 is left grey.
    per_colour : int
        How many numbers in a row share a colour.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    columns = [grid.shape[1] for grid in grids.values()]
    most = max(int(grid.max()) for grid in grids.values()) // per_colour
    for ax, (title, grid) in zip(figure.subplots(1, len(grids), width_ratios=columns), grids.items(), strict=True):
        colours = torch.where(grid < 0, torch.nan, (grid // per_colour).float())
        ax.imshow(
            colours.numpy(), cmap=colormaps["viridis"].with_extremes(bad="#E4E4E4"), vmin=0, vmax=most, aspect="auto"
        )
        for row, column in (grid >= 0).nonzero().tolist():
            ink = "black" if colours[row, column] > 0.5 * most else "white"
            ax.text(column, row, str(int(grid[row, column])), ha="center", va="center", color=ink, size=8)
        ax.set(title=title, xlabel="input channel", xticks=range(grid.shape[1]), yticks=range(len(grid)))
        ax.grid(visible=False)
    figure.axes[0].set_ylabel("output channel")
    return figure


def animation(frames: Sequence["Figure"], seconds: float = 0.8) -> Any:
    """Show figures one after another, for ever: an animated PNG, which every browser plays and every page can hold.

    Parameters
    ----------
    frames : sequence of Figure
        All of one size.
    seconds : float
        How long each is shown.

    Returns
    -------
    IPython.display.Image

    Raises
    ------
    ValueError
        If there is no frame.
    """
    import io

    from IPython.display import Image as Shown
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    if not frames:
        raise ValueError("an animation needs at least one frame")
    pictures = []
    for figure in frames:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        # A palette of 64 colours keeps a frame to a few kilobytes.
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64))
    content = io.BytesIO()
    pictures[0].save(content, "png", save_all=True, append_images=pictures[1:], duration=int(seconds * 1000), loop=0)
    return Shown(content.getvalue(), format="png")
