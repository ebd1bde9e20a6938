"""The kernels and the matches: numbers on plain tensors."""

from collections.abc import Iterator
from math import inf, nan

import torch

from hetlib import match
from hetlib.grafting import coefficient
from hetlib.kernels import filter_entropy, linear_cka, transport_plan, weight_entropy
from hetlib.kernels.cca import cca
from hetlib.kernels.choice import calibrate, choose_teacher
from hetlib.kernels.cka import compare, gram
from hetlib.kernels.costs import cost_matrix
from hetlib.kernels.graft import entropy_coefficients
from hetlib.kernels.mmd import mmd
from hetlib.kernels.sinkhorn import sinkhorn
from hetlib.kernels.transport import transport_plans
from tests.bad_inputs.world import COUNTS, FINITE, NAMES, POSITIVE, SEEDS, SHARES, Case, but, each, one, w

ROWS = torch.rand(6, 4)
NO_TENSOR = [None, "x", 3, [1.0]]
PINS = [None, 1, (1,), (1, 1, 1), (-1, 1), (1.5, 1), "11", (True, True), (nan, 1), (9, 9), (2**70, 1)]


def of_likeness() -> Iterator[Case]:
    bare = torch.randn(4, 3, 5, 5)
    for name, measure in (("linear_cka", linear_cka), ("cca", cca)):
        yield one(f"{name} of bare tensors", "list [", lambda m=measure: m(bare, bare))
        yield one(f"{name} of matrices", "list [", lambda m=measure: m(ROWS, ROWS))
        yield from each(
            f"{name} xs", "xs", lambda v, m=measure: m(v, [ROWS]), [None, 3, "ab", [], ["a"], [None], [ROWS[0]]]
        )
        yield from each(
            f"{name} ys", "ys", lambda v, m=measure: m([ROWS], v), [None, 3, "ab", [], ["a"], [None], [ROWS[0]]]
        )
        yield from each(f"{name} samples", "samples", lambda v, m=measure: m([ROWS], [v]), [ROWS[:3], ROWS[:0]])
        yield one(f"{name} one sample", "samples", lambda m=measure: m([ROWS[:1]], [ROWS[:1]]))
        yield from each(f"{name} finite", "finite ys[0]", lambda v, m=measure: m([ROWS], [ROWS * v]), [nan, inf])
        yield one(f"{name} complex", "ys[0] complex", lambda m=measure: m([ROWS], [ROWS * 1j]))
    yield from each("gram x", "x", lambda v: gram(v), [*NO_TENSOR, torch.tensor(1.0), ROWS[0], ROWS[:1], ROWS * 1j])
    yield from each("compare ks", "ks", lambda v: compare(v, [ROWS @ ROWS.T]), [None, 3, [], [ROWS], ["a"]])
    yield one("compare of bare Grams", "list [", lambda: compare(ROWS @ ROWS.T, ROWS @ ROWS.T))
    bad = [*NO_TENSOR, torch.tensor(1.0), ROWS[0], ROWS[:0], torch.rand(3, 7)]
    yield from each("mmd xs", "xs", lambda v: mmd(v, [ROWS]), [None, 3, [], ["a"], ROWS])
    yield from each(
        "mmd sigmas", "sigma", lambda v: mmd([ROWS], [ROWS], v), [[], [0.0], [nan], [-1], None, "a", 3, ["a"], [inf]]
    )
    yield from each("cost_matrix x", "rows x", lambda v: cost_matrix(v, ROWS), bad[:4])
    yield from each("cost_matrix x", "rows", lambda v: cost_matrix(v, ROWS), bad[4:])
    yield from each("cost_matrix y", "rows y", lambda v: cost_matrix(ROWS, v), bad[:4])
    yield from each("cost_matrix metric", "metric", lambda v: cost_matrix(ROWS, ROWS, v), NAMES)
    yield from each("cost_matrix samples", "samples", lambda v: cost_matrix(ROWS, ROWS, samples=v), COUNTS)
    yield from each("cost_matrix normalise", "normalisation", lambda v: cost_matrix(ROWS, ROWS, normalise=v), NAMES)
    yield one("cost_matrix complex", "complex", lambda: cost_matrix(ROWS * 1j, ROWS * 1j))


def of_transport() -> Iterator[Case]:
    bad = [*NO_TENSOR, ROWS[0], ROWS[:0], torch.tensor(1.0), ROWS * nan, ROWS * inf, ROWS * 1j]
    yield from each("transport_plan cost", "cost", transport_plan, bad)
    yield from each("transport_plans costs", "cost", lambda v: transport_plans(v), [None, 3, [None], [ROWS[0]], ["a"]])
    yield from each("transport_plans threads", "threads", lambda v: transport_plans([ROWS], v), but(COUNTS, None))
    yield from each("sinkhorn cost", "cost", lambda v: sinkhorn(v, 0.1), bad)
    yield from each("sinkhorn reg", "reg", lambda v: sinkhorn(ROWS, v), POSITIVE)
    yield from each("sinkhorn iterations", "iterations", lambda v: sinkhorn(ROWS, 0.1, v), but(COUNTS, 2**70))
    yield from each("sinkhorn tolerance", "tolerance", lambda v: sinkhorn(ROWS, 0.1, tolerance=v), FINITE)


def of_entropy() -> Iterator[Case]:
    bad = [torch.ones(0), torch.ones(3, dtype=torch.int64), torch.tensor([nan, 1.0]), torch.tensor([inf]), ROWS * 1j]
    yield from each("weight_entropy weights", "weights", weight_entropy, [None, 3, ["a"], [None], *([v] for v in bad)])
    yield one("weight_entropy bare", "weights list [", lambda: weight_entropy(ROWS))
    yield from each("weight_entropy bins", "bins", lambda v: weight_entropy([ROWS], v), COUNTS)
    yield from each("filter_entropy weight", "weight", filter_entropy, [*NO_TENSOR, torch.tensor(1.0), *bad])
    yield from each("filter_entropy bins", "bins", lambda v: filter_entropy(ROWS, v), COUNTS)
    yield from each("coefficient a", "a", lambda v: coefficient(1.0, 2.0, v), SHARES)
    yield from each("coefficient c", "c", lambda v: coefficient(1.0, 2.0, c=v), FINITE)
    yield from each(
        "coefficient decimals", "decimals", lambda v: coefficient(1.0, 2.0, decimals=v), but(COUNTS, 0, None)
    )
    yield from each("coefficient own", "own", lambda v: coefficient(v, 2.0), [None, "x", [], w.a])
    yield from each(
        "entropy_coefficients own", "own", lambda v: entropy_coefficients(v, [ROWS]), [None, 3, [], ["a"], ROWS]
    )


def of_choice() -> Iterator[Case]:
    yield from each(
        "choose_teacher logits",
        "logits",
        choose_teacher,
        [*NO_TENSOR, ROWS, torch.rand(0, 3, 4), w.logits * nan, w.logits * 1j, w.logits.long()],
    )
    yield from each("choose_teacher rule", "rule", lambda v: choose_teacher(w.logits, v), NAMES)
    temperatures = [[1], [1, 2, 3], [0, 1], [-1, 1], [nan, 1], ["a", "b"], 3, "ab", [inf, 1]]
    yield from each(
        "choose_teacher temperatures", "temperatures", lambda v: choose_teacher(w.logits, temperatures=v), temperatures
    )
    labels = [
        None,
        3,
        "x",
        torch.zeros(5, dtype=torch.int64),
        torch.full((6,), 9),
        torch.full((6,), -1),
        torch.zeros(6),
    ]
    yield from each("choose_teacher labels", "labels", lambda v: choose_teacher(w.logits, "oracle", labels=v), labels)
    yield from each(
        "calibrate logits",
        "logits",
        lambda v: calibrate(v, torch.zeros(6, dtype=torch.int64)),
        [*NO_TENSOR, w.logits, w.logits[0] * nan],
    )
    yield from each("calibrate labels", "labels", lambda v: calibrate(w.logits[0], v), labels)


def of_matches() -> Iterator[Case]:
    yield from each("align pins", "pins", lambda v: match.align(w.matrix, v), PINS)
    costs = [
        None,
        "x",
        torch.ones(3),
        torch.ones(2, 3),
        w.matrix * nan,
        w.matrix * inf,
        torch.ones(0, 0),
        torch.ones(3, 0),
        w.matrix * 1j,
    ]
    yield from each("align cost", "cost", match.align, costs)
    yield from each("least_costs cost", "cost", match.least_costs, costs[:3])
    yield from each("legal_maps pins", "pins", lambda v: match.legal_maps(5, 3, v), PINS[:-2])
    yield from each("legal_maps m", "m", lambda v: match.legal_maps(v, 3), but(COUNTS, 0, 2**70))
    yield from each("legal_maps n", "n", lambda v: match.legal_maps(5, v), but(COUNTS, 2**70))
    yield from each("by_ratio n_source", "source", lambda v: match.by_ratio(v, 3), but(COUNTS, 2**70))
    yield from each("by_ratio n_target", "target", lambda v: match.by_ratio(3, v), COUNTS)
    orders = [None, 3, "chian", [0.5], ["a"], [True], [99], [-1], [0, 0]]
    yield from each("by_position order", "order", lambda v: match.by_position(5, 3, v), orders)
    yield from each("by_position n_source", "source", lambda v: match.by_position(v, 3), but(COUNTS, 2**70))
    yield from each("by_position seed", "seed", lambda v: match.by_position(5, 3, "shuffle", v), SEEDS)
    yield from each("by_score scores", "scores", match.by_score, [None, "x", 3, torch.ones(3), w.matrix * nan])
    yield from each("by_blocks score", "score", lambda v: match.by_blocks([1], [1], v), [None, 3, "x"])
    yield from each(
        "shape_score", "shape", lambda v: match.shape_score(v, (3, 3)), [None, 3, (0, 3), (-1, 3), ("a", 3), (nan, 3)]
    )


def cases() -> Iterator[Case]:
    for part in (of_likeness, of_transport, of_entropy, of_choice, of_matches):
        yield from part()
