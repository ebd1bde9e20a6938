"""HMT's resize and its whole transfer, beside the released code's loop and beside plain copies."""

import torch

from benchmarks.harness import Bar, faster, milliseconds, within
from hetlib import hmt, zoo
from hetlib.chain import convolutions


def one_kernel_at_a_time(weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """What the method says, as the released code does it: one slice assignment per kernel."""
    out = torch.empty(shape)
    for o in range(shape[0]):
        for i in range(shape[1]):
            out[o, i] = weight[o % weight.shape[0], i % weight.shape[1]]
    return out


def run() -> list[Bar]:
    """Measure both bars."""
    return [*_resize(), _transfer()]


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
        faster(name, "doubling copies", "plain loop", fast, slow, at_least=200),
        within(name, "doubling copies", "copy of the output", fast, floor, at_most=2),
    ]


@torch.no_grad()
def _transfer() -> Bar:
    source, target = zoo.build("vgg16"), zoo.build("resnet18")
    report = hmt.transfer(source, target)
    layers = dict(convolutions(target))
    for row in report.matched:
        expected = one_kernel_at_a_time(source.get_submodule(row.source).weight, layers[row.target].weight.shape)
        assert torch.equal(layers[row.target].weight, expected)
    fed = [layers[row.target].weight for row in report.matched]
    copies = [weight.detach().clone() for weight in fed]
    ours, floor = milliseconds(
        lambda: str(hmt.transfer(source, target)), lambda: torch._foreach_copy_(fed, copies), repeats=25
    )
    return within("transfer VGG16 -> ResNet18", "hmt.transfer, report as text", "copy_", ours, floor, 3, plus=5)
