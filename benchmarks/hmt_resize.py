"""HMT's resize and its whole transfer, beside the released code's loop and beside plain copies."""

from collections.abc import Iterator

import torch

from benchmarks.harness import Bar, faster, milliseconds, within
from hetlib import hmt, zoo
from hetlib.chain import convolutions
from tests import oracles

PAIRS = (
    ("vgg16", "resnet34"),
    ("vgg16", "resnet18"),
    ("vgg11", "plainnet5"),
    ("resnet20", "mobilenetv2"),
    ("torchvision/resnet50", "torchvision/mobilenet_v2"),
    ("torchvision/resnet18", "torchvision/mobilenet_v2"),
)


def one_kernel_at_a_time(weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """What the method says, as the released code does it: one slice assignment per kernel."""
    out = torch.empty(shape)
    for o in range(shape[0]):
        for i in range(shape[1]):
            out[o, i] = weight[o % weight.shape[0], i % weight.shape[1]]
    return out


def run() -> Iterator[Bar]:
    """Measure the resizing of one pair beside the loop and a copy, and all transfers beside copies of targets."""
    yield from _resize()
    for source, target in PAIRS:
        yield _transfer(source, target)


@torch.no_grad()
def _resize() -> list[Bar]:
    given = [layer.weight for _, layer in convolutions(zoo.build("vgg16"))]
    wanted = [layer.weight for _, layer in convolutions(zoo.build("resnet34"))]
    # Thirteen sources for thirty-three targets: later targets take the last source, so that all are filled.
    pairs = [(given[min(i, len(given) - 1)], target.shape) for i, target in enumerate(wanted)]
    # Both sides write into memory that is there already: asking the system for pages is not the work measured.
    places = [torch.empty(shape) for _, shape in pairs]
    ours = lambda: [hmt.resize(w, shape, out=place) for (w, shape), place in zip(pairs, places, strict=True)]
    loop = lambda: [one_kernel_at_a_time(weight, shape) for weight, shape in pairs]
    copies = [torch.randn(shape) for _, shape in pairs]
    for found, expected in zip(ours(), loop(), strict=True):
        assert torch.equal(found, expected)
    fast, floor = milliseconds(ours, lambda: torch._foreach_copy_(places, copies))
    (slow,) = milliseconds(loop, repeats=1)
    name = "resize VGG16 -> ResNet34"
    return [
        faster(name, "broadcast copies", "plain loop", fast, slow, at_least=200),
        within(name, "broadcast copies", "copy of the output", fast, floor, at_most=2),
    ]


@torch.no_grad()
def _transfer(first: str, second: str) -> Bar:
    torch.manual_seed(0)
    source, target = zoo.build(first), zoo.build(second)
    report = hmt.transfer(source, target)
    layers = dict(convolutions(target))
    fed = [layers[row.target].weight for row in report.matched]
    for row, weight in zip(report.matched, fed, strict=True):
        _assert_resized(source.get_submodule(row.source).weight, weight)
    own = [*target.parameters()]
    copies = [tensor.detach().clone() for tensor in own]
    ours, floor = milliseconds(
        lambda: str(hmt.transfer(source, target)), lambda: torch._foreach_copy_(own, copies), repeats=15
    )
    name = f"transfer {first} -> {second}".replace("torchvision/", "")
    return within(name, "hmt.transfer, report as text", "copy of the target", ours, floor, 5, plus=5)


def _assert_resized(weight: torch.Tensor, found: torch.Tensor) -> None:
    """Equal to the bit where kernels keep their size, else to the definition's interpolation in float64."""
    if weight.shape[2:] == found.shape[2:]:
        assert torch.equal(found, one_kernel_at_a_time(weight, found.shape))
        return
    matrix = oracles.interpolation_matrix(weight.shape[-1], found.shape[-1], align_corners=False)
    slices = matrix @ weight[: found.shape[0], : found.shape[1]].double() @ matrix.T
    outputs, inputs = (torch.arange(n) % m for n, m in zip(found.shape[:2], slices.shape[:2], strict=True))
    torch.testing.assert_close(found.double(), slices[outputs][:, inputs], rtol=1e-5, atol=1e-6)
