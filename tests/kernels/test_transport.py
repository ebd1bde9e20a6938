"""Cost matrices and transport plans: the released code's, plain loops, every permutation tried, and POT's."""

from contextlib import suppress
from itertools import permutations
from math import inf, lcm, log, nan

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ot.bregman import sinkhorn_log
from scipy.optimize import linear_sum_assignment, linprog

from hetlib.kernels import transport, transport_plan
from hetlib.kernels.costs import METRICS, NORMALISATIONS, cost_matrix
from hetlib.kernels.sinkhorn import sinkhorn
from hetlib.kernels.transport import transport_plans

sizes = st.integers(1, 7)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain_cost(x, y, metric):
    """Pair by pair."""
    cost = torch.empty(len(x), len(y), dtype=x.dtype)
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            squared = ((a - b) ** 2).sum()
            cosine = 1 - (a @ b) / (a.norm() * b.norm())
            cost[i, j] = {"squared": squared, "euclidean": squared.sqrt(), "cosine": cosine}[metric]
    return cost


def assert_uniform(plan):
    n, m = plan.shape
    torch.testing.assert_close(plan.sum(1), torch.full_like(plan[:, 0], 1 / n))
    torch.testing.assert_close(plan.sum(0), torch.full_like(plan[0], 1 / m))
    assert (plan >= 0).all()


def permutation_of(plan):
    """The row of each column, of a plan between equal widths."""
    assert ((plan > 0).sum(0) == 1).all()
    return plan.argmax(0)


class TestCostMatrix:
    def test_agrees_with_the_released_ground_metric(self, vectors):
        archive = np.load(vectors / "clafusion" / "ground_metric.npz")
        x, y = torch.from_numpy(archive["a"]), torch.from_numpy(archive["b"])
        names = [name for name in archive.files if name.startswith("M_")]
        assert len(names) == 21
        for name in names:
            normalise, root, branch = [*name.split("_")[1:], "", ""][:3]
            if normalise == "cosine":
                found = cost_matrix(x, y, "cosine")
            else:
                samples = x.shape[1] if branch == "eff" else 1
                metric = {"l2": "euclidean", "sq": "squared"}[root]
                found = cost_matrix(x, y, metric, samples=samples, normalise=normalise)
            torch.testing.assert_close(found, torch.from_numpy(archive[name]), rtol=1e-5, atol=1e-6, msg=name)

    @given(sizes, sizes, st.integers(1, 600), st.sampled_from(METRICS[:3]), st.integers(0, 2**16))
    def test_agrees_with_a_plain_loop(self, n, m, d, metric, seed):
        x, y = draw(n, d, seed=seed), draw(m, d, seed=seed + 1) + 3
        torch.testing.assert_close(cost_matrix(x, y, metric), plain_cost(x, y, metric), rtol=1e-9, atol=1e-9)

    def test_many_blocks_of_features_make_one_matrix(self, monkeypatch):
        monkeypatch.setattr("hetlib.kernels.costs.BLOCK", 1)
        x, y = draw(5, 1000), draw(4, 1000, seed=1)
        torch.testing.assert_close(cost_matrix(x, y), torch.cdist(x, y))

    def test_a_large_common_part_does_not_cancel(self):
        x, y = draw(20, 50), draw(30, 50, seed=1)
        common = 1e3 * draw(50, seed=2)
        far = cost_matrix((x + common).float(), (y + common).float())
        assert (far - torch.cdist((x + common).float().double(), (y + common).float().double())).abs().max() < 1e-4

    def test_beside_a_layer_of_zeros_every_column_is_alike(self):
        cost = cost_matrix(draw(17, 400, dtype=torch.float32), torch.zeros(33, 400))
        assert (cost == cost[:, :1]).all()

    def test_equal_rows_are_never_at_a_negative_distance(self):
        x = draw(9, 300, dtype=torch.float32)
        cost = cost_matrix(x, x, "squared")
        assert (cost >= 0).all()
        assert cost.diagonal().max() < 1e-3
        assert cost_matrix(x, x).isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_the_result_is_in_float32_at_least(self, dtype):
        x, y = draw(3, 8).to(dtype), draw(2, 8, seed=1).to(dtype)
        found = cost_matrix(x, y)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(found, torch.cdist(x.double(), y.double()).to(found.dtype), rtol=1e-5, atol=1e-5)

    def test_arguments_stay_as_they_are(self):
        x, y = draw(4, 9).requires_grad_(), draw(3, 9, seed=1)
        before = x.detach().clone(), y.clone()
        for metric in METRICS:
            for normalise in NORMALISATIONS:
                cost_matrix(x, y, metric, samples=3, normalise=normalise)
        assert torch.equal(x, before[0])
        assert torch.equal(y, before[1])

    def test_nothing_to_divide_by_leaves_the_matrix_as_it_is(self):
        for normalise in NORMALISATIONS:
            assert torch.equal(cost_matrix(torch.ones(3, 4), torch.ones(2, 4), normalise=normalise), torch.zeros(3, 2))

    def test_a_row_of_zeros_has_no_direction(self):
        assert torch.equal(cost_matrix(torch.zeros(1, 4), draw(3, 4).float(), "cosine"), torch.ones(1, 3))

    @pytest.mark.parametrize(
        ("x", "y", "how", "says"),
        [
            ((3, 4), (2, 5), {}, r"rows of \(3, 4\) and \(2, 5\)"),
            ((3, 4), (4,), {}, r"rows of \(3, 4\) and \(4,\)"),
            ((0, 4), (2, 4), {}, r"rows of \(0, 4\)"),
            ((3, 0), (2, 0), {}, r"rows of \(3, 0\)"),
            ((3, 4), (2, 4), {"metric": "euclid"}, "unknown metric 'euclid'.*did you mean 'euclidean'"),
            ((3, 4), (2, 4), {"normalise": "logs"}, "unknown normalisation 'logs'.*did you mean 'log'"),
            ((3, 4), (2, 4), {"samples": 0}, "samples must be a whole number of at least 1"),
        ],
    )
    def test_bad_input_is_named(self, x, y, how, says):
        with pytest.raises(ValueError, match=says):
            cost_matrix(torch.zeros(x), torch.zeros(y), **how)


class TestExactPlans:
    @pytest.mark.parametrize("case", ["mlp_same", "mlp_depth_add_neuron", "resnet_same_width"])
    def test_cost_what_the_released_plans_cost(self, vectors, case):
        archive = np.load(vectors / "clafusion" / f"{case}.npz")
        numbers = [key.removeprefix("plan_") for key in archive.files if key.startswith("plan_")]
        assert numbers
        for number in numbers:
            cost, released = (torch.from_numpy(archive[f"{kind}_{number}"]).double() for kind in ("cost", "plan"))
            plan = transport_plan(cost)
            assert_uniform(plan)
            assert (cost * plan).sum().item() == pytest.approx((cost * released).sum().item(), rel=1e-6, abs=1e-9)

    @given(st.integers(1, 6), st.integers(0, 2**16))
    def test_no_permutation_costs_less(self, n, seed):
        cost = draw(n, n, seed=seed)
        plan = transport_plan(cost)
        assert_uniform(plan)
        least = min(sum(cost[i, j] for i, j in enumerate(order)) for order in permutations(range(n)))
        assert (cost * plan).sum().item() * n == pytest.approx(float(least), abs=1e-9)

    @given(sizes, sizes, st.integers(0, 2**16))
    def test_costs_what_a_linear_programme_finds(self, n, m, seed):
        cost = draw(n, m, seed=seed)
        plan = transport_plan(cost)
        assert_uniform(plan)
        assert (plan > 0).sum() <= n + m - 1
        marginals = np.concatenate((np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))))
        shares = np.concatenate((np.full(n, 1 / n), np.full(m, 1 / m)))
        least = linprog(cost.numpy().ravel(), A_eq=marginals, b_eq=shares).fun
        assert (cost * plan).sum().item() == pytest.approx(least, abs=1e-9)

    @pytest.mark.parametrize(("n", "m"), [(96, 96), (96, 48), (50, 70)])
    def test_cost_what_emd_costs(self, n, m):
        cost = draw(n, m).abs()
        least = ot.emd2([], [], cost.numpy())
        assert (cost * transport_plan(cost)).sum().item() == pytest.approx(least, rel=1e-12)

    @given(st.integers(1, 30), st.integers(0, 2**16))
    def test_a_permuted_layer_is_recovered(self, n, seed):
        layer = draw(n, 40, seed=seed)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        plan = transport_plan(cost_matrix(layer[order], layer))
        assert torch.equal(order[permutation_of(plan)], torch.arange(n))

    @given(sizes, sizes, st.integers(0, 2**16), st.sampled_from([1e-12, 0.3, 1e12]), st.floats(-5, 5))
    def test_units_of_the_cost_do_not_matter(self, n, m, seed, scale, shift):
        cost = draw(n, m, seed=seed)
        torch.testing.assert_close(transport_plan((cost + shift) * scale), transport_plan(cost))

    @pytest.mark.parametrize("cost", [torch.zeros(7, 7), draw(7, 1).expand(7, 7), draw(7).expand(7, 7)])
    def test_where_nothing_is_cheaper_the_identity_is_taken(self, cost):
        torch.testing.assert_close(transport_plan(cost), torch.eye(7, dtype=cost.dtype) / 7)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
    def test_the_dtype_is_the_costs_and_the_cost_stays(self, dtype):
        cost = draw(4, 4).to(dtype).requires_grad_()
        before = cost.detach().clone()
        plan = transport_plan(cost)
        assert plan.dtype == dtype
        assert not plan.requires_grad
        assert torch.equal(cost, before)

    def test_whole_numbers_give_a_floating_plan(self):
        plan = transport_plan(torch.tensor([[3, 1], [1, 3]]))
        assert plan.dtype == torch.float64
        assert plan.tolist() == [[0.0, 0.5], [0.5, 0.0]]

    @pytest.mark.parametrize("value", [nan, inf, -inf])
    @pytest.mark.parametrize("shape", [(3, 3), (3, 2)])
    def test_costs_that_are_no_numbers_are_refused(self, shape, value):
        cost = torch.zeros(shape)
        cost[1, 1] = value
        for solve in (transport_plan, lambda cost: transport_plans([cost]), lambda cost: sinkhorn(cost, 0.1)):
            with pytest.raises(ValueError, match="NaN or infinity"):
                solve(cost)

    @pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 3, 3)])
    def test_what_is_no_matrix_is_refused(self, shape):
        with pytest.raises(ValueError, match="no matrix of n by m units"):
            transport_plan(torch.zeros(shape))

    def test_an_optimum_not_reached_is_no_plan(self, monkeypatch):
        monkeypatch.setattr(transport, "PIVOTS", 1)
        with (
            pytest.warns(UserWarning, match="numItermax"),
            pytest.raises(RuntimeError, match="no optimal plan of 40 by 30 units"),
        ):
            transport_plan(draw(40, 30))


class TestManyPlans:
    @pytest.mark.parametrize("threads", [None, 1, 3])
    def test_are_the_plans_of_each_in_order(self, threads):
        costs = [draw(n, m, seed=n + m) for n, m in ((3, 3), (40, 40), (2, 5), (30, 20), (1, 1), (8, 8))]
        for cost, plan in zip(costs, transport_plans(costs, threads), strict=True):
            assert torch.equal(plan, transport_plan(cost))

    def test_of_nothing_are_none(self):
        assert transport_plans([]) == []


def plain_sinkhorn(cost, reg, iterations):
    """Columns, then rows, by logsumexp."""
    n, m = cost.shape
    rows = torch.zeros(n, dtype=cost.dtype)
    for _ in range(iterations):
        columns = -np.log(m) - torch.logsumexp(rows[:, None] - cost / reg, 0)
        rows = -np.log(n) - torch.logsumexp(columns - cost / reg, 1)
    return (rows[:, None] + columns - cost / reg).exp(), rows * reg, columns * reg


def assert_right(found, cost, reg, share):
    """A plain loop's plan but for a share of a row's mass, rows of 1 / n, and the error that the plan has."""
    wide = cost.double()
    plan, *_ = plain_sinkhorn(wide - wide.min(), reg, found.iterations)
    n, m = plan.shape
    torch.testing.assert_close(found.plan.double(), plan, rtol=0, atol=share / n)
    torch.testing.assert_close(found.plan.double().sum(1), torch.full_like(plan[:, 0], 1 / n), rtol=5e-7, atol=0)
    assert found.error == pytest.approx((found.plan.double().sum(0) - 1 / m).abs().sum().item(), rel=1e-9, abs=1e-15)


class TestSinkhorn:
    @given(sizes, sizes, st.integers(1, 30), st.sampled_from([0.003, 0.1, 3.0]), st.integers(0, 2**16))
    def test_agrees_with_a_plain_loop(self, n, m, iterations, reg, seed):
        cost = draw(n, m, seed=seed)
        found = sinkhorn(cost, reg, iterations, tolerance=0)
        assert found.iterations == iterations
        for ours, plain in zip(found[:3], plain_sinkhorn(cost, reg, iterations), strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)

    def test_agrees_with_pot(self):
        cost = cost_matrix(draw(40, 60), draw(30, 60, seed=1))
        uniform = np.zeros(0)
        plan, facts = sinkhorn_log(uniform, uniform, cost.numpy(), 0.05, numItermax=80, stopThr=0, log=True, warn=False)
        found = sinkhorn(cost, 0.05, 80, tolerance=0)
        np.testing.assert_allclose(found.plan.numpy(), plan, atol=1e-12)
        np.testing.assert_allclose(found.rows.numpy(), facts["log_u"] * 0.05, atol=1e-9)
        np.testing.assert_allclose(found.columns.numpy(), facts["log_v"] * 0.05, atol=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("reg", [1e-3, 0.1, 10.0])
    def test_clamping_exponents_changes_nothing(self, reg, dtype):
        cost = draw(60, 50).abs().to(dtype) * 10
        clamped, plain = (sinkhorn(cost, reg, 40, tolerance=0, clamp=clamp) for clamp in (True, False))
        for ours, other in zip(clamped[:3], plain[:3], strict=True):
            torch.testing.assert_close(ours, other, rtol=0, atol=1e-30)

    def test_a_batch_is_its_problems(self):
        costs = draw(2, 3, 6, 5)
        batch = sinkhorn(costs, 0.2, 25, tolerance=0)
        errors = []
        for i, j in np.ndindex(2, 3):
            single = sinkhorn(costs[i, j], 0.2, 25, tolerance=0)
            errors.append(single.error)
            for ours, other in zip(batch[:3], single[:3], strict=True):
                torch.testing.assert_close(ours[i, j], other)
        assert batch.error == pytest.approx(max(errors))

    def test_stops_where_the_columns_are_right(self):
        cost = draw(20, 30).abs()
        found = sinkhorn(cost, 0.5, tolerance=1e-6)
        assert found.iterations < 1000
        assert found.iterations % 10 == 0
        assert found.error < 1e-6
        assert (found.plan.sum(0) - 1 / 30).abs().sum() < 1e-6
        torch.testing.assert_close(found.plan.sum(1), torch.full((20,), 1 / 20, dtype=cost.dtype))

    def test_not_to_have_converged_shows(self):
        found = sinkhorn(draw(20, 20).abs(), 1e-3, 15)
        assert found.iterations == 15
        assert found.error > 1e-4

    def test_little_entropy_comes_near_the_exact_cost(self):
        cost = draw(12, 12).abs()
        found = sinkhorn(cost, 0.03, 20_000, tolerance=1e-9)
        assert found.error < 1e-9
        exact, entropic = ((cost * plan).sum() for plan in (transport_plan(cost), found.plan))
        assert exact - 1e-8 < entropic < exact + 0.03 * log(12)

    def test_the_cost_stays_and_half_precision_is_widened(self):
        cost = draw(4, 5).bfloat16().requires_grad_()
        before = cost.detach().clone()
        found = sinkhorn(cost, 0.5)
        assert found.plan.dtype == torch.float32
        assert torch.equal(cost, before)

    @pytest.mark.parametrize("offset", [0, 1e2, -1e2, 1e4, 1e6, -1e6])
    def test_a_constant_added_to_the_costs_changes_no_plan(self, offset):
        cost = (draw(6, 9).abs() + offset).float()
        found = sinkhorn(cost, 0.1, 5000)
        assert found.error < 1e-4
        assert_right(found, cost, 0.1, share=2e-6)
        potentials = found.rows[:, None].double() + found.columns - cost
        assert (potentials - found.plan.double().log() * 0.1).abs().max() <= 1e-6 * (abs(offset) + 10)

    def test_each_problem_of_a_batch_has_its_own_constant(self):
        base = draw(4, 6, 9).abs()
        costs = (base + torch.tensor([0, 1e3, -1e5, 1e6]).view(4, 1, 1)).float()
        found = sinkhorn(costs, 0.1, 50, tolerance=0)
        for cost, plan in zip(costs, found.plan, strict=True):
            torch.testing.assert_close(plan, sinkhorn(cost, 0.1, 50, tolerance=0).plan, rtol=1e-5, atol=0)

    def test_a_constant_that_float64_holds_beside_the_costs_changes_nothing(self):
        cost = (draw(6, 9).abs() * 1024).round() / 1024
        for offset in (2.0**40, -(2.0**40)):
            found = sinkhorn(cost - cost.min() + offset, 0.1, 50)
            assert torch.equal(found.plan, sinkhorn(cost, 0.1, 50).plan)

    @pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e2, 1e3, 1e4, 1e6, 1e8])
    @pytest.mark.parametrize("reg", [0.1, "of the costs"])
    def test_costs_of_any_scale_give_the_plan_of_float64(self, scale, reg):
        cost = (draw(20, 30) * scale).float()
        reg = 0.1 * scale if reg == "of the costs" else reg
        found = sinkhorn(cost, reg, 60)
        assert found.plan.dtype == found.rows.dtype == found.columns.dtype == torch.float32
        assert_right(found, cost, reg, share=1e-3)

    @pytest.mark.parametrize("axis", [0, 1])
    @pytest.mark.parametrize("offset", [1e3, 1e5, -1e6])
    def test_constants_of_rows_and_of_columns_change_no_plan(self, axis, offset):
        cost = draw(6, 9).abs()
        cost = (cost + offset * draw(*((6, 1) if axis else (1, 9)), seed=1)).float()
        assert_right(sinkhorn(cost, 0.1, 500), cost, 0.1, share=1e-3)

    @pytest.mark.parametrize("price", [1e4, 1e9, 1e30, 3e38])
    def test_pairs_at_a_prohibitive_price_take_no_precision_from_the_others(self, price):
        cost = draw(6, 9).abs().float()
        cost[0, 1:5] = cost[3, 7] = price
        found = sinkhorn(cost, 0.1, 50)
        assert (found.plan[cost == price] == 0).all()
        assert_right(found, cost, 0.1, share=2e-6)

    def test_whole_numbers_are_taken_in_float64(self):
        cost = (draw(6, 9).abs() * 100).long()
        found = sinkhorn(cost + 2**40, 10.0, 50)
        assert found.plan.dtype == torch.float64
        assert_right(found, cost, 10.0, share=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("iterations", [1, 5, 10, 37])
    def test_the_error_is_that_of_the_plan(self, iterations, dtype):
        cost = draw(20, 30).to(dtype)
        assert_right(sinkhorn(cost, 0.05, iterations, tolerance=0), cost, 0.05, share=1e-4)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_what_float64_is_too_coarse_for_is_refused(self, dtype):
        cost = draw(6, 6).to(dtype)
        with pytest.raises(ValueError, match=r"float64 is too coarse for a cost of shape \(6, 6\) at reg 1e-15"):
            sinkhorn(cost, 1e-15)

    def test_differences_beyond_the_dtype_are_refused(self):
        with pytest.raises(ValueError, match=r"or differences beyond torch\.float32"):
            sinkhorn(torch.tensor([[3e38, -3e38]]), 1e37)

    def test_complex_costs_are_refused(self):
        with pytest.raises(TypeError, match=r"the cost must be real numbers, and these are torch\.complex64"):
            sinkhorn(torch.zeros(2, 2, dtype=torch.complex64), 0.1)

    @pytest.mark.parametrize(
        ("shape", "how", "says"),
        [
            ((3,), {}, r"shape \(3,\) is no matrix"),
            ((0, 3), {}, r"shape \(0, 3\) is no matrix"),
            ((3, 3), {"reg": 0}, "reg must be a finite number above 0"),
            ((3, 3), {"reg": nan}, "reg must be a finite number above 0"),
            ((3, 3), {"reg": inf}, "reg must be a finite number above 0"),
            ((3, 3), {"reg": 1e-44}, "reg 1e-44 is not above 0 and in the range of torch.float32"),
            ((3, 3), {"iterations": 0}, "iterations must be a whole number of at least 1"),
        ],
    )
    def test_bad_input_is_named(self, shape, how, says):
        with pytest.raises(ValueError, match=says):
            sinkhorn(torch.zeros(shape), **{"reg": 0.1, **how})


def least(cost):
    """The least cost by an assignment of equal parts of units, which is exact."""
    n, m = cost.shape
    parts = lcm(n, m)
    split = cost.numpy().repeat(parts // n, 0).repeat(parts // m, 1)
    rows, columns = linear_sum_assignment(split)
    return split[rows, columns].sum() / parts


@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 2**16), st.floats(3, 32))
def test_a_forbidden_pair_does_not_end_the_search(n, m, seed, power):
    cost = draw(n, m, seed=seed).abs() + 0.01
    cost[seed % n, seed % m] = 10.0**power
    plan = transport_plan(cost)
    assert_uniform(plan)
    assert float((plan * cost).sum()) == pytest.approx(least(cost), rel=1e-9)


@given(st.integers(2, 5), st.integers(2, 6), st.integers(0, 2**16))
def test_costs_of_all_sizes_have_their_best_plan_or_are_refused(n, m, seed):
    generator = torch.Generator().manual_seed(seed)
    cost = 10.0 ** (70 * torch.rand(n, m, generator=generator, dtype=torch.float64) - 35)
    with suppress(RuntimeError):
        assert float((transport_plan(cost) * cost).sum()) == pytest.approx(least(cost), rel=1e-5)


def test_a_total_of_rounding_alone_is_no_reason_to_refuse():
    x = draw(5, 40)
    plan = transport_plan(cost_matrix(x.repeat_interleave(2, 0), x + 1e-17))
    assert_uniform(plan)
    assert torch.equal(plan.argmax(1), torch.arange(5).repeat_interleave(2))


def test_a_plan_that_its_duals_do_not_prove_is_refused(monkeypatch):
    cost = draw(2, 3).abs()
    worst = lambda a, b, cost, **how: (np.outer(a, b) / a.sum(), {"warning": None, "u": 0 * a, "v": 0 * b})
    monkeypatch.setattr("ot.lp.emd", worst)
    with pytest.raises(RuntimeError, match="no optimal plan of 2 by 3 units: their costs are of sizes too different"):
        transport_plan(cost)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [-37, -25, -20, -12, 0, 12, 17, 20, 37])
def test_distances_of_numbers_of_any_size(metric, dtype, power):
    x, y = draw(5, 30), draw(4, 30, seed=1)
    x[2] = 0
    scale = 10.0 ** (power * (7 if dtype == torch.float64 else 1))
    found = cost_matrix((x * scale).to(dtype), (y * scale).to(dtype), metric).double()
    right = cost_matrix(x, y, metric)
    torch.testing.assert_close(found / (scale if metric == "euclidean" else 1), right, rtol=1e-5, atol=1e-6)


def test_rows_of_very_different_sizes_have_their_angles():
    x, y = draw(3, 30, dtype=torch.float32), draw(4, 30, seed=1, dtype=torch.float32)
    sizes = torch.tensor([1e-30, 1.0, 1e30])
    torch.testing.assert_close(cost_matrix(x * sizes[:, None], y, "cosine"), cost_matrix(x, y, "cosine"))
