"""TLV's experiments as data: every arm at every preset, and its start is what the paper's own function gives."""

from copy import deepcopy

import pytest
import torch

from hetlib import tlv, zoo
from hetlib.experiments import tlv as experiments
from hetlib.lab import Cache
from hetlib.lab.job import asked
from hetlib.lab.presets import PRESETS, SEEDS

BASE = {"linear": False}
HOW = {
    "base": BASE,
    "statistics": {"convolutions": False},
    "base_statistics": {},
    "base_unshuffled": BASE | {"shuffle": False},
    "unshuffled": {"shuffle": False},
    "keep max": BASE | {"keep": "max"},
    "shuffle inputs": BASE | {"shuffle": "inputs"},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_training_stands_once_and_has_a_key_of_its_own(preset):
    jobs = experiments.jobs(preset)
    assert len(jobs) == len(experiments.ARMS) * SEEDS[preset] == 24 * SEEDS[preset]
    assert len({Cache().key(*asked(job)) for job in jobs.values()}) == len(jobs)


def test_the_parts_of_the_method_are_where_the_arm_says():
    jobs = experiments.jobs("smoke")
    fed = {arm for (arm, _), job in jobs.items() if job.transfer is not None}
    crossed = {arm for (arm, _), job in jobs.items() if job.objective is not None}
    assert {"full", "cross", "unshuffled", "dropout"} == fed & crossed
    assert set(experiments.ARMS) - fed - crossed == {"he"}
    assert all(job.needs for (arm, _), job in jobs.items() if arm != "he")


def test_photographs_have_a_source_for_every_seed_and_reductions_are_parameters():
    paper, reduced = experiments.jobs("paper"), experiments.jobs("reduced", epochs=3)
    assert len({job.sources[0].seed for job in paper.values() if job.sources}) == SEEDS["paper"]
    assert {job.recipe.epochs for job in paper.values()} == {200}
    assert {job.recipe.epochs for job in reduced.values()} == {3}
    assert {job.recipe.optimiser for job in reduced.values()} == {"adamw"}


@pytest.mark.parametrize("arm", HOW)
def test_an_arm_starts_as_the_paper_s_function_does(arm):
    torch.manual_seed(0)
    source, by_function = zoo.build("vgg11", width=0.125), zoo.build("resnet8", width=0.125)
    by_arm = deepcopy(by_function)
    tlv.transfer(source, by_function, seed=3, **HOW[arm])
    experiments.ARMS[arm].transfer(source, by_arm, seed=3)
    assert all(
        torch.equal(a, b) for a, b in zip(by_function.state_dict().values(), by_arm.state_dict().values(), strict=True)
    )
