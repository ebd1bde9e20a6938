"""Many weights written at once: the torch path against a plain loop, and the launch against the torch path.

Triton reads TRITON_INTERPRET when it is imported, so the tests of the launch run in a process of their own.
"""

import copy
from collections import Counter
from functools import partial
from importlib import import_module

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hetlib import hmt, tlv, zoo
from hetlib.chain import convolutions
from hetlib.kernels.fill import Fill, gather_slices
from hetlib.kernels.resize_by_variance import resize_kernel
from hetlib.kernels.resize_cyclic import resized
from hetlib.kernels.write import write
from tests.interpreter import INTERPRETED, count_launches, interpreted, outer, run_launches

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def numbers(out, weight, base=None, seed=0):
    """An index into the slices of both that names the first and the last of them."""
    total = weight.shape[:2].numel() + (base.shape[:2].numel() if base is not None else 0)
    index = torch.randint(total, out.shape[:2], generator=torch.Generator().manual_seed(seed))
    index[0, 0], index[-1, -1] = 0, total - 1
    return index


def plainly(piece):
    """What a piece says, slice by slice."""
    weight = piece.weight if piece.resample is None else piece.resample(piece.weight)
    out = torch.empty(piece.out.shape, dtype=piece.out.dtype)
    slices = [*weight.flatten(0, 1), *(piece.base.flatten(0, 1) if piece.base is not None else ())]
    for o in range(out.shape[0]):
        for i in range(out.shape[1]):
            cyclic = o % weight.shape[0] * weight.shape[1] + i % weight.shape[1]
            out[o, i] = slices[cyclic if piece.index is None else int(piece.index[o, i])]
    return out


def some(dtype=torch.float32, written=torch.float32, layout=torch.contiguous_format):
    """Pieces of all kinds, their rows shorter and longer than a program's block."""
    pieces = []
    for n, (source, shape) in enumerate(
        [
            ((2, 3, 3, 3), (5, 7, 3, 3)),
            ((4, 3, 1, 1), (2, 9, 1, 1)),
            ((3, 2, 3, 3), (4, 5, 5, 5)),
            ((3, 5, 7, 7), (7, 2, 3, 3)),
            ((2, 20, 1, 1), (3, 40, 7, 7)),
            ((1, 1, 5, 5), (3, 1, 5, 5)),
        ]
    ):
        size, weight = shape[-1], draw(*source, seed=n, dtype=dtype).contiguous(memory_format=layout)
        out = partial(torch.zeros(shape, dtype=written).clone, memory_format=layout)
        resample = partial(resize_kernel, size=size) if source[-1] != size else None
        base = draw(2, 3, size, size, seed=10 + n, dtype=written).contiguous(memory_format=layout)
        pieces += [
            resized(weight, out()),
            Fill("", out(), weight, resample, numbers(out(), weight)),
            Fill("", out(), weight, resample, numbers(out(), weight, base), base),
        ]
    return pieces


def elsewhere(pieces):
    """The same pieces with other places."""
    return [Fill("", piece.out.clone(), piece.weight, piece.resample, piece.index, piece.base) for piece in pieces]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_slice_comes_from_where_the_piece_says(layout):
    pieces = some(layout=layout)
    write(pieces)
    for piece in pieces:
        torch.testing.assert_close(piece.out, plainly(piece), check_stride=False)


def test_slices_keep_the_precision_of_where_they_are_written():
    weight, base, out = draw(1, 1, 3, 3, dtype=torch.bfloat16), draw(1, 1, 3, 3, seed=1), torch.empty(1, 2, 3, 3)
    write([Fill("", out, weight, None, torch.tensor([[0, 1]]), base)])
    assert torch.equal(out, torch.cat((weight.float(), base), 1))


def check_order():
    """Two weights exchanged, one put into another order in its own place, and one place given twice."""
    first, second = draw(2, 3, 3, 3), draw(2, 3, 3, 3, seed=1)
    before = [first.clone(), second.clone()]
    write([Fill("", first, second), Fill("", second, first)])
    assert torch.equal(first, before[1])
    assert torch.equal(second, before[0])
    index = torch.arange(6).flip(0).view(2, 3) + 4
    write([Fill("", first, draw(2, 2, 3, 3), None, index, first)])
    assert torch.equal(first, before[1].flatten(0, 1).flip(0).view(2, 3, 3, 3))
    write([Fill("", first, before[1]), Fill("", first, before[0])])
    assert torch.equal(first, before[0])


def test_slices_taken_straight_to_their_places_are_known_to_autograd():
    out, weight, index = torch.zeros(2, 3, 3, 3), draw(3, 2, 3, 3), torch.arange(6).view(2, 3)
    version = out._version
    write([Fill("", out, weight, None, index)])
    assert torch.equal(out, weight.view(2, 3, 3, 3))
    assert out._version > version
    write([Fill("", weight, weight, None, index.flip(1).view(3, 2))])
    assert torch.equal(weight.view(2, 3, 3, 3), out.flip(1)), "read before it is written"


def test_everything_is_read_before_anything_is_written():
    check_order()


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (lambda: Fill("", draw(2, 2, 3, 3), draw(2, 2, 5, 5)), r"\(2, 2, 5, 5\) .* do not fit into \(2, 2, 3, 3\)"),
        (lambda: Fill("", draw(2, 2), draw(2, 2, 1, 1)), "do not fit"),
        (lambda: Fill("", draw(2, 2, 3, 3), draw(2, 0, 3, 3)), "no slices to fill"),
        (lambda: Fill("", draw(2, 2, 1, 1), draw(2, 2, 1, 1), None, torch.zeros(4)), "does not number the slices"),
        (lambda: Fill("", draw(1, 2, 1, 1), draw(1, 2, 1, 1), None, torch.tensor([[0, 2]])), "slices 0 to 1"),
        (lambda: Fill("", draw(1, 2, 1, 1), draw(1, 2, 1, 1), None, torch.tensor([[0, -1]])), "slices 0 to 1"),
        (
            lambda: Fill("", draw(1, 2, 1, 1), draw(1, 2, 1, 1), None, torch.zeros(1, 2), draw(1, 1, 3, 3)),
            r"\(1, 1, 3, 3\) do not fit",
        ),
    ],
)
def test_bad_pieces_are_named_before_anything_is_written(piece, message):
    good = Fill("", torch.zeros(2, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match=message):
        write([good, piece()])
    assert not good.out.any()


def test_kernels_that_make_another_size_are_named():
    with pytest.raises(ValueError, match=r"kernels of \(3, 3\) become \(5, 5\), not \(7, 7\)"):
        write([Fill("", draw(1, 1, 7, 7), draw(1, 1, 3, 3), partial(resize_kernel, size=5))])


def ring(count, *shapes, dtype=torch.float32):
    """Networks of tensors of these shapes, each of which takes from the one before it, and what they all become."""
    nets = [[draw(*shape, seed=10 * n + m, dtype=dtype) for m, shape in enumerate(shapes)] for n in range(count)]
    shares = [
        torch.rand(len(shapes), generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in range(count)
    ]
    fills = [
        Fill("", out, weight, alpha=share)
        for n in range(count)
        for out, weight, share in zip(nets[n], nets[n - 1], shares[n], strict=True)
    ]
    real = torch.promote_types(dtype, torch.float32)
    products = lambda fill: (fill.alpha.to(real) * fill.out.to(real), (1 - fill.alpha).to(real) * fill.weight.to(real))
    return fills, [sum(products(fill)).to(dtype) for fill in fills]


def check_rings(count, dtype, error=0.0):
    fills, expected = ring(count, (3, 2, 3, 3), (7,), (), (40, 30), dtype=dtype)
    write(fills)
    for fill, wanted in zip(fills, expected, strict=True):
        torch.testing.assert_close(fill.out, wanted, rtol=error, atol=0)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_ring_is_mixed_as_if_all_were_read_before_any_is_written(count, dtype):
    check_rings(count, dtype)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.71])
def test_two_that_take_from_one_another_become_equal(share):
    first, second = draw(50, 20), draw(50, 20, seed=1)
    write([Fill("", first, second, alpha=share), Fill("", second, first, alpha=round(1 - share, 2))])
    assert torch.equal(first, second)


def check_shares():
    """Numbers, tensors of one number, one number for each output channel; of several types; and other fills beside."""
    own, new = draw(4, 3, 3, 3), draw(4, 3, 3, 3, seed=1)
    vector = torch.tensor([0.0, 0.25, 0.5, 1.0])
    outs = [own.clone() for _ in range(5)]
    whole = torch.zeros(4, 3, 3, 3)
    fills = [
        Fill("", outs[0], new, alpha=0.25),
        Fill("", outs[1], new, alpha=torch.tensor(0.25)),
        Fill("", outs[2], new, alpha=vector),
        Fill("", outs[3], new.double(), alpha=vector.double()),
        Fill("", outs[4], new[:2, :2], alpha=vector),
        Fill("", whole, outs[0]),
    ]
    write(fills)
    spread = vector.view(4, 1, 1, 1)
    assert torch.equal(outs[0], 0.25 * own + 0.75 * new)
    assert torch.equal(outs[1], outs[0])
    assert torch.equal(outs[2], spread * own + (1 - spread) * new)
    torch.testing.assert_close(outs[3], outs[2])
    smaller = new[[0, 1, 0, 1]][:, [0, 1, 0]]
    assert torch.equal(outs[4], spread * own + (1 - spread) * smaller)
    assert torch.equal(whole, own)


def test_shares_of_all_kinds():
    check_shares()


def test_whole_numbers_are_mixed_and_cut():
    count = torch.tensor(10)
    write([Fill("", count, torch.tensor(5), alpha=0.5)])
    assert count == 7


def test_a_mixture_has_a_gradient():
    out, wanted = torch.zeros(2, 2), draw(2, 2).requires_grad_()
    write([Fill("", out, wanted, alpha=0.25)])
    out.sum().backward()
    assert torch.equal(wanted.grad, torch.full((2, 2), 0.75))


def test_the_number_of_a_slice_that_is_not_there_is_refused():
    weight = draw(2, 3, 1, 1)
    with pytest.raises(IndexError, match="index 1 is out of bounds"):
        gather_slices(weight, draw(1, 1, 1, 1), torch.tensor([[7]]))
    with pytest.raises(ValueError, match="goes beyond the slices 0 to 5"):
        write([Fill("", draw(1, 1, 1, 1), weight, index=torch.tensor([[6]]))])


def test_an_output_without_slices_is_filled_with_nothing():
    out = torch.empty(0, 3, 1, 1)
    write([Fill("", out, draw(2, 3, 1, 1), index=torch.empty(0, 3, dtype=torch.int64))])
    assert out.shape == (0, 3, 1, 1)


@pytest.mark.parametrize("shape", [(0, 3, 1, 1), (3, 0, 1, 1), (0, 3), (3, 0), (0,)])
def test_a_weight_stacked_into_an_empty_output_leaves_it_empty(shape):
    out = torch.empty(shape)
    write([Fill("", out, draw(*(2,) * min(len(shape), 2), *(1,) * (len(shape) - 2)))])
    assert out.shape == shape


@outer
def test_the_launch_under_triton_s_interpreter():
    run_launches(__file__)


@pytest.fixture
def launches(monkeypatch):
    return count_launches(monkeypatch, import_module("hetlib.kernels.write"), "hetlib.kernels.fill_triton", "_write")


@pytest.fixture
def blends(monkeypatch):
    return count_launches(monkeypatch, import_module("hetlib.kernels.write"), "hetlib.kernels.blend_triton", "_mix")


@interpreted
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_one_launch_mixes_a_ring(blends, count, dtype):
    # Triton's interpreter cuts bfloat16 where a GPU rounds it.
    check_rings(count, dtype, error=torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0.0)
    assert len(blends) == 1


@interpreted
def test_one_launch_mixes_all_that_takes_whole_tensors(blends, launches):
    check_shares()
    assert len(blends) == 2, "one for each pair of types"
    assert len(launches) == 1


@interpreted
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_launch_mixes_chains_and_forks_as_if_all_were_read_before(blends, layout):
    """The first takes from outside, the next ones from one another, and two from one tensor; one tensor from itself."""
    tensors = [draw(40, 3, 7, 7, seed=n).contiguous(memory_format=layout) for n in range(6)]
    before = [tensor.clone() for tensor in tensors]
    donors = [5, 0, 1, 1, 4]
    write([Fill("", tensors[n], tensors[donor], alpha=0.25 + n / 10) for n, donor in enumerate(donors)])
    assert len(blends) == 1
    for n, donor in enumerate(donors):
        share = 0.25 + n / 10
        assert torch.equal(tensors[n], share * before[n] + (1 - share) * before[donor])


@interpreted
def test_a_launch_mixes_parts_of_one_buffer(blends):
    """All weights of two networks in one piece of memory: where they are no ring, they are copied first."""
    whole = draw(60)
    before = whole.clone()
    write([Fill("", whole[:20], whole[20:40], alpha=0.5), Fill("", whole[20:40], whole[40:], alpha=0.25)])
    write([Fill("", whole[40:], whole[30:50], alpha=0.5)])
    assert len(blends) == 2
    second = 0.25 * before[20:40] + 0.75 * before[40:]
    assert torch.equal(whole[:20], 0.5 * before[:20] + 0.5 * before[20:40])
    assert torch.equal(whole[20:40], second)
    assert torch.equal(whole[40:], 0.5 * before[40:] + 0.5 * torch.cat((second[10:], before[40:50])))


@interpreted
def test_no_launch_mixes_what_cannot_be_walked_through(blends):
    apart, out = torch.zeros(3, 4)[:, ::2], torch.zeros(3, 2)
    write([Fill("", apart, torch.ones(3, 2), alpha=0.5), Fill("", out, torch.ones(2, 3).T, alpha=0.25)])
    vector = torch.tensor([0.0, 0.5, 1.0])
    turned = torch.zeros(2, 3).T
    write([Fill("", turned, torch.ones(2, 3).T, alpha=vector)])
    assert not blends
    assert torch.equal(apart, torch.full((3, 2), 0.5))
    assert torch.equal(out, torch.full((3, 2), 0.75))
    assert torch.equal(turned, (1 - vector).view(3, 1).expand(3, 2))


@interpreted
def test_a_launch_mixes_without_a_wait_and_tells_autograd(blends):
    layer = nn.Conv2d(2, 2, 3)
    loss = layer(torch.ones(1, 2, 3, 3, requires_grad=True)).sum()
    with torch.no_grad(), Syncs() as syncs:
        write([Fill("", layer.weight, draw(2, 2, 3, 3), alpha=share) for share in draw(1).double()])
    assert not syncs.counts
    assert len(blends) == 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@interpreted
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_launch_writes_pieces_of_all_kinds(launches, layout):
    pieces = some(layout=layout)
    write(pieces)
    assert len(launches) == 1
    for piece in pieces:
        torch.testing.assert_close(piece.out, plainly(piece), check_stride=False)


@interpreted
@pytest.mark.parametrize("written", TYPES)
@pytest.mark.parametrize("taken", TYPES)
def test_one_launch_for_a_pair_of_types(launches, taken, written):
    pieces = some(taken, written)[6:9]
    write(pieces)
    assert len(launches) == (0 if {taken.itemsize, written.itemsize} == {8, 2} else 1)
    error = max(1e-5, 2 * torch.finfo(taken).eps, 2 * torch.finfo(written).eps)
    for piece in pieces:
        torch.testing.assert_close(piece.out, plainly(piece), rtol=error, atol=error)


@interpreted
@pytest.mark.parametrize(
    "how", [{}, {"align_corners": True}, {"antialias": True}, {"resizer": "nearest"}, {"resizer": "zero"}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_launch_resamples_as_torch_does(launches, monkeypatch, how, dtype):
    pieces = []
    pairs = [((k, k), (size, size)) for k in (1, 3, 7) for size in (1, 3, 7)]
    for kernel, size in (*pairs, ((1, 7), (7, 1)), ((7, 1), (3, 3)), ((3, 3), (1, 7)), ((3, 5), (5, 3))):
        weight = draw(2, 3, *kernel, seed=sum(kernel), dtype=dtype)
        pieces.append(resized(weight, torch.empty(3, 4, *size, dtype=dtype), **how))
    write(pieces)
    assert len(launches) == 1
    monkeypatch.undo()
    expected = elsewhere(pieces)
    write(expected)
    for piece, other in zip(pieces, expected, strict=True):
        torch.testing.assert_close(piece.out, other.out, rtol=1e-5, atol=1e-5)


@interpreted
def test_a_launch_reads_before_it_writes(launches):
    check_order()
    assert len(launches) == 3


@interpreted
@pytest.mark.parametrize(("target", "width"), [("resnet8", 0.125), ("plainnet5", 0.125)])
def test_one_launch_for_a_whole_transfer(launches, monkeypatch, target, width):
    torch.manual_seed(0)
    source, here = zoo.build("vgg11", width=0.25), zoo.build(target, width=width)
    there = copy.deepcopy(here)
    with Syncs() as syncs:
        hmt.transfer(source, there, batch_norm=True)
    assert len(launches) == 1
    assert not syncs.counts
    monkeypatch.undo()
    hmt.transfer(source, here, batch_norm=True)
    for found, expected in zip(there.state_dict().values(), here.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


class Syncs(TorchDispatchMode):
    """Counts the operations that make a host wait for its device."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "item"):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@interpreted
@pytest.mark.parametrize("how", [{}, {"shuffle": False}, {"place": "clip"}])
def test_one_launch_for_a_whole_transfer_by_variance(launches, monkeypatch, how):
    torch.manual_seed(0)
    source, here = zoo.build("vgg11", width=0.125), zoo.build("resnet8", width=0.125)
    there = copy.deepcopy(here)
    tlv.transfer(source, there, **how)
    assert len(launches) == 1
    monkeypatch.undo()
    tlv.transfer(source, here, **how)
    for found, expected in zip(there.state_dict().values(), here.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@interpreted
def test_one_launch_for_a_list_of_layers_with_bases_of_their_own(launches):
    source, target = zoo.build("vgg11", width=0.125), zoo.build("resnet8", width=0.125)
    pieces = []
    for (_, donor), (_, layer) in zip(convolutions(source), convolutions(target), strict=False):
        weight, own = donor.weight.detach(), layer.weight.detach()
        pieces.append(Fill("", own, weight, None, numbers(own, weight, own), own))
    expected = [plainly(piece) for piece in pieces]
    write(pieces)
    assert len(launches) == 1
    assert all(torch.equal(piece.out, wanted) for piece, wanted in zip(pieces, expected, strict=True))


@interpreted
def test_a_launch_takes_vectors_matrices_and_parts_of_tensors(launches):
    whole, vector, matrix = torch.zeros(6, 5, 3, 3), torch.zeros(2500), torch.zeros(3, 1100)
    weight = draw(2, 8, 3, 3)[:, ::2]
    write([Fill("", whole[1:4, ::2], weight), Fill("", vector, draw(7)), Fill("", matrix, draw(2, 5).T)])
    assert len(launches) == 1
    assert torch.equal(whole[1:4, ::2], weight[[0, 1, 0]][:, :3])
    assert not whole[[0, 4, 5]].any()
    assert not whole[:, 1::2].any()
    assert torch.equal(vector, draw(7).repeat(358)[:2500])
    assert torch.equal(matrix, draw(2, 5).T[:3].repeat(1, 550))


@interpreted
def test_no_launch_where_the_kernel_cannot_write(launches):
    apart = torch.zeros(2, 2, 6, 3)[:, :, ::2]
    wanted = draw(2, 2, 3, 3).requires_grad_()
    out, whole = torch.zeros(3, 2, 3, 3), torch.zeros(2, 2, 3, 3, dtype=torch.int64)
    write([Fill("", apart, draw(2, 2, 3, 3)), Fill("", out, wanted), Fill("", whole, draw(2, 2, 3, 3))])
    assert not launches
    assert torch.equal(apart, draw(2, 2, 3, 3))
    out.sum().backward()
    assert torch.equal(wanted.grad, torch.tensor([2.0, 1.0]).view(2, 1, 1, 1).expand(2, 2, 3, 3))


@interpreted
def test_a_launch_tells_autograd_what_it_wrote(launches):
    layer = nn.Conv2d(2, 2, 3)
    loss = layer(torch.ones(1, 2, 3, 3, requires_grad=True)).sum()
    with torch.no_grad():
        write([Fill("", layer.weight, draw(2, 2, 3, 3))])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.skipif(INTERPRETED, reason="nothing to compile where the kernel is interpreted")
@pytest.mark.parametrize("type_", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize(("resampled", "indexed"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_kernel_compiles_for_hopper_without_a_gpu(type_, resampled, indexed, monkeypatch, tmp_path):
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hetlib.kernels import fill_triton

    weight = draw(2, 2, 3, 3, dtype=getattr(torch, type_))
    resample = partial(resize_kernel, size=3) if resampled else None
    index = numbers(weight, weight) if indexed else None
    (launch,) = fill_triton.prepare([Fill("", weight.clone(), weight, resample, index)])
    assert (launch.options["RESAMPLED"], launch.options["INDEXED"]) == (resampled, indexed)
    signature = {"table": "*i64"} | dict.fromkeys(launch.options, "constexpr")
    source = ASTSource(fn=fill_triton._write, signature=signature, constexprs=launch.options)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


@pytest.mark.skipif(INTERPRETED, reason="nothing to compile where the kernel is interpreted")
@pytest.mark.parametrize("type_", ["float32", "float64", "bfloat16", "float16"])
def test_the_mixing_kernel_compiles_for_hopper_without_a_gpu(type_, monkeypatch, tmp_path):
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hetlib.kernels import blend_triton

    (launch,) = blend_triton.prepare([ring(1, (2, 3), dtype=getattr(torch, type_))[0]])
    signature = {"table": "*i64"} | dict.fromkeys(launch.options, "constexpr")
    source = ASTSource(fn=blend_triton._mix, signature=signature, constexprs=launch.options)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=blend_triton.ROUNDED)
    assert compiled.asm["cubin"]
    assert "fma" not in compiled.asm["ptx"], "one product would not be rounded before it is added"
    # A tensor is read after another one, its donor, has been written: no load may take memory for constant.
    assert "ld.global.nc" not in compiled.asm["ptx"]


def test_a_single_number_is_written():
    out = torch.tensor(0)  # as a batch norm counts its batches
    write([Fill("bn", out, torch.tensor(7))])
    assert out == 7
