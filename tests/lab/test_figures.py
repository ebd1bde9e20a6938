"""Figures: what they show is what they were given, and they stay small."""

import io

import matplotlib
import pytest
import torch
from matplotlib import pyplot

from hetlib.lab import figures
from hetlib.lab.statistics import interval
from hetlib.training import History

HISTORIES = {"HMT": [[10, 20, 30], [12, 22, 35]], "no transfer": [[5, 10, 15]]}


@pytest.fixture(autouse=True)
def styled():
    with matplotlib.rc_context():
        figures.style()
        yield
    assert pyplot.get_fignums() == [], "a figure was left open"


def size(figure) -> int:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return len(buffer.getvalue())


def test_curves_are_means_in_bands_of_their_interval():
    figure = figures.curves(None, HISTORIES, title="HMT starts ahead")
    ax = figure.axes[0]
    assert [line.get_label() for line in ax.lines] == ["HMT (n = 2)", "no transfer (n = 1)"]
    assert ax.lines[0].get_xydata().tolist() == [[1, 11], [2, 21], [3, 32.5]]
    assert len({str(line.get_linestyle()) for line in ax.lines}) == 2, "told apart without colour too"
    (band,) = ax.collections
    assert band.get_datalim(ax.transData).y1 == pytest.approx(sum(interval([30, 35])))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "top-1 accuracy (%)")
    assert size(figure) < 60_000


def test_curves_on_given_axes_and_positions():
    ax = figures.axes()
    assert figures.curves(ax, {"loss": [[3, 2]]}, x=[5, 10], ylabel="loss (nats)") is ax.figure
    assert ax.lines[0].get_xdata().tolist() == [5, 10]


def test_curves_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"HMT: the seeds have \[2, 3\] values"):
        figures.curves(None, {"HMT": [[1, 2], [1, 2, 3]]})


def test_bars_show_mean_interval_and_every_seed():
    figure = figures.bars_with_intervals(None, {"HMT": [20.0, 21.0, 22.0], "none": [17.5]})
    ax = figure.axes[0]
    assert [bar.get_width() for bar in ax.patches] == [21.0, 17.5]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["HMT", "none"]
    assert ax.yaxis_inverted()
    assert len(ax.containers[1].get_children()) > 0
    assert [text.get_text() for text in ax.texts] == ["21.0", "17.5"]
    assert size(figure) < 40_000


def test_kernels_share_one_scale_about_zero():
    rows = {"before": torch.tensor([[[1.0, -4.0]], [[0.0, 2.0]]]), "after": torch.full((1, 2, 2), 3.0)}
    figure = figures.kernel_strip(rows, title="one kernel")
    images = [image for ax in figure.axes for image in ax.images]
    assert len(images) == 3
    assert {image.get_clim() for image in images} == {(-4.0, 4.0)}
    assert size(figure) < 60_000
    assert figures.kernel_strip({"zero": torch.zeros(1, 3, 3)}).axes[0].images[0].get_clim() == (-1.0, 1.0)
    with pytest.raises(ValueError, match="must be"):
        figures.kernel_strip({"a": torch.zeros(4, 2, 3, 3)})


def test_colour_kernels_are_drawn_as_colours_and_not_mixed_with_others():
    red = torch.zeros(2, 3, 4, 4)
    red[:, 0] = 1.0
    figure = figures.kernel_strip({"before": red, "after": -red}, "red")
    shown = [ax.images[0].get_array()[0, 0].tolist() for ax in figure.axes]
    assert shown == [[1.0, 0.5, 0.5]] * 2 + [[0.0, 0.5, 0.5]] * 2
    with pytest.raises(ValueError, match=r"red: kernels must be \(n, height, width\)"):
        figures.kernel_strip({"red": red, "grey": torch.zeros(2, 4, 4)})


def test_a_training_is_drawn_beside_finished_ones():
    done = History(loss=[1.0, 0.5], evaluated=[1, 2], top1=[20.0, 30.0])
    waiting, going = figures.learning({"he": done}, "base", None), figures.learning({"he": done}, "base", done)
    assert "press Run" in waiting.axes[0].get_title(loc="left")
    assert "0.50 in epoch 2" in going.axes[0].get_title(loc="left")
    assert [len(figure.axes[0].lines) for figure in (waiting, going)] == [1, 2]
