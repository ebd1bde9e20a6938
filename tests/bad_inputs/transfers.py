"""hmt, tlv, baselines and the mechanism itself."""

from collections.abc import Iterator

import torch
from torch import nn

from hetlib import baselines, hmt, tlv
from hetlib.kernels.fill import Fill
from hetlib.kernels.resize_by_variance import fill
from hetlib.transfer import Copy, Cyclic, Overlay, Pair, SameName, Transfer, unpaired
from tests.bad_inputs.world import COUNTS, NAMES, NETWORKS, NOT_NEGATIVE, SEEDS, SHARES, Case, each, one, w

WEIGHT = torch.ones(4, 3, 3, 3)
WEIGHT_1 = torch.ones(2, 2, 3, 3)
same = lambda *fits, blend=0.0: Transfer(SameName(), fits, blend)


def of_hmt() -> Iterator[Case]:
    yield from each("hmt.transfer noise", "noise", lambda v: hmt.transfer(w.a, w.b, noise=v), NOT_NEGATIVE)
    yield from each("hmt.transfer seed", "seed", lambda v: hmt.transfer(w.a, w.b, noise=0.1, seed=v), SEEDS)
    yield from each("hmt.transfer shuffle seed", "seed", lambda v: hmt.transfer(w.a, w.b, "shuffle", seed=v), SEEDS)
    orders = [lambda layers: layers, None, 3, 1.5, "chian", [0.5], ["conv1"], [True], [99], [-1], [0, 0], {"a": 1}]
    yield from each("hmt.transfer order", "order", lambda v: hmt.transfer(w.a, w.b, order=v), orders)
    yield from each("hmt.transfer resizer", "resizer", lambda v: hmt.transfer(w.a, w.b, resizer=v), NAMES)
    odd = [w.meta_a, w.lazy, w.deep]
    yield from each("hmt.transfer source", "source", lambda v: hmt.transfer(v, w.b), [*NETWORKS, *odd])
    yield from each("hmt.transfer target", "target", lambda v: hmt.transfer(w.a, v), [*NETWORKS, *odd])
    yield from each("ByPosition seed", "seed", lambda v: hmt.ByPosition("shuffle", v), SEEDS)
    yield from each("Cyclic noise", "noise", lambda v: Cyclic(noise=v), NOT_NEGATIVE)
    shapes = [(4, 3, 3), (0, 3, 3, 3), (4, 3, -1, -1), "4333", 1.5, None, (4, 3, 1.5, 3), (4, 3, True, 3)]
    yield from each("hmt.resize weight", "weight", lambda v: hmt.resize(v, (4, 3, 5, 5)), [None, "x", 3, [1.0], w.a])
    yield from each("hmt.resize shape", "shape", lambda v: hmt.resize(WEIGHT, v), shapes)
    yield from each("hmt.resize resizer", "resizer", lambda v: hmt.resize(WEIGHT, (4, 3, 5, 5), resizer=v), NAMES)


def of_tlv() -> Iterator[Case]:
    for option in ("standardise", "match", "place", "keep", "drop", "pool", "pad"):
        words = {"standardise": "standardisation", "keep": "choose", "drop": "choose"}.get(option, option)
        yield from each(f"tlv.transfer {option}", words, lambda v, o=option: tlv.transfer(w.b, w.a, **{o: v}), NAMES)
    yield from each("tlv.transfer shuffle", "shuffle", lambda v: tlv.transfer(w.a, w.b, shuffle=v), [*NAMES, "True"])
    yield from each("fill shuffle", "shuffle", lambda v: fill(WEIGHT, WEIGHT.clone(), shuffle=v), [*NAMES, "True"])
    yield from each("tlv.transfer seed", "seed", lambda v: tlv.transfer(w.a, w.b, seed=v), [*SEEDS, None])
    odd = [w.meta_a, w.lazy, w.deep]
    yield from each("tlv.transfer source", "source", lambda v: tlv.transfer(v, w.b), [*NETWORKS, *odd])
    yield from each("tlv.transfer target", "target", lambda v: tlv.transfer(w.a, v), [*NETWORKS, *odd])
    yield one("tlv.transfer NaN weights", "finite", lambda: tlv.transfer(w.nan_a, w.b))
    yield from each("tlv.pick n", "n", lambda v: tlv.pick(torch.rand(8), v), [*COUNTS, 9])
    yield from each("tlv.pick how", "choose", lambda v: tlv.pick(torch.rand(8), 2, v), NAMES)
    yield from each("tlv.pick variance", "variance", lambda v: tlv.pick(v, 1), [None, "v", 3, torch.tensor(1.0)])
    sizes = [0, -1, 1.5, "3", None, True, (3, 0), (3, 3, 3), 2**70]
    yield from each("tlv.resize_kernel size", "size", lambda v: tlv.resize_kernel(WEIGHT, v), sizes)
    yield from each("tlv.resize_kernel pool", "pool", lambda v: tlv.resize_kernel(WEIGHT, 1, v), NAMES)
    yield from each("tlv.resize_kernel pad", "pad", lambda v: tlv.resize_kernel(WEIGHT, 5, pad=v), NAMES)
    yield from each("tlv.resize_width keep", "choose", lambda v: tlv.resize_width(WEIGHT, WEIGHT_1, v), NAMES)
    yield from each("tlv.resize_width drop", "choose", lambda v: tlv.resize_width(WEIGHT, WEIGHT_1, drop=v), NAMES)
    yield one("tlv.resize_width kernels", "kernels", lambda: tlv.resize_width(WEIGHT, torch.ones(2, 2, 1, 1)))
    yield one("tlv.resize_width NaN", "finite", lambda: tlv.resize_width(WEIGHT * float("nan"), WEIGHT_1))
    yield from each("tlv.resize_bias n", "n", lambda v: tlv.resize_bias(torch.ones(4), v), COUNTS)
    yield from each("tlv.crossover p", "p", lambda v: tlv.crossover(w.matrix, w.matrix, v), SHARES)
    yield one("tlv.crossover batch", "features", lambda: tlv.crossover(w.matrix, w.matrix[:2], 0.5))
    yield one("tlv.crossover uniform", "uniform", lambda: tlv.crossover(w.matrix, w.matrix, 0.5, torch.rand(7)))
    yield from each("tlv.Crossover p", "p", lambda v: tlv.Crossover(w.a, v), SHARES)
    yield from each("tlv.Crossover mask", "mask", lambda v: tlv.Crossover(w.a, mask=v), NAMES)
    yield from each("tlv.Crossover source", "source", lambda v: tlv.Crossover(w.a, source=v), NAMES)
    yield from each("tlv.Crossover schedule", "schedule", lambda v: tlv.Crossover(w.a, schedule=v), NAMES)
    yield from each("tlv.Crossover steps", "steps", lambda v: tlv.Crossover(w.a, schedule="falling", steps=v), COUNTS)
    yield from each("tlv.Crossover support", "support", lambda v: tlv.Crossover(v), NETWORKS[1:])
    yield one("tlv.statistics none", "layer", lambda: tlv.statistics([]))
    yield one("tlv.statistics NaN", "finite", lambda: tlv.statistics([w.matrix * float("nan")]))
    yield from each("tlv.support_features", "support", lambda v: tlv.support_features(v, w.train), NETWORKS)
    yield from each("tlv.support_features batch", "batch_size", lambda v: tlv.support_features(w.a, w.train, v), COUNTS)
    yield from each(
        "tlv.support_features precision", "precision", lambda v: tlv.support_features(w.a, w.train, 8, v), NAMES
    )


def of_baselines() -> Iterator[Case]:
    yield from each("baselines.transfer method", "method", lambda v: baselines.transfer(w.a, w.b, v), NAMES)
    yield from each("baselines.transfer seed", "seed", lambda v: baselines.transfer(w.a, w.b, "he", v), [*SEEDS, None])
    odd = [w.meta_a, w.lazy, nn.Sequential()]
    yield from each("baselines.transfer source", "source", lambda v: baselines.transfer(v, w.b), [*NETWORKS, *odd])
    yield from each("baselines.transfer target", "target", lambda v: baselines.transfer(w.a, v), [*NETWORKS, *odd])
    yield from each("Overlay place", "place", lambda v: Overlay(v), NAMES)


def of_mechanism() -> Iterator[Case]:
    twin = lambda sentence, **how: sentence(w.a, w.twin_a, **how)
    yield from each("Transfer blend", "blend", lambda v: same(Copy(), blend=v), SHARES)
    yield from each("Transfer seed", "seed", lambda v: twin(same(Copy()), seed=v), [*SEEDS, None])
    yield from each("Transfer source", "source", lambda v: same(Copy())(v, w.a), NETWORKS)
    yield from each("Transfer target", "target", lambda v: same(Copy())(w.a, v), NETWORKS)
    yield from each("Transfer match", "match", lambda v: twin(Transfer(v, (Copy(),))), [None, "chain", 3, SameName])
    yield from each(
        "Transfer fits", "fits", lambda v: twin(Transfer(SameName(), v)), [None, 3, Copy(), ("c",), (Copy,)]
    )
    for shares in ([0.5], [2.0] * 99, "no", None, [float("nan")] * 99):
        yield from each("blend function", "blend", lambda v: twin(same(Copy(), blend=lambda fills: v)), [shares])
    pairs = [None, 3, ["conv1"], [("a", "b")], [Pair("no", "no")], [Pair("conv1", "no")]]
    yield from each("match function", "match Pair", lambda v: twin(Transfer(lambda c: v, (Copy(),))), pairs[:4])
    yield from each("match of no layer", "layer", lambda v: twin(Transfer(lambda c: v, (Copy(),))), pairs[4:])
    fills = [[None], ["x"], 3, [Pair("a", "b")]]
    yield from each("fit function", "fit Fill", lambda v: twin(Transfer(unpaired, (lambda c, p: v,))), fills)
    weight = next(w.twin_a.parameters())
    wrong = [
        Fill("conv1", torch.ones(2), torch.ones(2)),
        Fill("conv1", weight, torch.ones(1, 1)),
        Fill("conv1", weight, weight, alpha=torch.ones(7)),
        Fill("conv1", weight, weight, index=torch.ones(2, 2)),
    ]
    yield from each("fill", "conv1", lambda v: twin(Transfer(unpaired, (lambda c, p: [v],))), wrong)
    yield one("Copy shapes", "shapes", lambda: same(Copy())(w.a, w.b))


def cases() -> Iterator[Case]:
    for part in (of_hmt, of_tlv, of_baselines, of_mechanism):
        yield from part()
