"""Images in folders: read when asked for, cropped as torchvision does, trained on, and refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as vision

from hetlib import zoo
from hetlib.data import folders, load, sample
from hetlib.training import Recipe, fit

SIZES = ((300, 260), (240, 320), (256, 256))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two classes of three images to train on, and of two to test on."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 2)):
        for kind in ("cat", "dog"):
            (root / part / kind).mkdir(parents=True)
            for n in range(count):
                pixels = generator.integers(256, size=(*SIZES[n], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / kind / f"{n}.png")
    Image.open(root / "val" / "dog" / "0.png").convert("L").save(root / "val" / "dog" / "0.png")
    return root


def test_images_are_read_when_asked_for(root, monkeypatch):
    data = load(f"imagefolder:{root}", "test")
    assert (len(data), data.shape, data.classes) == (4, (3, 224, 224), ("cat", "dog"))
    assert data.labels.tolist() == [0, 0, 1, 1]
    read, seen = folders._read, []
    monkeypatch.setattr(folders, "_read", lambda path, crop: seen.append(path.name) or read(path, crop))
    batch = data.batch(torch.tensor([3, 0]))
    assert sorted(seen) == ["0.png", "1.png"]
    for found, path in zip(batch, ("val/dog/1.png", "val/cat/0.png"), strict=True):
        expected = vision.center_crop(vision.resize(Image.open(root / path), 256), 224)
        assert torch.equal(found, vision.pil_to_tensor(expected))
    assert [len(each) for each in data.images.split(3)] == [3, 1]
    assert torch.equal(data.subset([3, 0]).images[torch.tensor([0, 1])], batch)
    assert sample(data, 2).shape == (2, 3, 224, 224)
    assert data.checksum != load(f"imagefolder:{root}").checksum


def test_random_crops_follow_the_generator(root):
    data = load(f"imagefolder:{root}")
    chosen = torch.arange(6)
    first, again, other = (data.batch(chosen, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with Image.open(root / "train" / "cat" / "2.png") as image:
        whole = folders.RandomCrop(1.0, 0.5, 0.0, 0.0, 0.9)(image)
        assert np.array_equal(whole, image.resize((224, 224), Image.Resampling.BILINEAR))
        mirrored = folders.RandomCrop(1.0, 0.5, 0.0, 0.0, 0.1)(image)
        assert np.array_equal(mirrored, np.array(whole)[:, ::-1])
        for edge in (0.0, 1 - 1e-9):
            assert folders.RandomCrop(edge, edge, edge, edge, edge)(image).size == (224, 224)


def test_training_reads_them_a_batch_at_a_time(root, tmp_path):
    train, test = (load(f"imagefolder:{root}", split) for split in ("train", "test"))
    recipe = Recipe(epochs=2, batch_size=4, lr=0.01, precision="fp32")
    histories = []
    for stop in (2, 1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = zoo.build("resnet8", 2, width=0.25)
        path = tmp_path / ("whole" if not histories else "cut")
        histories.append(
            fit(model, train, test, recipe, checkpoint=path, on_epoch=lambda seen, stop=stop: seen.epochs == stop)
        )
    assert histories[2] == histories[0]


def test_other_layouts_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match=r"is no ImageFolder: expected train/ and val/.* found no class in .*train"):
        load(f"imagefolder:{tmp_path}")
    for part, kinds in (("train", ("cat", "dog")), ("val", ("cat", "cow"))):
        for kind in kinds:
            (tmp_path / part / kind).mkdir(parents=True)
    with pytest.raises(ValueError, match="class 'cow' is not in both train/ and val/"):
        load(f"imagefolder:{tmp_path}")
    (tmp_path / "val" / "cow").rename(tmp_path / "val" / "dog")
    with pytest.raises(ValueError, match="is no ImageFolder: Found no valid file for the classes cat, dog"):
        load(f"imagefolder:{tmp_path}")
    with pytest.raises(ValueError, match="unknown split"):
        load(f"imagefolder:{root}", "validation")
