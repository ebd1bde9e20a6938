"""Groups: trainings in lock step as data, kept under a key, resumed, and the same in other processes."""

from dataclasses import dataclass, replace

import pytest
import torch

from hetlib.grafting import AfterEpoch, Averaging, Grafting
from hetlib.lab import Cache, Group, Job, train, train_all
from hetlib.lab.job import asked
from hetlib.lab.train import Stopped
from hetlib.training import Recipe

QUICK = Recipe(epochs=3, lr=0.05, precision="fp32", augment=False, batch_size=256)
JOBS = tuple(
    Job(model="plainnet5", data="digits", recipe=QUICK, seed=seed, options={"width": 0.125, "kernel_size": 3})
    for seed in (0, 1)
)
RING = Group(jobs=JOBS, between=AfterEpoch(watch=True))


@dataclass(frozen=True)
class Nothing:
    """Changes nothing."""

    def __call__(self, ring):
        return {"epochs": ring.epochs}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_group_is_trained_once_in_any_process_to_the_same_numbers(tmp_path):
    cache = Cache(tmp_path / "cache")
    found, alone, again = train_all([RING, JOBS[0], RING], cache, processes=2)
    assert (len(cache.computed), found.facts) == (2, again.facts)
    here = train(RING, Cache(tmp_path / "other"))
    assert [member.history for member in here.members] == [member.history for member in found.members]
    assert all(same(a.model, b.model) for a, b in zip(here.members, found.members, strict=True))
    assert same(*(member.model for member in found.members))  # two networks become one by the last graft
    assert not same(found.members[0].model, alone.model)
    assert [len(epoch["after"]) for epoch in found.facts] == [2, 2, 2]


def test_members_without_a_step_that_changes_them_come_to_what_they_come_to_alone(tmp_path):
    cache = Cache(tmp_path)
    found = train(Group(jobs=JOBS, between=Nothing()), cache)
    for job, member in zip(JOBS, found.members, strict=True):
        alone = train(job, cache)
        assert alone.history == member.history
        assert same(alone.model, member.model)
    assert found.facts == [{"epochs": 1}, {"epochs": 2}, {"epochs": 3}]


def test_a_group_that_was_stopped_goes_on(tmp_path):
    cache = Cache(tmp_path / "cache")
    with pytest.raises(Stopped, match=r"2 x plainnet5 on digits \(AfterEpoch\), seed 0: stopped after 2 of 3"):
        train(RING, cache, on_epoch=lambda history: history.epochs == 2)
    seen = []
    found = train(RING, cache, on_epoch=lambda history: seen.append(history.epochs))
    assert seen == [3]
    whole = train(RING, Cache(tmp_path / "other"))
    assert found.facts == whole.facts
    assert all(same(a.model, b.model) for a, b in zip(whole.members, found.members, strict=True))


def test_every_setting_makes_another_result(tmp_path):
    cache = Cache(tmp_path)
    steps = (
        AfterEpoch(),
        AfterEpoch(every=2),
        AfterEpoch(Grafting(c=5.0)),
        Averaging(),
        Averaging(decay=0.9),
        Nothing(),
    )
    groups = [RING, Group(jobs=JOBS[:1], between=AfterEpoch()), *(Group(jobs=JOBS, between=step) for step in steps)]
    assert len({cache.key(*asked(group)) for group in groups}) == len(groups)


def test_averages_of_one_training(tmp_path):
    cache = Cache(tmp_path)
    moving = train(Group(jobs=JOBS[:1], between=Averaging(decay=0.0)), cache)
    assert all(
        torch.equal(moving.memory[f"ema.0.{name}"], value)
        for name, value in moving.members[0].model.state_dict().items()
        if value.is_floating_point()
    )
    mean = train(Group(jobs=JOBS[:1], between=Averaging(start=0.3)), cache)
    assert [set(facts) for facts in mean.facts] == [set(), set(), {"ema", "swa"}]
    assert len(mean.facts[-1]["swa"]) == 1


def test_unequal_epochs_are_refused():
    with pytest.raises(ValueError, match=r"as many epochs each, got \[3, 4\]"):
        Group(jobs=(JOBS[0], replace(JOBS[1], recipe=QUICK.changed(epochs=4))), between=Nothing())
