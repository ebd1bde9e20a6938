"""The launches of the discrepancy: what they find beside the CPU, how many there are, and that nothing waits.

Triton reads TRITON_INTERPRET when it is imported, so the tests of the launches run in a process of their own.
"""

import pytest
import torch

from hetlib.kernels import mmd as module
from hetlib.kernels.mmd import SIGMAS, mmd
from tests.interpreter import INTERPRETED, count_launches, interpreted, outer, run_launches
from tests.kernels.test_mmd import draw
from tests.kernels.test_write import Syncs

KERNELS = ("_lengths", "_compare", "_finish", "_gradient")


@outer
def test_the_launches_under_triton_s_interpreter():
    run_launches(__file__)


@pytest.fixture
def launches(monkeypatch):
    return [count_launches(monkeypatch, module, "hetlib.kernels.mmd_triton", kernel) for kernel in KERNELS]


def with_gradients(xs, ys, sigmas=SIGMAS):
    inputs = [each.clone().requires_grad_() for each in (*xs, *ys)]
    found = mmd(inputs[: len(xs)], inputs[len(xs) :], sigmas)
    weights = torch.linspace(0.5, 1.5, len(found), dtype=found.dtype)
    return found.detach(), torch.autograd.grad((found * weights).sum(), inputs)


def assert_as_on_the_cpu(monkeypatch, xs, ys, sigmas=SIGMAS, atol=1e-10):
    found, gradients = with_gradients(xs, ys, sigmas)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_on_gpu", lambda rows: False)
        expected, others = with_gradients([x.double() for x in xs], [y.double() for y in ys], sigmas)
    atol = atol if xs[0].dtype == torch.float64 else 2e-5
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=atol)
    for own, other in zip(gradients, others, strict=True):
        scale = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(own.double() / scale, other / scale, rtol=0, atol=atol)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [1, 5, 9])
def test_three_launches_forward_and_one_backward_for_all_pairs(launches, monkeypatch, dtype, samples):
    xs = [draw(samples, width, seed=width, dtype=dtype) for width in (3, 40, 70)]
    ys = [draw(samples, width, seed=width + 1, dtype=dtype) for width in (3, 40, 70)]
    assert_as_on_the_cpu(monkeypatch, xs, ys)
    assert [len(calls) for calls in launches] == [1, 1, 1, 1]


@interpreted
def test_launches_see_features_that_nearly_agree(launches, monkeypatch):
    """In float32, where the narrowest kernel of the CPU's Gram is right only because that is in float64."""
    x = draw(6, 20, dtype=torch.float32)
    assert_as_on_the_cpu(monkeypatch, [x], [x * 2 + 1e-3 * draw(6, 20, seed=1, dtype=torch.float32)], (0.01, 0.1))


@interpreted
def test_launches_take_rows_of_zeros_and_any_layout(launches, monkeypatch):
    x, y = draw(4, 2, 3, 3), draw(4, 2, 3, 3, seed=1)
    x[1] = 0
    assert_as_on_the_cpu(monkeypatch, [x[:, :, 0], draw(4, 6)], [y[:, :, 0], draw(12, 4).T[:, ::2]], atol=1e-7)
    assert_as_on_the_cpu(monkeypatch, [x.to(memory_format=torch.channels_last)], [y], atol=1e-7)


@interpreted
def test_two_teachers_at_four_layers_are_sixteen_launches_or_fewer_and_nothing_waits(launches):
    """As released they are 1,792. Besides ours, autograd adds up the student's gradients, one launch for each layer."""
    students = [draw(4, width, seed=width, dtype=torch.float32).requires_grad_() for width in (8, 8, 16, 32)]
    teachers = [[draw(4, s.shape[1], seed=k, dtype=torch.float32) for s in students] for k in (1, 2)]
    with Syncs() as syncs:
        mmd([*students, *students], [*teachers[0], *teachers[1]]).sum().backward()
    assert not syncs.counts
    assert sum(map(len, launches)) + len(students) <= 16


@pytest.mark.skipif(INTERPRETED, reason="nothing to compile where the kernels are interpreted")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernels_compile_for_hopper_without_a_gpu(kernel, dtype, monkeypatch, tmp_path):
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hetlib.kernels import mmd_triton

    options = mmd_triton._options(dtype, 128)
    constants = {
        "_lengths": {"SHORTEST": mmd_triton.SHORTEST},
        "_compare": {"SIGMAS": 7, "TILES": 8, "ROWS": 16, "DEPTH": 32, "LONGEST": 0.5 / mmd_triton.SHORTEST},
        "_finish": {"TILES": 8, "SLOTS": 8, "LANES": 128},
        "_gradient": {"TILES": 8, "BLOCKS": 2, "ROWS": 16, "WIDTH": 64},
    }
    real = "*fp64" if dtype == torch.float64 else "*fp32"
    types = {"table": "*i64", "factors": "*fp64"}
    compiled = getattr(mmd_triton, kernel)
    options |= constants[kernel]
    signature = {name: "constexpr" if name in options else types.get(name, real) for name in compiled.arg_names}
    source = ASTSource(fn=compiled, signature=signature, constexprs=options)
    found = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert found.asm["cubin"]
