"""Trainings described as data: found again, seeded, resumed, and the same in other processes."""

import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import combinations
from pathlib import Path

import pytest
import torch

from hetlib import data, hmt
from hetlib.clafusion.fusion import Fusion
from hetlib.hmt import ByPosition, Cyclic
from hetlib.lab.cache import Cache
from hetlib.lab.estimate import Cost
from hetlib.lab.job import asked, uses
from hetlib.lab.train import Job, Stopped, start, train, train_all, train_missing
from hetlib.tlv import Crossover, CrossoverWith, LinearStatistics, support_features
from hetlib.training import DistilFrom, Distillation, Recipe, fit
from hetlib.transfer import Transfer

ESTIMATE = import_module("hetlib.lab.estimate")  # the face has a function of that name

QUICK = Recipe(epochs=2, lr=0.05, precision="fp32", augment=False, batch_size=256)
SMALL = {"width": 0.125, "kernel_size": 3}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_result_is_found_again(cache):
    job = Job(model="plainnet5", data="digits", recipe=QUICK, options=SMALL)
    first, again = train(job, cache), train(job, Cache(cache.root))
    assert len(cache.computed) == 1
    assert first.history == again.history
    assert same(first.model, again.model)
    assert not again.model.training


def test_every_setting_makes_another_result(cache):
    job = Job(model="plainnet5", data="digits", recipe=QUICK, options=SMALL)
    others = [
        Job(model="plainnet5", data="digits", recipe=QUICK, seed=1, options=SMALL),
        Job(model="plainnet5", data="digits", recipe=QUICK.changed(lr=0.01), options=SMALL),
        Job(model="plainnet5", data="digits", recipe=QUICK, options=SMALL | {"width": 0.25}),
        Job(model="plainnet5", data="digits", recipe=QUICK, options=SMALL, sources=[job], transfer=average),
        Job(model="plainnet5", data="digits", recipe=QUICK, options=SMALL, sources=[job], transfer=noisy),
    ]
    assert len(keys(cache, [job, *others])) == 6


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Job(model="plainnet5", data="digits", recipe=QUICK, seed=9, options=SMALL).build()
    assert torch.equal(torch.rand(2), expected)


def interval(source, target, images, seed):
    hmt.transfer(source, target, "interval")


def test_a_source_is_trained_first_and_feeds_its_heirs(cache):
    source = Job(model="vgg8", data="digits", recipe=QUICK, options={"width": 0.125, "image_size": 8})
    heir = plain(0, sources=[source], transfer=interval)
    fed, expected = start(heir, cache), heir.build()
    hmt.transfer(train(source, cache).model, expected, "interval")
    assert same(fed, expected)
    assert len(cache.computed) == 1


@dataclass(frozen=True)
class Reordered:
    """A step with a list among its settings."""

    order: list[int]

    def __call__(self, source, target, images, seed):
        """Do nothing."""


def test_a_job_is_named_whatever_its_steps_hold(cache):
    plain = {"model": "plainnet5", "data": "digits", "recipe": QUICK}
    fed = {**plain, "sources": [Job(**plain)]}
    listed, tupled = (Job(**fed, transfer=Transfer(ByPosition(order), (Cyclic(),))) for order in ([2, 0, 1], (2, 0, 1)))
    assert "ByPosition(order=(2, 0, 1))" in listed.label
    assert listed.label == tupled.label
    assert cache.key(*asked(listed)) == cache.key(*asked(tupled))
    assert "from plainnet5 (Reordered)" in Job(**fed, transfer=Reordered([2, 0, 1])).label


@pytest.mark.parametrize("order", [[1, 2], True, 1.5, "chain"])
def test_an_order_that_is_no_seed_is_refused(order):
    with pytest.raises(TypeError, match=r"plainnet5 on digits, seed 0: order must be a seed, which is a whole number"):
        Job(model="plainnet5", data="digits", recipe=QUICK, order=order)


def test_a_failing_job_names_its_error(cache):
    job = Job(model="plainnet5", data="digits", recipe=QUICK, options=SMALL | {"kernel": 3})
    with pytest.raises(ValueError, match="did you mean 'kernel_size'"):
        train_all([job], cache, processes=2)


def test_a_stopped_training_is_not_kept_as_a_result_and_goes_on(cache):
    job = Job(model="plainnet5", data="digits", recipe=QUICK, options=SMALL)
    with pytest.raises(Stopped, match="stopped after 1 of 2 epochs"):
        train(job, cache, on_epoch=lambda history: True)
    seen = []
    resumed = train(job, cache, on_epoch=lambda history: seen.append(history.epochs))
    assert seen == [2]
    whole = train(job, Cache(cache.root / "other"))
    assert resumed.history == whole.history
    assert same(resumed.model, whole.model)


@dataclass(frozen=True)
class WaitsFor:
    """A step that ends once there is a file, so that no training ends before a test lets it."""

    path: str

    def __call__(self, source, target, images, seed):
        deadline = time.monotonic() + 600
        while not Path(self.path).exists():
            assert time.monotonic() < deadline, "nobody lets this training go on"
            time.sleep(0.1)


def test_an_error_is_told_while_others_still_train(tmp_path):
    cache, source = Cache(tmp_path / "cache"), plain(9)
    train(source, cache)
    longest = QUICK.changed(epochs=3)  # begins first: one of the others trains beside it, and one waits
    bad = Job(model="plainnet5", data="digits", recipe=longest, options=SMALL | {"kernel": 3})
    waits = WaitsFor(str(tmp_path / "go"))
    good = [plain(seed, sources=[source], transfer=waits) for seed in range(2)]
    try:
        with pytest.raises(ValueError, match="did you mean 'kernel_size'"):
            train_all([bad, *good], cache, processes=2)
        assert not any(cache.has(cache.key(*asked(job))) for job in good)
    finally:
        Path(waits.path).touch()


ORPHANS = """
import sys
from hetlib.lab.cache import Cache
from hetlib.lab.train import Job, train_all
from hetlib.training import Recipe

if __name__ == "__main__":
    recipe = Recipe(epochs=100_000, precision="fp32", augment=False)
    how = {"model": "plainnet5", "data": "digits", "recipe": recipe, "options": {"width": 0.125, "kernel_size": 3}}
    jobs = [Job(**how, seed=seed) for seed in (0, 1)]
    train_all(jobs, Cache(sys.argv[1]), processes=2)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_no_training_outlives_who_waits_for_it(tmp_path):
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    deadline = time.monotonic() + 600
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "cache")], stdout=subprocess.DEVNULL)
    try:
        while len(list((tmp_path / "cache").glob("scratch/*"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline, "no training began"
            time.sleep(0.2)
        children = [path.parent for path in Path("/proc").glob("[0-9]*/stat") if parent_of(path) == process.pid]
        assert len(children) >= 2
    finally:
        process.kill()
        process.wait()
    while any(child.exists() for child in children):
        assert time.monotonic() < deadline, "a training outlived its parent"
        time.sleep(0.2)


def parent_of(stat):
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def modules(job):
    """Names, below hetlib, of the modules whose code is part of a job's key."""
    return {each.__name__.removeprefix("hetlib.") for each in uses(job) if not isinstance(each, str)}


def test_what_a_job_depends_on_is_known_without_triton(cache):
    hidden = (
        "import sys; sys.modules['triton'] = None; from hetlib.lab.job import code_of; "
        "print(*(module.__name__ for module in code_of('hetlib.hmt', 'hetlib.tlv')))"
    )
    found = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=True).stdout.split()
    assert {"hetlib.kernels.write", "hetlib.chain"} <= set(found)


def test_only_the_code_of_the_steps_that_a_job_names_counts():
    always = {"data", "data.published", "training", "training.recipe", "training.loop", "zoo"}
    launches = {f"kernels.{name}_triton" for name in ("blend", "entropy", "fill", "sinkhorn")}
    never = {"errors", "files", "transfer.report", "lab.train", *launches}
    fused = plain(0, sources=[plain(1), plain(2)], transfer=Fusion())
    assert always <= modules(plain(0)) & modules(fused)
    assert not never & (modules(plain(0)) | modules(fused))
    assert not {"clafusion", "tlv", "hmt"} & modules(plain(0))
    assert {"clafusion.fusion", "clafusion.plans", "kernels.transport", "chain.channels"} <= modules(fused)
    sentence = Transfer(ByPosition("shuffle"), (Cyclic(), LinearStatistics()), blend=0.25)
    mixed = plain(0, sources=[plain(1)], transfer=sentence)
    assert {"hmt", "tlv", "transfer", "kernels.resize_cyclic", "kernels.write", "match"} <= modules(mixed)
    assert not {"baselines", "clafusion"} & modules(mixed)
    heir = plain(3, sources=[fused], transfer=average)
    assert modules(fused) <= modules(heir), "the code behind what a job needs counts as well"
    assert "tlv.crossover" in modules(plain(0, objective=CrossoverWith(plain(1))))


@pytest.mark.parametrize("augment", [False, True])
def test_a_job_trains_in_crossover_with_another(cache, augment):
    recipe = QUICK.changed(augment=augment)
    alone = replace(plain(1), recipe=recipe)
    crossed = replace(alone, objective=CrossoverWith(replace(plain(0), recipe=recipe), p=0.5))
    apart, together = train(alone, cache), train(crossed, cache)
    assert same(start(crossed, cache), alone.build())
    assert not same(apart.model, together.model)
    assert train(crossed, cache).history == together.history
    assert crossed.label == "plainnet5 on digits with CrossoverWith, seed 1"
    student, support = alone.build(), train(crossed.needs[0], cache).model
    rows = [] if augment else [support_features(support, alone.load("train"), precision="fp32")]
    objective = Crossover(support if augment else None, 0.5, steps=12)
    fit(student, alone.load("train"), alone.load("test"), recipe, objective=objective, rows=rows, seed=1)
    assert same(student, together.model)


@dataclass(frozen=True)
class Average:
    """A stand-in for a fusion: the plain average."""

    share: float = 1.0

    def __call__(self, sources, target, images, seed):
        assert images.shape == (200, 1, 8, 8)
        sources = [sources] if isinstance(sources, torch.nn.Module) else sources
        with torch.no_grad():
            for name, value in target.named_parameters():
                value.lerp_(torch.stack([source.get_parameter(name) for source in sources]).mean(0), self.share)


@dataclass(frozen=True)
class Likewise(Average):
    """Another step with the same fields and values."""


def average(source, target, images, seed):
    Average()(source, target, images, seed)


def noisy(source, target, images, seed):
    with torch.no_grad():
        for value in target.parameters():
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)))


def plain(seed, **fields):
    return Job(model="plainnet5", data="digits", recipe=QUICK, seed=seed, options=SMALL, **fields)


def keys(cache, jobs):
    return {cache.key(*asked(job)) for job in jobs}


def test_processes_give_the_same_numbers_as_one_whatever_steps_feed_a_job(tmp_path):
    """The steps of the sentence are of several papers. The parent knows what its processes computed."""
    sentence = Transfer(ByPosition("interval"), (Cyclic(), LinearStatistics()), blend=0.25)
    jobs = [plain(seed, sources=[plain(1)], transfer=sentence) for seed in (2, 3, 2)]
    alone, *spread = (Cache(tmp_path / folder) for folder in "abb")
    train(plain(1), spread[0])
    trained = [train_all(jobs, cache, processes=count) for cache, count in ((alone, 1), (spread[0], 2), (spread[1], 2))]
    for one, two, again in zip(*trained, strict=True):
        assert one.history == two.history == again.history
        assert same(one.model, two.model)
    assert trained[0][0].history == trained[0][2].history != trained[0][1].history
    assert [len(cache.computed) for cache in (alone, *spread)] == [3, 3, 0]
    assert len(spread[1].reused) == 2
    expected, network = jobs[0].build(), train(plain(1), alone).model
    sentence(network, expected, seed=2)
    assert same(start(jobs[0], alone), expected)
    label = "ByPosition(order='interval') -> Cyclic() + LinearStatistics() -> 0.25"
    assert jobs[0].label == f"plainnet5 on digits from plainnet5 ({label}), seed 2"


def test_several_sources_are_given_as_a_list_and_one_alone(cache):
    sources = [plain(seed) for seed in (1, 2, 3)]
    fused, single = (plain(0, sources=given, transfer=Average()) for given in (sources, sources[:1]))
    networks = [train(each, cache).model for each in sources]
    expected = fused.build()
    Average()(networks, expected, data.sample(fused.load("train")), 0)
    assert same(start(fused, cache), expected)
    assert all(map(torch.equal, start(single, cache).parameters(), networks[0].parameters()))
    assert fused.label == "plainnet5 on digits from plainnet5 + plainnet5 + plainnet5 (Average), seed 0"


def test_a_jobs_seed_reaches_its_transfer(cache):
    one, other = (start(plain(seed, sources=[plain(1)], transfer=noisy), cache) for seed in (4, 5))
    expected = plain(4).build()
    noisy(None, expected, None, 4)
    assert same(one, expected)
    assert not same(one, other)


def test_a_student_is_taught_by_another_job(cache):
    alone = plain(0)
    taught = plain(0, objective=DistilFrom(plain(1), 0.9, 4.0))
    found = train(taught, cache)
    assert not same(found.model, train(alone, cache).model)
    assert train(taught, cache).history == found.history
    assert taught.label == "plainnet5 on digits with DistilFrom, seed 0"
    student, objective = alone.build(), Distillation(train(plain(1), cache).model, 0.9, 4.0)
    fit(student, alone.load("train"), alone.load("test"), QUICK, objective=objective)
    assert same(student, found.model)


def test_a_taught_student_can_be_in_crossover_too(cache):
    taught = DistilFrom(plain(1), 0.9, 4.0)
    both = plain(0, objective=CrossoverWith(plain(2), p=0.5, inner=taught))
    assert both.needs == (plain(2), plain(1))
    ends = [
        train(each, cache).model
        for each in (both, plain(0, objective=taught), replace(both, objective=CrossoverWith(plain(2), p=0.5)))
    ]
    assert not any(same(a, b) for a, b in combinations(ends, 2))


def test_all_that_is_needed_is_trained_first_and_once(cache):
    teacher, first, second = plain(1), plain(2), plain(3)
    student = plain(4, objective=DistilFrom(teacher, 0.5, 2.0))
    fused = plain(5, sources=(first, second, student), transfer=average)
    last = plain(6, sources=[fused], transfer=average, objective=DistilFrom(teacher, 0.5, 2.0))
    assert last.needs == (fused, teacher)
    train_all([last, teacher, last], cache, processes=1)
    assert len(cache.computed) == len(set(cache.computed)) == 6
    assert cache.computed[-1] == last.label


def test_whatever_a_job_names_makes_another_result(cache):
    fused = plain(0, sources=[plain(1)], transfer=Average())
    taught = plain(0, objective=DistilFrom(plain(1), 0.5, 2.0))
    different = [
        plain(0),
        fused,
        replace(fused, transfer=Average(0.5)),
        replace(fused, transfer=Likewise()),
        replace(fused, transfer=average),
        replace(fused, sources=(plain(2),)),
        replace(fused, sources=(plain(1), plain(2))),
        replace(fused, sources=(plain(2), plain(1))),
        replace(fused, sources=(replace(fused, transfer=Likewise()),)),
        replace(fused, sources=(fused,)),
        replace(fused, transfer=Around(Average())),
        replace(fused, transfer=Around(Likewise())),
        replace(fused, transfer=Around((Average(), Likewise()))),
        taught,
        replace(taught, objective=DistilFrom(plain(2), 0.5, 2.0)),
        replace(taught, objective=DistilFrom(plain(1), 0.6, 2.0)),
        replace(taught, objective=CrossoverWith(plain(1))),
        replace(taught, objective=CrossoverWith(plain(1), inner=DistilFrom(plain(1), 0.5, 2.0))),
    ]
    assert len(keys(cache, different)) == len(different)
    assert keys(cache, [fused, taught]) == keys(cache, [replace(fused), pickle.loads(pickle.dumps(taught))])


@dataclass(frozen=True)
class Around:
    """A step made of others, as a sentence is."""

    steps: object

    def __call__(self, source, target, images, seed):
        """Do nothing."""


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"sources": (plain(1),)}, ValueError, "seed 0: sources and a transfer need each other"),
        ({"transfer": average}, ValueError, "sources and a transfer need each other"),
        (
            {"sources": (plain(1),), "transfer": {"order": "chain"}},
            TypeError,
            "transfer must be a dataclass or function",
        ),
        ({"sources": (plain(1),), "transfer": Average}, TypeError, "transfer must be a dataclass or function"),
        ({"sources": ("plainnet5",), "transfer": average}, TypeError, "a source must be a Job, got str"),
        ({"objective": 3}, TypeError, "objective must be a dataclass or function that is called, got 3"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        plain(0, **fields)


def test_wrong_settings_of_an_objective_are_told_at_once():
    with pytest.raises(ValueError, match="alpha must be a finite number from 0 to 1, got 2"):
        DistilFrom(plain(1), 2, 2.0)
    with pytest.raises(ValueError, match="unknown mask 'rows'"):
        CrossoverWith(plain(1), mask="rows")


def test_the_estimate_counts_what_is_needed_once_and_a_teacher_in_every_step(cache, monkeypatch):
    monkeypatch.setattr(ESTIMATE, "_probe_all", lambda kinds, device: dict.fromkeys(kinds, Cost(60.0, 512.0)))
    teacher = plain(1)
    taught = [plain(0, objective=DistilFrom(teacher, alpha, 2.0)) for alpha in (0.1, 0.5)]
    fused = plain(0, sources=[teacher, plain(2)], transfer=average)
    assert ESTIMATE.measure([teacher, *taught], cache).trainings == 3
    assert {ESTIMATE._kind(job) for job in (teacher, fused)} == {ESTIMATE._kind(plain(0))}
    assert len({ESTIMATE._kind(job) for job in (teacher, *taught)}) == 2
    assert ESTIMATE.probe(taught[0]).seconds > 0


class Noted(ThreadPoolExecutor):
    """Threads that remember in which order they were given jobs."""

    def __init__(self):
        super().__init__(1)
        self.labels = []

    def submit(self, work, job, *more):
        self.labels.append(job.label)
        return super().submit(work, job, *more)


def test_any_executor_runs_the_longest_chain_first_and_each_job_once(cache):
    """Of three that can begin, the source of the longest chain comes first."""
    source, short = plain(0), replace(plain(1), recipe=QUICK.changed(epochs=1))
    long = replace(plain(2), recipe=QUICK.changed(epochs=4))
    heir = replace(plain(3), recipe=QUICK.changed(epochs=3), sources=(source,), transfer=average)
    with Noted() as executor:
        found = train_all([short, long, heir, long], cache, processes=1, executor=executor)
    assert executor.labels == [job.label for job in (source, long, heir, short)]
    assert [trained.history.epochs for trained in found] == [1, 4, 3, 4]
    assert len(cache.computed) == 4


def test_what_a_kept_result_once_needed_is_not_trained_again(cache):
    source = plain(0)
    heir = plain(1, sources=(source,), transfer=average)
    train_all([heir], cache, processes=1)
    cache.path(cache.key(*asked(source))).unlink()
    assert train_missing([heir], cache) == {}
    assert list(train_missing([source], cache, processes=1).values()) == [source]
