"""What lies in a cache, and what `gc` takes and leaves."""

import os
import time

import pytest
import torch

from hetlib import cli
from hetlib.cli.cache_files import clean, kept
from hetlib.lab.cache import Cache

DAY = 86400


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Four results, the first damaged, the second long unused; an old interrupted run, and half a file."""
    monkeypatch.setenv("HETLIB_CACHE", str(tmp_path))
    cache = Cache()
    for number, name in enumerate(("damaged", "old", "new", "newest")):
        cache.fetch({"n": number}, lambda scratch: ({"w": torch.zeros(1000)}, {}), label=f"the {name} one")
    entry = [cache.path(cache.key({"n": number})) for number in range(4)]
    entry[0].write_bytes(entry[0].read_bytes()[:20])
    age(entry[1], 40)
    age(entry[2], 2)
    (tmp_path / "scratch").mkdir(exist_ok=True)
    for path, days in ((tmp_path / "scratch" / "abc", 50), (tmp_path / "entries" / ".x.safetensors.12.part", 31)):
        path.write_text("half")
        age(path, days)
    return cache


def age(path, days):
    os.utime(path, (time.time() - days * DAY,) * 2)


def labels(things):
    return [thing.label for thing in things]


def test_everything_is_listed_by_use(cache):
    found = kept(cache)
    assert set(labels(found[:2])) == {"damaged", "the newest one"}
    assert labels(found[2:]) == ["the new one", "half a file", "the old one", "interrupted"]
    assert found[2].mib == pytest.approx(4000 / 2**20, rel=0.5)
    assert found[4].days == pytest.approx(40, abs=0.01)


def test_old_and_damaged_things_go(cache):
    would = clean(cache, dry=True)
    assert len(kept(cache)) == 6
    gone = clean(cache)
    assert sorted(labels(gone)) == sorted(labels(would)) == ["damaged", "half a file", "interrupted", "the old one"]
    assert set(labels(kept(cache))) == {"the new one", "the newest one"}
    assert cache.find({"n": 1}) is None
    assert cache.find({"n": 3}) is not None


def test_a_hit_makes_a_result_young(cache):
    assert cache.find({"n": 1}) is not None
    assert "the old one" not in labels(clean(cache))


def test_zero_days_empty_the_cache(cache):
    clean(cache, 0)
    assert kept(cache) == []
    assert clean(Cache(cache.root / "nowhere"), 0) == []


def test_a_file_being_written_stays(cache):
    part = cache.root / "entries" / ".y.part"
    part.write_text("half")
    clean(cache, 0)
    assert part.exists()


def test_what_is_in_use_stays(cache):
    with cache.locked(cache.key({"n": 1})):
        assert "the old one" not in labels(clean(Cache(cache.root)))
    assert "the old one" in labels(clean(cache))


def test_a_negative_age_is_refused(cache):
    with pytest.raises(ValueError, match="must not be negative"):
        clean(cache, -1)


def test_the_command_line_lists_and_cleans(cache, capsys):
    def say(*arguments):
        with pytest.raises(SystemExit) as left:
            cli.main(["cache", *arguments])
        assert left.value.code == 0
        return capsys.readouterr().out

    assert "the old one" in say("ls")
    assert "40 days ago" in say("gc", "--dry-run")
    assert "4 things" in say("gc")
    assert say("gc").startswith("0 things, 0.0 MiB removed")
    assert "2 things" in say("ls")
    assert kept(cache)


def test_zero_days_mean_all_whatever_the_clock_says(cache):
    age(cache.path(cache.key({"n": 3})), -1)
    clean(cache, 0)
    assert kept(cache) == []
