"""What a ring does after an epoch: when it grafts, what it tidies up, what it notes."""

from copy import deepcopy

import pytest
import torch

from hetlib import data, zoo
from hetlib.data import few_shot, sample
from hetlib.grafting import AfterEpoch, Averaging, Grafting, Voting, recipes
from hetlib.merging import Ensemble, update_bn
from hetlib.training import Lockstep, Loop, Recipe, evaluate

RECIPE = Recipe(epochs=2, lr=0.05, precision="fp32", augment=False, batch_size=64)


@pytest.fixture(scope="module")
def digits():
    return few_shot(data.load("digits"), 10), data.load("digits", "test")


def ring(digits, between, k=2):
    loops = []
    for seed, recipe in enumerate(recipes("dlr", k, RECIPE)):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = zoo.build("plainnet5", in_channels=1, width=0.125, kernel_size=3)
        loops.append(Loop(net, *digits, recipe, seed=seed))
    return Lockstep(loops, between)


def states(ring):
    return [deepcopy(loop.model.state_dict()) for loop in ring.loops]


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def test_two_networks_are_one_after_a_graft_and_not_before(digits):
    told = ring(digits, AfterEpoch())
    told.epoch()
    (fact,) = told.facts
    assert fact["distance"] > 0.01
    assert fact["distance_after"] == 0
    for layer, (first, second) in fact["coefficients"].items():
        assert first + second == pytest.approx(1)
        if first != second:
            assert (first > second) == (fact["entropy"][layer][0] > fact["entropy"][layer][1])
    first, second = states(told)
    counters = {key for key, value in first.items() if not value.is_floating_point()}
    assert same({k: v for k, v in first.items() if k not in counters}, second)


def test_grafts_come_every_few_epochs(digits):
    told = ring(digits, AfterEpoch(every=2))
    told.run()
    assert ["coefficients" in fact for fact in told.facts] == [False, True]


def test_statistics_are_measured_anew(digits):
    plain, anew = ring(digits, AfterEpoch()), ring(digits, AfterEpoch(update_bn=True))
    plain.epoch()
    anew.epoch()
    update_bn(plain.loops[0].model, sample(digits[0], 1024))
    assert same(*(states(each)[0] for each in (plain, anew)))


def test_momentum_is_forgotten(digits):
    for reset in (False, True):
        told = ring(digits, AfterEpoch(reset_momentum=reset))
        told.epoch()
        moments = [s["momentum_buffer"] for loop in told.loops for s in loop.optimiser.state.values()]
        assert moments
        assert all(bool(moment.any()) != reset for moment in moments)


@pytest.mark.parametrize(
    "how", [{"criterion": "activation"}, {"scion": "noise"}, {"level": "network"}, {"align": True}]
)
def test_other_grafts_train(digits, how):
    told = ring(digits, AfterEpoch(Grafting(**how)))
    told.run()
    assert all(torch.isfinite(torch.tensor(history.loss)).all() for history in told.histories)


def test_watching_changes_nothing(digits):
    plain, watched = ring(digits, AfterEpoch()), ring(digits, AfterEpoch(watch=True))
    plain.run()
    watched.run()
    assert all(map(same, states(plain), states(watched)))
    assert [set(b) - set(a) for a, b in zip(plain.facts, watched.facts, strict=True)] == [
        {"after", "after_update_bn"}
    ] * 2
    assert watched.facts[-1]["after"][0] == evaluate(watched.loops[0].model, digits[1])["top1"]


def test_controls_change_nothing_and_score_what_they_say(digits):
    alone, voting, averaging = (ring(digits, between) for between in (None, Voting(), Averaging(start=0.5, decay=0.0)))
    for each in (alone, voting, averaging):
        each.run()
    assert all(map(same, states(alone), states(voting)))
    assert all(map(same, states(alone), states(averaging)))
    vote = evaluate(Ensemble(loop.model for loop in alone.loops), digits[1])["top1"]
    assert voting.facts[-1]["accuracy"] == vote
    for k, loop in enumerate(averaging.loops):
        update_bn(loop.model, sample(digits[0], 1024))
        expected = evaluate(loop.model, digits[1])["top1"]
        assert averaging.facts[-1]["swa"][k] == averaging.facts[-1]["ema"][k] == expected


def test_no_epochs_between_are_refused():
    with pytest.raises(ValueError, match=r"every, .* must be a whole number of at least 1"):
        AfterEpoch(every=0)
