"""Filter grafting on a GPU: entropies of weights, whole grafts, networks from rank to rank, and a ring that trains."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks import grafting_exchange
from benchmarks.gpu_report import Report
from hetlib import zoo
from hetlib.data import Images
from hetlib.grafting import AfterEpoch
from hetlib.grafting.processes import start
from hetlib.kernels import weight_entropy
from hetlib.kernels.blend import rings
from hetlib.kernels.fill import Fill
from hetlib.kernels.graft import entropy_coefficients
from hetlib.kernels.write import write
from hetlib.training import Lockstep, Loop, Recipe
from tests import oracles

State = dict[str, Tensor]


def grafts(report: Report) -> None:
    """Entropies of a ResNet-56's and a VGG16's layers, then grafts of two and four ResNet-32 and of two VGG16."""
    for model in ("resnet8",) if report.toy else ("resnet56", "vgg16"):
        _entropies(report, model)
    for model, count in (("resnet8", 3),) if report.toy else (("resnet32", 2), ("resnet32", 4), ("vgg16", 2)):
        _graft(report, model, count)


def _entropies(report: Report, model: str) -> None:
    from hetlib.kernels import entropy_triton

    weights = [value for value in _drawn(model, 0, report.toy).values() if value.dim() == 4]
    launches = entropy_triton.prepare([value.to(report.device) for value in weights], bins=10)
    report.check("graft", f"entropies of {model}", [(launches(), weight_entropy(weights))], at_most=1e-6)
    eager, graphed = report.milliseconds(launches), report.milliseconds(report.graphed(launches))
    floor = 4 * sum(value.numel() for value in weights) / 4.3e12 * 1e3
    report.say("graft", f"entropies of {model}", eager_ms=eager, graphed_ms=graphed, floor_ms=floor)


def _graft(report: Report, model: str, count: int) -> None:
    """At most four launches and no wait; for two ResNet-32, 500 times as fast as the released code's way."""
    name = f"a graft of {count} {model}"
    states = [_drawn(model, seed, report.toy) for seed in range(count)]
    there = [{key: value.to(report.device, copy=True) for key, value in state.items()} for state in states]
    expected = oracles.plain_graft(states)
    work = _prepared(there)
    work()
    pairs = [
        (found[key], value) for found, wanted in zip(there, expected, strict=True) for key, value in wanted.items()
    ]
    report.check("graft", name, pairs, at_most=1e-6)
    eager, graphed = report.milliseconds(work), report.milliseconds(report.graphed(work))
    loop = report.milliseconds(lambda: oracles.plain_graft(there), repeats=3)
    facts = {"eager_ms": eager, "graphed_ms": graphed, "loop_ms": loop, "times": loop / graphed, **report.counts(work)}
    held = (facts["launches"] or 0) <= 4 and not facts["syncs"] and (count > 2 or loop >= 500 * graphed)
    report.say("graft", name, **facts, bar="<= 4 launches, 0 syncs, >= 500x", holds=held or report.toy)
    whole = lambda: write(_fills(there, entropy_coefficients(*_sides(there))))
    report.say("graft", f"{name}, plan and tables included", ms=report.milliseconds(whole), **report.counts(whole))


def exchange(report: Report) -> None:
    """A network from the GPU of one rank to that of the next, by a buffer in the CPU's memory, beside files."""
    for model, bar in {"resnet8": 0.0}.items() if report.toy else grafting_exchange.BARS.items():
        with TemporaryDirectory() as folder:
            start(grafting_exchange.measure, 2, model, folder, report.device.type)
            ours, files = json.loads((Path(folder) / "times.json").read_text())
        facts = {"gloo_ms": ours, "files_ms": files, "times": files / ours}
        report.say("exchange", f"{model} between two ranks", **facts, bar=f">= {bar:g}x", holds=files >= bar * ours)


def ring(report: Report) -> None:
    """Two networks that train in lock step and graft after every epoch, beside the same without a graft."""
    model, images, size = ("resnet8", 64, 8) if report.toy else ("resnet32", 12800, 32)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (images,), generator=generator)
    data = Images("random", "train", pixels, labels, tuple("0123456789"), (0.5,) * 3, (0.25,) * 3).to(report.device)
    recipe = Recipe(epochs=1000, batch_size=32 if report.toy else 128, precision="bf16")
    for way, between in (("with grafting", AfterEpoch()), ("without", None)):
        networks = [zoo.build(model).to(report.device) for _ in range(2)]
        together = Lockstep([Loop(net, data, recipe=recipe, seed=k) for k, net in enumerate(networks)], between)
        taken = report.milliseconds(together.epoch, repeats=3)
        of_cifar = taken * 50_000 / images / 1e3
        facts = {"epochs_per_second": 1 / of_cifar, "minutes_for_200_epochs": 200 * of_cifar / 60}
        report.say("ring", f"2 x {model} {way}, {images} images, scaled to 50,000", ms=taken, **facts)


def _prepared(states: list[State]) -> Callable[[], None]:
    """The launches of a graft, ready; on the CPU interpreted."""
    from hetlib.kernels import blend_triton, entropy_triton

    own, _ = _sides(states)
    per_network = len(own) // len(states)
    donors = [(n - per_network) % len(own) for n in range(len(own))]
    measure = entropy_triton.prepare(own, 10, (range(len(own)), donors), 0.4, 500.0, 2)
    mix = blend_triton.prepare(rings(_fills(states, measure.out)))

    def graft() -> None:
        for launch in (measure, *mix):
            launch()

    return graft


def _sides(states: list[State]) -> tuple[list[Tensor], list[Tensor]]:
    """Each network's convolutions, and those of the network before it."""
    of = lambda turn: [value for state in turn for key, value in state.items() if "conv" in key]
    return of(states), of([states[-1], *states[:-1]])


def _fills(states: list[State], shares: Tensor) -> list[Fill]:
    """A fill for every tensor; those after a convolution take its coefficient."""
    coming, fills = iter(shares.unbind()), []
    for k, state in enumerate(states):
        for key, value in state.items():
            if "conv" in key:
                share = next(coming)
            fills.append(Fill(key, value, states[k - 1][key], alpha=share))
    return fills


def _drawn(model: str, seed: int, toy: bool) -> State:
    """A network's floating-point tensors at random, in order; the names of convolutions say that they are such."""
    torch.manual_seed(seed)
    state = zoo.build(model, width=0.25 if toy else 1.0).state_dict()
    named = {f"conv {key}" if value.dim() == 4 else key.replace("conv", ""): value for key, value in state.items()}
    found = [(key, value) for key, value in named.items() if value.is_floating_point()]
    return dict(found[: 11 if toy else None])
