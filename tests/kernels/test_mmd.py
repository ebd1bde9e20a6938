"""The discrepancy is the released one and the plain loop's, and its gradients are autograd's."""

from math import exp

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from hetlib.kernels.mmd import SIGMAS, mmd


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def plain_mmd(x, y, sigmas=SIGMAS):
    """Pair of images by pair of images, after the paper's definition; for autograd to go through."""
    rows = F.normalize(torch.cat([x.flatten(1), y.flatten(1)]), dim=1)
    n, total = len(x), 0.0
    for i, u in enumerate(rows):
        for j, v in enumerate(rows):
            distance = (u - v).square().sum()
            sign = 1 if (i < n) == (j < n) else -1
            total = total + sign * sum((-distance / (2 * s**2)).exp() for s in sigmas) / n**2
    return total


def test_it_is_the_released_one(vectors):
    given = np.load(vectors / "amalgamation_peers.npz")
    student, *teachers = (torch.from_numpy(given[f"cfl/{name}"]) for name in ("hs", "ht0", "ht1"))
    found = mmd([student, student], teachers).sum()
    # The narrowest kernel amplifies the rounding of distances in the released code by half a million.
    assert float(found) == pytest.approx(float(given["cfl/mmd"]), rel=5e-4)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**16))
def test_it_and_its_gradients_are_the_plain_loop_s(samples, width, seed):
    xs = [draw(samples, width, seed=seed).requires_grad_(), draw(samples, 2, 3, 1, seed=seed + 1).requires_grad_()]
    ys = [draw(samples, width, seed=seed + 2).requires_grad_(), draw(samples, 6, seed=seed + 3).requires_grad_()]
    sigmas = (0.5, 1.0, 2.0)
    found, expected = mmd(xs, ys, sigmas), [plain_mmd(x, y, sigmas) for x, y in zip(xs, ys, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)
    weights = torch.tensor([0.7, -1.3], dtype=torch.float64)
    ours = torch.autograd.grad((found * weights).sum(), [*xs, *ys])
    theirs = torch.autograd.grad((torch.stack(expected) * weights).sum(), [*xs, *ys])
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-9)


def test_gradients_are_exact_at_the_released_bandwidths():
    x, y = draw(4, 5), draw(4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda a, b: mmd([a], [b]), [x.requires_grad_(), y.requires_grad_()])


def test_equal_features_are_not_apart_and_scale_does_not_matter():
    x = draw(6, 8)
    assert float(mmd([x], [x])) == pytest.approx(0, abs=1e-12)
    assert float(mmd([x], [3 * x.flip(0)])) == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(mmd([x], [draw(6, 8, seed=1)]), mmd([0.1 * x], [7 * draw(6, 8, seed=1)]))


def test_opposite_features_are_as_far_apart_as_the_kernels_say():
    x = torch.ones(3, 4, dtype=torch.float64)
    expected = 2 * sum(1 - exp(-4 / (2 * s**2)) for s in SIGMAS)
    assert float(mmd([x], [-x])) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x, y = draw(4, 5, dtype=dtype).requires_grad_(), draw(4, 5, seed=1, dtype=dtype)
    found = mmd([x], [y])
    assert found.dtype == torch.float32
    assert torch.equal(found, mmd([x.float()], [y.float()]))
    found.sum().backward()
    assert x.grad.dtype == dtype


def test_a_row_of_zeros_has_no_direction_and_no_gradient_that_is_no_number():
    x = draw(4, 5)
    x[1] = 0
    x.requires_grad_()
    mmd([x], [draw(4, 5, seed=1)]).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("xs", "ys", "message"),
    [
        ([], [], "xs must hold at least 1"),
        ([(2, 3)], [], "ys must hold at least 1"),
        ([(2, 3), (2, 3)], [(2, 3), (2, 4)], r"pair 1: features of shape \(2, 3\) and \(2, 4\)"),
        ([(2, 3)], [(3, 3)], r"pair 0: features of shape \(2, 3\) and \(3, 3\)"),
        ([(2, 3), (4, 3)], [(2, 3), (4, 3)], "pair 1: .* same N = 2 images"),
        ([(2,)], [(2,)], r"pair 0: features of shape \(2,\)"),
    ],
)
def test_bad_pairs_are_named(xs, ys, message):
    with pytest.raises(ValueError, match=message):
        mmd([torch.zeros(shape) for shape in xs], [torch.zeros(shape) for shape in ys])


def test_bandwidths_are_positive():
    with pytest.raises(ValueError, match="bandwidths sigmas: finite numbers above 0 are needed"):
        mmd([draw(2, 3)], [draw(2, 3)], (1.0, 0.0))
