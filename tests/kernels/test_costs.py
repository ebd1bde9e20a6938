"""The correlation metric against NumPy's, and where a shorter formula would lose its digits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib.kernels.costs import cost_matrix

sizes = st.integers(1, 7)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(x, y):
    """NumPy's coefficients in float64."""
    x, y = x.double(), y.double()
    return 1 - torch.from_numpy(np.corrcoef(x.numpy(), y.numpy())[: len(x), len(x) :])


@given(sizes, sizes, st.integers(2, 600), st.integers(0, 2**16))
def test_agrees_with_numpy(n, m, d, seed):
    x, y = draw(n, d, seed=seed), 3 * draw(m, d, seed=seed + 1) - 2
    torch.testing.assert_close(cost_matrix(x, y, "correlation"), plain(x, y), rtol=1e-9, atol=1e-9)


def test_many_blocks_of_features_make_one_matrix(monkeypatch):
    x, y = draw(5, 1000), draw(4, 1000, seed=1) + 1
    whole = cost_matrix(x, y, "correlation")
    monkeypatch.setattr("hetlib.kernels.costs.BLOCK", 1)
    torch.testing.assert_close(cost_matrix(x, y, "correlation"), whole)
    torch.testing.assert_close(whole, plain(x, y))


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e3])
def test_large_means_do_not_cancel(mean):
    x, y = ((draw(20, 3000, seed=seed) + mean * draw(20, 1, seed=seed + 2)).float() for seed in (0, 1))
    deviation = max(1.0, *((rows.mean(1).abs() / rows.std(1)).max().item() for rows in (x, y)))
    eps = torch.finfo(torch.float32).eps
    error = (cost_matrix(x, y, "correlation") - plain(x, y)).abs().max()
    assert error < 10 * (eps + (eps * deviation) ** 2)


@given(sizes, st.integers(2, 300), st.integers(0, 2**16), st.sampled_from([1e-30, 1e-3, 1e25]))
def test_units_of_a_row_do_not_matter(n, d, seed, scale):
    x, y = draw(n, d, seed=seed).float(), draw(3, d, seed=seed + 1).float()
    torch.testing.assert_close(
        cost_matrix(scale * x, y, "correlation"), cost_matrix(x, y, "correlation"), rtol=0, atol=1e-5
    )


@given(st.floats(-1e6, 1e6), st.integers(1, 3000), st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
def test_a_row_that_does_not_vary_is_at_one(value, d, dtype):
    """Also where its mean, rounded, is not its value."""
    rows = torch.full((2, d), value, dtype=dtype)
    other = torch.cat((draw(3, d).to(dtype), rows))
    assert (cost_matrix(rows, other, "correlation") == 1).all()
    assert (cost_matrix(other, rows, "correlation") == 1).all()


def test_of_equal_and_of_opposite_rows():
    x = draw(9, 300, dtype=torch.float32) + 1
    cost, opposite = cost_matrix(x, 2 * x + 3, "correlation"), cost_matrix(x, 3 - x, "correlation")
    assert (cost >= 0).all()
    assert cost.diagonal().max() < 1e-6
    assert (opposite <= 2).all()
    assert opposite.diagonal().min() > 2 - 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_result_is_in_float32_at_least_and_arguments_stay(dtype):
    x, y = (10 + draw(3, 800)).to(dtype), draw(2, 800, seed=1).to(dtype)
    before = x.clone(), y.clone()
    found = cost_matrix(x, y, "correlation")
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found, plain(x, y).to(found.dtype), rtol=0, atol=1e-6)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_what_is_no_number_is_not_hidden():
    x = draw(3, 50)
    x[1, 7] = float("nan")
    cost = cost_matrix(x, draw(4, 50, seed=1), "correlation")
    assert cost[1].isnan().all()
    assert cost[[0, 2]].isfinite().all()


def test_it_is_normalised_and_not_divided_by_samples():
    x, y = draw(4, 30), draw(5, 30, seed=1)
    cost = cost_matrix(x, y, "correlation")
    assert torch.equal(cost_matrix(x, y, "correlation", samples=7), cost)
    torch.testing.assert_close(cost_matrix(x, y, "correlation", normalise="max"), cost / cost.max())
