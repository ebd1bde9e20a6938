"""CelebA in both forms: read as laid out, nobody in two parts, and what is missing or of another version is named."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import functional as vision

from hetlib import data
from hetlib.data import celeba, folders
from hetlib.files import DamagedFile

COUNT = 12
NAMES = ("Bald", "Bangs", "Smiling")
LABELS = (np.arange(COUNT * len(NAMES)).reshape(COUNT, -1) * 7 % 5 > 2).astype(int)
PEOPLE = (np.arange(COUNT) // 2 + 5).tolist()


def lay_out(root, suffix, size):
    """Twelve photographs of six people, with the lists that CelebA has, as its authors wrote them."""
    folder, generator = root / "celeba", np.random.default_rng(0)
    (folder / "img_align_celeba").mkdir(parents=True)
    files = [f"{number + 1:06}.jpg" for number in range(COUNT)]
    for file in files:
        pixels = generator.integers(256, size=(*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save((folder / "img_align_celeba" / file).with_suffix(suffix))
    rows = [f"{file} {' '.join(f'{2 * word - 1:2}' for word in row)}" for file, row in zip(files, LABELS, strict=True)]
    write(folder / "list_attr_celeba.txt", [str(COUNT), " ".join(NAMES) + " ", *rows])
    write(folder / "identity_CelebA.txt", [f"{file} {who}" for file, who in zip(files, PEOPLE, strict=True)])
    write(folder / "list_eval_partition.txt", [f"{file} {number // 4}" for number, file in enumerate(files)])
    for name, width in (("list_bbox_celeba.txt", 4), ("list_landmarks_align_celeba.txt", 10)):
        write(folder / name, [str(COUNT), " ".join("x" * width), *(f"{file}{' 1' * width}" for file in files)])
    return root


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A tiny official set, whose md5s torchvision takes for the published ones."""
    root = lay_out(tmp_path, ".jpg", (218, 178))
    lists = [("id", md5(path), path.name) for path in sorted((root / "celeba").glob("*.txt"))]
    monkeypatch.setattr(datasets.CelebA, "file_list", [("id", "0" * 32, "img_align_celeba.zip"), *lists])
    return root


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A tiny `celeba-10k` of its own md5s."""
    root = lay_out(tmp_path, ".webp", (88, 72))
    monkeypatch.setattr(celeba, "MD5", {name: md5(root / "celeba" / name) for name in celeba.MD5})
    return root


class TestOfficial:
    @pytest.mark.parametrize(("split", "first"), [("train", 0), ("validation", 4), ("test", 8)])
    def test_reads_torchvisions_layout_and_partition(self, official, split, first):
        found = data.load("celeba", split, root=official)
        assert (len(found), found.shape, found.attributes) == (4, (3, 224, 224), NAMES)
        assert found.labels.tolist() == LABELS[first : first + 4].tolist()
        image = Image.open(official / "celeba" / "img_align_celeba" / f"{first + 2:06}.jpg")
        expected = vision.pil_to_tensor(vision.center_crop(vision.resize(image, [256]), [224]))
        assert torch.equal(found.batch(torch.tensor([1]))[0], expected)
        assert (found.mean, found.std) == (folders.MEAN, folders.STD)

    def test_random_crops_keep_four_fifths(self, official, monkeypatch):
        found, crops = data.load("celeba", root=official), []
        read = folders._read
        monkeypatch.setattr(folders, "_read", lambda path, crop: crops.append(crop) or read(path, crop))
        assert found.batch(torch.arange(4), torch.Generator().manual_seed(0)).shape == (4, 3, 224, 224)
        assert [crop.smallest for crop in crops] == [0.81] * 4
        image = Image.open(official / "celeba" / "img_align_celeba" / "000001.jpg").crop((0, 0, 100, 100))
        part = folders.RandomCrop(0.0, 0.5, 0.0, 0.0, 0.9, smallest=0.81)(image)
        assert part == image.crop((0, 0, 90, 90)).resize((224, 224), Image.Resampling.BILINEAR)

    def test_attributes_that_stand_in_the_name_are_loaded(self, official):
        found = data.load("celeba:Smiling,Bald", "validation", root=official)
        assert isinstance(found, celeba.Photographs)
        assert (found.name, found.attributes, found.num_classes) == ("celeba:Smiling,Bald", ("Smiling", "Bald"), 4)
        assert found.labels.tolist() == LABELS[4:8][:, [2, 0]].tolist()
        assert data.splits("celeba:Bald") == ("train", "validation", "test")
        with pytest.raises(ValueError, match=r"unknown attribute of celeba 'Bang': did you mean 'Bangs'"):
            data.load("celeba:Bang", root=official)

    def test_attributes_are_kept_and_taken_by_name(self, official):
        found = data.load("celeba", root=official)
        kept = found.keep(["Smiling", "Bald"]).subset([2, 0])
        assert isinstance(kept, celeba.Photographs)
        assert kept.labels.tolist() == LABELS[[2, 0]][:, [2, 0]].tolist()
        assert torch.equal(kept.batch(torch.tensor([0])), found.batch(torch.tensor([2])))
        assert found.task("Bangs").labels.tolist() == LABELS[:4, 1].tolist()
        for misspelt in (lambda: found.task("Bang"), lambda: found.keep(["Bald", "Bang"])):
            with pytest.raises(ValueError, match=r"unknown attribute of celeba 'Bang': did you mean 'Bangs'"):
                misspelt()

    @pytest.mark.parametrize("file", ["list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba/000003.jpg"])
    def test_missing_file_is_named(self, official, file):
        (official / "celeba" / file).unlink()
        with pytest.raises(data.DataMissing, match=rf"celeba needs .*{file}, which is missing.*data/README.md"):
            data.load("celeba", root=official)

    def test_another_version_is_named(self, official):
        path = official / "celeba" / "list_attr_celeba.txt"
        path.write_text(path.read_text().replace("Bangs", "Fringe"))
        with pytest.raises(DamagedFile, match=rf"{path} is not that of celeba: its md5 is .*such as celeba-10k"):
            data.load("celeba", root=official)


class TestSmall:
    def test_nobody_is_in_both_parts_and_everybody_in_one(self, small):
        parts = [data.load("celeba-10k", split, root=small) for split in ("train", "test")]
        assert [len(part) for part in parts] == [10, 2]
        images = {
            bytes(image): (row, who)
            for image, row, who in zip(pixels(small, 64).numpy(), LABELS.tolist(), PEOPLE, strict=True)
        }
        people = []
        for part in parts:
            assert (part.attributes, part.shape) == (NAMES, (3, 64, 64))
            found = [images[bytes(image)] for image in part.images.numpy()]
            assert part.labels.tolist() == [row for row, _ in found]
            people.append({who for _, who in found})
        assert not people[0] & people[1]
        assert people[0] | people[1] == set(PEOPLE)

    def test_is_the_same_again(self, small):
        one, two = (data.load("celeba-10k", "test", root=small) for _ in range(2))
        assert one.checksum == two.checksum

    def test_smaller_images_are_shrunk_first(self, small):
        found = data.load("celeba-10k", root=small, size=32)
        expected = {bytes(image) for image in pixels(small, 32).numpy()}
        assert found.shape == (3, 32, 32)
        assert all(bytes(image) in expected for image in found.images.numpy())
        says = {0: "size must be a whole number of at least 1", 65: "celeba-10k has images of up to 64x64 pixels"}
        for size in says:
            with pytest.raises(ValueError, match=f"{says[size]}.*, got .*{size}"):
                data.load("celeba-10k", root=small, size=size)

    @pytest.mark.parametrize("file", ["list_attr_celeba.txt", "identity_CelebA.txt", "img_align_celeba/000001.webp"])
    def test_missing_file_is_named(self, small, file):
        (small / "celeba" / file).unlink()
        with pytest.raises(data.DataMissing, match=rf"celeba-10k needs .*{file}, which is missing"):
            [data.load("celeba-10k", split, root=small) for split in ("train", "test")]

    def test_no_folder_of_images(self, small):
        folder = small / "celeba" / "img_align_celeba"
        folder.rename(small / "elsewhere")
        with pytest.raises(data.DataMissing, match=f"celeba-10k needs {folder}, which is missing"):
            data.load("celeba-10k", root=small)

    def test_another_version_is_named(self, small):
        path = small / "celeba" / "identity_CelebA.txt"
        path.write_text(path.read_text()[:-3])
        with pytest.raises(DamagedFile, match=rf"{path} is not that of celeba-10k.*one folder cannot hold both"):
            data.load("celeba-10k", root=small)

    def test_splits(self, small):
        assert data.splits("celeba-10k") == ("train", "test")
        assert data.splits("celeba") == ("train", "validation", "test")
        with pytest.raises(ValueError, match="unknown split of celeba-10k 'validation'"):
            data.load("celeba-10k", "validation", root=small)


def pixels(root, size):
    """All photographs, shrunk and cropped one after the other."""
    paths = sorted((root / "celeba" / "img_align_celeba").iterdir())
    images = (vision.resize(Image.open(path), [size * 9 // 8]) for path in paths)
    return torch.stack([vision.pil_to_tensor(vision.center_crop(image, [size])) for image in images])


@pytest.mark.data
@pytest.mark.skipif(not (data.folder() / "celeba").is_dir(), reason="no CelebA in $HETLIB_DATA")
def test_the_real_photographs():
    train, test = (data.load("celeba-10k", split, size=32) for split in ("train", "test"))
    assert len(train) + len(test) == 10_000
    assert 1800 < len(test) < 2200
    assert (train.shape, len(train.attributes)) == ((3, 32, 32), 40)
    bangs = torch.cat([part.task("Bangs").labels for part in (train, test)])
    assert bangs.double().mean().item() == pytest.approx(0.148, abs=5e-4)
