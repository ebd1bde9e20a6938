"""The launches that measure weights: what they find beside the CPU, how many there are, and that nothing waits.

Triton reads TRITON_INTERPRET when it is imported, so the tests of the launches run in a process of their own.
"""

from importlib import import_module
from math import inf, nan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hetlib.kernels import entropy, weight_entropy
from hetlib.kernels.fill import Fill
from hetlib.kernels.graft import coefficient, entropy_coefficients
from hetlib.kernels.write import write
from tests.interpreter import INTERPRETED, count_launches, interpreted, outer, run_launches
from tests.kernels.test_entropy import draw, tensors
from tests.kernels.test_write import Syncs

SHAPES = ((16, 3, 3, 3), (1,), (), (7, 5), (4097,), (30, 30, 3, 3))
"""Less than a block of values, one value, a little more than a span, several spans."""
HALVES = (torch.bfloat16, torch.float16)
KERNELS = ("_extremes", "_count", "_finish")


def numbered(*shapes, dtype=torch.float32):
    return [draw(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]


@outer
def test_the_launches_under_triton_s_interpreter():
    run_launches(__file__)


@pytest.fixture
def launches(monkeypatch):
    return [count_launches(monkeypatch, entropy, "hetlib.kernels.entropy_triton", kernel) for kernel in KERNELS]


def as_on_the_cpu(monkeypatch, work):
    """What the work gives without the kernels, which come back afterwards."""
    with monkeypatch.context() as patch:
        patch.setattr(entropy, "_on_gpu", lambda weight: False)
        return work()


@interpreted
@pytest.mark.parametrize(
    ("dtype", "bins"),
    [*((torch.float32, bins) for bins in (1, 5, 10, 20)), *((dtype, 10) for dtype in (torch.float64, *HALVES))],
)
def test_three_launches_measure_weights_of_all_shapes(launches, monkeypatch, bins, dtype):
    weights = [*numbered(*SHAPES, dtype=dtype), torch.full((50,), 0.7, dtype=dtype), 100 + draw(60).to(dtype)]
    found = weight_entropy(weights, bins)
    assert [len(calls) for calls in launches] == [1, 1, 1]
    expected = as_on_the_cpu(monkeypatch, lambda: weight_entropy(weights, bins))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@interpreted
@settings(max_examples=12)
@given(st.lists(tensors, min_size=1, max_size=3), st.integers(1, 12))
def test_launches_count_as_the_cpu_does(weights, bins):
    triton_s = pytest.importorskip("hetlib.kernels.entropy_triton").prepare(weights, bins)()
    torch.testing.assert_close(triton_s, weight_entropy(weights, bins), rtol=0, atol=1e-12)


@interpreted
def test_launches_take_any_layout_and_leave_it_as_it_is(launches, monkeypatch):
    whole = draw(8, 6, 5, 5).requires_grad_()
    before = whole.detach().clone()
    views = [whole, whole.to(memory_format=torch.channels_last), whole[::2, 1:, :3], whole.transpose(0, 2)]
    found = weight_entropy(views)
    assert not found.requires_grad
    torch.testing.assert_close(found, as_on_the_cpu(monkeypatch, lambda: weight_entropy(views)), rtol=0, atol=1e-12)
    assert torch.equal(whole, before)


@interpreted
def test_launches_look_at_several_spans_each_where_a_tensor_has_too_many(launches, monkeypatch):
    module = pytest.importorskip("hetlib.kernels.entropy_triton")
    monkeypatch.setattr(module, "SPAN", 64)
    monkeypatch.setattr(module, "SPANS", 4)
    weights = numbered((1000,), (63,), (257,))
    found = weight_entropy(weights)
    torch.testing.assert_close(found, as_on_the_cpu(monkeypatch, lambda: weight_entropy(weights)), rtol=0, atol=1e-12)


@interpreted
@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_after_the_launches_the_entropy_of_what_is_no_number_is_none(launches, value):
    spoilt = draw(5000)
    spoilt[4999] = value
    found = weight_entropy([draw(40), spoilt, draw(40)])
    assert found.isnan().tolist() == [False, True, False]
    assert entropy_coefficients([spoilt, draw(40)], [draw(40), draw(40, seed=1)]).isnan().tolist() == [True, False]


@interpreted
def test_types_that_differ_have_launches_of_their_own(launches, monkeypatch):
    weights = [draw(40), draw(40, seed=1).double(), draw(50, seed=2)]
    ways = (lambda: weight_entropy(weights), lambda: entropy_coefficients(weights, weights[::-1]))
    for number, way in enumerate(ways, start=1):
        torch.testing.assert_close(way(), as_on_the_cpu(monkeypatch, way), rtol=0, atol=1e-12)
        assert [len(calls) for calls in launches] == [2 * number] * 3


@interpreted
@pytest.mark.parametrize(("a", "c", "decimals"), [(0.4, 500.0, 2), (1.0, 5.0, None), (0.0, 50.0, 7), (0.4, 1.0, 0)])
def test_three_launches_give_the_coefficients_of_a_ring_without_a_wait(launches, monkeypatch, a, c, decimals):
    nets = [[draw(*shape, seed=10 * k + n) for n, shape in enumerate(SHAPES[:-1])] for k in range(3)]
    own, donor = [*nets[0], *nets[1], *nets[2]], [*nets[2], *nets[0], *nets[1]]
    work = lambda: entropy_coefficients(own, donor, a, c, decimals)
    with Syncs() as syncs:
        found = work()
    assert not syncs.counts
    assert [len(calls) for calls in launches] == [1, 1, 1]
    torch.testing.assert_close(found, as_on_the_cpu(monkeypatch, work), rtol=0, atol=1e-12)


@interpreted
@pytest.mark.parametrize("count", [2, 3])
def test_four_launches_graft_a_ring_of_networks_without_a_wait(launches, monkeypatch, count):
    """Three for the coefficients and one to mix; what follows a convolution takes the convolution's coefficient."""
    blends = count_launches(monkeypatch, import_module("hetlib.kernels.write"), "hetlib.kernels.blend_triton", "_mix")
    shapes = ((8, 3, 3, 3), (8,), (16, 8, 3, 3), (16,), (16,), (10, 16), (10,))
    nets = [[draw(*shape, seed=10 * k + n) for n, shape in enumerate(shapes)] for k in range(count)]

    def graft(nets):
        convolutions = [value for net in nets for value in net if value.dim() == 4]
        donors = [*convolutions[-2:], *convolutions[:-2]]
        first, second = entropy_coefficients(convolutions, donors).view(count, 2).unbind(1)
        fills = []
        for k, net in enumerate(nets):
            shares = [first[k]] * 2 + [second[k]] * 5
            fills += [
                Fill("", own, donor, alpha=share) for own, donor, share in zip(net, nets[k - 1], shares, strict=True)
            ]
        write(fills)

    expected = [[value.clone() for value in net] for net in nets]
    with monkeypatch.context() as patch:
        patch.setattr(import_module("hetlib.kernels.write"), "_on_gpu", lambda fill: False)
        as_on_the_cpu(monkeypatch, lambda: graft(expected))
    with Syncs() as syncs:
        graft(nets)
    assert not syncs.counts
    assert [len(calls) for calls in (*launches, blends)] == [1, 1, 1, 1]
    for net, other in zip(nets, expected, strict=True):
        assert all(torch.equal(value, wanted) for value, wanted in zip(net, other, strict=True))
    assert count > 2 or all(torch.equal(*pair) for pair in zip(*nets, strict=True))


@interpreted
def test_a_launch_s_arctan_is_exact(launches):
    """Entropies from 0 to 1.6 and scales from small to huge move the arctan over all of its range."""
    own = [torch.arange(n + 1.0) for n in range(5)]
    donor = [torch.arange(7.0 - n) for n in range(5)]
    entropies = weight_entropy(own), weight_entropy(donor)
    for c in (1e-9, 0.7, 3.0, 1e12):
        found = entropy_coefficients(own, donor, 1.0, c, None)
        expected = coefficient(*entropies, 1.0, c, None)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


@interpreted
def test_launches_refuse_what_the_cpu_refuses(launches):
    with pytest.raises(ValueError, match=r"donor\[0\] of shape \(0,\) is empty"):
        entropy_coefficients([draw(3)], [draw(0)])
    with pytest.raises(ValueError, match=r"weights\[1\] is of torch.int64"):
        weight_entropy([draw(3), torch.tensor([1, 2])])
    assert launches == [[], [], []]


@pytest.mark.skipif(INTERPRETED, reason="nothing to compile where the kernels are interpreted")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernels_compile_for_hopper_without_a_gpu(kernel, dtype, monkeypatch, tmp_path):
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hetlib.kernels import entropy_triton

    launches = entropy_triton.prepare(numbered((8, 8, 3, 3), (9,), dtype=dtype), 10, ([0, 1], [1, 0]), 0.4, 500.0, 2)
    types = {"table": "*i64", "ends": "*fp64", "reached": "*i32", "spans": "i32", "last": "*i64", "out": "*fp64"}
    options = launches.options[kernel == "_finish"]
    compiled = getattr(entropy_triton, kernel)
    signature = {name: types.get(name, "constexpr") for name in compiled.arg_names}
    source = ASTSource(fn=compiled, signature=signature, constexprs=options)
    assert set(options) == {name for name in compiled.arg_names if name not in types}
    found = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=entropy_triton.ROUNDED)
    assert found.asm["cubin"]
    if kernel == "_count":
        assert "fma" not in found.asm["ptx"], "an edge would be rounded once, not twice"
