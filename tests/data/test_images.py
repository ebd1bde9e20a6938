"""Images with attributes: one label of each image for every attribute."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib.data import AttributeImages, Images

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
