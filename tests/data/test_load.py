"""Data sets: what is loaded is what was published, and a batched crop is the plain crop."""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib import data
from hetlib.data import published, textured_shapes
from hetlib.files import DamagedFile

real = [
    pytest.mark.data,
    pytest.mark.skipif(not (data.folder() / "cifar-100-python").is_dir(), reason="no CIFAR-100 in $HETLIB_DATA"),
]


def random_images(n=6, channels=3, height=7, width=5, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, channels, height, width), np.uint8))


def labelled(labels, classes=4):
    labels = torch.tensor(labels)
    titles = tuple("abcdefghij"[:classes])
    return data.Images("toy", "train", random_images(len(labels)), labels, titles, (0.5,) * 3, (0.2,) * 3)


class TestImages:
    def test_describes_itself(self):
        toy = labelled([0, 1, 1, 3])
        assert (len(toy), toy.num_classes, toy.shape) == (4, 4, (3, 7, 5))
        assert repr(toy) == "Images(toy/train: 4 of 3x7x5, 4 classes)"

    def test_subset_keeps_order_and_classes(self):
        toy = labelled([0, 1, 1, 3])
        part = toy.subset([3, 0])
        assert part.labels.tolist() == [3, 0]
        assert torch.equal(part.images, toy.images[[3, 0]])
        assert part.num_classes == 4

    def test_checksum_sees_every_pixel_and_label(self):
        toy = labelled([0, 1, 1, 3])
        pixels, labels = toy.images.clone(), toy.labels.clone()
        pixels[2, 1, 3, 3] ^= 1
        labels[0] = 1
        assert toy.checksum == labelled([0, 1, 1, 3]).checksum == toy.to("cpu").checksum
        assert len({toy.checksum, replace(toy, images=pixels).checksum, replace(toy, labels=labels).checksum}) == 3


class TestLoad:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (("cifar11",), "unknown data set 'cifar11'.*did you mean 'cifar10'"),
            (("digits", "validation"), "unknown split of digits 'validation'"),
        ],
    )
    def test_unknown_names(self, call, message):
        with pytest.raises(ValueError, match=message):
            data.load(*call)

    def test_unknown_options(self):
        with pytest.raises(ValueError, match=r"unknown option of shapes-source 'sede'.*did you mean 'seed'"):
            data.load("shapes-source", sede=1)
        with pytest.raises(ValueError, match="unknown option of digits 'count'"):
            data.load("digits", count=5)

    def test_folder(self, monkeypatch):
        monkeypatch.delenv("HETLIB_DATA", raising=False)
        assert data.folder() == Path("data")
        monkeypatch.setenv("HETLIB_DATA", "/elsewhere")
        assert data.folder() == Path("/elsewhere")
        assert data.folder("here") == Path("here")

    def test_digits_are_split_evenly_and_completely(self):
        train, test = data.load("digits"), data.load("digits", "test")
        assert (len(train), len(test), train.shape) == (1437, 360, (1, 8, 8))
        assert test.labels.bincount().min() >= 34
        scaled = torch.cat([train.images, test.images]).double() / 255
        assert scaled.mean().item() == pytest.approx(train.mean[0], abs=1e-3)
        assert scaled.std().item() == pytest.approx(train.std[0], abs=1e-3)
        from sklearn.datasets import load_digits

        everything = np.concatenate([train.images, test.images]).reshape(-1, 64)
        original = (load_digits().data * 255 / 16).round().astype(np.uint8)
        assert sorted(map(bytes, everything)) == sorted(map(bytes, original))

    @pytest.mark.parametrize("name", ["cifar10", "cifar100", "sub-cifar100", "mnist"])
    def test_missing_file_is_named_with_three_ways_out(self, name, tmp_path):
        with pytest.raises(data.DataMissing) as caught:
            data.load(name, root=tmp_path)
        for part in (
            str(tmp_path),
            f"hetlib data get {name.removeprefix('sub-')}",
            "$HETLIB_DATA",
            "DATA=shapes",
        ):
            assert part in str(caught.value)

    def test_failed_download_is_reported(self, tmp_path, monkeypatch):
        from torchvision import datasets

        def offline(root, download):
            raise OSError("no network")

        monkeypatch.setattr(datasets, "CIFAR10", offline)
        with pytest.raises(data.DataMissing, match=r"cifar10 could not be downloaded.*no network"):
            data.load("cifar10", root=tmp_path, download=True)


class TestPublished:
    @pytest.fixture
    def tiny(self, tmp_path, monkeypatch):
        """Four made-up CIFAR-100 images under the md5s of their own files."""
        contents = {
            "test": pickle.dumps(
                {"data": np.arange(4 * 3072).astype(np.uint8).reshape(4, -1), "fine_labels": [1, 0, 1, 1]}
            ),
            "meta": pickle.dumps({"fine_label_names": ["apple", "bee"]}),
        }
        md5 = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
        table = {"test": {"test": md5["test"]}, "names": {"meta": md5["meta"]}}
        monkeypatch.setattr(published, "CIFAR100", table)
        (tmp_path / "cifar-100-python").mkdir()
        for name, content in contents.items():
            (tmp_path / "cifar-100-python" / name).write_bytes(content)
        return tmp_path

    def test_reads_torchvisions_layout(self, tiny):
        found = data.load("cifar100", "test", root=tiny)
        assert found.classes == ("apple", "bee")
        assert found.labels.tolist() == [1, 0, 1, 1]
        assert found.images.flatten().tolist() == (np.arange(4 * 3072) % 256).tolist()

    @pytest.mark.parametrize(
        "damage", [lambda c: c[:-7], lambda c: c[:50] + bytes([c[50] ^ 1]) + c[51:], lambda c: b""]
    )
    def test_truncated_or_altered_file_is_named(self, tiny, damage):
        path = tiny / "cifar-100-python" / "test"
        expected = hashlib.md5(path.read_bytes()).hexdigest()
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(DamagedFile, match=f"{path}.*expected {expected}"):
            data.load("cifar100", "test", root=tiny)


class TestRealData:
    pytestmark = real

    def test_sub_cifar100_is_the_protocols(self):
        whole, sub = data.load("cifar100"), data.load("sub-cifar100")
        index = published.part("sub-cifar100", "train")
        assert (len(whole), len(sub), sub.num_classes) == (50_000, 1000, 100)
        assert torch.equal(sub.images, whole.images[index])
        assert torch.equal(sub.labels, whole.labels[index])
        assert len(data.load("sub-cifar100", "test")) == 10_000

    @pytest.mark.parametrize(("name", "kind"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100"), ("mnist", "MNIST")])
    def test_equals_torchvisions_reader(self, name, kind):
        from torchvision import datasets

        if kind != "CIFAR100" and not list(data.folder().glob({"CIFAR10": "cifar-10-*", "MNIST": "MNIST"}[kind])):
            pytest.skip(f"no {kind}")
        ours, theirs = data.load(name, "test"), getattr(datasets, kind)(data.folder(), train=False)
        pixels = torch.as_tensor(theirs.data)
        assert torch.equal(ours.images, pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None])
        assert ours.labels.tolist() == torch.as_tensor(theirs.targets).tolist()
        if name != "mnist":
            assert list(ours.classes) == theirs.classes


def test_sub_cifar100_indices_agree_with_the_vectors(vectors):
    expected = np.load(vectors / "hmt.npz")["hmt/protocol/sub_cifar100_indices"]
    assert np.array_equal(published.part("sub-cifar100", "train"), expected)


def test_tlvs_split_agrees_with_the_vectors(vectors):
    expected = np.load(vectors / "tlv.npz")["tlv/protocol/cifar_shuffled_first_1000"]
    train, held_out = (published.part("cifar10-40k", split) for split in ("train", "validation"))
    assert np.array_equal(train[:1000], expected)
    assert (len(train), len(held_out)) == (40_000, 10_000)
    assert np.array_equal(np.sort(np.concatenate((train, held_out))), np.arange(50_000))


class TestSplits:
    def test_class_split_is_disjoint_and_relabelled(self):
        toy = labelled([0, 1, 2, 3, 2, 0, 1, 3])
        first, second = data.class_split(toy, [[2, 0], [3]])
        assert (first.classes, second.classes) == (("c", "a"), ("d",))
        assert first.labels.tolist() == [1, 0, 0, 1]
        assert torch.equal(first.images, toy.images[[0, 2, 4, 5]])
        assert torch.equal(second.images, toy.images[[3, 7]])

    @pytest.mark.parametrize("groups", [[[0, 1], [1]], [[0, 0]], [[4]], [[-1]]])
    def test_class_split_refuses_overlap_and_unknown_labels(self, groups):
        with pytest.raises(ValueError, match=r"each of 0..3 at most once"):
            data.class_split(labelled([0, 1, 2, 3]), groups)

    def test_few_shot(self):
        digits = data.load("digits")
        few = data.few_shot(digits, 7, seed=3)
        assert few.labels.bincount().tolist() == [7] * 10
        assert len({bytes(image) for image in few.images.numpy()}) == 70
        assert few.checksum == data.few_shot(digits, 7, seed=3).checksum != data.few_shot(digits, 7, seed=4).checksum

    def test_few_shot_names_the_class_that_is_too_small(self):
        with pytest.raises(ValueError, match="toy has 1 images of class 'b', and per_class is 2"):
            data.few_shot(labelled([0, 0, 1], classes=2), 2)


def plain_augment(images, tops, lefts, mirrored, pad):
    """Pad, crop and flip one image after the other."""
    height, width = images.shape[-2:]
    result = []
    for image, top, left, mirror in zip(images.numpy(), tops, lefts, mirrored, strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
        crop = padded[:, top : top + height, left : left + width]
        result.append(crop[:, :, ::-1] if mirror else crop)
    return torch.from_numpy(np.stack(result).copy())


class TestAugment:
    @given(
        n=st.integers(1, 9),
        channels=st.integers(1, 4),
        height=st.integers(1, 9),
        width=st.integers(1, 9),
        pad=st.integers(0, 4),
        flip=st.booleans(),
        channels_last=st.booleans(),
        seed=st.integers(0, 999),
    )
    def test_equals_the_plain_loop(self, n, channels, height, width, pad, flip, channels_last, seed):
        images = random_images(n, channels, height, width, seed)
        before = images.clone()
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        found = data.augment(images, torch.Generator().manual_seed(seed), pad, flip)
        generator = torch.Generator().manual_seed(seed)
        tops, lefts = torch.randint(2 * pad + 1, (2, n), generator=generator)
        mirrored = torch.randint(2, (n,), generator=generator).bool() if flip else torch.zeros(n)
        assert torch.equal(found, plain_augment(images, tops, lefts, mirrored, pad))
        assert found.dtype == torch.uint8
        assert torch.equal(images, before)

    def test_channels_last_stays(self):
        images = random_images().contiguous(memory_format=torch.channels_last)
        assert data.augment(images, torch.Generator()).is_contiguous(memory_format=torch.channels_last)

    def test_every_crop_and_both_directions_occur(self):
        images = torch.zeros(2000, 1, 9, 9, dtype=torch.uint8)
        images[:, :, 4, 4], images[:, :, 4, 5] = 1, 2
        moved = data.augment(images, torch.Generator().manual_seed(0), pad=2)[:, 0]
        ones, twos = (moved == 1).nonzero(), (moved == 2).nonzero()
        assert len(ones) == len(twos) == 2000
        assert set(ones[:, 1].tolist()) == {2, 3, 4, 5, 6}
        assert 900 < (twos[:, 2] < ones[:, 2]).sum() < 1100

    def test_without_padding_and_flip_nothing_moves(self):
        images = random_images()
        assert torch.equal(data.augment(images, torch.Generator(), pad=0, flip=False), images)


class TestNormalise:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

    def test_equals_torchvision_to_the_bit(self):
        from torchvision.transforms import functional

        images = random_images()
        floats = torch.stack([functional.to_tensor(image.permute(1, 2, 0).numpy()) for image in images])
        theirs = functional.normalize(floats, self.mean, self.std)
        assert torch.equal(data.normalise(images, self.mean, self.std), theirs)

    def test_dtype_and_layout_are_the_only_differences(self):
        images = random_images()
        plain = data.normalise(images, self.mean, self.std)
        other = data.normalise(images, self.mean, self.std, torch.bfloat16, torch.channels_last)
        assert other.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(other, plain.bfloat16())


class TestShapes:
    def test_same_arguments_same_images(self):
        one, two = (data.load("shapes-source", count=30, seed=5) for _ in range(2))
        assert one.checksum == two.checksum
        assert (one.shape, one.num_classes, one.images.dtype) == ((3, 32, 32), 12, torch.uint8)

    def test_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        textured_shapes.render("source", count=20)
        assert torch.equal(torch.get_rng_state(), before)

    def test_splits_seeds_and_vocabularies_differ(self):
        sets = [
            data.load(f"shapes-{vocabulary}", split, count=24, seed=seed)
            for vocabulary in textured_shapes.SHAPES
            for split in ("train", "test")
            for seed in (0, 1)
        ]
        assert len({bytes(image) for images in sets for image in images.images.numpy()}) == 24 * len(sets)

    def test_source_and_target_share_no_word(self):
        for words in (textured_shapes.SHAPES, textured_shapes.TEXTURES):
            assert not set(words["source"]) & set(words["target"])

    def test_labels_are_shared_out_evenly(self):
        assert data.load("shapes-target", count=36).labels.bincount().tolist() == [3] * 12

    def test_noise_and_clutter(self):
        plain = textured_shapes.render("source", count=200, noise=0, clutter=0)[0].double()
        noisy = textured_shapes.render("source", count=200, noise=0.2, clutter=0)[0].double()
        roughness = [(images[..., 1:] - images[..., :-1]).abs().mean() for images in (plain, noisy)]
        assert roughness[1] > 1.5 * roughness[0]
        assert not torch.equal(plain, textured_shapes.render("source", count=200, noise=0, clutter=6)[0].double())

    def test_shape_covers_its_place(self):
        """Every outline is there: neither empty nor the whole image."""
        axis = torch.linspace(-1.2, 1.2, 65)
        v, u = torch.meshgrid(axis, axis, indexing="ij")
        for outlines in textured_shapes.SHAPES.values():
            for name, outline in outlines.items():
                assert 0.1 < (outline(u, v) < 0).double().mean() < 0.6, name

    @pytest.mark.parametrize("texture", [t for group in textured_shapes.TEXTURES.values() for t in group.values()])
    def test_texture_has_both_colours_and_its_period(self, texture):
        line = torch.linspace(-20, 20, 401)
        p, q = torch.meshgrid(line, line, indexing="ij")
        assert 0.2 < (texture(p, q) > 0).double().mean() < 0.8

    def test_statistics_are_those_normalised_with(self):
        pixels = (
            torch.cat(
                [textured_shapes.render(vocabulary, count=600)[0] for vocabulary in textured_shapes.SHAPES]
            ).double()
            / 255
        )
        assert torch.allclose(pixels.mean((0, 2, 3)), torch.tensor(textured_shapes.MEAN).double(), atol=0.02)
        assert torch.allclose(pixels.std((0, 2, 3)), torch.tensor(textured_shapes.STD).double(), atol=0.02)

    @pytest.mark.parametrize("wrong", [{"count": 0}, {"noise": -0.1}, {"clutter": -1}])
    def test_numbers_out_of_range(self, wrong):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a .* number of at least"):
            textured_shapes.render("source", **wrong)

    def test_unknown_words(self):
        with pytest.raises(ValueError, match=r"unknown vocabulary 'sauce'.*did you mean 'source'"):
            textured_shapes.render("sauce")
        with pytest.raises(ValueError, match="unknown split 'val'"):
            textured_shapes.render("source", "val")

    def test_picture(self, tmp_path):
        textured_shapes.picture(tmp_path / "textured_shapes.png")
        assert 20_000 < (tmp_path / "textured_shapes.png").stat().st_size < 150_000


def test_a_few_images_of_each_class_drawn_by_a_seed():
    few, again, other = (data.load("digits", per_class=3, draw=draw) for draw in (0, 0, 1))
    assert few.labels.bincount().tolist() == [3] * 10
    assert torch.equal(few.images, again.images)
    assert not torch.equal(few.images, other.images)
    assert data.load("shapes-target", count=240, per_class=2).labels.bincount().tolist() == [2] * 12
    with pytest.raises(ValueError, match=r"unknown option of digits .count.*Known: per_class, draw"):
        data.load("digits", count=3)
