"""The experiment of notebook 00: two papers' sentences and their mixtures, one of everything for each seed."""

from copy import deepcopy

import pytest
import torch

from hetlib import hmt, tlv, zoo
from hetlib.experiments import mixed
from hetlib.lab import Cache
from hetlib.lab.job import asked
from hetlib.lab.presets import PRESETS, SEEDS


@pytest.mark.parametrize("preset", PRESETS)
def test_every_training_stands_once_and_is_as_big_as_the_classroom_s_at_most(preset):
    jobs = mixed.jobs(preset)
    size = "smoke" if preset == "smoke" else "classroom"
    assert len({Cache().key(*asked(job)) for job in jobs.values()}) == len(jobs) == 5 * SEEDS[size]
    assert jobs == mixed.jobs(size)


def test_a_seed_draws_the_source_the_images_and_the_target():
    for (arm, seed), job in mixed.jobs("classroom", [0, 3]).items():
        assert (job.seed, job.data_options["seed"]) == (seed, seed)
        assert [source.seed for source in job.sources] == ([] if arm == "none" else [seed])


@pytest.mark.parametrize(
    ("arm", "function"),
    [("HMT", hmt.transfer), ("TLV", lambda source, target: tlv.transfer(source, target, linear=False))],
)
def test_an_arm_starts_as_the_paper_s_function_does(arm, function):
    torch.manual_seed(0)
    source, by_function = zoo.build("vgg11", width=0.125), zoo.build("resnet8", width=0.125)
    by_arm = deepcopy(by_function)
    function(source, by_function)
    mixed.ARMS[arm](source, by_arm)
    torch.testing.assert_close(by_arm.state_dict(), by_function.state_dict(), rtol=0, atol=0)
