"""Amalgamation as data: jobs for sources, components and target come to the numbers that `customise` comes to."""

import multiprocessing
import signal
from functools import partial

import pytest
import torch

from hetlib import zoo
from hetlib.amalgamation import (
    METHODS,
    AmalgamateFrom,
    PerTask,
    Settings,
    Source,
    customise,
    per_attribute,
    tasks_of,
)
from hetlib.amalgamation.from_jobs import WAYS
from hetlib.data import faces
from hetlib.data.load import _with_attributes
from hetlib.lab import Cache, Job, train
from hetlib.lab.estimate import probe
from hetlib.lab.job import _load
from hetlib.training import Recipe
from tests.amalgamation.cast import same
from tests.killing import kill_after

RECIPE = Recipe(epochs=2, batch_size=20, lr=0.01, schedule="constant", augment=False, precision="fp32")
BUILD = partial(zoo.build, "resnet8", width=0.125)
SETTINGS = Settings(rule="random")
"""Of networks that have learned next to nothing, one may be surest of every image."""
FEW = 40
"""Test images: every training is scored on all of them, however few it is trained on."""
WANTED, SEED = ("Young", "Bangs"), 1


def job(tasks, seed=0, data="faces", count=60, **how):
    return Job(
        model="resnet8",
        data=f"{data}:{tasks}",
        recipe=RECIPE,
        seed=seed,
        options={"width": 0.125},
        data_options={"count": count},
        **how,
    )


SOURCES = (job("Bangs,Blurry", 1, objective=per_attribute), job("Bangs,Young", 2, objective=per_attribute))


def student(attributes, way, teachers=SOURCES, settings=SETTINGS, number=0):
    """A job with the seeds from which `customise` draws the network of a number, and its order of images."""
    learning = AmalgamateFrom(teachers, attributes, way, settings, SEED)
    return job(",".join(attributes), 1000 * (SEED + 1) + number, order=SEED, objective=learning)


def components():
    known = {"Young": SOURCES[1:], "Bangs": SOURCES}
    return {task: student((task,), "chosen", known[task], number=number) for number, task in enumerate(WANTED, 1)}


def target(method):
    """The job of what `customise` makes by a method."""
    if method == "amalgamation":
        return student(WANTED, "all", tuple(components().values()))
    return student(WANTED, "chosen" if method == "direct" else method)


@pytest.fixture(scope="module", autouse=True)
def few():
    with pytest.MonkeyPatch.context() as patch:
        forget()
        patch.setitem(faces.COUNT, "test", FEW)
        yield
    forget()


def forget():
    for kept in (_load, _with_attributes):
        kept.cache_clear()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("method", METHODS)
def test_jobs_come_to_the_bits_of_the_one_call(method, cache):
    pool = [Source(f"source {n}", train(each, cache).model, tasks_of(each)) for n, each in enumerate(SOURCES, 1)]
    how = {"component": BUILD, "target": BUILD, "recipe": RECIPE, "settings": SETTINGS, "seed": SEED}
    made = customise(pool, WANTED, SOURCES[0].load("train"), method=method, **how)
    found = train(target(method), cache)
    assert same(found.model, made.target)
    assert found.history.loss == made.histories["target"].loss
    assert torch.equal(torch.tensor(found.curves), made.curves["target"])
    for task, network in made.components.items():
        assert same(train(components()[task], cache).model, network)


def test_tasks_made_of_classes_come_to_the_bits_of_the_one_call(cache):
    made_of = partial(job, data="shapes-source", count=240)
    first, second = made_of("main 1/2,side 1/4", 1), made_of("main 2/2,side 2/4", 2)
    wanted = tuple(tasks_of(each)[0] for each in (first, second))
    settings = SETTINGS.changed(own_images=True)
    learning = AmalgamateFrom((first, second), wanted, settings=settings, seed=SEED)
    job_of_both = made_of(",".join(wanted), 1000 * (SEED + 1), order=SEED, objective=learning)
    found, images = train(job_of_both, cache), job_of_both.load("train")
    pool = [Source(each.data, train(each, cache).model, each.load("test").tasks) for each in (first, second)]
    how = {"target": BUILD, "recipe": RECIPE, "settings": settings, "seed": SEED, "method": "direct"}
    made = customise(pool, wanted, images, job_of_both.load("test"), **how)
    assert same(found.model, made.target)
    counts = [int((images.labels < 4).sum()), int((images.labels >= 4).sum())]
    assert [member.sum().item() for member in made.member.values()] == counts
    tested = [int((job_of_both.load("test").labels < 4).sum()), int((job_of_both.load("test").labels >= 4).sum())]
    scores = made.metrics["target"].values()
    mean = sum(score * count for score, count in zip(scores, tested, strict=True)) / sum(tested)
    assert found.history.final == pytest.approx(mean, abs=1e-3)


def test_every_way_is_one_of_customise():
    ways = {target(method).objective.way for method in METHODS}
    assert ways == set(WAYS)


def test_a_job_names_what_its_network_knows():
    assert tasks_of(SOURCES[1]) == ("Bangs", "Young")
    assert SOURCES[0].build()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    with pytest.raises(ValueError, match=r"resnet8 on digits.*: names no tasks in its data"):
        tasks_of(Job(model="resnet8", data="digits", recipe=RECIPE))


def test_sources_minimise_the_cross_entropies_of_all_their_attributes():
    images = SOURCES[0].load("train")
    objective = per_attribute(SOURCES[0].build(), None, images, RECIPE)["objective"]
    assert isinstance(objective, PerTask)
    assert objective.classes == (2, 2)


def test_what_is_needed_is_trained_first_and_everything_is_kept(cache):
    wanted = target("amalgamation")
    assert list(wanted.needs) == list(components().values())
    assert list(components()["Bangs"].needs) == list(SOURCES)
    made = train(wanted, cache)
    assert torch.tensor(made.curves).shape == (2, 2, 6)  # epochs, components, and four taps, logits and row norms
    again = Cache(cache.root)
    assert train(wanted, again).curves == made.curves
    assert train(SOURCES[0], again).curves == []
    assert not again.computed


def killed(root):
    faces.COUNT["test"] = FEW
    kill_after("hetlib.training.loop.normalise", 4)  # in the second of two epochs of three batches
    train(target("distillation"), Cache(root))


def test_killed_inside_it_goes_on_and_ends_in_the_same_numbers(cache, tmp_path):
    kept = Cache(tmp_path)
    for each in SOURCES:
        train(each, kept)
    process = multiprocessing.get_context("forkserver").Process(target=killed, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    seen = []
    resumed = train(target("distillation"), kept, on_epoch=lambda history: seen.append(history.epochs))
    whole = train(target("distillation"), cache)
    assert seen == [2]
    assert same(resumed.model, whole.model)
    assert (resumed.history, resumed.curves) == (whole.history, whole.curves)


def test_where_teachers_have_not_learned_anything_all_ways_can_be_rehearsed(cache):
    """Each at its own cost: where every teacher teaches every image, there are more steps."""
    steps = {}
    for rule in ("entropy", "oracle", "average"):
        learning = AmalgamateFrom(SOURCES, ("Bangs",), settings=Settings(rule=rule)).rehearsed
        how = learning(job("Bangs").build(), Job.build, job("Bangs").load("train"), RECIPE)
        steps[rule] = how["rows"].sum().item()
    assert steps == {"entropy": 60, "oracle": 60, "average": 120}
    assert probe(student(WANTED, "chosen", settings=Settings())).seconds > 0


def refuses(message, cache, attributes=("Bangs",), way="chosen", teachers=SOURCES, **settings):
    with pytest.raises(ValueError, match=message):
        train(student(attributes, way, teachers, Settings(rule="random", **settings)), cache)


def test_bad_input_is_named(cache):
    refuses("unknown way to learn from teachers 'distilation': did you mean 'distillation'", cache, way="distilation")
    refuses("task: no source covers 'Male'.*Known: Bangs, Blurry, Young", cache, ("Male",))
    alone = "all images are taught by one teacher that knows this task alone"
    refuses(f"Bangs: {alone}, got source 1, source 2", cache, way="all")
    refuses(f"Young: {alone}, got source 1", cache, ("Young",), "all", SOURCES[1:])
    refuses("unknown source with a temperature 'source 3': did you mean", cache, temperatures={"source 3": 2.0})
    refuses("unknown task with a weight 'Bang': did you mean 'Bangs'", cache, tasks={"Bang": 2.0})
    refuses("unknown attribute of faces 'Bang': did you mean 'Bangs'", cache, ("Bang",))
