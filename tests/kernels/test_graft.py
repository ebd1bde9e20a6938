"""The coefficient of a graft: the released code's table, what must always hold, and the entropies of two networks."""

from math import nan

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib.kernels import entropy, weight_entropy
from hetlib.kernels.graft import coefficient, entropy_coefficients

numbers = st.floats(0, 3)
scales = st.floats(0, 1)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_coefficients_are_those_of_the_released_code(vectors):
    rows = np.load(vectors / "grafting.npz")["alpha/columns_A_c_dH_raw_rounded"]
    for a, c, difference, raw, rounded in rows.tolist():
        assert float(coefficient(difference, 0.0, a, c, decimals=None)) == pytest.approx(raw, abs=1e-12)
        if abs(raw * 100 % 1 - 0.5) > 1e-3:
            assert float(coefficient(difference, 0.0, a, c)) == rounded


@given(numbers, numbers, scales, st.floats(0, 1000))
def test_a_pair_shares_out_the_whole(first, second, a, c):
    ours, theirs = (float(coefficient(*pair, a, c, decimals=None)) for pair in ((first, second), (second, first)))
    assert ours + theirs == pytest.approx(1, abs=1e-15)
    assert 0.5 - a / 2 <= ours <= 0.5 + a / 2
    assert (ours >= 0.5) == (first >= second) or ours == 0.5


@given(st.lists(numbers, max_size=5), scales)
def test_it_works_number_by_number(values, a):
    own = torch.tensor(values)
    found = coefficient(own, 1.0, a)
    assert found.dtype == torch.float64
    assert found.tolist() == [float(coefficient(value, 1.0, a)) for value in own]
    assert torch.equal(coefficient(own, own), torch.full_like(found, 0.5))


def test_rounding_is_to_so_many_decimals():
    assert float(coefficient(0.003, 0.0, c=100)) == 0.54
    assert float(coefficient(0.003, 0.0, c=100, decimals=1)) == 0.5
    assert float(coefficient(0.003, 0.0, c=100, decimals=None)) == pytest.approx(0.5371, abs=1e-4)


def test_networks_are_compared_layer_by_layer_and_each_tensor_is_measured_once(monkeypatch):
    nets = [[draw(4, 3, 3, 3, seed=2 * n), draw(6, 5, seed=2 * n + 1)] for n in range(3)]
    own, donor = [*nets[0], *nets[1], *nets[2]], [*nets[2], *nets[0], *nets[1]]
    measured = []
    monkeypatch.setattr(
        "hetlib.kernels.graft.entropies",
        lambda weights, *rest: measured.extend(weights) or entropy.entropies(weights, *rest),
    )
    found = entropy_coefficients(own, [weight.view_as(weight) for weight in donor], 0.6, 5.0, None, bins=7)
    assert len(measured) == 6
    expected = coefficient(weight_entropy(own, 7), weight_entropy(donor, 7), 0.6, 5.0, None)
    assert torch.equal(found, expected)
    assert entropy_coefficients([], []).shape == (0,)


@pytest.mark.parametrize("a", [-0.1, 1.1, nan])
def test_a_scale_beyond_its_range_is_refused(a):
    for call in (lambda: coefficient(1.0, 2.0, a), lambda: entropy_coefficients([draw(3)], [draw(3)], a)):
        with pytest.raises(ValueError, match=f"a, the range .* from 0 to 1, got {a}"):
            call()


def test_bad_weights_are_named_by_their_side():
    with pytest.raises(ValueError, match=r"2 weights of its own and 1 of the donor"):
        entropy_coefficients([draw(2), draw(2)], [draw(2)])
    with pytest.raises(ValueError, match=r"donor\[1\] of shape \(2,\) holds NaN"):
        entropy_coefficients([draw(2), draw(2)], [draw(2), torch.tensor([nan, 1])])
    with pytest.raises(ValueError, match=r"own\[0\] of shape \(0,\) is empty"):
        entropy_coefficients([draw(0)], [draw(2)])
