"""Images with attributes: one label of each image for every attribute."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib.data import AttributeImages, Images, class_split, few_shot, skill_split

NAMES = ("Bangs", "Blurry", "Young", "Narrow_Eyes")


def faces(count=6):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(2, (count, len(NAMES)), generator=generator)
    return AttributeImages("faces", "train", pixels, labels, NAMES, (0.5,) * 3, (0.25,) * 3)


@given(st.lists(st.sampled_from(NAMES), min_size=1))
def test_some_attributes_are_kept_in_the_given_order(names):
    data = faces()
    kept = data.keep(names)
    assert kept.attributes == tuple(names)
    for name, column in zip(names, kept.labels.T, strict=True):
        assert torch.equal(column, data.labels[:, NAMES.index(name)])
    assert kept.images is data.images


def test_each_attribute_has_two_logits():
    assert faces().num_classes == 2 * len(NAMES)
    assert faces().keep(["Young"]).num_classes == 2
    assert faces().task("Young").num_classes == 2


def test_one_attribute_is_a_task_of_two_classes():
    data = faces()
    task = data.task("Young")
    assert type(task) is Images
    assert task.classes == ("no", "yes")
    assert torch.equal(task.labels, data.labels[:, 2])


def test_a_subset_keeps_all_labels_of_its_images():
    data = faces()
    part = data.subset([4, 1])
    assert isinstance(part, AttributeImages)
    assert torch.equal(part.labels, data.labels[[4, 1]])
    assert repr(part) == "AttributeImages(faces/train: 2 of 3x8x8, 4 attributes)"
    assert part.checksum != data.checksum


@pytest.mark.parametrize("ask", [lambda data: data.task("Narow_Eyes"), lambda data: data.keep(["Bangs", "Narow_Eyes"])])
def test_a_misspelt_attribute_is_named_with_the_nearest(ask):
    with pytest.raises(ValueError, match="unknown attribute of faces 'Narow_Eyes': did you mean 'Narrow_Eyes'"):
        ask(faces())


def numbered(count=5):
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return Images("numbered", "train", pixels, torch.arange(count) % 2, ("even", "odd"), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("form", [torch.tensor, np.array, list])
def test_a_mask_means_the_images_where_it_is_true(form):
    found = numbered().subset(form([False, True, False, False, True]))
    assert found.images[:, 0, 0, 0].tolist() == [1, 4]


@pytest.mark.parametrize("form", [torch.tensor, np.array, list, lambda n: torch.tensor(n, dtype=torch.uint8)])
def test_numbers_mean_the_images_in_that_order(form):
    assert numbered().subset(form([4, 0, 4])).images[:, 0, 0, 0].tolist() == [4, 0, 4]
    assert len(numbered().subset([])) == 0
    assert len(numbered().subset(range(3))) == 3


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0.7, 1.9], "whole numbers or a mask, got torch.float32"),
        ([True, False], "a mask of 2 does not say which of 5 images"),
        ([0, -1], "indices from -1 to 0 do not all stand for one of 5 images"),
        ([5], "indices from 5 to 5 do not all stand for one of 5 images"),
        ([[0, 1]], r"one axis, or a mask, got \[\[0, 1\]\]"),
        (torch.tensor(1), r"one axis, got shape \(\)"),
    ],
)
def test_what_stands_for_no_image_is_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        numbered().subset(indices)


def test_classes_are_listed_by_whole_numbers():
    whole = numbered()
    drawn = torch.tensor([1, 0]).split(1)
    assert [part.classes for part in class_split(whole, drawn)] == [("odd",), ("even",)]
    for group in ([0.0], [True], torch.tensor([False])):
        with pytest.raises(ValueError, match="the classes of numbered: whole numbers are needed"):
            class_split(whole, [group])


@pytest.mark.parametrize("count", [-1, 0, 1.5, True])
def test_a_few_of_each_class_are_a_whole_number(count):
    with pytest.raises(ValueError, match="per_class must be a whole number of at least 1"):
        few_shot(numbered(), count)


@pytest.mark.parametrize("label", [0.5, True])
def test_the_special_label_is_a_whole_number(label):
    with pytest.raises(ValueError, match="label, a class of numbered, must be a whole number"):
        skill_split(numbered(), label)
