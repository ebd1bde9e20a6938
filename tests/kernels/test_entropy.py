"""Entropy of weights: the released code's vectors, its rule as a plain loop, and what must always hold."""

from math import inf, log, nan

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib.kernels import filter_entropy, weight_entropy
from tests.oracles import plain_entropy

CASES = ("arange100", "two_values", "normal_16x3x3x3", "normal_64x64x3x3")


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_plain(weight, bins=10):
    (found,) = weight_entropy([weight], bins)
    assert (
        abs(float(found) - float(plain_entropy(weight.to(torch.promote_types(weight.dtype, torch.float32)), bins)))
        < 1e-12
    )


tensors = st.builds(
    lambda shape, seed, kind: {
        "normal": lambda x: x,
        "laplace": lambda x: x.sign() * x.abs().exp(),
        "steps": lambda x: (3 * x).round(),
        "far": lambda x: x + 1000,
        "tiny": lambda x: x * 1e-40,
    }[kind](draw(*shape, seed=seed)),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(0, 2**16),
    st.sampled_from(["normal", "laplace", "steps", "far", "tiny"]),
)


@pytest.mark.parametrize("case", CASES)
def test_entropies_are_those_of_the_released_code(case, vectors):
    stored = np.load(vectors / "grafting.npz")
    weight = torch.from_numpy(stored[f"entropy/{case}/x"])
    for key, bins in (("H", 10), ("H_n5", 5), ("H_n20", 20)):
        expected = float(stored[f"entropy/{case}/{key}"])
        assert weight_entropy([weight], bins).tolist() == pytest.approx([expected], abs=1e-5)


@given(st.lists(tensors, max_size=4), st.integers(1, 12))
def test_it_is_the_plain_rule(weights, bins):
    found = weight_entropy(weights, bins)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([float(plain_entropy(weight, bins)) for weight in weights], abs=1e-12)


@given(tensors, st.integers(1, 12))
def test_a_filter_is_measured_as_a_tensor_alone(weight, bins):
    torch.testing.assert_close(filter_entropy(weight, bins), weight_entropy(list(weight), bins), rtol=0, atol=1e-12)


@given(tensors, st.integers(3, 12), st.randoms())
def test_it_lies_between_nothing_and_even_bins_in_any_order(weight, bins, random):
    (found,) = weight_entropy([weight], bins).tolist()
    assert 0 <= found <= log(bins) + 1e-12
    order = list(range(weight.numel()))
    random.shuffle(order)
    assert weight_entropy([weight.flatten()[order]], bins).tolist() == [found]


@given(tensors, st.sampled_from([2.0**-3, 2.0, 2.0**5]))
def test_scale_does_not_matter(weight, scale):
    """Exactly so for powers of two, which round nothing."""
    if weight.abs().max() > 1e-30:
        assert torch.equal(weight_entropy([weight * scale]), weight_entropy([weight]))


@given(st.lists(st.integers(-400, 400), min_size=1, max_size=60), st.integers(-1000, 1000))
def test_shift_does_not_matter(values, shift):
    """Exactly so for whole numbers in 8 bins, whose edges are not rounded."""
    weight = torch.tensor(values, dtype=torch.float64)
    assert torch.equal(weight_entropy([weight + shift], 8), weight_entropy([weight], 8))


def test_the_largest_value_is_counted_only_if_rounding_says_so():
    assert weight_entropy([torch.tensor([0.0, 1.0])]).tolist() == pytest.approx([0.5 * log(2)])
    found = [float(plain_entropy(draw(50, seed=seed))) for seed in range(40)]
    assert weight_entropy([draw(50, seed=seed) for seed in range(40)]).tolist() == pytest.approx(found, abs=1e-12)
    edges = [low + 10 * ((high - low) / 10) for low, high in (draw(50, seed=seed).aminmax() for seed in range(40))]
    assert 0 < sum(edge > draw(50, seed=seed).max() for seed, edge in enumerate(edges)) < 40


def test_constants_and_single_values_have_none():
    weights = [torch.full((3, 4), 0.7), torch.zeros(5), torch.tensor(3.0), draw(1, 1, 1, 1)]
    assert weight_entropy(weights).tolist() == [0.0] * 4
    assert filter_entropy(draw(6)).tolist() == [0.0] * 6
    assert weight_entropy([]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_precisions(dtype):
    assert_plain(draw(16, 3, 3, 3, dtype=dtype))
    assert_plain(draw(200, seed=1, dtype=dtype) + 10)
    weight = draw(5, 40, dtype=dtype)
    assert filter_entropy(weight).tolist() == pytest.approx(
        [float(plain_entropy(row.to(torch.promote_types(dtype, torch.float32)))) for row in weight], abs=1e-12
    )


def test_values_too_far_apart_to_be_subtracted_share_a_bin():
    assert weight_entropy([torch.tensor([-3e38, 0.0, 3e38])]).tolist() == [0.0]


def test_layout_does_not_matter_and_nothing_is_changed():
    whole = draw(8, 6, 5, 5).requires_grad_()
    before = whole.detach().clone()
    views = [whole, whole.to(memory_format=torch.channels_last), whole[::2, 1:, :3], whole.transpose(0, 2)]
    found = weight_entropy(views)
    assert not found.requires_grad
    assert torch.equal(found, weight_entropy([view.detach().contiguous() for view in views]))
    assert torch.equal(filter_entropy(whole[:, ::2]), filter_entropy(before[:, ::2].contiguous()))
    assert torch.equal(whole, before)


def test_wide_filters_are_counted_in_parts(monkeypatch):
    weight = draw(9, 30)
    expected = filter_entropy(weight)
    monkeypatch.setattr("hetlib.kernels.entropy.FEW", 700)
    assert torch.equal(filter_entropy(weight), expected)


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_numbers_that_are_none_are_named(value):
    weight = draw(4, 3)
    weight[2, 1] = value
    with pytest.raises(ValueError, match=r"weights\[1\] of shape \(4, 3\) holds NaN or infinity"):
        weight_entropy([draw(5), weight])
    with pytest.raises(ValueError, match=r"filter 2 of the weight of shape \(4, 3\) holds NaN or infinity"):
        filter_entropy(weight)


@pytest.mark.parametrize(
    ("weight", "bins", "says"),
    [
        (torch.empty(0, 3), 10, r"of shape \(0, 3\) is empty"),
        (torch.empty(3, 0), 10, r"of shape \(3, 0\) is empty"),
        (torch.ones(2, 2, dtype=torch.int64), 10, "of torch.int64, not of a floating type"),
        (torch.ones(2, 2), 0, "bins must be a whole number of at least 1"),
    ],
)
def test_bad_input_is_named(weight, bins, says):
    with pytest.raises(ValueError, match=says):
        weight_entropy([weight], bins)
    with pytest.raises(ValueError, match=says):
        filter_entropy(weight, bins)


def test_a_number_has_no_filters_and_devices_are_not_mixed():
    with pytest.raises(ValueError, match=r"a weight of shape \(\) has no filters"):
        filter_entropy(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"weights\[1\] lies on meta, weights\[0\] on cpu"):
        weight_entropy([draw(3), torch.empty(3, device="meta")])
