"""How fast networks train on a GPU: hetlib's loop, the bare step, the step as a CUDA graph, two networks at a time."""

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_report import Report
from hetlib import zoo
from hetlib.data import Images
from hetlib.training import Recipe, fit

BATCH = 128
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def training(report: Report) -> None:
    """Images a second of ResNet-20 and ResNet-32 at 32x32, the images random and of CIFAR's shape."""
    for name in ("resnet8",) if report.toy else ("resnet20", "resnet32"):
        _loop(report, name)
        _graph(report, name)
        _streams(report, name)


def _loop(report: Report, name: str) -> None:
    """`fit`, crop and flip included, in bf16."""
    steps, size, batch = (2, 8, 8) if report.toy else (100, 32, BATCH)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (steps * batch, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (len(pixels),), generator=generator)
    data = Images("random", "train", pixels, labels, tuple("0123456789"), MEAN, STD).to(report.device)
    model = zoo.build(name).to(report.device)
    recipe = Recipe(epochs=1, batch_size=batch, schedule="constant", precision="bf16")
    taken = report.milliseconds(lambda: fit(model, data, recipe=recipe), repeats=3)
    _say(report, f"{name}, fit, crop and flip included", len(pixels), taken)


def _graph(report: Report, name: str) -> None:
    """The bare step, call by call and as a graph, once both have led to the same weights."""
    images, labels = _batch(report)
    start = zoo.build(name).to(report.device, memory_format=torch.channels_last)
    eager, captured = (_stepper(deepcopy(start), images, labels) for _ in range(2))
    replay = report.graphed(captured[1])  # captured after three steps to warm up
    for _ in range(3 if report.device.type == "cuda" else 0):
        eager[1]()
    replay()
    eager[1]()
    pairs = [
        (b.detach(), a.detach().cpu()) for a, b in zip(*(m.parameters() for m, _ in (eager, captured)), strict=True)
    ]
    report.check("training", f"{name}, the graph's weights beside the eager step's", pairs, at_most=0.05)
    for how, work in (("eager step", eager[1]), ("step as a CUDA graph", replay)):
        _say(report, f"{name}, {how}", len(images), report.milliseconds(work), **report.counts(work))


def _streams(report: Report, name: str) -> None:
    """Two networks, their graphs one after the other and on two streams."""
    images, labels = _batch(report)
    steps = [_stepper(zoo.build(name).to(report.device), images, labels)[1] for _ in range(2)]
    replays = [report.graphed(step) for step in steps]
    in_turn = report.milliseconds(lambda: [replay() for replay in replays])
    _say(report, f"two {name}, one after the other", 2 * len(images), in_turn)
    if report.device.type != "cuda":
        return
    streams = [torch.cuda.Stream() for _ in replays]

    def together() -> None:
        here = torch.cuda.current_stream()
        for stream, replay in zip(streams, replays, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                replay()
        for stream in streams:
            here.wait_stream(stream)

    _say(report, f"two {name}, on two streams", 2 * len(images), report.milliseconds(together))


def _stepper(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[nn.Module, Callable[[], None]]:
    """A network and what trains it by one step on always the same batch, in bf16."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()

    return model.train(), step


def _batch(report: Report) -> tuple[Tensor, Tensor]:
    size, batch = (8, 8) if report.toy else (32, BATCH)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=generator).to(report.device, memory_format=torch.channels_last)
    return images, torch.randint(10, (batch,), generator=generator).to(report.device)


def _say(report: Report, what: str, images: int, taken: float, **facts: int | None) -> None:
    report.say("training", what, ms=taken, images_per_second=round(images / taken * 1e3), **facts)
