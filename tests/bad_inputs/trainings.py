"""Training, grafting and amalgamation."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf, nan

import torch

from hetlib import amalgamation as am
from hetlib import grafting
from hetlib.grafting import Grafting, graft, initial_rates
from hetlib.training import Distillation, Frozen, Lockstep, Loop, Recipe, distillation_loss, evaluate, fit
from tests.bad_inputs.world import (
    COUNTS,
    FINITE,
    NAMES,
    NETWORKS,
    NOT_NEGATIVE,
    POSITIVE,
    SEEDS,
    SHARES,
    Case,
    but,
    each,
    one,
    w,
)

TRAIN = w.train
IMAGES = [None, "digits", 3, torch.zeros(4, 1, 8, 8), [1]]


def of_recipe() -> Iterator[Case]:
    for name in ("epochs", "batch_size", "evaluate_every"):
        yield from each(f"Recipe {name}", name, lambda v, n=name: Recipe(**{n: v}), COUNTS)
        yield from each(f"fit {name}", name, lambda v, n=name: fit(w.a, TRAIN, **{n: v}), [-1, 0.5, "3", True])
    yield from each("Recipe lr", "lr", lambda v: Recipe(lr=v), POSITIVE)
    yield from each("Recipe momentum", "momentum", lambda v: Recipe(momentum=v), SHARES)
    yield from each("Recipe weight_decay", "weight_decay", lambda v: Recipe(weight_decay=v), NOT_NEGATIVE)
    yield from each("Recipe gamma", "gamma", lambda v: Recipe(gamma=v), NOT_NEGATIVE)
    for name in ("optimiser", "schedule", "precision"):
        yield from each(f"Recipe {name}", name, lambda v, n=name: Recipe(**{n: v}), NAMES)
    milestones = [None, 3, "12", [0.5], [-1], [True], [nan], ["1"]]
    yield from each("Recipe milestones", "milestones", lambda v: Recipe(milestones=v), milestones)
    rates = [None, 3, "ab", [("a",)], [("a", "b")], [(1, 2.0)], [("a", nan)], [("a", -1.0)], ["ab"], [("a", None)]]
    yield from each("Recipe rates", "rates", lambda v: Recipe(rates=v), rates)
    yield one("Recipe.changed", "epoch epochs", lambda: Recipe().changed(epoch=3))


def of_training() -> Iterator[Case]:
    few = {"epochs": 1, "batch_size": 8, "augment": False}
    yield from each("fit model", "model", lambda v: fit(v, TRAIN, **few), NETWORKS)
    yield from each("fit data", "data", lambda v: fit(w.a, v, **few), IMAGES)
    yield from each("fit test", "test", lambda v: fit(w.a, TRAIN, v, **few), IMAGES[1:])
    yield from each("fit validation", "validation", lambda v: fit(w.a, TRAIN, TRAIN, validation=v, **few), IMAGES[1:])
    yield from each("fit recipe", "recipe", lambda v: fit(w.a, TRAIN, None, v), ["fast", 3, {"epochs": 1}, [1]])
    yield from each("fit seed", "seed", lambda v: fit(w.a, TRAIN, seed=v, **few), [*SEEDS, None])
    yield from each("fit objective", "objective", lambda v: fit(w.a, TRAIN, objective=v, **few), [3, "ce", w.images])
    yield from each("fit batches", "batches", lambda v: fit(w.a, TRAIN, batches=v, **few), [3, "all"])
    yield from each("fit on_epoch", "on_epoch", lambda v: fit(w.a, TRAIN, on_epoch=v, **few), [3, "x"])
    rows = [3, "x", torch.ones(3), torch.tensor(1.0), [torch.ones(16), torch.ones(3)], [None], ["a"]]
    yield from each("fit rows", "rows", lambda v: fit(w.a, TRAIN, rows=v, **few), rows)
    yield one("fit epoch", "epoch epochs", lambda: fit(w.a, TRAIN, epoch=1))
    yield one(
        "fit channels",
        "channels",
        lambda: fit(w.a, replace(TRAIN, images=torch.zeros(16, 3, 8, 8, dtype=torch.uint8)), **few),
    )
    labels = [torch.full((16,), 9), torch.full((16,), -1)]
    yield from each("fit labels", "label", lambda v: fit(w.a, replace(TRAIN, labels=v), **few), labels)
    yield one("fit no images", "images", lambda: fit(w.a, TRAIN.subset([]), **few))
    yield from each("fit odd network", "model meta", lambda v: fit(v, TRAIN, **few), [w.meta_a])
    yield one("fit lazy network", "model lazy", lambda: fit(w.lazy, TRAIN, **few))
    yield one("fit NaN network", "finite", lambda: fit(w.nan_a, TRAIN, **few))
    yield from each("Loop seed", "seed", lambda v: Loop(w.a, TRAIN, seed=v), SEEDS)
    yield from each("evaluate model", "model", lambda v: evaluate(v, TRAIN), [*NETWORKS, w.meta_a])
    yield from each("evaluate data", "data", lambda v: evaluate(w.a, v), IMAGES)
    yield from each("evaluate batch_size", "batch_size", lambda v: evaluate(w.a, TRAIN, v), COUNTS)
    yield from each("evaluate precision", "precision", lambda v: evaluate(w.a, TRAIN, 8, v), NAMES)
    yield from each("evaluate labels", "label", lambda v: evaluate(w.a, replace(TRAIN, labels=v)), labels)
    yield from each("Lockstep loops", "trainings", Lockstep, [[], None, 3, [w.a]])
    teach = lambda **how: Distillation(w.a, **{"alpha": 0.5, "temperature": 1.0} | how)
    yield from each("Distillation alpha", "alpha", lambda v: teach(alpha=v), SHARES)
    yield from each("Distillation temperature", "temperature", lambda v: teach(temperature=v), POSITIVE)
    yield from each("Distillation teacher", "teacher", lambda v: Distillation(v, 0.5, 1.0), NETWORKS)
    yield from each("Frozen network", "network", Frozen, NETWORKS)
    say = torch.zeros(2, 3)
    yield one(
        "distillation_loss shapes", "shape", lambda: distillation_loss(say, say[:1], torch.zeros(2).long(), 0.5, 1.0)
    )


def of_grafting() -> Iterator[Case]:
    ring = [w.a, w.twin_a]
    for name, bad in (("a", SHARES), ("c", FINITE), ("threshold", POSITIVE), ("bins", COUNTS)):
        yield from each(f"Grafting {name}", name, lambda v, n=name: Grafting(**{n: v}), bad)
        yield from each(
            f"graft {name}",
            name,
            lambda v, n=name: graft(ring, **{n: v}),
            [nan, "1", None, -1.0 if name != "c" else 1j],
        )
    decimals = [*but(COUNTS, 0, None), 16]
    yield from each("Grafting decimals", "decimals", lambda v: Grafting(decimals=v), decimals)
    for name in ("criterion", "scion", "level"):
        yield from each(f"Grafting {name}", name, lambda v, n=name: Grafting(**{n: v}), NAMES)
    yield one("graft levl", "levl level", lambda: graft(ring, levl="filter"))
    yield from each("graft states", "networks", lambda v: graft(v), [None, 3, "ab", w.a])
    yield from each("graft ring", "networks", lambda v: graft(v), [[], [w.a]])
    yield from each(
        "graft network", "network", lambda v: graft([w.a, v]), [v for v in NETWORKS if not isinstance(v, dict)]
    )
    yield one("graft other", "conv1", lambda: graft([w.a, w.b]))
    yield one("graft NaN", "finite network", lambda: graft([w.a, w.nan_a]))
    yield one("graft meta", "network meta", lambda: graft([w.a, w.meta_a]))
    yield one("graft mixed", "network", lambda: graft([w.a, w.a.state_dict()]))
    yield from each("graft seed", "seed", lambda v: graft(ring, scion="noise", seed=v), [*SEEDS, None])
    yield from each("graft epoch", "epoch", lambda v: graft(ring, scion="noise", epoch=v), but(COUNTS, 0, 2**70))
    images = [None, "x", torch.zeros(0, 1, 8, 8), w.train.images, w.images * nan]
    yield from each("graft images", "images", lambda v: graft(ring, criterion="activation", images=v), images)
    yield from each("ByEntropy a", "a", lambda v: grafting.ByEntropy(v), SHARES)
    yield from each("ByEntropy c", "c", lambda v: grafting.ByEntropy(c=v), FINITE)
    yield from each("ByEntropy bins", "bins", lambda v: grafting.ByEntropy(bins=v), COUNTS)
    yield from each("ByNorm decimals", "decimals", lambda v: grafting.ByNorm(decimals=v), decimals)
    yield from each("initial_rates lr", "lr", lambda v: initial_rates(v, 2), POSITIVE)
    yield from each("initial_rates k", "k", lambda v: initial_rates(0.1, v), COUNTS)
    yield from each("recipes preset", "preset", lambda v: grafting.recipes(v, 2), NAMES)
    yield from each("recipes k", "k", lambda v: grafting.recipes("slr", v), COUNTS)
    yield from each("AfterEpoch every", "every", lambda v: grafting.AfterEpoch(every=v), COUNTS)
    yield from each("Averaging start", "start", lambda v: grafting.Averaging(start=v), SHARES)
    yield from each("Averaging decay", "decay", lambda v: grafting.Averaging(decay=v), SHARES)
    yield from each("Internal threshold", "threshold", lambda v: grafting.Internal(v), POSITIVE)
    yield from each("Noise threshold", "threshold", lambda v: grafting.Noise(0, v), POSITIVE)
    yield from each("Noise epoch", "epoch", lambda v: grafting.Noise(v), but(COUNTS, 0, 2**70))
    yield from each("invalid_filters threshold", "threshold", lambda v: grafting.invalid_filters(w.a, v), POSITIVE)
    yield from each("invalid_filters model", "model", grafting.invalid_filters, NETWORKS)


def of_amalgamation() -> Iterator[Case]:
    pool = [am.Source("one", w.a, {"kind": "abcd"}), am.Source("two", w.b, {"kind": "abcd"})]
    make = lambda n: w.b
    run = lambda **how: am.customise(pool, ["kind"], TRAIN, target=make, component=make, **how)
    yield from each("customise pool", "pool", lambda v: am.customise(v, ["kind"], TRAIN), [None, 3, [w.a], "ab", []])
    yield from each(
        "customise wanted", "wanted", lambda v: am.customise(pool, v, TRAIN), [[], None, 3, ["kind", "kind"]]
    )
    yield from each("customise task", "task", lambda v: am.customise(pool, v, TRAIN), [["kin"], [3], [None]])
    yield from each("customise data", "data", lambda v: am.customise(pool, ["kind"], v), IMAGES)
    yield from each("customise test", "test", lambda v: am.customise(pool, ["kind"], TRAIN, v), IMAGES[1:])
    yield from each("customise method", "method", lambda v: run(method=v), NAMES)
    yield from each("customise seed", "seed", lambda v: run(seed=v), [*SEEDS, None])
    yield from each("customise recipe", "recipe", lambda v: run(recipe=v), [None, "fast", 3])
    yield from each("customise target_recipe", "target_recipe", lambda v: run(target_recipe=v), ["fast", 3])
    yield from each("customise settings", "settings", lambda v: run(settings=v), ["fast", 3, {"rule": "entropy"}])
    yield from each(
        "customise target",
        "target",
        lambda v: am.customise(pool, ["kind"], TRAIN, target=v, component=make),
        [3, "resnet8", lambda n: 3],
    )
    yield from each(
        "customise component",
        "component",
        lambda v: am.customise(pool, ["kind"], TRAIN, target=make, component=v),
        [3, "x", lambda n: 3],
    )
    yield from each("customise folder", "folder", lambda v: run(folder=v), [3, {"chioce": "x"}, [1]])
    yield one("customise roole", "roole rule", lambda: run(roole="entropy"))
    for name in ("features", "logits", "norm"):
        yield from each(f"Settings {name}", name, lambda v, n=name: am.Settings(**{n: v}), NOT_NEGATIVE)
    for name, word in (("rule", "rule"), ("view", "view"), ("epoch", "epoch")):
        yield from each(f"Settings {name}", word, lambda v, n=name: am.Settings(**{n: v}), NAMES)
    yield from each(
        "Settings common", "common", lambda v: am.Settings(common=v), [0, -1.0, nan, inf, "a", None, [0], [1.5]]
    )
    temperatures = [None, 3, {"one": 0}, {"one": nan}, {"one": "x"}, {"one": -1.0}, [1.0]]
    yield from each("Settings temperatures", "temperatures", lambda v: am.Settings(temperatures=v), temperatures)
    yield from each(
        "Settings tasks",
        "tasks",
        lambda v: am.Settings(tasks=v),
        [None, 3, {"kind": nan}, {"kind": "x"}, {"kind": -1.0}],
    )
    yield from each("Settings match", "match", lambda v: am.Settings(match=v), [None, 3, "x"])
    yield from each("ByResolution count", "count", lambda v: am.ByResolution(v), COUNTS)
    yield from each("Source network", "network", lambda v: am.Source("one", v, ["x"]), NETWORKS)
    yield from each("Source tasks", "tasks", lambda v: am.Source("one", w.a, v), [None, 3, {"a": 3}, {"a": []}, []])
    yield from each("batch_sizes lengths", "subset", am.batch_sizes, [[], [0], [1, -1], None, 3, [1.5], ["a"], [True]])
    yield from each("batch_sizes largest", "largest", lambda v: am.batch_sizes([4], v), COUNTS)
    yield from each("OfEachSubset sizes", "sizes", am.OfEachSubset, [(), (0,), (1.5,), None, 3, ("a",), (True,)])
    yield from each("OfEachSubset epoch", "epoch", lambda v: am.OfEachSubset((1,), v), NAMES)
    yield from each("subsets rule", "rule", lambda v: am.subsets(w.logits, v), NAMES)
    yield from each("subsets logits", "logits", am.subsets, [None, "x", 3, w.matrix, w.logits * nan])
    yield from each("subsets seed", "seed", lambda v: am.subsets(w.logits, "random", seed=v), [*SEEDS, None])
    yield from each("subsets batch_size", "batch_size", lambda v: am.subsets(w.logits, "batch", batch_size=v), COUNTS)
    yield from each("class_parts parts", "parts", lambda v: am.class_parts("abcd", v), COUNTS)
    yield from each("class_parts seed", "seed", lambda v: am.class_parts("abcd", 2, v), SEEDS)
    teachers = [am.Teacher("one", w.b)]
    say = lambda **how: am.Amalgamation(w.a, teachers, w.images, **how)
    for name in ("features", "logits", "norm"):
        yield from each(f"Amalgamation {name}", name, lambda v, n=name: say(**{n: v}), NOT_NEGATIVE)
    yield from each(
        "Amalgamation teachers", "teacher", lambda v: am.Amalgamation(w.a, v, w.images), [[], None, 3, [w.a], "ab"]
    )
    yield from each("Amalgamation student", "student", lambda v: am.Amalgamation(v, teachers, w.images), NETWORKS)
    yield from each("Amalgamation common", "common", lambda v: say(common=v), [0, -1.0, nan, inf, "a", [0], [1.5], [1]])
    yield from each("Amalgamation sizes", "sizes", lambda v: say(sizes=v), [[], [1, 2], [0], [1.5], 3, "a", [True]])
    yield from each("Teacher weight", "weight", lambda v: am.Teacher("one", w.a, weight=v), NOT_NEGATIVE)
    yield from each("Teacher network", "network", lambda v: am.Teacher("one", v), NETWORKS)
    yield from each(
        "AverageDistillation weights",
        "weights",
        lambda v: am.AverageDistillation(w.a, teachers, w.images, weights=v),
        [[], [1, 2], [nan], ["a"], 3, None],
    )


def cases() -> Iterator[Case]:
    for part in (of_recipe, of_training, of_grafting, of_amalgamation):
        yield from part()
