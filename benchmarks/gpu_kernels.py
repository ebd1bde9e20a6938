"""The kernels on a GPU: each beside the CPU's result first, then its time, launches and waits."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu_report import Report
from hetlib import zoo
from hetlib.kernels.cka import linear_cka
from hetlib.kernels.costs import cost_matrix
from hetlib.kernels.fill import Fill
from hetlib.kernels.resize_by_variance import filled
from hetlib.kernels.resize_cyclic import resized
from hetlib.kernels.sinkhorn import sinkhorn
from hetlib.kernels.write import write

REG, ITERATIONS = 0.05, 100
SLICES = 2000
"""Slices that the loop copies one by one; the time of all is extrapolated from them."""


def fills(report: Report) -> None:
    """The launch that writes fills, on whole lists of layers, against the CPU."""
    for name, made in _lists(report.toy):
        ours = [_moved(fill, report.device) for fill in made]
        write(made)
        _launches(report, ours)
        pairs = [(mine.out, fill.out) for mine, fill in zip(ours, made, strict=True)]
        resampled = any(fill.resample is not None for fill in made)
        report.check("fill", name, pairs, at_most=1e-5 if resampled else 0.0)


def fill_times(report: Report) -> None:
    """HMT's resizing of VGG16 into ResNet-34: at most 100 us in a graph, 10,000 times as fast as a loop of slices."""
    made = [_moved(fill, report.device) for fill in _cyclic("vgg16", "resnet34", report.toy)]
    launches = _prepared(made)
    work = lambda: [launch() for launch in launches]
    eager, graphed = report.milliseconds(work), report.milliseconds(report.graphed(work))
    total = sum(fill.out.shape[:2].numel() for fill in made)
    few = min(SLICES, total)
    loop = report.milliseconds(lambda: _slice_by_slice(made, few), repeats=3) * total / few
    moved = 8 * sum(fill.out.numel() for fill in made)
    floor = moved / 4.3e12 * 1e3
    facts = {"eager_ms": eager, "graphed_ms": graphed, "floor_ms": floor, "loop_ms": loop, "times": loop / graphed}
    print(f"the loop's time is that of {few} of its {total} slices, extrapolated", flush=True)
    held = graphed <= 0.1 and loop >= 1e4 * graphed
    report.say("fill", "resize VGG16 -> ResNet-34", **facts, bar="<= 0.1 ms, >= 10000x", holds=held)
    report.say("fill", "write, plan and table included", **report.counts(lambda: write(made)))


def sinkhorns(report: Report) -> None:
    """Thirty-six costs of a ResNet-34's widths in one launch, against the CPU and beside the loop over layers."""
    from hetlib.kernels import sinkhorn_triton

    widths = [5, 9, 33] if report.toy else [64] * 7 + [128] * 9 + [256] * 13 + [512] * 7
    steps = 10 if report.toy else ITERATIONS
    costs = [_uniform(n, n + (i % 3) * n // 8, seed=i) for i, n in enumerate(widths)]
    there = [cost.to(report.device) for cost in costs]
    launch = sinkhorn_triton.prepare(there, REG, steps, 0.0)
    launch()
    alone = [sinkhorn(cost, REG, steps, tolerance=0) for cost in costs]
    for name, found in (("rows", launch.rows), ("columns", launch.columns), ("plan", launch.plans)):
        pairs = [(ours, getattr(other, name)) for ours, other in zip(found, alone, strict=True)]
        report.check("sinkhorn", f"{len(costs)} costs, {steps} iterations: {name}", pairs, at_most=1e-5)
    loop = report.milliseconds(lambda: [sinkhorn(cost, REG, steps, tolerance=0) for cost in there], repeats=3)
    ours = report.milliseconds(launch)
    facts = {"ms": ours, "loop_ms": loop, "times": loop / ours, **report.counts(launch)}
    held = loop >= 50 * ours and facts["launches"] in (1, None)
    report.say("sinkhorn", "one launch beside a loop of torch", **facts, bar="1 launch, >= 50x", holds=held)


def cka(report: Report) -> None:
    """All pairs of a ResNet-18's and a ResNet-34's layers, 512 samples, 8 x 8 values a channel."""
    samples, pixels = (16, 1) if report.toy else (512, 64)
    shallow, deep = [64] * 5 + [128] * 5 + [256] * 5 + [512] * 5, [64] * 7 + [128] * 9 + [256] * 13 + [512] * 7
    draw = lambda widths, seed, size: [_uniform(samples, n * size, seed=seed + i) for i, n in enumerate(widths)]
    xs, ys = draw(shallow, 0, 1), draw(deep, 100, 1)
    ours = linear_cka([x.to(report.device) for x in xs], [y.to(report.device) for y in ys])
    report.check("cka", "20 x 36 layers, one value a channel", [(ours, linear_cka(xs, ys))], at_most=1e-5)
    torch.manual_seed(0)
    xs, ys = ([torch.rand(samples, n * pixels, device=report.device) for n in side] for side in (shallow, deep))
    for bf16 in (False, True):
        work = partial(linear_cka, xs, ys, bf16=bf16)
        facts = {"ms": report.milliseconds(work, repeats=5), **report.counts(work)}
        report.say("cka", f"20 x 36 layers, {pixels} values a channel, {'bf16' if bf16 else 'fp32'}", **facts)
    few = [(xs[i], ys[j]) for i in (0, 9, 19) for j in (0, 17, 35)]
    pairs = report.milliseconds(lambda: [_pair(x, y) for x, y in few], repeats=3) * len(xs) * len(ys) / len(few)
    first = next(row["ms"] for row in report.rows if row["part"] == "cka" and "ms" in row)
    held = first <= 2 and pairs >= 100 * first
    print(f"the released way's time is that of {len(few)} of {len(xs) * len(ys)} pairs, extrapolated", flush=True)
    report.say("cka", "Grams for every pair", ms=pairs, times=pairs / first, bar="<= 2 ms, >= 100x", holds=held)


def costs(report: Report) -> None:
    """A cost matrix by products, beside all differences at once."""
    n, d = (16, 40) if report.toy else (256, 2304)
    x, y = _uniform(n, d), _uniform(n, d, seed=1)
    here, there = x.to(report.device), y.to(report.device)
    report.check("costs", f"{n} x {n}, d = {d}", [(cost_matrix(here, there), cost_matrix(x, y))], at_most=1e-3)
    ours = report.milliseconds(lambda: cost_matrix(here, there))
    broadcast = report.milliseconds(lambda: (here.unsqueeze(1) - there).square().sum(2).sqrt(), repeats=5)
    bare = report.milliseconds(lambda: here @ there.T)
    facts = {"ms": ours, "broadcast_ms": broadcast, "product_ms": bare, "times": broadcast / ours}
    report.say("costs", f"{n} x {n}, d = {d}", **facts, **report.counts(lambda: cost_matrix(here, there)))


def _lists(toy: bool) -> Iterator[tuple[str, list[Fill]]]:
    """Lists of fills on the CPU: HMT's, with kernels resampled or not, and TLV's with their indices and bases."""
    for source, target in (("vgg16", "resnet34"), ("vgg16", "resnet32"), ("vgg11", "plainnet5")):
        yield f"HMT {source} -> {target}", _cyclic(source, target, toy)
    generator = torch.Generator().manual_seed(0)
    for source, target in (("vgg16", "resnet32"), ("vgg11", "plainnet5"), ("resnet20", "mobilenetv2")):
        made = [
            filled(w, out, generator=generator) for w, out in _weights(source, target, toy) if _grows_evenly(w, out)
        ]
        yield f"TLV {source} -> {target}", made


def _cyclic(source: str, target: str, toy: bool) -> list[Fill]:
    return [resized(weight, out) for weight, out in _weights(source, target, toy)]


def _weights(source: str, target: str, toy: bool) -> list[tuple[Tensor, Tensor]]:
    """Convolutions by position; the last of the source feeds all that are left of the target."""
    torch.manual_seed(0)
    nets = (zoo.build(name, **({"width": 0.0625} if toy else {})) for name in (source, target))
    given, wanted = ([m.weight.detach() for m in net.modules() if isinstance(m, nn.Conv2d)] for net in nets)
    return [(given[min(i, len(given) - 1)], out) for i, out in enumerate(wanted[: 8 if toy else None])]


def _grows_evenly(weight: Tensor, out: Tensor) -> bool:
    return out.shape[-1] <= weight.shape[-1] or (out.shape[-1] - weight.shape[-1]) % 2 == 0


def _moved(fill: Fill, device: torch.device) -> Fill:
    """The same fill of copies on a device; its index stays on the CPU."""
    base = None if fill.base is None else fill.base.to(device, copy=True)
    return replace(fill, out=fill.out.to(device, copy=True), weight=fill.weight.to(device, copy=True), base=base)


def _launches(report: Report, made: list[Fill]) -> None:
    """Write as a caller would, or on the CPU as the kernel would."""
    if report.device.type == "cuda":
        write(made)
    else:
        for launch in _prepared(made):
            launch()


def _prepared(made: list[Fill]) -> list:
    from hetlib.kernels import fill_triton

    return fill_triton.prepare(made)


def _slice_by_slice(made: list[Fill], count: int) -> None:
    for fill in made:
        for o in range(fill.out.shape[0]):
            for i in range(fill.out.shape[1]):
                if count == 0:
                    return
                fill.out[o, i] = fill.weight[o % fill.weight.shape[0], i % fill.weight.shape[1]]
                count -= 1


def _pair(x: Tensor, y: Tensor) -> Tensor:
    """One pair's CKA from two Grams of its own."""
    k, other = (_centred(z @ z.T) for z in (x, y))
    return (k * other).sum() / (k.norm() * other.norm())


def _centred(matrix: Tensor) -> Tensor:
    means = matrix.mean(0)
    return matrix - means - (means - means.mean()).unsqueeze(1)


def _uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
