"""The cache: found again when whole, computed when not, shared by processes, and never in the way."""

import errno
import json
import math
import multiprocessing
import os
import time
import types
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hetlib import files
from hetlib.lab.cache import Cache


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def answer(scratch):
    return {"w": torch.arange(6.0).view(2, 3).t()}, {"shape": (3, 2), "loss": 0.5}


def forbidden(scratch):
    raise AssertionError("computed although it was kept")


def module(source: str, folder: Path, name: str = "some") -> types.ModuleType:
    file = folder / f"{name}.py"
    file.write_text(source)
    made = types.ModuleType(name)
    made.__file__ = str(file)
    return made


def test_root_is_the_argument_else_the_environment_else_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HETLIB_CACHE", str(tmp_path / "env"))
    assert Cache().root == tmp_path / "env"
    assert Cache(tmp_path).root == tmp_path
    monkeypatch.delenv("HETLIB_CACHE")
    assert Cache().root == Path.home() / ".cache" / "hetlib"


def test_a_second_fetch_finds_the_first(cache):
    first = cache.fetch({"lr": 0.1}, answer, label="vgg11, seed 0")
    again = Cache(cache.root)
    second = again.fetch({"lr": 0.1}, forbidden, label="vgg11, seed 0")
    assert torch.equal(first[0]["w"], second[0]["w"])
    assert first[1] == second[1] == {"shape": [3, 2], "loss": 0.5}
    assert (len(cache.reused), len(cache.computed), len(again.reused), len(again.computed)) == (0, 1, 1, 0)
    assert again.has(again.key({"lr": 0.1}))
    assert not again.has(again.key({"lr": 0.2}))


def test_what_is_returned_does_not_alias_what_was_computed(cache):
    weight = torch.ones(3)
    tensors, _ = cache.fetch({}, lambda scratch: ({"a": weight, "tied": weight}, {}))
    weight.zero_()
    assert torch.equal(tensors["a"], torch.ones(3))
    assert torch.equal(cache.fetch({}, forbidden)[0]["tied"], torch.ones(3))


@dataclass(frozen=True)
class Setting:
    lr: float = 0.1
    steps: tuple = (1, 2)


def test_every_part_of_the_configuration_counts(cache):
    configs = [
        {},
        {"a": 1},
        {"a": 1.5},
        {"a": True},
        {"a": "1"},
        {"a": [1]},
        {"b": 1},
        {"a": Setting()},
        {"a": Setting(0.2)},
    ]
    assert len({cache.key(config) for config in configs}) == len(configs)
    assert cache.key({"a": 1, "b": (2, 3)}) == cache.key({"b": [2, 3], "a": 1})


def test_what_has_no_plain_form_is_refused(cache):
    with pytest.raises(TypeError, match="no plain form"):
        cache.key({"model": torch.nn.Linear(1, 1)})
    for part in (torch.relu, time, math, (lambda: 0,)[0], 3):
        with pytest.raises(TypeError, match="cannot be read"):
            cache.key({}, [part])


CODE = '"""Says."""\n\ndef twice(x):\n    """Double."""\n    return 2 * x  # why\n'


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (CODE.replace("# why", "# because"), True),
        (CODE.replace("Double.", "Twice the number.").replace("Says.", "States."), True),
        (CODE.replace("2 * x", "(2\n        * x)"), True),
        (CODE.replace("2 * x", "3 * x"), False),
        (CODE.replace("def twice(x)", "def twice(x, y=0)"), False),
    ],
)
def test_code_counts_and_comments_do_not(cache, tmp_path, changed, same):
    (tmp_path / "b").mkdir()
    keys = [cache.key({}, [module(CODE, tmp_path)]), cache.key({}, [module(changed, tmp_path / "b")])]
    assert (keys[0] == keys[1]) is same


def test_functions_packages_and_order_of_uses(cache):
    import hetlib.match
    import hetlib.zoo

    assert cache.key({}, [hetlib.match.by_ratio]) != cache.key({}, [hetlib.match.by_position])
    assert cache.key({}, [hetlib.match, hetlib.zoo]) == cache.key({}, [hetlib.zoo, hetlib.match])
    only_init = types.ModuleType("init")
    only_init.__file__ = hetlib.zoo.__file__
    assert cache.key({}, [hetlib.zoo]) != cache.key({}, [only_init])


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_a_damaged_entry_is_named_and_computed_anew(cache, damage):
    cache.fetch({}, answer)
    entry = cache.path(cache.key({}))
    entry.write_bytes(damage(entry.read_bytes()))
    with pytest.warns(UserWarning, match=f"{entry.name}.*computed anew"):
        tensors, _ = cache.fetch({}, answer)
    assert torch.equal(tensors["w"], answer(None)[0]["w"])
    assert files.load_tensors(entry)[1]["facts"]["loss"] == 0.5
    cache.fetch({}, forbidden)


def test_an_entry_of_another_key_is_damaged(cache):
    cache.fetch({"lr": 0.1}, answer)
    cache.path(cache.key({"lr": 0.1})).rename(cache.path(cache.key({"lr": 0.2})))
    with pytest.warns(UserWarning, match="holds the result of another key; it is computed anew"):
        cache.fetch({"lr": 0.2}, answer)
    cache.fetch({"lr": 0.2}, forbidden)


def test_find_computes_nothing(cache):
    assert cache.find({"lr": 0.1}) is None
    kept = cache.fetch({"lr": 0.1}, answer)
    found = cache.find({"lr": 0.1})
    assert found[1] == kept[1]
    assert torch.equal(found[0]["w"], kept[0]["w"])


def test_a_lock_that_is_held_is_not_waited_for_longer_than_told(cache):
    with cache.locked("a"), pytest.raises(TimeoutError), Cache(cache.root).locked("a", timeout=0.05):
        pass
    with cache.locked("a", timeout=0):
        pass


def test_scratch_outlives_an_interruption_and_not_a_result(cache):
    seen = []

    def interrupted(scratch):
        files.write(scratch, "epoch 1")
        seen.append(scratch)
        raise KeyboardInterrupt

    def resumed(scratch):
        assert scratch.read_text() == "epoch 1"
        return answer(scratch)

    with pytest.raises(KeyboardInterrupt):
        cache.fetch({}, interrupted)
    cache.fetch({}, resumed)
    assert not seen[0].exists()

    def folder(scratch):
        files.write(scratch / "model", "epoch 1")
        return answer(scratch)

    cache.fetch({"b": 1}, folder)
    assert list((cache.root / "scratch").iterdir()) == []


def test_an_error_of_the_computation_is_its_own(cache):
    with pytest.raises(FileNotFoundError, match="cifar"), warnings.catch_warnings(action="error"):
        cache.fetch({}, lambda scratch: Path("nowhere/cifar").read_bytes())
    assert cache.fetch({}, answer)[1]["loss"] == 0.5


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/cache"):
        Cache(tmp_path / "file" / "cache").fetch({}, answer)


def test_a_full_disk_is_an_error_that_names_the_file_and_a_checkpoint_is_kept(cache, monkeypatch):
    def compute(scratch):
        files.write(scratch, "epochs 1-9")
        return answer(scratch)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda _: full() if (cache.root / "scratch" / cache.key({})).exists() else 0)
        with pytest.raises(OSError, match=rf"could not write {cache.path(cache.key({}))} .No space left"):
            cache.fetch({}, compute)
    assert not cache.has(cache.key({}))
    assert cache.fetch({}, lambda scratch: ({}, {"from": scratch.read_text()}))[1] == {"from": "epochs 1-9"}


def slowly(scratch):
    with open(os.environ["COUNT"], "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.3)
    return {"w": torch.ones(2)}, {"by": os.getpid()}


def fetch_slowly(root, queue):
    queue.put(Cache(root).fetch({"slow": True}, slowly)[1]["by"])


def test_of_two_processes_one_computes_and_the_other_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=fetch_slowly, args=(tmp_path / "cache", queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    answers = [queue.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    assert answers[0] == answers[1]
    assert len((tmp_path / "count").read_text().splitlines()) == 1


def test_the_entry_says_what_it_is(cache):
    cache.fetch({"lr": 0.1}, answer, label="vgg11")
    meta = files.load_tensors(cache.path(cache.key({"lr": 0.1})))[1]
    assert (meta["label"], json.dumps(meta["config"])) == ("vgg11", '{"lr": 0.1}')
