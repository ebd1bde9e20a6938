"""Similarity of layers: the released code's numbers, plain float64 loops, and what CKA and CCA must not depend on."""

from math import inf, nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hetlib.kernels import cka
from hetlib.kernels.cca import cca
from hetlib.kernels.cka import compare, gram, linear_cka

samples, features, seeds = st.integers(4, 12), st.integers(1, 9), st.integers(0, 2**16)
widths = st.lists(features, min_size=1, max_size=3)
either = pytest.mark.parametrize("debiased", [False, True])


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def related(n, d, seed=0, dtype=torch.float64):
    """Features that are, in part, those of every other call."""
    return (draw(n, 3) @ draw(3, d, seed=seed) + draw(n, d, seed=seed + 1)).to(dtype)


def rotation(d, seed):
    return torch.linalg.qr(draw(d, d, seed=seed)).Q


def plain_hsic(x, y, debiased):
    """Sums over samples, as the papers write them: HSIC_0 up to its factor, or the unbiased HSIC_1."""
    n = len(x)
    k = [[float(x[i] @ x[j]) for j in range(n)] for i in range(n)]
    l = [[float(y[i] @ y[j]) for j in range(n)] for i in range(n)]  # noqa: E741  (its name in the papers)
    if debiased:
        for i in range(n):
            k[i][i] = l[i][i] = 0.0
        trace = sum(k[i][j] * l[j][i] for i in range(n) for j in range(n))
        sums = sum(map(sum, k)) * sum(map(sum, l))
        cross = sum(sum(k[i]) * sum(l[i]) for i in range(n))
        return (trace + sums / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))
    row = [sum(k[i]) / n for i in range(n)]
    mean = sum(row) / n
    return sum((k[i][j] - row[i] - row[j] + mean) * l[i][j] for i in range(n) for j in range(n))


def plain_cka(xs, ys, debiased=False):
    """Pair by pair."""
    hsic = lambda x, y: plain_hsic(x.double(), y.double(), debiased)
    pairs = [[hsic(x, y) / (hsic(x, x) * hsic(y, y)) ** 0.5 for y in ys] for x in xs]
    return torch.tensor(pairs, dtype=torch.float64)


def plain_cca(x, y):
    """Singular values of the product of two orthonormal bases; the features are independent and fewer than samples."""
    bases = (torch.linalg.qr(x - x.mean(0)).Q for x in (x, y))
    return torch.linalg.svdvals(next(bases).T @ next(bases)).square().mean()


class TestLinearCKA:
    def test_agrees_with_the_released_code(self, vectors):
        archive = np.load(vectors / "clafusion" / "cka.npz")
        x, y = torch.from_numpy(archive["X"]), torch.from_numpy(archive["Y"])
        biased, debiased = linear_cka([x], [y]).item(), linear_cka([x], [y], debiased=True).item()
        assert biased == pytest.approx(float(archive["cka_biased"]), abs=1e-12)
        assert biased == pytest.approx(float(archive["cka_feature"]), abs=1e-12)
        assert 1 - biased == pytest.approx(float(archive["layer_cost"]), abs=1e-12)
        assert debiased == pytest.approx(float(archive["cka_debiased"]), abs=1e-12)

    @either
    @settings(max_examples=25)
    @given(st.integers(15, 24), widths, widths, seeds)
    def test_agrees_with_a_plain_loop(self, debiased, n, first, second, seed):
        # With many samples to a feature the unbiased self-similarity stays well above 0, where it may not divide.
        xs = [related(n, d, seed + i) + 1 for i, d in enumerate(first)]
        ys = [related(n, d, seed - i) for i, d in enumerate(second)]
        torch.testing.assert_close(linear_cka(xs, ys, debiased), plain_cka(xs, ys, debiased), rtol=0, atol=1e-9)

    @either
    @pytest.mark.parametrize("size", [2, 7, 64])
    def test_strips_and_blocks_make_one_gram(self, monkeypatch, debiased, size):
        x = draw(20, 700)
        whole = gram(x, debiased)
        monkeypatch.setattr(cka, "STRIP", size)
        monkeypatch.setattr(cka, "BLOCK", 1)
        monkeypatch.setattr(cka, "TERMS", size)
        torch.testing.assert_close(gram(x, debiased), whole)
        assert linear_cka([x], [x], debiased).item() == pytest.approx(1)

    @given(samples, features, features, seeds, st.booleans())
    def test_is_symmetric_and_in_range(self, n, d, e, seed, debiased):
        xs, ys = [draw(n, d, seed=seed), draw(n, e, seed=seed + 1)], [related(n, e, seed=seed)]
        there, back = linear_cka(xs, ys, debiased), linear_cka(ys, xs, debiased)
        torch.testing.assert_close(there, back.T)
        assert there.min() >= (-1 if debiased else 0)
        assert there.max() <= 1

    @given(samples, st.integers(2, 9), seeds, st.integers(-9, 9), st.floats(-100, 100), st.booleans())
    def test_turned_scaled_shifted_layers_are_the_same_layer(self, n, d, seed, power, shift, debiased):
        x = draw(n, d, seed=seed)
        others = [x, 10.0**power * x, x + shift, x.flip(1), x @ rotation(d, seed)]
        torch.testing.assert_close(linear_cka([x], others, debiased), x.new_ones(1, 5), rtol=0, atol=1e-8)

    def test_other_linear_maps_do_change_it(self):
        x = draw(30, 5)
        assert linear_cka([x], [x * torch.tensor([9.0, 1, 1, 1, 1])]) < 0.9

    @pytest.mark.parametrize(("width", "biased"), [(400, 0.667), (4096, 0.954), (16384, 0.988)])
    def test_biased_saturates_where_debiased_reads_zero(self, width, biased):
        x, y = draw(200, width, dtype=torch.float32), draw(200, width, seed=1, dtype=torch.float32)
        assert linear_cka([x], [y]).item() == pytest.approx(biased, abs=0.005)
        unbiased = linear_cka([x], [y], debiased=True)
        assert abs(unbiased.item()) < 0.03
        exact = linear_cka([x.double()], [y.double()], debiased=True)
        torch.testing.assert_close(unbiased.double(), exact, rtol=0, atol=1e-6)

    @either
    def test_float32_is_right_to_a_millionth(self, debiased):
        xs = [related(256, d, seed=d, dtype=torch.float32).relu() + 50 for d in (64, 300, 2000)]
        exact = linear_cka([x.double() for x in xs], [x.double() for x in xs], debiased)
        found = linear_cka(xs, xs, debiased)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6)

    @either
    def test_bfloat16_products_are_right_to_a_few_ten_thousandths(self, debiased):
        xs = [related(256, d, seed=d, dtype=torch.float32).relu() for d in (64, 300, 2000)]
        exact, rough = linear_cka(xs, xs, debiased), linear_cka(xs, xs, debiased, bf16=True)
        assert not torch.equal(rough, exact)
        torch.testing.assert_close(rough, exact, rtol=0, atol=3e-4)

    def test_very_small_and_large_float32(self):
        x = draw(20, 5, dtype=torch.float32)
        for debiased in (False, True):
            found = linear_cka([x * 1e-15, x * 1e15], [x], debiased)
            torch.testing.assert_close(found, torch.ones(2, 1))

    def test_takes_maps_half_precision_integers_and_leaves_them_alone(self):
        maps = draw(12, 3, 4, 4, dtype=torch.float16)
        whole = torch.randint(9, (12, 6), generator=torch.Generator().manual_seed(0))
        before = maps.clone(), whole.clone()
        found = linear_cka([maps], [whole])
        assert found.dtype == torch.float32
        assert torch.equal(maps, before[0])
        assert torch.equal(whole, before[1])
        torch.testing.assert_close(found.double(), linear_cka([maps.flatten(1).double()], [whole.double()]))

    def test_keeps_no_gradients_and_ignores_autocast(self):
        x, y = draw(12, 40, dtype=torch.float32).requires_grad_(), draw(12, 30, seed=1, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            found = linear_cka([x], [y])
        assert not found.requires_grad
        assert torch.equal(found, linear_cka([x], [y]))

    @either
    def test_a_layer_without_variation_is_like_nothing_and_named(self, debiased):
        still = torch.full((10, 30), 0.1)
        x = draw(10, 4, dtype=torch.float32)
        with pytest.warns(RuntimeWarning, match=r"^xs\[1\], ys\[0\]: no variation") as caught:
            found = linear_cka([x, still], [still * 3, x], debiased)
        assert caught[0].filename == __file__
        torch.testing.assert_close(found, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))

    def test_debiased_sees_nothing_in_samples_equally_far_apart(self):
        with pytest.warns(RuntimeWarning, match=r"xs\[0\]: no variation"):
            found = linear_cka([7 * torch.eye(12) @ rotation(12, 0).float()], [draw(12, 3).float()], debiased=True)
        assert found.item() == 0

    @either
    @pytest.mark.parametrize("bad", [nan, inf, -inf])
    def test_values_that_are_not_finite_are_named(self, debiased, bad):
        x = draw(6, 4, dtype=torch.float32)
        spoilt = x.clone()
        spoilt[2, 1] = bad
        with pytest.raises(ValueError, match=r"^ys\[1\]: values that are not finite"):
            linear_cka([x], [x, spoilt], debiased)

    @either
    @pytest.mark.parametrize("large", [2.5e19, 1e30])
    def test_values_too_large_to_square_count_as_they_are(self, debiased, large):
        x = draw(6, 4)
        spoilt = x.clone()
        spoilt[2, 1] = large
        found = linear_cka([x.float()], [spoilt.float()], debiased)
        torch.testing.assert_close(found.double(), linear_cka([x], [spoilt], debiased), rtol=0, atol=1e-5)
        of_grams = compare([gram(x.float(), debiased)], [gram(spoilt.float(), debiased)])
        torch.testing.assert_close(of_grams, found)

    @pytest.mark.parametrize(
        ("xs", "ys", "debiased", "message"),
        [
            ([], [torch.ones(4, 2)], False, "xs must hold at least 1, got 0"),
            ([torch.ones(4, 2)], [], False, "ys must hold at least 1, got 0"),
            ([torch.ones(4, 2)], [torch.ones(4, 3), torch.ones(5, 2)], False, r"ys\[1\] has 5 samples, xs\[0\] has 4"),
            ([torch.ones(4)], [torch.ones(4, 2)], False, r"xs\[0\]: shape \(4,\) is not \(samples, features\)"),
            ([torch.ones(4, 2)], [torch.tensor(1.0)], False, r"ys\[0\]: shape \(\) is not \(samples, features\)"),
            ([torch.ones(1, 2)], [torch.ones(1, 2)], False, r"xs\[0\] has 1 samples, at least 2 are needed"),
            ([torch.ones(3, 2)], [torch.ones(3, 2)], True, r"xs\[0\] has 3 samples, at least 4 are needed"),
        ],
    )
    def test_what_cannot_be_compared(self, xs, ys, debiased, message):
        with pytest.raises(ValueError, match=message):
            linear_cka(xs, ys, debiased)


class TestGrams:
    @either
    def test_kept_grams_compare_like_layers(self, debiased):
        xs, ys = [related(15, 6), related(15, 40, 1)], [related(15, 8, 2)]
        ks, ls = ([gram(x, debiased) for x in layers] for layers in (xs, ys))
        before = [k.clone() for k in ks]
        torch.testing.assert_close(compare(ks, ls), linear_cka(xs, ys, debiased))
        torch.testing.assert_close(compare(torch.stack(ks), torch.stack(ls)), linear_cka(xs, ys, debiased))
        assert all(torch.equal(k, b) for k, b in zip(ks, before, strict=True))

    def test_is_the_product_of_centred_features(self):
        x = draw(300, 7) + 3
        centred = x - x.mean(0)
        torch.testing.assert_close(gram(x), centred @ centred.T)

    def test_debiased_has_no_diagonal_and_rows_of_sum_zero(self):
        matrix = gram(draw(30, 7), debiased=True)
        assert not matrix.diagonal().any()
        torch.testing.assert_close(matrix.sum(1), matrix.new_zeros(30), rtol=0, atol=1e-10)

    def test_errors(self):
        k = gram(draw(6, 3))
        with pytest.raises(ValueError, match="x has 3 samples, at least 4"):
            gram(draw(3, 3), debiased=True)
        with pytest.raises(ValueError, match="ls must hold at least 1"):
            compare([k], [])
        for other in (gram(draw(5, 3)), draw(6, 3), draw(6)):
            with pytest.raises(ValueError, match=r"ls\[0\]: .* is no Gram, or not of ks\[0\]'s samples: \(6, 6\)"):
                compare([k], [other])
        with pytest.raises(ValueError, match=r"^ls\[0\]: values that are not finite"):
            compare([k], [k * nan])
        with pytest.warns(RuntimeWarning, match=r"^ks\[0\]: no variation"):
            assert compare([k * 0], [k]).item() == 0


class TestCCA:
    @given(st.integers(12, 20), features, features, seeds)
    def test_agrees_with_qr_and_svd(self, n, d, e, seed):
        x, y = related(n, d, seed) * 3 + 1, related(n, e, seed + 2)
        torch.testing.assert_close(cca([x], [y]), plain_cca(x, y).expand(1, 1), rtol=0, atol=1e-8)

    def test_of_all_pairs(self):
        xs, ys = [related(30, d, d) for d in (3, 5)], [related(30, d, d + 1) for d in (2, 4, 6)]
        expected = torch.stack([torch.stack([plain_cca(x, y) for y in ys]) for x in xs])
        torch.testing.assert_close(cca(xs, ys), expected)

    def test_any_invertible_map_and_repeated_or_dead_features_change_nothing(self):
        x, y = related(30, 4), related(30, 6, 1)
        padded = torch.cat([x @ draw(4, 4, seed=5), x[:, :2], torch.full((30, 3), 0.1, dtype=torch.float64)], 1)
        torch.testing.assert_close(cca([padded.float()], [y]), cca([x], [y]), rtol=0, atol=1e-6)
        torch.testing.assert_close(cca([padded.float()], [x]), x.new_ones(1, 1), rtol=0, atol=1e-6)

    def test_as_many_features_as_samples_are_like_anything(self):
        assert cca([draw(10, 40)], [draw(10, 4, seed=1)]).item() == pytest.approx(1)

    def test_a_layer_without_variation(self):
        x = draw(10, 4)
        torch.testing.assert_close(cca([torch.ones(10, 3)], [x, torch.ones(10, 2)]), x.new_zeros(1, 2))

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (torch.ones(5, 2), r"ys\[0\] has 5 samples, xs\[0\] has 4"),
            (torch.ones(4), r"ys\[0\]: shape \(4,\)"),
            (torch.full((4, 2), nan), r"ys\[0\]: values that are not finite"),
        ],
    )
    def test_errors(self, other, message):
        with pytest.raises(ValueError, match=message):
            cca([draw(4, 2)], [other])


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("scale", [1e-35, 1e-23, 1e-12, 1e12, 1e23, 1e35])
def test_scale_does_not_matter(scale, debiased):
    x, y = related(50, 20), related(50, 12, seed=1)
    right = linear_cka([x], [y], debiased)
    found = linear_cka([(x * scale).float()], [y.float()], debiased)
    torch.testing.assert_close(found.double(), right, rtol=0, atol=1e-5)
    of_grams = compare([gram((x * scale).float(), debiased)], [gram(y.float(), debiased)])
    torch.testing.assert_close(of_grams, found)


def test_whole_numbers_keep_what_little_they_vary():
    generator = torch.Generator().manual_seed(0)
    few, y = torch.randint(0, 3, (50, 20), generator=generator), related(50, 12)
    found = linear_cka([few + 2**30], [y.float()])
    torch.testing.assert_close(found.double(), linear_cka([few.double()], [y]), rtol=0, atol=1e-6)
    pixels = torch.randint(0, 256, (50, 20), generator=generator, dtype=torch.uint8)
    torch.testing.assert_close(linear_cka([pixels], [y]), linear_cka([pixels.double()], [y]))
