"""Many entropic plans at once: what the launch finds beside `sinkhorn`, one launch however many and however unlike.

Triton reads TRITON_INTERPRET when it is imported, so the tests of the launch run in a process of their own.
"""

from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hetlib.kernels import sinkhorn_batched
from hetlib.kernels.sinkhorn import sinkhorn
from hetlib.kernels.sinkhorn_batched import sinkhorns
from tests.interpreter import INTERPRETED, count_launches, interpreted, outer, run_launches

SHAPES = ((1, 1), (1, 40), (32, 128), (33, 129), (130, 7))
"""Smaller than a tile, one tile, a little more than one, several."""
OFFSETS = (1e6, -1e6, 1e2, 1e4, -1e4)
PRECISION = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Of potentials, in units of the largest cost."""


def draw(*shape, seed=0, dtype=torch.float32):
    """Costs from 0 to 1."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_as_alone(costs, reg, iterations=12, **how):
    found = sinkhorns(costs, reg, iterations, **how)
    assert len(found) == len(costs)
    for cost, ours in zip(costs, found, strict=True):
        alone = sinkhorn(cost, reg, iterations, **how)
        atol = PRECISION[alone.plan.dtype]
        torch.testing.assert_close(ours.rows, alone.rows, rtol=0, atol=atol)
        torch.testing.assert_close(ours.columns, alone.columns, rtol=0, atol=atol)
        # What the potentials round off, the exponents of the plan have as many times as reg goes into a cost.
        torch.testing.assert_close(ours.plan, alone.plan, rtol=atol / reg, atol=atol)
        assert ours.iterations == alone.iterations
        assert ours.error == pytest.approx(alone.error, rel=atol / reg, abs=atol / reg)
    return found


def assert_true(found):
    """Rows of 1 / n, and an error that is the plan's."""
    plan = found.plan.double()
    n, m = plan.shape
    torch.testing.assert_close(plan.sum(1), torch.full_like(plan[:, 0], 1 / n), rtol=5e-7, atol=0)
    assert found.error == pytest.approx((plan.sum(0) - 1 / m).abs().sum().item(), rel=1e-9, abs=1e-15)


def test_on_a_cpu_each_is_solved_alone():
    costs = [draw(*shape, seed=n) for n, shape in enumerate(SHAPES)]
    for ours, cost in zip(sinkhorns(costs, 0.1), costs, strict=True):
        alone = sinkhorn(cost, 0.1)
        assert all(torch.equal(a, b) for a, b in zip(ours[:3], alone[:3], strict=True))
        assert ours[3:] == alone[3:]


def check_refusals():
    for shape in ((3,), (0, 3), (3, 0), (2, 3, 3)):
        with pytest.raises(ValueError, match="no matrix of n by m units"):
            sinkhorns([draw(2, 2), torch.zeros(shape)], 0.1)
    for value in (nan, inf, -inf):
        spoilt = draw(40, 140)
        spoilt[-1, -1] = value
        with pytest.raises(ValueError, match=r"shape \(40, 140\).* NaN or infinity"):
            sinkhorns([draw(2, 2), spoilt], 0.1, 2)
    with pytest.raises(ValueError, match=r"shape \(1, 2\).* differences beyond torch\.float32"):
        sinkhorns([torch.tensor([[3e38, -3e38]])], 1e37, 2)
    with pytest.raises(ValueError, match=r"float64 is too coarse for a cost of shape \(4, 5\) at reg 1e-15"):
        sinkhorns([torch.zeros(2, 2), draw(4, 5)], 1e-15, 2)
    with pytest.raises(TypeError, match="the cost must be real numbers"):
        sinkhorns([draw(2, 2).to(torch.complex64)], 0.1)
    for how, says in (
        ({"reg": 0}, "reg must be a finite number"),
        ({"iterations": 0}, "iterations must be a whole number"),
    ):
        with pytest.raises(ValueError, match=says):
            sinkhorns([draw(2, 2)], **{"reg": 0.1, **how})


def test_bad_input_is_named():
    check_refusals()


@outer
def test_the_launch_under_triton_s_interpreter():
    run_launches(__file__)


@pytest.fixture
def launches(monkeypatch):
    return count_launches(monkeypatch, sinkhorn_batched, "hetlib.kernels.sinkhorn_triton", "_solve")


@interpreted
@pytest.mark.parametrize(("dtype", "reg"), [(torch.float32, 0.5), (torch.float32, 1e-3), (torch.float64, 1e-3)])
def test_one_launch_for_costs_of_all_shapes(launches, reg, dtype):
    assert_as_alone([draw(*shape, seed=n, dtype=dtype) for n, shape in enumerate(SHAPES)], reg)
    assert len(launches) == 1


@interpreted
def test_one_launch_where_exponentials_underflow(launches):
    """Costs that spread over many thousand powers of two, with nothing near the first column."""
    cost = draw(70, 50)
    cost[:, 0] += 1
    assert_as_alone([cost, torch.zeros(9, 9), 0.5 + torch.zeros(4, 6), draw(20, 1).expand(20, 30)], 1e-3)
    assert len(launches) == 1


@interpreted
def test_one_launch_where_constants_are_added(launches):
    costs = [draw(*shape, seed=n) + offset for n, (shape, offset) in enumerate(zip(SHAPES, OFFSETS, strict=True))]
    for ours, cost in zip(sinkhorns(costs, 0.1, 12), costs, strict=True):
        alone = sinkhorn(cost, 0.1, 12)
        torch.testing.assert_close(ours.rows, alone.rows, rtol=0, atol=PRECISION[torch.float32])
        torch.testing.assert_close(ours.columns, alone.columns, rtol=1e-6, atol=PRECISION[torch.float32])
        torch.testing.assert_close(ours.plan, alone.plan, rtol=1e-4, atol=1e-5)
        assert_true(ours)
    assert len(launches) == 1


@interpreted
def test_another_launch_for_costs_too_large_for_float32(launches):
    costs = [draw(40, 140), 1e4 * draw(33, 129, seed=1), 1e7 * draw(5, 7, seed=2)]
    for ours, cost in zip(sinkhorns(costs, 0.1, 12), costs, strict=True):
        assert ours.plan.dtype == ours.rows.dtype == ours.columns.dtype == torch.float32
        torch.testing.assert_close(ours.plan, sinkhorn(cost, 0.1, 12).plan, rtol=1e-4, atol=1e-5)
        assert_true(ours)
    assert len(launches) == 2


@interpreted
@pytest.mark.parametrize(("n", "m"), [(2048, 40), (40, 2048), (500, 300)])
def test_one_launch_for_wide_layers(launches, n, m):
    assert_as_alone([draw(n, m), draw(5, 5)], 0.01, 2 if n < m else 1)
    assert len(launches) == 1


@interpreted
def test_in_one_launch_each_problem_stops_by_itself(launches):
    costs = [draw(30, 20), draw(6, 6, seed=1), draw(12, 50, seed=2)]
    steps = {found.iterations for found in assert_as_alone(costs, 0.05, 60, tolerance=1e-3)}
    assert len(steps) > 1
    assert all(step % 10 == 0 for step in steps)
    assert [found.iterations for found in sinkhorns(costs, 0.05, 13, tolerance=0)] == [13] * 3
    assert len(launches) == 2


@interpreted
@settings(deadline=None, max_examples=3)
@given(st.lists(st.tuples(st.integers(1, 150), st.integers(1, 150)), min_size=1, max_size=3), st.integers(0, 2**16))
def test_a_launch_keeps_the_marginals(shapes, seed):
    sinkhorn_triton = pytest.importorskip("hetlib.kernels.sinkhorn_triton")
    for found in sinkhorn_triton.solve([draw(*shape, seed=seed) for shape in shapes], 0.3, 40, 1e-5):
        n, m = found.plan.shape
        torch.testing.assert_close(found.plan.sum(1), torch.full((n,), 1 / n), rtol=1e-5, atol=0)
        assert (found.plan.sum(0) - 1 / m).abs().sum() < 2e-5


@interpreted
def test_a_launch_for_each_precision_of_the_results(launches):
    costs = [draw(6, 5, dtype=dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)]
    assert_as_alone([*costs, torch.tensor([[3, 1], [1, 3]])], 0.3)
    assert len(launches) == 2


@interpreted
def test_a_launch_takes_parts_of_tensors_and_leaves_them_as_they_are(launches):
    whole = draw(60, 80).requires_grad_()
    before = whole.detach().clone()
    assert_as_alone([whole.T, whole[::2, 5:30], whole[0].expand(50, 80)], 0.1)
    assert len(launches) == 1
    assert torch.equal(whole, before)
    assert not sinkhorns([whole], 0.1, 2)[0].plan.requires_grad


@interpreted
def test_a_launch_refuses_what_sinkhorn_refuses(launches):
    check_refusals()


@interpreted
def test_no_launch_for_nothing(launches):
    assert sinkhorns([], 0.1) == []
    assert not launches


class Calls(TorchDispatchMode):
    """Lists the operations of torch that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@interpreted
def test_the_host_does_no_more_for_more_iterations_of_a_launch(launches):
    counts = []
    for iterations in (1, 11):
        with Calls() as calls:
            sinkhorns([draw(6, 5), draw(9, 9)], 1e-3, iterations, tolerance=0)
        counts.append(len(calls.names))
        assert not {"item", "_local_scalar_dense", "isfinite", "zeros"} & set(calls.names)
    assert counts[0] == counts[1]
    assert len(launches) == 2


@pytest.mark.skipif(INTERPRETED, reason="nothing to compile where the kernel is interpreted")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_compiles_for_hopper_without_a_gpu(dtype, monkeypatch, tmp_path):
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hetlib.kernels import sinkhorn_triton

    options = sinkhorn_triton.prepare([draw(64, 64, dtype=dtype)], 0.1, 10, 0.0).options
    signature = {"table": "*i64"} | dict.fromkeys(options, "constexpr")
    source = ASTSource(fn=sinkhorn_triton._solve, signature=signature, constexprs=options)
    warps = {"num_warps": sinkhorn_triton.WARPS}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=warps)
    assert compiled.asm["cubin"]
    # Potentials are read again after other threads have written them: no load may take them for constant.
    assert "ld.global.nc" not in compiled.asm["ptx"]
