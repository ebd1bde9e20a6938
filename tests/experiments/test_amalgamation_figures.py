"""Pictures of amalgamation: what they show is what they were given, and every axis that measures says what."""

import pytest
import torch

from hetlib.amalgamation import GROUPS, sources_of
from hetlib.data import AttributeImages, Images
from hetlib.experiments import amalgamation_figures as pictures
from hetlib.training import History
from tests.experiments.test_tlv_figures import size

IMAGES = torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def draw(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def said(ax):
    return (ax.get_xlabel(), ax.get_ylabel(), ax.get_title())


def entries(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_examples_stand_below_the_attributes_that_they_have():
    labels = torch.tensor([[0, 0], [1, 0], [1, 1]])
    faces = AttributeImages("faces", "train", IMAGES[:3], labels, ("Black_Hair", "Bangs"), (0.5,) * 3, (0.5,) * 3)
    figure = pictures.examples(faces, columns=4)
    assert [ax.get_title() for ax in figure.axes] == ["Black Hair", "Black Hair\nBangs", "Black Hair\nBangs"]
    for ax, n in zip(figure.axes, (1, 2, 2), strict=True):
        assert torch.equal(torch.from_numpy(ax.images[0].get_array().data), IMAGES[n].permute(1, 2, 0))
    assert size(figure) < 60_000


@pytest.mark.parametrize(("columns", "titles"), [(2, "ab"), (3, "abc"), (8, "aabbcc")])
def test_examples_of_classes_are_spread_over_them(columns, titles):
    data = Images("toy", "train", IMAGES, torch.arange(12) % 3, tuple("abc"), (0.5,) * 3, (0.5,) * 3)
    assert [ax.get_title() for ax in pictures.examples(data, columns).axes] == list(titles)


@pytest.mark.parametrize("group", GROUPS)
def test_the_pool_has_a_line_for_everything_that_a_source_knows(group):
    known, wanted = sources_of(group), tuple(GROUPS[group])
    figure = pictures.pool(known, wanted)
    (ax,) = figure.axes
    assert len(ax.lines) == sum(map(len, known.values()))
    assert len({line.get_color() for line in ax.lines}) == 2
    coloured = [line for line in ax.lines if line.get_color() != "#999999"]
    assert len(coloured) == len(known)  # every source has one wanted attribute
    words = {text.get_text() for text in ax.texts}
    assert words == {f"source {number}" for number in known} | {
        name.replace("_", " ") for names in known.values() for name in names
    }
    assert size(figure) < 150_000


def test_certainty_is_counted_for_right_and_wrong_apart():
    found = {"source 1": (0.1 * draw(30), 0.6 * draw(10)), "source 2": (0.2 * draw(5), 0.6 * draw(35))}
    figure = pictures.certainty(found)
    for ax, (title, (right, wrong)) in zip(figure.axes, found.items(), strict=True):
        assert ax.get_title() == title
        assert [text.partition(" (")[2].partition(",")[0] for text in entries(ax)] == [str(len(right)), str(len(wrong))]
        heights = sum(patch.get_height() * patch.get_width() for patch in ax.patches)
        assert heights == pytest.approx(2)  # two histograms of area 1
    assert figure.axes[0].get_ylabel() == "density"
    assert figure.get_supxlabel() == "entropy of the prediction (nats)"


def test_a_network_without_a_wrong_prediction_can_be_drawn(recwarn):
    figure = pictures.certainty({"source 1": (0.1 * draw(30), draw(0))})
    size(figure)
    assert not recwarn.list
    assert entries(figure.axes[0])[1] == "wrong (0)"


def test_images_stand_in_the_row_of_who_wins_them():
    entropies = torch.tensor([[0.1, 0.3, 0.2, 0.6], [0.4, 0.2, 0.5, 0.1]])
    figure = pictures.won(IMAGES, entropies, ("source 1", "source 2"), columns=3)
    rows = [figure.axes[:3], figure.axes[3:]]
    assert [row[0].get_ylabel() for row in rows] == ["source 1\nwins 2", "source 2\nwins 2"]
    assert [[ax.get_title() for ax in row] for row in rows] == [
        ["0.10 / 0.40", "0.20 / 0.50", ""],
        ["0.30 / 0.20", "0.60 / 0.10", ""],
    ]
    shown = torch.from_numpy(rows[1][0].images[0].get_array().data)
    assert torch.equal(shown, IMAGES[1].permute(1, 2, 0))
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 0] * 2


def test_who_wins_nothing_still_has_a_row_with_its_name():
    figure = pictures.won(IMAGES, torch.tensor([[0.1, 0.1], [0.4, 0.4]]), ("first", "second"), columns=2)
    assert figure.axes[2].get_ylabel() == "second\nwins 0"
    assert figure.axes[2].axison  # else its name would not be drawn


def test_a_common_space_shows_both_networks_images_and_how_long_rows_are():
    bridges = {
        "with row norm": ([0.5, 0.8, 1.0], draw(5, 2), -draw(5, 2)),
        "without": ([0.5, 0.2], draw(5, 2), draw(5, 2)),
    }
    lengths, *spaces = pictures.common_space(bridges).axes
    assert [list(line.get_ydata()) for line in lengths.lines] == [rows for rows, *_ in bridges.values()]
    assert (lengths.get_xlabel(), entries(lengths)) == ("step", list(bridges))
    for ax, (title, (_, student, teacher)) in zip(spaces, bridges.items(), strict=True):
        assert ax.get_title() == f"Common space\n{title}"
        for points, expected in zip(ax.collections, (teacher, student), strict=True):
            assert points.get_offsets().tolist() == [pytest.approx(row) for row in expected.tolist()]
    assert entries(spaces[0]) == ["source", "component"]
    assert len({ax.get_xlim() for ax in spaces} | {ax.get_ylim() for ax in spaces}) == 1  # one scale


def test_every_term_of_a_loss_has_a_curve():
    curves = {"with row norm": draw(6, 3, 6), "without": draw(6, 3, 6)}
    figure = pictures.terms(curves, taps=4)
    for ax, (title, values) in zip(figure.axes, curves.items(), strict=True):
        assert (ax.get_title(), ax.get_xlabel(), ax.get_yscale()) == (title, "epoch", "log")
        assert len(ax.lines) == 6
        for line, expected in zip(ax.lines, values.mean(1).T, strict=True):
            assert line.get_xdata().tolist() == list(range(1, 7))
            assert line.get_ydata().tolist() == pytest.approx(expected.tolist())
    assert entries(figure.axes[-1]) == ["tap 1", "tap 2", "tap 3", "tap 4", "logits", "row norms"]
    assert figure.axes[0].get_ylabel() == "mean of the term"


def test_accuracies_stand_beside_the_majority():
    figure = pictures.accuracies({"amalgamation": [91.0, 92.0], "labels": [95.0]}, 88.0, "Mean")
    (ax,) = figure.axes
    assert said(ax) == ("test accuracy (%); grey line: who always says what is more frequent", "", "Mean")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["amalgamation", "labels"]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_color() == "grey"] == [88.0]
    assert ax.get_xlim() == (85.0, 100.0)


def test_networks_stand_side_by_side_for_every_task():
    scores = {"sources": {"Bangs": 90.0, "Young": 85.0}, "target": {"Bangs": 92.0, "Young": 86.0}}
    figure = pictures.by_task(scores, {"Bangs": 83.0, "Young": 77.0})
    (ax,) = figure.axes
    assert [patch.get_height() for patch in ax.patches] == [90.0, 85.0, 92.0, 86.0]
    middles = [patch.get_x() + patch.get_width() / 2 for patch in ax.patches]
    assert middles == pytest.approx([-0.2, 0.8, 0.2, 1.2])
    assert [list(line.get_ydata()) for line in ax.lines] == [[83.0, 83.0], [77.0, 77.0]]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["Bangs", "Young"]
    assert entries(ax) == list(scores)
    assert ax.get_ylabel() == "test accuracy (%)"


def test_reliability_is_how_often_a_network_is_right_where_it_is_so_sure():
    confidence = torch.tensor([0.6] * 10 + [0.9] * 10 + [0.99])
    right = torch.tensor([True] * 5 + [False] * 5 + [True] * 9 + [False] + [True])
    figure = pictures.reliability({"source 1": (confidence, right)})
    (ax,) = figure.axes
    assert [line.get_label() for line in ax.lines][1:] == ["source 1"]
    assert list(ax.lines[1].get_xdata()) == pytest.approx([60.0, 90.0])  # too few for a third point
    assert list(ax.lines[1].get_ydata()) == pytest.approx([50.0, 90.0])
    assert said(ax)[:2] == ("how sure (%)", "how often right (%)")


def test_losses_name_the_accuracy_that_they_end_with():
    done = History(loss=[2.0, 1.0], evaluated=[2], top1=[90.0])
    (ax,) = pictures.losses({"finished": done}, "mine", None).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["finished, 90.0 %"]
    assert said(ax) == ("epoch", "training loss", "mine: press Run")
    (ax,) = pictures.losses({"finished": done}, "mine", done).axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[2.0, 1.0]] * 2
