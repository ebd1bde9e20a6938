"""TLV beside its plain loops: layers made wider, narrower and pooled, and the parts that take the time."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.harness import Bar, faster, milliseconds
from hetlib import tlv
from hetlib.kernels.select import moments

RANKED = "moments, stable sort, one gather"


def run() -> Iterator[Bar]:
    """Measure the bars of one layer and of the parts."""
    yield from layers()
    yield from parts()


def layers() -> Iterator[Bar]:
    """A 3x3 layer doubled, one halved, and 7x7 kernels pooled to 3x3."""
    small, large = (draw(n, n, 3, 3, seed=n) for n in (256, 512))
    wide = draw(256, 64, 7, 7, seed=1)
    up = lambda: tlv.resize_width(small, large, drop="min")
    down = lambda: tlv.resize_width(large, small, keep="max")
    pool = lambda: tlv.resize_kernel(wide, 3)
    assert_close_but_for_ties(up(), plain_up(small, large))
    assert_close_but_for_ties(down(), plain_down(large, small))
    torch.testing.assert_close(pool(), plain_pool(wide, 3))
    for name, way, ours, plain, bar in (
        ("TLV 256 -> 512, 3x3", RANKED, up, lambda: plain_up(small, large), 15),
        ("TLV 512 -> 256, 3x3", RANKED, down, lambda: plain_down(large, small), 2.5),
        ("TLV kernels 7x7 -> 3x3, 256 x 64", "one product", pool, lambda: plain_pool(wide, 3), 100),
    ):
        measured, reference = milliseconds(ours, plain, repeats=9)
        yield faster(name, way, "plain loop", measured, reference, bar)


def parts() -> list[Bar]:
    """Slice variances by products with ones, and the statistics of a large linear layer read once."""
    weight, linear = draw(512, 512, 3, 3), draw(4096, 25088)
    torch.testing.assert_close(moments(weight)[1], weight.var((2, 3), correction=0))
    mean, deviation = tlv.statistics([linear])
    torch.testing.assert_close(
        torch.tensor([mean, deviation]), torch.stack((linear.mean(), linear.std())), atol=1e-6, rtol=1e-5
    )
    ours, plain = milliseconds(lambda: moments(weight), lambda: weight.var((2, 3), correction=0))
    fast, slow = milliseconds(lambda: tlv.statistics([linear]), lambda: (linear.mean(), linear.std()), repeats=3)
    return [
        faster("variance of 512 x 512 slices of 3x3", "moments", "torch.var", ours, plain, 5),
        faster(
            "statistics of VGG's first linear layer", "blocks of rows, once", "torch.mean, torch.std", fast, slow, 1.5
        ),
    ]


def plain_up(weight: Tensor, target: Tensor) -> Tensor:
    """Replace the target's filters of least variance, and in them its slices of least variance, one by one."""
    out = target.clone()
    rows = target.var((1, 2, 3), correction=0).argsort(stable=True)[: len(weight)]
    for donor, row in zip(weight, rows, strict=True):
        slots = target[row].var((1, 2), correction=0).argsort(stable=True)[: len(donor)]
        for slice_, slot in zip(donor, slots, strict=True):
            out[row, slot] = slice_
    return out


def plain_down(weight: Tensor, target: Tensor) -> Tensor:
    """Keep the filters of most variance, and of each the slices of most variance."""
    rows = weight.var((1, 2, 3), correction=0).argsort(stable=True)[-len(target) :]
    out = torch.empty_like(target)
    for place, row in enumerate(rows):
        slots = weight[row].var((1, 2), correction=0).argsort(stable=True)[-target.shape[1] :]
        for column, slot in enumerate(slots):
            out[place, column] = weight[row, slot]
    return out


def plain_pool(weight: Tensor, size: int) -> Tensor:
    """Pool one kernel after the other."""
    pool, out = nn.AvgPool2d(weight.shape[-1] - size + 1, stride=1), weight.new_empty(*weight.shape[:2], size, size)
    for o in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            out[o, i] = pool(weight[o, i].view(1, 1, *weight.shape[2:]))[0, 0]
    return out


def assert_close_but_for_ties(found: Tensor, expected: Tensor) -> None:
    """Assert that slices are equal, but for one in 2,000 that rounding may rank otherwise."""
    differ = (found != expected).flatten(2).any(2).float().mean()
    assert differ < 5e-4, f"{100 * differ:.3f} % of slices differ"


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
