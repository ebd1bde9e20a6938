"""Tasks made of classes: random halves and quarters, and scores that count each image among its own task's classes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib import data
from hetlib.data import Images, class_parts
from hetlib.data.tasks import CREATURES, of_tasks
from hetlib.training import evaluate


def toy(classes=10, count=40):
    labels = torch.arange(count) % classes
    titles = tuple(f"class {n}" for n in range(classes))
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return Images("toy", "train", pixels, labels, titles, (0.0,), (1 / 255,))


@given(st.integers(15, 40), st.integers(1, 3), st.integers(1, 3))
def test_all_parts_together_have_every_class_once(classes, halves, quarters):
    whole = toy(classes, classes)
    names = [f"main {n}/{halves}" for n in range(1, halves + 1)]
    names += [f"side {n}/{quarters}" for n in range(1, quarters + 1)]
    found = of_tasks(whole, names)
    assert sorted(found.classes) == sorted(whole.classes)
    assert [title for titles in found.tasks.values() for title in titles] == list(found.classes)
    assert list(found.tasks) == names
    main = {title for name in names if name.startswith("main") for title in found.tasks[name]}
    assert main == set(whole.classes[: round(0.6 * classes)])


def test_classes_are_divided_into_equal_parts_the_same_way_every_time():
    names = [f"class {number}" for number in range(100)]
    halves, quarters = class_parts(names[::-1], 2), class_parts(names, 4)
    assert [len(part) for part in (*halves, *quarters)] == [50, 50, 25, 25, 25, 25]
    assert sorted(sum(halves, ())) == sorted(names)
    assert halves == class_parts(names, 2)
    assert halves != class_parts(names, 2, seed=1)
    assert [len(part) for part in class_parts(names[:10], 4)] == [2, 2, 2, 4]
    with pytest.raises(ValueError, match="2 classes cannot be divided into 3 parts"):
        class_parts(names[:2], 3)


def test_images_are_those_of_the_tasks_with_their_labels():
    whole = toy()
    found = of_tasks(whole, ["side 1/2", "main 2/2"])
    assert found.classes == class_parts(whole.classes[6:], 2)[0] + class_parts(whole.classes[:6], 2)[1]
    kept = [n for n, label in enumerate(whole.labels.tolist()) if whole.classes[label] in found.classes]
    assert torch.equal(found.images, whole.images[kept])
    assert [found.classes[n] for n in found.labels.tolist()] == [whole.classes[whole.labels[n]] for n in kept]


def test_an_image_is_scored_among_the_classes_of_its_own_task():
    found = of_tasks(toy(), ["main 1/2", "side 1/2"])
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(found), found.num_classes, generator=generator)
    sizes = [len(titles) for titles in found.tasks.values()]
    hits, loss = 0, 0.0
    for row, label in zip(logits.double(), found.labels.tolist(), strict=True):
        start, stop = (0, sizes[0]) if label < sizes[0] else (sizes[0], sum(sizes))
        own = row[start:stop]
        hits += int(own.argmax()) == label - start
        loss -= float(own.log_softmax(0)[label - start])

    class Answers(torch.nn.Module):
        """Gives the logits of the image whose number its first pixel is."""

        def __init__(self):
            super().__init__()
            self.nothing = torch.nn.Parameter(torch.zeros(()))

        def forward(self, images):
            rows = {int(pixel): n for n, pixel in enumerate(found.images[:, 0, 0, 0])}
            return logits[[rows[round(float(image))] for image in images[:, 0, 0, 0]]]

    scores = evaluate(Answers(), found, batch_size=7, precision="fp32")
    assert scores["top1"] == pytest.approx(100 * hits / len(found))
    assert scores["loss"] == pytest.approx(loss / len(found), rel=1e-5)
    assert hits > int((logits.argmax(1) == found.labels).sum())


def test_the_images_of_one_task_alone_have_no_tasks():
    found = of_tasks(toy(), ["main 1/2", "side 1/2"])
    assert data.class_split(found, [[0, 1]])[0].tasks == {}
    assert found.subset([0]).tasks == found.tasks


def test_load_names_tasks_after_a_colon():
    found = data.load("digits:main 2/2,side 1/4", "test")
    assert found.name == "digits:main 2/2,side 1/4"
    assert list(found.tasks) == ["main 2/2", "side 1/4"]
    assert set(found.tasks["main 2/2"]) < set("012345")
    few = data.load("shapes-source:side 1/2", count=120)
    assert (few.num_classes, len(few)) == (2, 20)
    assert len(data.load("digits:main 1/1", per_class=3)) == 18


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits:mane 1/2", "unknown task of digits 'mane 1/2': tasks are called like 'main 1/2'"),
        ("digits:main 3/2", "unknown task of digits 'main 3/2'"),
        ("digits:main 0/2", "unknown task of digits 'main 0/2'"),
        ("digits:side 1/9", "4 classes cannot be divided into 9 parts"),
        ("digits:main 1/2,main 1/1", "the classes of digits can be listed each of 0..9 at most once"),
        ("digit:main 1/2", "unknown data set 'digit': did you mean 'digits'"),
    ],
)
def test_bad_tasks_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        data.load(name)


@pytest.mark.data
@pytest.mark.skipif(not (data.folder() / "cifar-100-python").is_dir(), reason="no CIFAR-100 in $HETLIB_DATA")
def test_cifar100_s_main_classes_are_its_animals_and_people():
    whole = data.load("cifar100", "test")
    assert set(CREATURES) < set(whole.classes)
    assert len(set(CREATURES)) == 50
    for name in ("cifar100", "sub-cifar100", "cifar100-40k"):
        found = data.load(f"{name}:main 2/2,side 1/4", "test")
        assert len(found) == 3700 + 100 * (len(found.tasks["side 1/4"]) - 12)
        assert set(found.tasks["main 2/2"]) < set(CREATURES)
        assert not set(found.tasks["side 1/4"]) & set(CREATURES)
