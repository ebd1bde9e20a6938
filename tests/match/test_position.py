"""Orders and index maps: against the specification's examples, and what must always hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetlib.match import by_position, by_ratio

lengths = st.integers(1, 60)


def test_by_ratio_of_vgg16_onto_resnet18():
    expected = [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11, 12, 12]
    assert by_ratio(13, 20) == expected


def test_by_ratio_agrees_with_the_released_maps(vectors):
    with np.load(vectors / "tlv.npz") as file:
        maps = {key: file[key] for key in file if key.startswith("tlv/index/")}
    assert maps
    for key, expected in maps.items():
        n_source, n_target = (int(part) for part in key.split("/")[-1].split("_to_"))
        assert by_ratio(n_source, n_target) == expected.tolist(), key


@given(lengths, lengths)
def test_by_ratio_is_monotonic_and_in_range(n_source, n_target):
    found = by_ratio(n_source, n_target)
    assert len(found) == n_target
    assert found == sorted(found)
    assert found[0] == 0
    assert max(found) < n_source


@given(lengths, lengths, st.sampled_from(["chain", "longest", "shuffle", "interval"]), st.none() | st.integers(0, 5))
def test_by_position_uses_each_source_layer_once(n_source, n_target, order, seed):
    found = by_position(n_source, n_target, order, seed)
    used = [i for i in found if i is not None]
    assert len(found) == n_target
    assert len(set(used)) == len(used)
    assert all(0 <= i < n_source for i in used)
    assert found[len(used) :] == [None] * (n_target - len(used))


def test_the_released_orders_of_eight_convolutions():
    assert by_position(8, 4) == by_position(8, 4, "longest") == [0, 1, 2, 3]
    assert by_position(8, 4, "interval") == [0, 2, 4, 6]
    assert by_position(8, 4, "shuffle") == [3, 1, 0, 7]
    assert by_position(8, 9, "shuffle") == [3, 1, 0, 7, 4, 6, 2, None, None]
    assert by_position(8, 4, [7, 0]) == [7, 0, None, None]


@given(lengths, st.integers(0, 9))
def test_a_seeded_shuffle_takes_every_layer(n_source, seed):
    assert sorted(by_position(n_source, n_source, "shuffle", seed)) == list(range(n_source))


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("shufle", "did you mean 'shuffle'"),
        ("longst", "did you mean 'longest'"),
        ([0, 8], r"\[8\] out of range, the source has layers 0 to 7"),
        ([-1], "out of range"),
        ([2, 3, 2], r"source layers \[2\] are repeated"),
        ([True, False], "order: whole numbers are needed, got True"),
        (np.array([False, True]), "order: whole numbers are needed, got False"),
        ([1.9, 0.2], "order: whole numbers are needed, got 1.9"),
    ],
)
def test_bad_orders_are_named(order, message):
    with pytest.raises(ValueError, match=message):
        by_position(8, 4, order)


@pytest.mark.parametrize("pair", [(0, 4), (4, 0)])
def test_empty_chains(pair):
    for match in (by_ratio, by_position):
        with pytest.raises(ValueError, match="no layers to match"):
            match(*pair)
