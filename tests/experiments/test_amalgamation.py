"""Amalgamation's experiments as data: every arm at every preset, from sources that all targets of a seed share."""

import pytest

from hetlib.amalgamation import CLASSES, GROUPS, Settings, sources_of, tasks_of
from hetlib.experiments import amalgamation as experiments
from hetlib.lab import Cache
from hetlib.lab.estimate import _kind
from hetlib.lab.job import asked
from hetlib.lab.presets import PRESETS, SEEDS

ABLATED = len(experiments.ABLATIONS)


def sources(job):
    """What a training learns from first, at whatever depth."""
    return [job] if not job.needs else [each for needed in job.needs for each in sources(needed)]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_arm_stands_once_at_every_seed_and_ablations_at_the_first(preset):
    jobs, seeds = experiments.jobs(preset), SEEDS[preset]
    once = {(arm, seed) for arm, seed in jobs if arm in experiments.ABLATIONS}
    assert len(once) == ABLATED * {"reduced": 0, "paper": seeds}.get(preset, 1)
    assert preset == "paper" or {seed for _, seed in once} <= {0}
    arms = experiments.REDUCED if preset == "reduced" else experiments.ARMS.keys() - {*experiments.ABLATIONS}
    assert len(jobs) - len(once) == len(arms) * seeds
    assert len({Cache().key(*asked(job)) for job in jobs.values()}) == len(jobs)


@pytest.mark.parametrize("group", GROUPS)
def test_all_targets_of_a_seed_learn_from_the_same_sources(group):
    chosen, jobs = experiments.setting("classroom", group=group), experiments.jobs("classroom", group=group)
    for seed in range(SEEDS["classroom"]):
        pool = list(experiments.source_jobs(chosen, seed).values())
        assert [tasks_of(each) for each in pool] == list(sources_of(group).values())
        for (arm, number), job in jobs.items():
            if number == seed and arm != "labels":
                assert all(each in pool for each in sources(job)), arm
                assert all(each in sources(job) for each in pool), arm
    seeds = [each.seed for job in jobs.values() for each in sources(job)]
    assert len(set(seeds)) == SEEDS["classroom"] * (len(sources_of(group)) + 1)


def test_arms_of_a_seed_start_alike_and_differ_in_what_they_say():
    jobs = experiments.jobs("classroom")
    assert all(job.seed == jobs["amalgamation", seed].seed for (_, seed), job in jobs.items())
    assert all(tasks_of(job) == tuple(GROUPS["hair"]) for job in jobs.values())
    assert all(job.options == {"width": experiments.setting("classroom").width * 90 / 64} for job in jobs.values())
    ways = {arm: getattr(jobs[arm, 0].objective, "way", "labels") for arm in experiments.ARMS}
    assert ways.pop("labels") == "labels"
    assert {arm for arm, way in ways.items() if way != "all"} == {
        "without components",
        "distillation",
        "layer-wise",
        "common features",
    }
    for arm, way in ways.items():
        job = jobs[arm, 0]
        if way == "all":
            assert [tasks_of(each) for each in job.needs] == [(name,) for name in GROUPS["hair"]]
            assert all(each.objective.settings == experiments.ARMS[arm].settings for each in (job, *job.needs))
            assert {each.objective.seed for each in (job, *job.needs)} == {0}
            assert len({each.seed for each in (job, *job.needs)}) == 5
    assert jobs["steps every iteration", 0].recipe.schedule == "iterations"
    assert {each.recipe.schedule for each in jobs["steps every iteration", 0].needs} == {"iterations"}


def test_a_component_has_the_sources_of_its_attribute():
    chosen = experiments.setting("classroom")
    job = experiments.component(chosen, "Brown_Hair", experiments.Arm(settings=Settings(rule="random")), 2)
    assert [tasks_of(each) for each in job.needs] == [sources_of("hair")[n] for n in (5, 6, 7)]
    assert (job.objective.way, job.objective.settings.rule, job.objective.seed) == ("chosen", "random", 2)
    assert tasks_of(job) == job.objective.wanted == ("Brown_Hair",)


def test_parameters_stand_instead_of_a_presets_own():
    for preset in PRESETS:
        how = {"data": "faces", "group": "eye", "width": 0.5, "epochs": 3, "arms": ["every teacher"]}
        job = experiments.jobs(preset, [7], **how)["every teacher", 7]
        member = job.needs[0]
        for each in (job, member, member.needs[0]):
            assert each.recipe.epochs == 3
            assert each.data.startswith("faces:")
        assert (job.options["width"], member.options["width"]) == (0.5 * 90 / 64, 0.5)
        assert experiments.jobs(preset, [7], **how, wide=2.0)["every teacher", 7].options["width"] == 2.0
        assert experiments.jobs(preset, [7], arms=["labels"]).keys() == {("labels", 7)}
    assert experiments.setting("paper").recipe.milestones == (5, 10, 15, 20, 25)
    assert experiments.setting("reduced", epochs=10).recipe.milestones == (1, 2, 3, 4, 5)
    photographs = experiments.jobs("classroom", [7], "celeba-10k", arms=["labels"])["labels", 7]
    assert (photographs.data_options, experiments.jobs("smoke")["labels", 0].data_options) == ({}, {"count": 200})


def test_the_paper_s_preset_is_the_paper_s():
    chosen = experiments.setting("paper")
    assert (chosen.data, chosen.model, chosen.width) == ("celeba", "torchvision/resnet18", 1.0)
    assert chosen.recipe == experiments.RECIPE
    assert chosen.source == experiments.SOURCE


def test_what_is_unknown_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="unknown preset 'class-room': did you mean 'classroom'"):
        experiments.jobs("class-room")
    with pytest.raises(ValueError, match="unknown group 'hairs': did you mean 'hair'"):
        experiments.jobs("smoke", group="hairs")
    with pytest.raises(ValueError, match="unknown arm 'layerwise': did you mean 'layer-wise'"):
        experiments.jobs("smoke", arms=["layerwise"])


def test_the_estimate_tells_apart_what_costs_differently():
    jobs = experiments.jobs("reduced", arms=list(experiments.ARMS))
    kind = lambda arm, member=None: _kind(jobs[arm, 0] if member is None else jobs[arm, 0].needs[member])
    assert len({kind(arm) for arm in ("without components", "distillation", "layer-wise", "common features")}) == 4
    assert kind("amalgamation", 0) == kind("random teacher", 0) == kind("surest by labels", 0)
    assert kind("amalgamation", 0) != kind("every teacher", 0)
    assert _kind(jobs["amalgamation", 0]) == _kind(jobs["amalgamation", 1])


def test_of_classes_halves_are_wanted_and_sources_know_quarters_of_others_besides():
    chosen, jobs = experiments.setting("reduced", group=CLASSES), experiments.jobs("reduced", group=CLASSES)
    assert (chosen.data, chosen.wide) == ("cifar100", chosen.width * 72 / 64)
    assert [job.data for job in experiments.source_jobs(chosen, 0).values()] == [
        "cifar100:main 1/2,side 1/4",
        "cifar100:main 1/2,side 2/4",
        "cifar100:main 2/2,side 3/4",
        "cifar100:main 2/2,side 4/4",
    ]
    assert all(job.objective is None for job in experiments.source_jobs(chosen, 0).values())
    for (arm, _), job in jobs.items():
        assert job.data == "cifar100:main 1/2,main 2/2"
        assert arm == "labels" or job.objective.settings.own_images
    assert [job.data for job in jobs["amalgamation", 0].needs] == ["cifar100:main 1/2", "cifar100:main 2/2"]


def test_of_classes_at_the_paper_s_size_the_data_is_named():
    with pytest.raises(ValueError, match="aircraft and cars cannot be read; name other data, as cifar100"):
        experiments.setting("paper", group=CLASSES)
    chosen = experiments.setting("paper", "cifar100", CLASSES)
    assert (chosen.source.epochs, chosen.source.lr, chosen.recipe.lr) == (300, 1e-3, 5e-4)
    assert (chosen.recipe.milestones, chosen.wide) == ((20, 50, 100), 72 / 64)
