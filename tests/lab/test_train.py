"""Trainings described as data: found again, seeded, resumed, and the same in other processes."""

import subprocess
import sys
import time
from dataclasses import asdict, replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from hetlib import hmt
from hetlib.lab.cache import Cache
from hetlib.lab.estimate import Cost
from hetlib.lab.job import uses
from hetlib.lab.train import Job, Stopped, start, train, train_all
from hetlib.training import Distillation, Recipe, fit

ESTIMATE = import_module("hetlib.lab.estimate")  # the face has a function of that name

QUICK = Recipe(epochs=2, lr=0.05, precision="fp32", augment=False, batch_size=256)
SMALL = {"width": 0.125, "kernel_size": 3}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_result_is_found_again(cache):
    job = Job("plainnet5", "digits", QUICK, options=SMALL)
    first, again = train(job, cache), train(job, Cache(cache.root))
    assert len(cache.computed) == 1
    assert first.history == again.history
    assert same(first.model, again.model)
    assert not again.model.training


def test_every_setting_makes_another_result(cache):
    job = Job("plainnet5", "digits", QUICK, options=SMALL)
    others = [
        Job("plainnet5", "digits", QUICK, seed=1, options=SMALL),
        Job("plainnet5", "digits", QUICK.changed(lr=0.01), options=SMALL),
        Job("plainnet5", "digits", QUICK, options=SMALL | {"width": 0.25}),
        Job("plainnet5", "digits", QUICK, options=SMALL, source=job),
        Job("plainnet5", "digits", QUICK, options=SMALL, source=job, transfer={"order": "shuffle"}),
    ]
    keys = {cache.key({"job": each}, uses(each)) for each in (job, *others)}
    assert len(keys) == 6


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Job("plainnet5", "digits", QUICK, seed=9, options=SMALL).build()
    assert torch.equal(torch.rand(2), expected)


def test_a_source_is_trained_first_and_feeds_its_heirs(cache):
    source = Job("vgg8", "digits", QUICK, options={"width": 0.125, "image_size": 8})
    heir = Job("plainnet5", "digits", QUICK, options=SMALL, source=source, transfer={"order": "interval"})
    fed, expected = start(heir, cache), heir.build()
    hmt.transfer(train(source, cache).model, expected, "interval")
    assert same(fed, expected)
    assert len(cache.computed) == 1


def test_processes_give_the_same_numbers_as_one(tmp_path):
    work = [Job("plainnet5", "digits", QUICK, seed=seed, options=SMALL) for seed in (0, 1, 0)]
    alone = train_all(work, Cache(tmp_path / "one"), processes=1)
    spread = train_all(work, Cache(tmp_path / "two"), processes=2)
    for a, b in zip(alone, spread, strict=True):
        assert a.history == b.history
        assert same(a.model, b.model)
    assert alone[0].history == alone[2].history != alone[1].history


def test_a_failing_job_names_its_error(cache):
    job = Job("plainnet5", "digits", QUICK, options=SMALL | {"kernel": 3})
    with pytest.raises(ValueError, match="did you mean 'kernel_size'"):
        train_all([job], cache, processes=2)


def test_a_stopped_training_is_not_kept_as_a_result_and_goes_on(cache):
    job = Job("plainnet5", "digits", QUICK, options=SMALL)
    with pytest.raises(Stopped, match="stopped after 1 of 2 epochs"):
        train(job, cache, on_epoch=lambda history: True)
    seen = []
    resumed = train(job, cache, on_epoch=lambda history: seen.append(history.epochs))
    assert seen == [2]
    whole = train(job, Cache(cache.root / "other"))
    assert resumed.history == whole.history
    assert same(resumed.model, whole.model)


def test_the_parent_knows_what_its_processes_computed(tmp_path):
    work = [Job("plainnet5", "digits", QUICK, seed=seed, options=SMALL) for seed in (0, 1)]
    train(work[0], Cache(tmp_path))
    for expected in ((1, 1), (0, 2)):
        cache = Cache(tmp_path)
        train_all(work, cache, processes=2)
        assert (len(cache.computed), len(cache.reused)) == expected


def test_an_error_is_told_before_everything_else_has_trained(tmp_path):
    cache, long = Cache(tmp_path), QUICK.changed(epochs=30)
    bad = Job("plainnet5", "digits", QUICK, options=SMALL | {"kernel": 3})
    good = [Job("plainnet5", "digits", long, seed=seed, options=SMALL) for seed in range(8)]
    with pytest.raises(ValueError, match="did you mean 'kernel_size'"):
        train_all([bad, *good], cache, processes=2)
    assert sum(cache.has(cache.key(job.description, uses(job))) for job in good) < len(good)


ORPHANS = """
import sys
from hetlib.lab.cache import Cache
from hetlib.lab.train import Job, train_all
from hetlib.training import Recipe

if __name__ == "__main__":
    recipe = Recipe(epochs=100_000, precision="fp32", augment=False)
    train_all([Job("plainnet5", "digits", recipe, seed=seed) for seed in (0, 1)], Cache(sys.argv[1]), processes=2)
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


METHODS = {
    "hmt": {"hmt", "match", "chain", "chain.channels", "kernels.resize_cyclic", "kernels.fill", "kernels.write"},
    "tlv": {"tlv", "match", "transfer.overlay", "chain.nested", "kernels.select", "kernels.resize_by_variance"},
    "baselines": {"baselines", "match", "transfer.overlay", "chain.nested", "kernels.overlay", "kernels.write"},
}


@pytest.mark.parametrize("method", METHODS)
def test_any_method_feeds_a_job_and_all_it_computes_with_is_part_of_the_key(cache, method):
    source = Job("plainnet5", "digits", QUICK, options=SMALL)
    heir = replace(source, seed=1, source=source, method=method)
    assert not same(start(heir, cache), heir.build())
    names = {module.__name__.removeprefix("hetlib.") for module in uses(heir)}
    assert METHODS[method] | {"data", "data.published", "training.recipe", "training", "zoo"} <= names
    assert not names & (
        {"errors", "files", "transfer.report", "kernels.fill_triton", "kernels.sinkhorn_triton"}
        | set(METHODS) - {method}
    )
    assert heir.label.endswith(f"({method}), seed 1")


def test_what_a_job_depends_on_is_known_without_triton(cache):
    hidden = (
        "import sys; sys.modules['triton'] = None; from hetlib.lab.code import code_of; "
        "print(*(module.__name__ for module in code_of('hmt', 'tlv')))"
    )
    found = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=True).stdout.split()
    assert {"hetlib.kernels.write", "hetlib.chain"} <= set(found)


@pytest.mark.parametrize("augment", [False, True])
def test_a_job_trains_in_crossover_with_its_source(cache, augment):
    recipe = QUICK.changed(augment=augment)
    source = Job("plainnet5", "digits", recipe, options=SMALL)
    plain = replace(source, seed=1, source=source, transfer=None)
    crossed = replace(plain, crossover={"p": 0.5})
    apart, together = train(plain, cache), train(crossed, cache)
    assert same(start(plain, cache), crossed.build())
    assert same(start(crossed, cache), crossed.build())
    assert not same(apart.model, together.model)
    assert train(crossed, cache).history == together.history
    assert "hetlib.tlv.crossover" in {module.__name__ for module in uses(crossed)}
    assert crossed.label == "plainnet5 on digits from plainnet5 (crossover), seed 1"


def test_crossover_without_a_source_is_refused():
    with pytest.raises(ValueError, match="plainnet5 on digits, seed 0: crossover needs a source"):
        Job("plainnet5", "digits", QUICK, crossover={})


FUSE = """
import torch

calls = []

def transfer(sources, target, data, **options):
    calls.append((sources, data, options))
    with torch.no_grad():
        for name, value in target.named_parameters():
            value.copy_(torch.stack([dict(source.named_parameters())[name] for source in sources]).mean(0))
"""


@pytest.fixture
def fusion(tmp_path, monkeypatch):
    """A stand-in for the module that fuses: the plain average."""
    path = tmp_path / "clafusion.py"
    path.write_text(FUSE)
    specification = spec_from_file_location("hetlib.clafusion", path)
    module = module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "hetlib.clafusion", module)
    return module


def plain(seed, **fields):
    return Job("plainnet5", "digits", QUICK, seed=seed, options=SMALL, **fields)


def test_partners_are_fused_with_the_source_on_the_jobs_images(cache, fusion):
    parts = [plain(seed) for seed in (1, 2, 3)]
    fused = plain(0, source=parts[0], partners=parts[1:], method="clafusion", transfer={"step": 0.5})
    model = start(fused, cache)
    ((sources, images, options),) = fusion.calls
    assert all(same(source, train(part, cache).model) for source, part in zip(sources, parts, strict=True))
    assert (images.checksum, options) == (fused.load("train").checksum, {"step": 0.5})
    assert not same(model, fused.build())
    assert "hetlib.clafusion" in {module.__name__ for module in uses(fused)}
    assert fused.label == "plainnet5 on digits from plainnet5 + plainnet5 + plainnet5 (clafusion), seed 0"


def test_a_student_is_taught_by_another_job(cache):
    alone = plain(0)
    taught = plain(0, teacher=plain(1), distil={"alpha": 0.9, "temperature": 4.0})
    found = train(taught, cache)
    assert not same(found.model, train(alone, cache).model)
    assert train(taught, cache).history == found.history
    assert "hetlib.training.objectives" in {module.__name__ for module in uses(taught)}
    assert taught.label == "plainnet5 on digits taught by plainnet5, seed 0"
    student, objective = alone.build(), Distillation(train(plain(1), cache).model, 0.9, 4.0)
    fit(student, alone.load("train"), alone.load("test"), QUICK, objective=objective)
    assert same(student, found.model)


def test_a_taught_student_can_be_in_crossover_too(cache):
    crossed = plain(0, source=plain(2), transfer=None, crossover={"p": 0.5})
    both = replace(crossed, teacher=plain(1), distil={"alpha": 0.9, "temperature": 4.0})
    assert not same(train(both, cache).model, train(crossed, cache).model)


def test_all_that_is_needed_is_trained_first_and_once(cache, fusion):
    teacher, first, second = plain(1), plain(2), plain(3)
    student = plain(4, teacher=teacher, distil={"alpha": 0.5, "temperature": 2.0})
    fused = plain(5, source=first, partners=(second, student), method="clafusion")
    last = plain(6, source=fused, teacher=teacher, distil={"alpha": 0.5, "temperature": 2.0})
    assert last.needs == (fused, teacher)
    train_all([last, teacher, last], cache, processes=1)
    assert len(cache.computed) == len(set(cache.computed)) == 6
    assert cache.computed[-1] == last.label
    untaught = {module.__name__ for module in uses(replace(last, teacher=None, distil=None))}
    assert {"hetlib.clafusion", "hetlib.training.objectives"} <= untaught, (
        "the code behind what a job needs counts as well"
    )


def test_fields_that_came_later_are_told_only_where_they_are_used():
    heir = plain(0, source=plain(1), transfer={"order": "interval"})
    before = {"model", "data", "recipe", "seed", "options", "data_options", "source", "transfer", "method", "crossover"}
    assert set(heir.description) == set(heir.description["source"]) == before
    assert heir.description["recipe"] == asdict(QUICK)
    taught = plain(0, teacher=heir, distil={"alpha": 0.5, "temperature": 2.0})
    assert set(taught.description) == before | {"teacher", "distil"}
    assert taught.description["teacher"] == heir.description


def test_new_fields_make_other_results(cache, fusion):
    fused = plain(0, source=plain(1), method="clafusion")
    taught = plain(0, teacher=plain(1), distil={"alpha": 0.5, "temperature": 2.0})
    different = [
        fused,
        replace(fused, partners=(plain(2),)),
        replace(fused, partners=(plain(3),)),
        replace(fused, partners=(plain(2), plain(3))),
        taught,
        replace(taught, teacher=plain(2)),
        replace(taught, distil={"alpha": 0.6, "temperature": 2.0}),
    ]
    assert len({cache.key(job.description, uses(job)) for job in different}) == len(different)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"partners": (plain(1),)}, "seed 0: partners need a source, and the method 'clafusion'"),
        ({"partners": (plain(1),), "source": plain(2)}, "partners need a source, and the method 'clafusion'"),
        ({"partners": (plain(1),), "source": plain(2), "method": "clafusion", "transfer": None}, "partners need"),
        ({"teacher": plain(1)}, "teacher and distil .* need each other"),
        ({"distil": {"alpha": 0.5, "temperature": 2.0}}, "teacher and distil .* need each other"),
        ({"teacher": plain(1), "distil": {"alpha": 2, "temperature": 2.0}}, "alpha must be from 0 to 1, got 2"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        plain(0, **fields)


def test_the_estimate_counts_what_is_needed_once_and_a_teacher_in_every_step(cache, monkeypatch):
    monkeypatch.setattr(ESTIMATE, "_probe_all", lambda kinds, device: dict.fromkeys(kinds, Cost(60.0, 512.0)))
    teacher = plain(1)
    taught = [plain(0, teacher=teacher, distil={"alpha": alpha, "temperature": 2.0}) for alpha in (0.1, 0.5)]
    fused = plain(0, source=teacher, partners=(plain(2),), method="clafusion")
    assert ESTIMATE.measure([teacher, *taught], cache).trainings == 3
    assert {ESTIMATE._kind(job) for job in (teacher, fused)} == {ESTIMATE._kind(plain(0))}
    assert len({ESTIMATE._kind(job) for job in (teacher, *taught)}) == 2
    assert ESTIMATE.probe(taught[0]).seconds > 0
