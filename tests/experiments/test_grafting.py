"""Grafting's experiments: what arms share, what they do not, and how they are judged."""

import pytest
import torch

from hetlib import zoo
from hetlib.experiments import grafting as experiments
from hetlib.grafting import initial_rates
from hetlib.lab import Cache, Group, Job, train
from hetlib.lab.job import asked

PRESETS = ("smoke", "classroom", "reduced", "paper")


def members(work):
    return work.jobs if isinstance(work, Group) else (work,)


@pytest.mark.parametrize("preset", PRESETS)
def test_first_networks_of_a_seed_start_alike_and_see_the_same_images(preset):
    plan = experiments.jobs(preset, (0, 1))
    for seed in (0, 1):
        firsts = [members(work)[0] for (_, number), work in plan.items() if number == seed]
        assert {first.seed for first in firsts} == {seed}
        assert len({tuple(sorted(first.data_options.items())) for first in firsts}) == 1
    assert {name for name, seed in plan if seed == 0} >= set(experiments.MAIN)
    assert {name for name, seed in plan if seed == 1} >= set(experiments.MAIN)


def test_networks_of_a_ring_differ_and_take_the_rates_of_their_preset():
    plan = experiments.jobs("classroom", (3,))
    ring = plan["k4", 3].jobs
    assert [job.seed for job in ring] == [3, 1003, 2003, 3003]
    assert [job.recipe.lr for job in ring] == pytest.approx(initial_rates(0.1, 4))
    assert {job.recipe.schedule for job in ring} == {"cosine"}
    slr = plan["slr", 3].jobs
    assert {(job.recipe.lr, job.recipe.schedule) for job in slr} == {(0.1, "steps")}
    first, second = plan["same start", 3].jobs
    assert (first.seed, first.order, second.seed, second.order) == (3, 3, 3, 1003)
    assert all(torch.equal(a, b) for a, b in zip(first.build().parameters(), second.build().parameters(), strict=True))


def test_controls_take_as_much_computation():
    plan = experiments.jobs("classroom", (0,))
    work = {name: plan[name, 0].work / plan["baseline", 0].work for name in experiments.MAIN}
    assert {work[name] for name in ("dlr", "slr", "average", "ensemble2", "2 times as long")} == {2}
    assert {work[name] for name in ("k4", "average of 4", "ensemble4", "4 times as long")} == {4}


def test_no_two_arms_are_one_training(tmp_path):
    plan, cache = experiments.jobs("classroom", (0,)), Cache(tmp_path)
    assert len({cache.key(*asked(work)) for work in plan.values()}) == len(plan)


def test_how_arms_are_judged(tmp_path):
    cache, plan = Cache(tmp_path), experiments.jobs("smoke", (0,), epochs=1)
    chosen = ("baseline", "ensemble2", "2 times as long", "dlr")
    found = {name: train(plan[name, 0], cache) for name in chosen}
    score = lambda name, which="final": experiments.accuracy(experiments.ARMS[name], found[name], which)
    assert score("baseline") == found["baseline"].history.final
    assert score("ensemble2") == found["ensemble2"].facts[-1]["accuracy"]
    assert score("dlr") == found["dlr"].members[0].history.final
    assert score("2 times as long", "swa") == found["2 times as long"].facts[-1]["swa"][0]
    assert isinstance(plan["baseline", 0], Job)


def test_published_networks_are_counted(tmp_path):
    for name, bad in (("resnet20", 0), ("resnet32", 3)):
        state = {key: value for key, value in zoo.build(name).state_dict().items() if "num_batches" not in key}
        state["layer1.0.conv1.weight"][:bad] = 1e-6
        torch.save(state, tmp_path / f"cifar10_{name}.pt")
    found = experiments.published(tmp_path)
    assert [(each["filters"], each["invalid"]) for each in found.values()] == [(688, 0), (1136, 3)]
    with pytest.raises(FileNotFoundError, match=r"cifar10_resnet20\.pt"):
        experiments.published(tmp_path / "elsewhere")
