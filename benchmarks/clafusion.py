"""All of CLAFusion on a ResNet-34 and a ResNet-18, beside the released procedure: one image at a time, twice."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import ot
import torch
from torch import Tensor, nn

from benchmarks.harness import Bar, faster, milliseconds, within
from benchmarks.memory import high_water
from hetlib import zoo
from hetlib.chain import chain
from hetlib.clafusion import add_layers, fuse, fuse_weights, map_layers, neuron_plans
from hetlib.clafusion.mapping import CrossMap
from hetlib.kernels.costs import cost_matrix
from hetlib.match import align

IMAGES, FEW = 200, 20
"""How many images the networks are compared on, and on how many of them the slow way is timed."""
LIMIT = 1.5
Activations = dict[str, Tensor]


def run() -> Iterator[Bar]:
    """Measure the bars of time and, on Linux, of memory."""
    deep, shallow = networks()
    check(deep, shallow, draw(FEW))
    images = draw(IMAGES)
    (measured,) = milliseconds(lambda: fuse([deep, shallow], images, last=True), repeats=3)
    reference = released(deep, shallow, images) * 1e3
    name = f"fuse ResNet-34 + ResNet-18, {IMAGES} images"
    other = f"one image at a time, twice; these passes timed on {FEW}, x{IMAGES // FEW}"
    yield faster(name, "one pass, batches of 50", other, measured, reference, 3)
    if Path("/proc/self/status").exists():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peak = pool.submit(peak_of_fuse).result()
        yield within(f"{name}, peak memory", "a whole process", "limit", peak, LIMIT, at_most=1, unit="GiB")


def networks() -> tuple[nn.Module, nn.Module]:
    """The paper's, at random."""
    torch.manual_seed(0)
    deep, shallow = (zoo.build(name, bn=False, bias=False).eval() for name in ("resnet34", "resnet18"))
    return deep, shallow


def draw(count: int) -> Tensor:
    """Normal images of CIFAR's size."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def peak_of_fuse() -> float:
    """GiB that this process holds at most while it fuses, Python and torch included.

    Not of getrusage, where a new process begins with the peak of the one that started it.
    """
    torch.set_num_threads(1)
    fuse(networks(), draw(IMAGES), last=True)
    return high_water(os.getpid()) / 2**20


def check(deep: nn.Module, shallow: nn.Module, images: Tensor) -> None:
    """Both ways find plans of the same cost, layer by layer, and so the same network."""
    found = map_layers(deep, shallow, images)
    balanced = add_layers(found)
    one, other = (activations(model, images) for model in (deep, balanced))
    plans, theirs = neuron_plans(deep, balanced, images, last=True), plainly_moved(one, other)
    for (name, plan), ours in zip(theirs.items(), plans, strict=True):
        cost = cost_matrix(neurons(one[name]).double(), neurons(other[name]).double())
        totals = [(cost * moved.double()).sum() for moved in (ours, plan)]
        torch.testing.assert_close(*totals, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    fused = plainly_fused(deep, balanced, [*theirs.values()])
    with torch.no_grad():
        torch.testing.assert_close(
            fuse([deep, shallow], images, last=True)(images), fused(images), rtol=1e-3, atol=1e-4
        )


def released(deep: nn.Module, shallow: nn.Module, images: Tensor) -> float:
    """CPU seconds of the released procedure, of whose forward passes one image in ten is run.

    The passes store what every layer puts out. All else works on all images: what is stored is repeated for it.
    """
    few, times = images[:FEW], len(images) // FEW

    def passes(*models: nn.Module) -> tuple[float, list[Activations]]:
        start = time.process_time()
        seen = [activations(model, few) for model in models]
        return (time.process_time() - start) * times, [repeated(now, times) for now in seen]

    first, seen = passes(deep, shallow)
    start = time.process_time()
    balanced = add_layers(plainly_aligned(map_layers(deep, shallow, few), *seen))
    aligning = time.process_time() - start
    del seen  # as large as the next
    second, seen = passes(deep, balanced)
    start = time.process_time()
    plainly_fused(deep, balanced, [*plainly_moved(*seen).values()])
    return first + aligning + second + time.process_time() - start


def repeated(seen: Activations, times: int) -> Activations:
    """As much data as more images would give, with noise so that no two are alike."""
    return {
        name: value.repeat(times, *[1] * (value.ndim - 1)) + 1e-3 * torch.rand(times * len(value), *value.shape[1:])
        for name, value in seen.items()
    }


@torch.no_grad()
def activations(model: nn.Module, images: Tensor) -> Activations:
    """What every layer puts out, the sum where it ends a block, one image after the other, all kept."""
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in model.named_modules():
        if name.endswith("relu2"):
            keep = lambda _, values, block=name[:-5]: seen[f"{block}conv2"].append(values[0])
            handles.append(module.register_forward_pre_hook(keep))
        elif isinstance(module, nn.Conv2d | nn.Linear):
            seen[name] = []
            if not name.endswith("conv2"):
                note = lambda _, __, value, name=name: seen[name].append(value)
                handles.append(module.register_forward_hook(note))
    for image in images:
        model(image[None])
    for handle in handles:
        handle.remove()
    return {layer.name: torch.cat(seen[layer.name]) for layer in chain(model).layers}


def plainly_aligned(found: CrossMap, one: Activations, other: Activations) -> CrossMap:
    """Find the map anew, by the CKA of every pair of units, whose Grams are each made for the pair."""
    for group in found.alignments:
        cost = torch.tensor(
            [[1 - cka(one[a.last.name], other[b.last.name]) for b in group.shallow] for a in group.deep]
        )
        assert tuple(align(cost, (1, min(1, len(group.shallow) - 1)))) == group.picks
    return found


def cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of two layers, from their Grams."""
    centre = torch.eye(len(x)) - 1 / len(x)
    grams = [centre @ (rows @ rows.T) @ centre for rows in (x.flatten(1), y.flatten(1))]
    return float((grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm()))


def plainly_moved(one: Activations, other: Activations) -> Activations:
    """POT's plan of every layer, from the distances of all activations of its neurons."""
    plans = {}
    for name in one:
        x, y = neurons(one[name]), neurons(other[name])
        squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
        cost = squares.clamp(min=0).sqrt().double().numpy()
        uniform = [np.full(side, 1 / side) for side in cost.shape]
        plans[name] = torch.from_numpy(ot.emd(*uniform, cost, numItermax=10**9)).float()
    return plans


def plainly_fused(deep: nn.Module, balanced: nn.Module, plans: list[Tensor]) -> nn.Module:
    """Weights that follow the plans, averaged."""
    weights = [[layer.module.weight.detach() for layer in chain(model).layers] for model in (deep, balanced)]
    fused = zoo.build("resnet34", bn=False, bias=False).eval()
    with torch.no_grad():
        for layer, weight in zip(chain(fused).layers, fuse_weights(*weights, plans), strict=True):
            layer.module.weight.copy_(weight)
    return fused


def neurons(value: Tensor) -> Tensor:
    """One row for every channel."""
    return value.transpose(0, 1).flatten(1)
