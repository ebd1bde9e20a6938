"""Whole transfers between torchvision's networks: TLV beside its plain loop, HMT and DPIAT's centred crops."""

from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import nn

from benchmarks.harness import Bar, faster, milliseconds, within, without_bar
from benchmarks.tlv_width import plain_pool
from hetlib import baselines, hmt, tlv
from hetlib.match import by_ratio
from tests.oracles import plain_width

PAIRS = (("vgg16", "resnet18"), ("resnet50", "mobilenet_v2"))


def run() -> Iterator[Bar]:
    """Measure the bars: 15 times as fast as the loop, four times what DPIAT takes; and the table."""
    yield loop()
    for pair in PAIRS:
        yield from table(*pair)


def loop() -> Bar:
    """The convolutions of one transfer, most varied filters kept and least varied dropped, no shuffle."""
    source, target = build("vgg16"), build("resnet18")
    donors, layers = (
        [m.weight.detach() for m in net.modules() if isinstance(m, nn.Conv2d)] for net in (source, target)
    )
    pairs = [(donors[j], layer.clone()) for layer, j in zip(layers, by_ratio(len(donors), len(layers)), strict=True)]
    expected = [plain_layer(weight, layer) for weight, layer in pairs]
    ours = lambda: tlv.transfer(source, target, keep="max", drop="min", shuffle=False, linear=False)
    ours()
    compared = 0
    for (weight, born), found, wanted in zip(pairs, layers, expected, strict=True):
        if not (len(weight) < len(born) and weight.shape[1] > born.shape[1]):  # that one starts from a random draw
            differ = (found - wanted).abs().flatten(2).amax(2) > 1e-6
            assert differ.float().mean() < 5e-4, f"{tuple(weight.shape)} -> {tuple(born.shape)} differs"
            compared += 1
    assert compared >= len(pairs) - 3
    plain = lambda: [plain_layer(weight, layer) for weight, layer in pairs]
    measured, reference = milliseconds(ours, plain, repeats=3)
    return faster("TLV vgg16 -> resnet18, convolutions", "tlv.transfer", "plain loop", measured, reference, 15)


def table(first: str, second: str) -> Iterator[Bar]:
    """One pair of networks fed by TLV, statistics included, and by others that do less."""
    source, target = build(first), build(second)
    ways: dict[str, Callable[[], object]] = {
        "HMT": lambda: hmt.transfer(source, target),
        "clip in TLV's order": lambda: tlv.transfer(source, target, place="clip"),
        "the released draws": lambda: tlv.transfer(source, target, legacy_random=True),
    }
    dpiat = lambda: baselines.transfer(source, target, "dpiat")
    ours, bar, *others = milliseconds(lambda: tlv.transfer(source, target), dpiat, *ways.values(), repeats=5)
    name = f"whole transfer {first} -> {second}"
    yield within(name, "TLV", "DPIAT", ours, bar, at_most=4)
    for way, time in zip(ways, others, strict=True):
        yield without_bar(name, "TLV", way, ours, time)


def plain_layer(weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One layer by plain loops: every kernel pooled or padded by itself, every slice placed by itself."""
    size, want = weight.shape[-1], target.shape[-1]
    if size > want:
        weight = plain_pool(weight, want)
    elif size < want:
        padded, margin = weight.new_zeros(*weight.shape[:2], want, want), (want - size) // 2
        for o in range(weight.shape[0]):
            for i in range(weight.shape[1]):
                padded[o, i, margin : margin + size, margin : margin + size] = weight[o, i]
        weight = padded
    base = torch.zeros(len(target), *weight.shape[1:])
    return plain_width(weight, target, "max", "min", base)


def build(name: str) -> nn.Module:
    """A network of torchvision with random weights."""
    torch.manual_seed(0)
    return torchvision.models.get_model(name).eval()
