"""Batches: sizes in proportion as released, and every image of a subset once in every pass over it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib.amalgamation import OfEachSubset, batch_sizes


def test_sizes_are_the_released_ones(vectors):
    released = np.load(vectors / "amalgamation.npz")
    cases = sorted({key.split("/")[1] for key in released.files if key.startswith("batchsize/")})
    assert cases
    for case in cases:
        lengths, sizes = (released[f"batchsize/{case}/{what}"].tolist() for what in ("lens", "bs"))
        assert batch_sizes(lengths)[0] == sizes
        batches = OfEachSubset(tuple(sizes))
        passes = released[f"batchsize/{case}/iters"].tolist()
        for epoch, steps in (
            ("largest", passes[np.argmax(lengths)]),
            ("shortest", min(passes)),
            ("released", 2 * min(passes)),
        ):
            assert OfEachSubset(batches.sizes, epoch).steps(lengths, sum(lengths)) == steps
    assert batch_sizes([120_000, 30_000, 12_770]) == ([64, 16, 6], 1875)


def test_the_released_code_stops_after_two_passes_over_the_shortest_subset(vectors):
    released = np.load(vectors / "amalgamation.npz")
    expected = int(released["behaviour/iterations_before_StopIteration_shortest_loader_5"])
    assert OfEachSubset((4, 2), "released").steps([100, 10], 110) == expected


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=5), st.integers(1, 64))
def test_sizes_keep_the_proportions(lengths, largest):
    sizes, iterations = batch_sizes(lengths, largest)
    assert iterations == max(1, max(lengths) // largest)
    assert sizes[lengths.index(max(lengths))] == largest
    for length, size in zip(lengths, sizes, strict=True):
        assert size >= 1
        if length < max(lengths):
            assert size == max(1, length // iterations)


def test_small_and_equal_subsets_have_batches_too():
    assert batch_sizes([5, 5]) == ([64, 64], 1)
    assert batch_sizes([5, 3], 4) == ([4, 3], 1)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([], "no subset to make batches of"), ([5, 0, 2], r"subset 1 of \(5, 0, 2\) holds no images")],
)
def test_an_empty_subset_is_named(lengths, message):
    with pytest.raises(ValueError, match=message):
        batch_sizes(lengths)


def drawn(member, sizes, epoch="largest", seed=0):
    loop = SimpleNamespace(rows=(member,), generator=torch.Generator().manual_seed(seed))
    return OfEachSubset(sizes, epoch)(loop)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**16))
def test_every_step_takes_images_of_each_subset_and_every_pass_each_image_once(first, second, one, two, seed):
    images = first + second
    member = torch.zeros(images, 2, dtype=torch.bool)
    member[torch.randperm(images, generator=torch.Generator().manual_seed(seed))[:first], 0] = True
    member[:, 1] = ~member[:, 0]
    batches = drawn(member, (one, two), seed=seed)
    largest = max((first, one), (second, two), key=lambda pair: pair[0])
    assert len(batches) == -(-largest[0] // largest[1])
    parts = zip(*(batch.split([one, two]) for batch in batches), strict=True)
    for number, (part, length) in enumerate(zip(parts, (first, second), strict=True)):
        taken = torch.cat(part)
        assert member[taken, number].all()
        for begin in range(0, len(taken), length):
            whole = taken[begin : begin + length]
            assert len(whole.unique()) == len(whole)


def test_an_image_may_belong_to_several_subsets():
    batches = drawn(torch.ones(6, 3, dtype=torch.bool), (3, 3, 3))
    assert [len(batch) for batch in batches] == [9, 9]
    for k in range(3):
        assert torch.cat([batch[3 * k : 3 * k + 3] for batch in batches]).sort().values.tolist() == list(range(6))


def test_an_epoch_of_all_images_has_as_many_steps_as_their_batches():
    member = torch.zeros(10, 2, dtype=torch.bool)
    member[:3, 0] = member[3:5, 1] = True
    assert len(drawn(member, (2, 1), "all")) == 5
    with pytest.raises(ValueError, match="unknown length of an epoch 'longest': did you mean 'largest'"):
        OfEachSubset((2, 1), "longest")
