"""What sources say of images, and which images each of them teaches."""

import pytest
import torch

from hetlib.amalgamation import choose_teacher, subsets, task_logits
from hetlib.data import normalise
from tests.amalgamation.cast import images, pool


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_logits_are_those_of_the_task_on_images_as_they_are():
    data, sources = images(10), [source for source in pool() if "Young" in source.tasks]
    for source in sources:
        source.network.train()
    found = task_logits(sources, "Young", data, batch_size=4)
    assert all(source.network.training for source in sources)
    x = normalise(data.images, data.mean, data.std)
    with torch.no_grad():
        expected = [sources[0].network.eval()(x)[:, 2:4], sources[1].network.eval()(x)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_an_augmented_view_is_drawn_once_and_repeats_itself():
    data, sources = images(10), pool()[:1]
    seen = [task_logits(sources, "Bangs", data, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], task_logits(sources, "Bangs", data))


@pytest.mark.parametrize("rule", ["entropy", "random", "oracle", "released"])
def test_every_image_has_the_teacher_that_the_rule_chooses(rule):
    logits, labels = draw(3, 60, 4), torch.arange(60) % 4
    member = subsets(logits, rule, labels=labels, seed=5)
    assert member.sum(1).tolist() == [1] * 60
    how = {"labels": labels, "generator": torch.Generator().manual_seed(5)}
    assert torch.equal(member.int().argmax(1), choose_teacher(logits, rule, **how))


def test_by_batch_images_in_their_order_share_a_teacher():
    logits = draw(2, 40, 3)
    member = subsets(logits, "batch", batch_size=8)
    for begin in range(0, 40, 8):
        chosen = choose_teacher(logits[:, begin : begin + 8], "batch")
        assert torch.equal(member[begin : begin + 8].int().argmax(1), chosen)


def test_on_average_everyone_teaches_everything():
    assert subsets(draw(3, 5, 2), "average").tolist() == [[True] * 3] * 5


def test_temperatures_decide_too():
    logits = draw(2, 40, 3)
    assert torch.equal(subsets(logits, temperatures=[1.0, 1.0]), subsets(logits))
    assert not torch.equal(subsets(logits, temperatures=[1.0, 1.5]), subsets(logits))


def test_a_source_that_wins_nothing_is_named():
    logits = torch.stack([10 * draw(8, 3), torch.zeros(8, 3)])
    with pytest.raises(ValueError, match=r"second wins none of 8 images by the rule 'entropy'.*leave it out"):
        subsets(logits, names=["first", "second"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_name_their_source(value):
    logits = draw(2, 8, 3)
    logits[1, 5, 0] = value
    with pytest.raises(ValueError, match="second gives image 5 logits that hold NaN or infinity"):
        subsets(logits, names=["first", "second"])


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="unknown rule for choosing teachers 'avarage': did you mean 'average'"):
        subsets(draw(2, 8, 3), "avarage")
