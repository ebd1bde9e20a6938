"""The experiments of CLAFusion: as jobs, without training, and as figures."""

import pytest
import torch

from hetlib import data, match, zoo
from hetlib.chain import chain
from hetlib.experiments import clafusion as experiments
from hetlib.experiments import clafusion_figures, clafusion_one_shot
from hetlib.lab import Cache
from hetlib.lab.train import start
from hetlib.training import Recipe

SHORT = Recipe(1, augment=False)
TINY = {"count": 96}


@pytest.mark.parametrize("name", sorted(experiments.EXPERIMENTS))
def test_every_experiment_fits_together(name):
    """Each arm's network has the shape that its transfer gives: told by a transfer of untrained networks."""
    experiment = experiments.EXPERIMENTS[name].reduced(1 / 16, "shapes-source", SHORT, SHORT, **TINY)
    born = experiments.parents(experiment, 0)
    assert len(born) == len(experiment.networks)
    assert len({(job.model, job.seed) for job in born}) == len(born)
    images = born[0].load("train")
    for arm, job in experiments.arms(experiment, 0, (0.7,), (4,)).items():
        if not job.sources:
            continue
        target = job.build()
        report = job.transfer([each.build() for each in job.sources], target, data.sample(images, 2))
        rows = {row.target for row in report if row.kind in ("convolution", "linear layer")}
        assert rows == {layer.name for layer in chain(target).layers}, arm


def test_the_paper_s_networks_have_the_sizes_that_its_code_has():
    sizes = {"resnet-cifar10": (21_265_088, 11_164_352), "vgg-student": (32_815_808, 2_919_104)}
    sizes["resnet-student"] = (21_265_088 + 90 * 512, 2_792_800 + 90 * 256)  # 100 classes
    for name, wanted in sizes.items():
        experiment = experiments.EXPERIMENTS[name]
        classes = 100 if experiment.data == "cifar100" else 10
        for (model, options), size in zip(experiment.networks, wanted, strict=True):
            with torch.device("meta"):
                built = zoo.build(model, classes, **options)
            assert sum(parameter.numel() for parameter in built.parameters()) == size


def test_the_deepest_comes_first_and_twins_differ():
    six = experiments.parents(experiments.EXPERIMENTS["six"], 3)
    assert [job.model for job in six] == ["resnet34", "resnet18"] * 3
    assert [job.seed for job in six] == [3, 3, 103, 103, 203, 203]


def test_arms_are_distilled_over_the_whole_grid():
    found = experiments.arms(experiments.EXPERIMENTS["vgg-student"], 0, experiments.ALPHAS, experiments.TEMPERATURES)
    distilled = [job for name, job in found.items() if name.startswith("distilled")]
    assert len(distilled) == 3 * 6 * 5
    assert all(
        job.objective.teacher == experiments.parents(experiments.EXPERIMENTS["vgg-student"], 0)[0] for job in distilled
    )


def test_experiments_are_found_by_name():
    assert experiments.find("none") is None
    assert experiments.find("six") is experiments.EXPERIMENTS["six"]
    with pytest.raises(ValueError, match="unknown experiment 'vgg-students': did you mean 'vgg-student'"):
        experiments.find("vgg-students")


def test_outcomes_tell_parents_and_arms(tmp_path, monkeypatch):
    monkeypatch.setenv("HETLIB_PROCESSES", "1")
    experiment = experiments.EXPERIMENTS["resnet-cifar10"].reduced(1 / 16, "digits", SHORT, SHORT)
    keep = ("fused", "naive")
    arms = {seed: {arm: experiments.arms(experiment, seed)[arm] for arm in keep} for seed in (0, 1)}
    cache = Cache(tmp_path)
    before, after = experiments.outcomes(experiment, arms, cache)
    assert list(before) == ["parent_a", "parent_b", "ensemble", "fused/one-shot", "naive/one-shot"]
    assert set(after) == set(keep)
    assert all(len(values) == 2 for values in (before | after).values())
    again = experiments.outcomes(experiment, arms, Cache(tmp_path))
    assert (before, after) == again
    assert start(arms[0]["fused"], cache) is not None


def perceptrons():
    torch.manual_seed(0)
    return [zoo.build("mlp", 10, 1, hidden=hidden, in_features=64, bias=False) for hidden in ((9, 8, 7, 6), (9, 8, 7))]


def test_every_map_is_told_for_every_way_and_draw():
    deep, shallow = perceptrons()
    found = clafusion_one_shot.every_map(deep, shallow, data.load("digits"), lambda net: 1.0, range(2))
    assert len(found) == 4 * 4
    assert set(map(tuple, found.values())) == {(1.0, 1.0)}
    assert ("merge, majority", (0, 1, 3)) in found


def test_skills_end_in_the_two_networks_themselves():
    general, special = perceptrons()
    images = data.load("digits", "test").images[:20] / 255

    def score(net):
        with torch.no_grad():
            return float(net(images).square().sum())

    found = clafusion_one_shot.skills(general, special, [images], score)
    assert set(clafusion_one_shot.HALVES.values()) <= set(found)
    for way in found:
        assert found[way][-1] == pytest.approx(score(special), rel=1e-4)
    assert found["ensemble"][0] == pytest.approx(score(general), rel=1e-4)


@pytest.mark.parametrize("balance", ["add", "merge"])
def test_switches_give_the_fused_network_step_by_step(balance):
    deep, shallow = perceptrons()
    choice = clafusion_one_shot.Switches(balance=balance, mend=True, entropy=0.1, samples=25)
    made, found = clafusion_one_shot.switched(deep, shallow, data.load("digits"), choice)
    assert set(made) == {"balanced", "moved", "fused"}
    assert found.legal == 2


def test_pictures_say_what_they_show():
    cost = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    ax = clafusion_figures.bridge((5, 4, 3, 2, 1), (5, 4, 3), (0, 1, 4), 9).axes[0]
    assert "(1, 2, 5)" in ax.get_title("left") + ax.get_title()
    for pins in ((0, 0), (1, 1), (2, 0)):
        taken = match.align(cost, pins)
        costs, table = clafusion_figures.alignment(cost, taken, pins, "title").axes
        assert costs.get_title("left") + costs.get_title() == "cost of a pair"
        corner = next(text for text in table.texts if text.get_position() == (2, 4))
        assert float(corner.get_text()) == pytest.approx(sum(float(cost[i, k]) for k, i in enumerate(taken)), rel=5e-3)
    plan = torch.eye(4)[[2, 0, 1, 3]] / 4
    codes = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    left, right, *_ = clafusion_figures.neurons(codes, codes[:, [1, 2, 0, 3]], plan.T).axes
    assert left.get_title("left") + left.get_title() != right.get_title("left") + right.get_title()
    figure = clafusion_figures.paths({"a": [1, 2]}, [0, 1], "loss (nats)", {"a": [1, 0.5]})
    assert figure.axes[0].get_ylabel() == "loss (nats)"
    dots = clafusion_figures.dots({"add": {(0, 1): [90.0, 91.0], (0, 2): [80.0]}}, "finding").axes[0]
    assert [text.get_text() for text in dots.get_xticklabels()] == ["(1, 2)", "(1, 3)"]
