"""Cartoon faces: every attribute is to be seen in its place and nowhere else, and comes as often as in photographs."""

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hetlib import data
from hetlib.data import faces
from hetlib.data.face_attributes import NAMES, draw_attributes, statistics

ALL = (0, 31)
MIDDLE = (9, 22)
WHERE = {
    "Arched_Eyebrows": ((6, 15), (6, 25)),
    "Attractive": ((9, 18), (3, 28)),
    "Bags_Under_Eyes": ((12, 19), (6, 25)),
    "Bangs": ((0, 13), (5, 26)),
    "Big_Lips": ((17, 26), MIDDLE),
    "Big_Nose": ((9, 21), MIDDLE),
    "Black_Hair": (ALL, ALL),
    "Blond_Hair": (ALL, ALL),
    "Blurry": (ALL, ALL),
    "Brown_Hair": (ALL, ALL),
    "Bushy_Eyebrows": ((6, 15), (5, 26)),
    "Chubby": ((1, 29), (3, 28)),
    "Double_Chin": ((19, 31), (6, 25)),
    "Goatee": ((19, 28), MIDDLE),
    "Gray_Hair": (ALL, ALL),
    "Heavy_Makeup": ((8, 18), (3, 28)),
    "High_Cheekbones": ((11, 23), (3, 28)),
    "Male": (ALL, ALL),
    "Mouth_Slightly_Open": ((16, 26), MIDDLE),
    "Narrow_Eyes": ((9, 18), (4, 28)),
    "Oval_Face": ((1, 31), (3, 28)),
    "Pale_Skin": ((1, 31), (3, 28)),
    "Pointy_Nose": ((9, 21), MIDDLE),
    "Receding_Hairline": ((0, 14), (1, 30)),
    "Rosy_Cheeks": ((14, 23), (6, 25)),
    "Sideburns": ((5, 21), (3, 28)),
    "Smiling": ((16, 26), (8, 23)),
    "Wearing_Lipstick": ((16, 26), (8, 23)),
    "Wearing_Necklace": ((21, 31), (6, 25)),
    "Wearing_Necktie": ((23, 31), (7, 24)),
    "Young": ((6, 24), (4, 27)),
}
"""First and last row and column of 32 that an attribute may change, whatever the pose."""
HAIR = tuple(name for name in NAMES if name.endswith("_Hair"))


def test_the_attributes_are_those_of_the_three_groups_in_celebas_order():
    assert len(NAMES) == 31
    assert sorted(NAMES) == list(NAMES) == sorted(WHERE)


@given(
    attribute=st.sampled_from(NAMES),
    others=st.sets(st.sampled_from(NAMES)),
    seed=st.integers(0, 9999),
    size=st.sampled_from(faces.SIZES),
)
@settings(max_examples=150)
def test_an_attribute_is_seen_where_it_is_and_nowhere_else(attribute, others, seed, size):
    """Every attribute is, with any others, of blurred faces and third hair colours apart, which can hide anything."""
    assume("Blurry" not in others and len(others.intersection(HAIR) - {attribute}) <= 1)
    pair = torch.tensor([[name in others for name in NAMES]] * 2).long()
    pair[:, NAMES.index(attribute)] = torch.arange(2)
    off, on = (faces.draw(row[None], torch.Generator().manual_seed(seed), size, noise=0)[0].int() for row in pair)
    change = (on - off).abs().amax(0)
    assert (change > 8).sum() >= 3
    (top, bottom), (left, right) = ((low * size // 32, (high + 1) * size // 32) for low, high in WHERE[attribute])
    change[top:bottom, left:right] = 0
    assert not change.any()


def test_attributes_can_be_read_from_the_pixels():
    """A linear regression on the pixels of 1,000 faces ranks new faces; by chance half of all pairs would be right."""
    (images, labels), (new, expected) = faces.render("train", 1000), faces.render("test", 1000)
    mean = images.double().mean(0)
    seen, asked = (((pixels.double() - mean) / 255).flatten(1) for pixels in (images, new))
    weights = torch.linalg.solve(seen @ seen.T + 30 * torch.eye(len(seen)), labels.double() - labels.double().mean(0))
    scores = asked @ (seen.T @ weights)
    for number, name in enumerate(NAMES):
        has = expected[:, number].bool()
        ranked = (scores[has, None, number] > scores[~has][None, :, number]).double().mean()
        assert ranked > 0.6, name


class TestAttributes:
    def test_come_as_often_and_together_as_in_the_table(self):
        rate, correlation = statistics()
        drawn = draw_attributes(60_000, torch.Generator().manual_seed(0)).double()
        assert (drawn.mean(0) - rate).abs().max() < 0.02
        assert (torch.corrcoef(drawn.T) - correlation).abs().max() < 0.07
        assert (torch.corrcoef(drawn.T) - correlation).abs().mean() < 0.015

    def test_table_is_a_correlation_matrix(self):
        rate, correlation = statistics()
        assert torch.equal(correlation, correlation.T)
        assert torch.equal(correlation.diagonal(), torch.ones(len(NAMES)).double())
        assert torch.linalg.eigvalsh(correlation).min() > 0
        assert 0 < rate.min() < rate.max() < 1

    @pytest.mark.data
    @pytest.mark.skipif(not (data.folder() / "celeba").is_dir(), reason="no CelebA in $HETLIB_DATA")
    def test_table_is_that_of_the_photographs(self):
        _, header, *rows = (data.folder() / "celeba" / "list_attr_celeba.txt").read_text().splitlines()
        columns = [header.split().index(name) + 1 for name in NAMES]
        labels = torch.tensor([[int(row.split()[column]) > 0 for column in columns] for row in rows[:10_000]]).double()
        rate, correlation = statistics()
        assert torch.equal((labels.mean(0) * 1000).round(), (rate * 1000).round())
        assert (torch.corrcoef(labels.T) - correlation).abs().max() <= 0.0051


class TestRender:
    @given(
        few=st.integers(1, 300), more=st.integers(0, 300), seed=st.integers(0, 99), size=st.sampled_from(faces.SIZES)
    )
    @example(few=1000, more=100, seed=0, size=32)
    @settings(max_examples=8)
    def test_the_first_faces_of_a_set_do_not_depend_on_how_many_follow(self, few, more, seed, size):
        images, labels = faces.render("train", few + more, seed, size)
        first, theirs = faces.render("train", few, seed, size)
        assert torch.equal(images[:few], first)
        assert torch.equal(labels[:few], theirs)
        assert (images.shape, images.dtype) == ((few + more, 3, size, size), torch.uint8)
        assert (labels.shape, labels.dtype) == ((few + more, 31), torch.int64)

    def test_splits_and_seeds_differ(self):
        sets = [faces.render(split, 20, seed)[0] for split in ("train", "test") for seed in (0, 1)]
        assert len({bytes(image) for images in sets for image in images.numpy()}) == 80

    def test_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        faces.render(count=5)
        assert torch.equal(torch.get_rng_state(), before)

    def test_noise_is_as_strong_as_asked(self):
        plain, noisy = (faces.render(count=200, noise=noise)[0].double() for noise in (0, 0.1))
        inside = (plain > 80) & (plain < 175)  # where nothing is cut off at black or white
        noise = (noisy - plain)[inside] / 255
        assert noise.std().item() == pytest.approx(0.1, rel=0.02)
        assert abs(noise.mean().item()) < 0.002

    def test_statistics_are_those_normalised_with(self):
        pixels = faces.render(count=1500)[0].double() / 255
        assert torch.allclose(pixels.mean((0, 2, 3)), torch.tensor(faces.MEAN).double(), atol=0.02)
        assert torch.allclose(pixels.std((0, 2, 3)), torch.tensor(faces.STD).double(), atol=0.02)

    def test_loads_by_name(self):
        found = data.load("faces", "test", count=30, seed=3, size=64, noise=0.02)
        images, labels = faces.render("test", 30, 3, 64, 0.02)
        assert torch.equal(found.images, images)
        assert torch.equal(found.labels, labels)
        assert (found.attributes, found.mean, found.std) == (NAMES, faces.MEAN, faces.STD)
        assert repr(found) == "AttributeImages(faces/test: 30 of 3x64x64, 31 attributes)"

    def test_loads_the_attributes_that_stand_in_the_name(self):
        whole, found = data.load("faces", count=30), data.load("faces:Young,Bangs", count=30)
        assert found.name == "faces:Young,Bangs"
        assert found.attributes == ("Young", "Bangs")
        assert torch.equal(found.images, whole.images)
        assert torch.equal(found.labels, whole.labels[:, [NAMES.index("Young"), NAMES.index("Bangs")]])
        assert (found.num_classes, whole.num_classes) == (4, 62)
        assert data.splits("faces:Young") == ("train", "test")
        with pytest.raises(ValueError, match="unknown attribute of faces 'Yung': did you mean 'Young'"):
            data.load("faces:Bangs,Yung", count=30)
        with pytest.raises(ValueError, match="unknown split of faces 'validation'"):
            data.load("faces:Bangs", "validation")
        with pytest.raises(ValueError, match="unknown task of digits 'Bangs': tasks are called like"):
            data.load("digits:Bangs")

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="unknown split 'val'"):
            faces.render("val")
        with pytest.raises(ValueError, match="count must be a whole number of at least 1, got 0"):
            faces.render(count=0)
        with pytest.raises(ValueError, match="noise must be a finite number of at least 0"):
            faces.render(count=1, noise=-0.1)
        with pytest.raises(ValueError, match=r"size must be one of \(32, 64\) and noise not negative"):
            faces.render(count=2, size=48)
        with pytest.raises(ValueError, match=r"unknown option of faces 'sise'.*did you mean 'size'"):
            data.load("faces", sise=32)
        with pytest.raises(ValueError, match="unknown option of faces 'per_class'"):
            data.load("faces", per_class=3)

    def test_picture(self, tmp_path):
        faces.picture(tmp_path / "faces.png")
        assert 50_000 < (tmp_path / "faces.png").stat().st_size < 300_000
