"""HMT's experiments as data: every arm at every preset, and its start is what the paper's own function gives."""

from copy import deepcopy

import pytest
import torch

from hetlib import hmt, zoo
from hetlib.experiments import hmt as experiments
from hetlib.lab import Cache
from hetlib.lab.job import asked
from hetlib.lab.presets import PRESETS, SEEDS

HOW = {
    "chain": {},
    "shuffle": {"order": "shuffle"},
    "interval": {"order": "interval"},
    "corners": {"align_corners": True},
    "zero padding": {"resizer": "zero"},
    "gain corrected": {"correct_gain": True},
    "batch norms too": {"batch_norm": True},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_training_stands_once_and_has_a_key_of_its_own(preset):
    jobs = experiments.jobs(preset)
    assert len(jobs) == (12 if preset in experiments.REAL else 14) * SEEDS[preset]
    keys = {Cache().key(*asked(job)) for job in jobs.values()}
    assert len(keys) == len(jobs)
    assert {job.model for job in jobs.values()} <= set(zoo.names())
    assert all(bool(job.sources) == (not arm.startswith("none")) for (_, arm, _), job in jobs.items())


def test_photographs_have_a_source_for_every_seed_and_reductions_are_parameters():
    paper, reduced = experiments.jobs("paper"), experiments.jobs("reduced", width=0.5, epochs=7)
    assert len({job.sources[0].seed for job in paper.values() if job.sources}) == SEEDS["paper"]
    assert (
        len({job.sources[0].seed for job in experiments.jobs("classroom").values() if job.sources})
        == SEEDS["classroom"]
    )
    assert {job.recipe.epochs for job in reduced.values()} == {7}
    assert {job.options["width"] for job in reduced.values()} == {0.5}
    assert {job.sources[0].options["width"] for job in reduced.values() if job.sources} == {0.5}
    assert {job.data for job in (paper | reduced).values()} == {"sub-cifar100"}


@pytest.mark.parametrize("target", ["plainnet5", "resnet8"])
@pytest.mark.parametrize("arm", HOW)
def test_an_arm_starts_as_the_paper_s_function_does(target, arm):
    torch.manual_seed(0)
    source, by_function = zoo.build("vgg11", width=0.125), zoo.build(target, width=0.125)
    by_arm = deepcopy(by_function)
    hmt.transfer(source, by_function, **HOW[arm])
    experiments.ARMS[arm](source, by_arm)
    assert all(
        torch.equal(a, b) for a, b in zip(by_function.state_dict().values(), by_arm.state_dict().values(), strict=True)
    )
