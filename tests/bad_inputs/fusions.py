"""clafusion, and what merges networks of one shape."""

from collections.abc import Iterator

import torch
from torch import nn

from hetlib import clafusion, merging
from hetlib.clafusion import Align, fuse, map_layers
from tests.bad_inputs.world import COUNTS, FINITE, NAMES, NETWORKS, POSITIVE, SEEDS, SHARES, Case, but, each, one, w

nan = float("nan")
IMAGES = [None, "x", 3, [1.0], torch.zeros(8, 1, 4, 4, dtype=torch.uint8), torch.full((8, 1, 4, 4), nan)]
WIDE = torch.zeros(8, 3, 5, 5)
IMAGES += [torch.zeros(0, 1, 4, 4), torch.tensor(1.0), torch.full((2, 1, 4, 4), float("inf"))]
PINS = [None, 1, (1,), (1, 1, 1), (-1, 1), (1.5, 1), "11", (True, True), (nan, 1), (9, 9), (2**70, 1)]
both = [w.deep, w.shallow]


def of_fuse() -> Iterator[Case]:
    run = lambda **how: fuse(both, w.pixels, **how)
    yield one("fuse(a, b, x)", "fuse([a,", lambda: fuse(w.deep, w.shallow, w.pixels))
    yield one("fuse(a, x)", "models", lambda: fuse(w.deep, w.pixels))
    yield from each("fuse models", "models", lambda v: fuse(v, w.pixels), [None, 3, "ab", {"a": w.deep}, w.matrix])
    yield from each("fuse network", "network", lambda v: fuse([w.deep, v], w.pixels), NETWORKS)
    yield one("fuse one", "network", lambda: fuse([w.deep], w.pixels))
    yield from each("fuse images", "images", lambda v: fuse(both, v), IMAGES)
    yield one("fuse uint8", "normalised", lambda: fuse(both, w.small.images))
    yield from each("fuse step", "step", lambda v: run(step=v), SHARES)
    for option, word in (("scheme", "scheme"), ("balance", "balance"), ("relu", "ReLU"), ("input_side", "side")):
        yield from each(f"fuse {option}", word, lambda v, o=option: run(**{o: v}), NAMES)
    yield one("fuse metrc", "metrc metric", lambda: run(metrc="cosine"))
    yield one("fuse pinz", "pinz pins", lambda: run(pinz=(1, 1)))
    yield from each("fuse measure", "measure", lambda v: run(measure=v), NAMES)
    yield from each("fuse metric", "metric", lambda v: run(metric=v), NAMES)
    yield from each("fuse by", "source", lambda v: run(by=v), NAMES)
    yield from each("fuse mapping", "mapping", lambda v: run(mapping=v), ["nonsense", None, 3, [0.5], [True], {"a": 1}])
    yield from each("fuse pins", "pins", lambda v: run(pins=v), but(PINS, (9, 9)))
    yield from each("fuse seed", "seed", lambda v: run(mapping="random", seed=v), [*SEEDS, None])
    yield from each("fuse reg", "reg", lambda v: run(reg=v), but(POSITIVE, None))
    yield one("fuse nan", "network 2", lambda: fuse([w.deep, w.nan_shallow], w.pixels))
    yield one("fuse meta", "network 2 meta", lambda: fuse([w.deep, w.meta_shallow], w.pixels))
    yield one("fuse lazy", "network 2", lambda: fuse([w.a, w.lazy], w.images))
    yield one("fuse dtypes", "network 2 float32", lambda: fuse([w.double, w.shallow], w.pixels.double()))
    yield one("fuse kinds", "network", lambda: fuse([w.deep, w.a], w.pixels))
    yield one("fuse naive with options", "metric", lambda: run(scheme="naive", metric="cosine"))


def of_clafusion() -> Iterator[Case]:
    run = lambda **how: clafusion.transfer(both, w.twin_deep, w.pixels, **how)
    yield from each(
        "clafusion.transfer sources",
        "sources",
        lambda v: clafusion.transfer(v, w.twin_deep, w.pixels),
        [w.pixels, w.deep, None, 3, "ab"],
    )
    yield one("clafusion.transfer no sources", "network", lambda: clafusion.transfer([], w.twin_deep, w.pixels))
    yield one("clafusion.transfer wide images", "images shape", lambda: clafusion.transfer(both, w.twin_deep, WIDE))
    yield one("fuse wide images", "images shape", lambda: fuse(both, WIDE))
    yield one("map_layers wide images", "shape", lambda: map_layers(w.deep, w.shallow, WIDE))
    yield one("layer_costs wide images", "shape", lambda: clafusion.layer_costs(w.deep, w.shallow, WIDE))
    yield from each("clafusion.transfer target", "target", lambda v: clafusion.transfer(both, v, w.pixels), NETWORKS)
    yield from each(
        "clafusion.transfer one, target", "target", lambda v: clafusion.transfer([w.shallow], v, w.pixels), NETWORKS
    )
    yield from each("clafusion.transfer data", "images", lambda v: clafusion.transfer(both, w.twin_deep, v), IMAGES)
    yield from each(
        "clafusion.transfer samples",
        "samples",
        lambda v: clafusion.transfer(both, w.twin_deep, w.small, samples=v),
        COUNTS,
    )
    yield from each(
        "clafusion.transfer activation_seed",
        "activation_seed",
        lambda v: clafusion.transfer(both, w.twin_deep, w.small, activation_seed=v),
        SEEDS,
    )
    yield from each("clafusion.transfer hmt", "variant", lambda v: run(hmt=v), but(NAMES, None))
    yield one("clafusion.transfer stepp", "stepp step", lambda: run(stepp=0.5))
    yield one(
        "clafusion.transfer one, pinz",
        "pinz pins",
        lambda: clafusion.transfer([w.shallow], w.twin_deep, w.pixels, pinz=1),
    )
    yield one("clafusion.transfer shape", "target", lambda: clafusion.transfer(both, w.twin_shallow, w.pixels))
    yield from each("map_layers deep", "deep", lambda v: map_layers(v, w.shallow, w.pixels), NETWORKS)
    yield from each("map_layers shallow", "shallow", lambda v: map_layers(w.deep, v, w.pixels), NETWORKS)
    yield from each("map_layers images", "images", lambda v: map_layers(zoo_deep, w.deep, v, pins=(1, 0)), IMAGES)
    yield from each(
        "map_layers measure", "measure", lambda v: map_layers(w.deep, w.shallow, w.pixels, measure=v), NAMES
    )
    maps = ["nonsense", None, 3, [0.5], ["0"], [True], [9], [-1], [0, 0, 0], {"a": 1}, [nan]]
    yield from each("map_layers mapping", "map", lambda v: map_layers(w.deep, w.shallow, w.pixels, mapping=v), maps)
    yield from each(
        "map_layers pins", "pins", lambda v: map_layers(w.deep, w.shallow, w.pixels, pins=v), but(PINS, (9, 9))
    )
    yield from each("map_layers seed", "seed", lambda v: map_layers(w.deep, w.shallow, w.pixels, seed=v), SEEDS)
    yield from each(
        "layer_costs measure", "measure", lambda v: clafusion.layer_costs(w.deep, w.shallow, w.pixels, v), NAMES
    )
    yield from each("layer_costs deep", "deep", lambda v: clafusion.layer_costs(v, w.shallow, w.pixels), NETWORKS)
    yield from each("layer_costs shallow", "shallow", lambda v: clafusion.layer_costs(w.deep, v, w.pixels), NETWORKS)
    yield from each("layer_costs images", "images", lambda v: clafusion.layer_costs(w.deep, w.shallow, v), IMAGES)
    yield from each("add_layers found", "map_layers", lambda v: clafusion.add_layers(v), [None, w.deep, 3, w.pixels])
    yield from each(
        "merge_layers found", "map_layers", lambda v: clafusion.merge_layers(v, w.pixels), [None, w.deep, 3]
    )
    found = map_layers(w.deep, w.shallow, w.pixels)
    yield from each("merge_layers images", "images", lambda v: clafusion.merge_layers(found, v), IMAGES)
    yield from each("merge_layers relu", "ReLU", lambda v: clafusion.merge_layers(found, w.pixels, v), NAMES)
    yield from each("Align measure", "measure", lambda v: Align(measure=v), NAMES)
    yield from each("Align pins", "pins", lambda v: Align(pins=v), but(PINS, (9, 9)))
    yield from each(
        "Align mapping", "mapping", lambda v: Align(mapping=v), ["nonsense", None, 3, [0.5], [True], {"a": 1}]
    )
    yield from each("Align seed", "seed", lambda v: Align(seed=v), SEEDS)
    plans = lambda **how: clafusion.neuron_plans(w.deep, w.twin_deep, w.pixels, **how)
    yield from each("neuron_plans metric", "metric", lambda v: plans(metric=v), NAMES)
    yield from each("neuron_plans by", "source", lambda v: plans(by=v), NAMES)
    yield from each("neuron_plans reg", "reg", lambda v: plans(reg=v), but(POSITIVE, None))
    match = clafusion.neuron_plans
    yield from each("neuron_plans source", "source", lambda v: match(v, w.deep, w.pixels), NETWORKS)
    yield from each("neuron_plans target", "target", lambda v: match(w.deep, v, w.pixels), NETWORKS)
    yield from each("neuron_plans images", "images", lambda v: match(w.deep, w.twin_deep, v), IMAGES)
    yield from each("Transport metric", "metric", lambda v: clafusion.Transport(metric=v), NAMES)
    yield from each("Transport by", "source", lambda v: clafusion.Transport(by=v), NAMES)
    yield from each("Transport side", "side", lambda v: clafusion.Transport(input_side=v), NAMES)
    yield from each("Transport reg", "reg", lambda v: clafusion.Transport(reg=v), but(POSITIVE, None))
    weights = [w.matrix]
    yield from each("fuse_weights step", "step", lambda v: clafusion.fuse_weights(weights, weights, [], v), SHARES)
    yield one("fuse_weights plans", "plans", lambda: clafusion.fuse_weights(weights, weights, [w.matrix] * 3))
    yield from each(
        "transport_neurons step",
        "blend",
        lambda v: clafusion.transport_neurons(w.deep, w.twin_deep, w.pixels, v),
        SHARES,
    )


zoo_deep = nn.Sequential(
    nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 4)
)
"""So deep that several maps keep the pins, and the images are looked at."""


def of_merging() -> Iterator[Case]:
    pair = [w.a, w.twin_a]
    bad = [
        None,
        3,
        "x",
        torch.zeros(0, 1, 8, 8),
        torch.zeros(8, 1, 8, 8, dtype=torch.uint8),
        torch.full((2, 1, 8, 8), nan),
    ]
    wide = [*bad, torch.zeros(8, 3, 8, 8)]
    weights = [[1], [1, 2, 3], "ab", 3, [nan, 1], [float("inf"), 0], ["1", "2"], [None, 1], [True, False], [1j, 1]]
    yield from each("average weights", "weights", lambda v: merging.average(pair, w.images, v), weights)
    yield from each("average models", "models", lambda v: merging.average(v, w.images), [None, 3, [], w.a, w.images])
    yield from each("average model", "network", lambda v: merging.average([w.a, v], w.images), NETWORKS)
    yield from each("average images", "images", lambda v: merging.average(pair, v), wide)
    yield one("average shapes", "conv1", lambda: merging.average([w.a, w.b], w.images))
    yield from each("update_bn images", "images", lambda v: merging.update_bn(w.a, v), wide)
    yield from each("update_bn model", "model", lambda v: merging.update_bn(v, w.images), NETWORKS)
    yield from each("between share", "share", lambda v: merging.between(w.a, w.twin_a, v), FINITE)
    yield from each("between a", "network", lambda v: merging.between(v, w.a, 0.5), NETWORKS)
    yield from each("between b", "network", lambda v: merging.between(w.a, v, 0.5), NETWORKS)
    yield one("between shapes", "conv1", lambda: merging.between(w.a, w.b, 0.5))
    steps = [1, 0, -1, 1.5, nan, "11", None, True, [nan], ["a"], 2**70]
    yield from each("curve steps", "steps", lambda v: merging.curve(w.a, w.twin_a, lambda m: 1.0, v), steps)
    yield from each("curve score", "score", lambda v: merging.curve(w.a, w.twin_a, v), [None, 3, "loss"])
    yield from each("curve finish", "finish", lambda v: merging.curve(w.a, w.twin_a, lambda m: 1.0, 3, v), [3, "bn"])
    losses = [[], [1.0], None, 3, ["a", "b"], [None, 1.0], "12"]
    yield from each("barrier losses", "losses", lambda v: merging.barrier(v), losses)
    yield from each(
        "barrier at", "places", lambda v: merging.barrier([1.0, 2.0], v), [[0], [1, 0], [nan, 1], 3, ["a", "b"]]
    )
    yield from each("repair images", "images", lambda v: merging.repair(w.a, pair, v), bad)
    yield from each("repair parents", "parents", lambda v: merging.repair(w.a, v, w.images), [[], None, 3, w.a])
    yield from each("repair parent", "parent", lambda v: merging.repair(w.a, [w.a, v], w.images), [*NETWORKS, w.deep])
    yield from each("repair fused", "fused", lambda v: merging.repair(v, pair, w.images), NETWORKS)
    yield from each("repair weights", "weights", lambda v: merging.repair(w.a, pair, w.images, v), weights)
    yield from each("match_weights source", "source", lambda v: merging.match_weights(v, w.a), NETWORKS)
    yield from each("match_weights target", "target", lambda v: merging.match_weights(w.a, v), NETWORKS)
    yield from each(
        "match_weights seed", "seed", lambda v: merging.match_weights(w.a, w.twin_a, seed=v), [*SEEDS, None]
    )
    yield from each(
        "match_weights sweeps", "sweeps", lambda v: merging.match_weights(w.a, w.twin_a, sweeps=v), but(COUNTS, 0)
    )
    yield one("match_weights NaN", "finite", lambda: merging.match_weights(w.a, w.nan_a))
    yield one("match_weights shapes", "conv1", lambda: merging.match_weights(w.a, w.b))
    yield one("match_weights meta", "meta", lambda: merging.match_weights(w.a, w.meta_a))
    yield one("between meta", "meta", lambda: merging.between(w.a, w.meta_a, 0.5))
    yield one("average meta", "meta", lambda: merging.average([w.a, w.meta_a], w.images))
    yield from each(
        "Ensemble weights", "weights", lambda v: merging.Ensemble(pair, v), [*weights[:-2], [0, 0], [-1, 2]]
    )
    yield from each("Ensemble models", "models", lambda v: merging.Ensemble(v), [None, 3, []])
    yield from each("Ensemble model", "network", lambda v: merging.Ensemble([w.a, v]), NETWORKS)
    yield from each("variances images", "images", lambda v: merging.variances(w.a, v), wide)
    yield from each("variances model", "model", lambda v: merging.variances(v, w.images), NETWORKS)


def cases() -> Iterator[Case]:
    for part in (of_fuse, of_clafusion, of_merging):
        yield from part()
