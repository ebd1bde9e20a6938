"""Estimates: what is counted, what is multiplied, and where the sentence goes."""

from dataclasses import replace
from importlib import import_module

import pytest

from hetlib.lab import records, start
from hetlib.lab.cache import Cache
from hetlib.lab.estimate import Cost, Estimate, measure
from hetlib.lab.train import Job, train
from hetlib.training import Recipe

ESTIMATE = import_module("hetlib.lab.estimate")  # the face has a function of that name

QUICK = Recipe(epochs=6, precision="fp32", augment=False, batch_size=256, evaluate_every=2)


def copied(source, target, images, seed):
    target.load_state_dict(source.state_dict())


SOURCE = Job(model="plainnet5", data="digits", recipe=QUICK, options={"width": 0.125, "kernel_size": 3})
FED = {"sources": (SOURCE,), "transfer": copied}
JOBS = [replace(SOURCE, seed=seed, **(FED if fed else {})) for seed in (1, 2, 1) for fed in (False, True)]


@pytest.fixture
def known_costs(monkeypatch):
    monkeypatch.setenv("HETLIB_PROCESSES", "2")
    monkeypatch.setattr(ESTIMATE, "_probe_all", lambda kinds, device: dict.fromkeys(kinds, Cost(60.0, 512.0)))
    monkeypatch.setattr(ESTIMATE, "_free_memory", lambda device: 2048.0)


def test_what_is_needed_is_counted_once(known_costs, tmp_path):
    # One source and four different heirs, two at a time.
    expected = Estimate(5, 0, 150.0, 2, 1024.0, 2048.0, "cpu")
    assert measure(JOBS, Cache(tmp_path)) == expected


def test_one_long_training_is_waited_for(monkeypatch, known_costs, tmp_path):
    long = replace(SOURCE, recipe=QUICK.changed(epochs=60))
    costs = {ESTIMATE._kind(SOURCE): Cost(10.0, 100.0), ESTIMATE._kind(long): Cost(100.0, 300.0)}
    monkeypatch.setattr(ESTIMATE, "_probe_all", lambda kinds, device: costs)
    found = measure([SOURCE, long, replace(SOURCE, seed=1)], Cache(tmp_path))
    assert (found.seconds, found.mib) == (100.0, 600.0)


def test_kept_results_cost_nothing(known_costs, tmp_path):
    cache = Cache(tmp_path)
    train(SOURCE, cache)
    assert measure([SOURCE], cache).trainings == 0
    assert str(measure([SOURCE], cache)) == "nothing to train: all 1 results are kept from earlier runs"
    assert (measure(JOBS, cache).trainings, measure(JOBS, cache).found) == (4, 1)


def test_a_probe_multiplies_epochs_and_evaluations(monkeypatch):
    ticks = iter([0.0, 5.0, 6.0, 9.0])  # warm-up, one second an epoch, two for the evaluation
    monkeypatch.setattr(ESTIMATE.time, "perf_counter", lambda: next(ticks))
    train, test = (len(SOURCE.load(split)) for split in ("train", "test"))
    assert train <= ESTIMATE.STEPS * QUICK.batch_size
    assert test <= ESTIMATE.TESTED
    assert ESTIMATE.probe(SOURCE).seconds == 6 * 1.0 + 3 * 2.0


def test_a_real_probe_runs_in_a_process_of_its_own(tmp_path):
    found = measure([SOURCE], Cache(tmp_path))
    assert found.trainings == found.processes == 1
    assert found.seconds > 0
    assert 50 < found.mib < 4096


def test_too_little_memory_is_said():
    text = str(Estimate(60, 2, 3 * 3600 + 61, 2, 4096.0, 1024.0, "cpu"))
    assert text.startswith("60 trainings to run, 2 found: about 3 h 02 min on cpu, 2 at a time, 4.0 GiB of memory")
    assert "more than is free" in text
    assert "more than" not in str(Estimate(60, 2, 59.0, 2, 512.0, 1024.0, "cpu"))


@pytest.mark.parametrize("preset", ["reduced", "paper"])
def test_only_runs_of_hours_are_estimated_and_the_runner_finds_it(known_costs, monkeypatch, tmp_path, preset):
    monkeypatch.setenv("HETLIB_RUN_DIR", str(tmp_path / "run"))
    assert ESTIMATE.estimate(JOBS, start("01_hmt", "classroom", cache=tmp_path)) is None
    assert not (tmp_path / "run").exists()
    found = ESTIMATE.estimate(JOBS, start("01_hmt", preset, cache=tmp_path))
    assert (tmp_path / "run" / records.ESTIMATE).read_text() == str(found)
