"""What lies in a cache, and what `gc` takes and leaves."""

import hashlib
import json
import os
import struct
import time
from pathlib import Path

import pytest
import torch

from hetlib import cli
from hetlib.cli.cache_files import DAMAGED, clean, kept
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


def header(path, metadata, names=1):
    """Write a file of safetensors by hand: empty tensors, and what stands beside them."""
    tensors = {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(names)}
    text = json.dumps({"__metadata__": metadata} | tensors).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


@pytest.fixture
def hostile(cache, tmp_path):
    """Names of entries that are not what they seem."""
    entries = cache.root / "entries"
    meta = lambda value: {"meta": value}
    header(entries / "deep.safetensors", meta("[" * 100_000))
    header(entries / "list.safetensors", meta("[1]"))
    header(entries / "number.safetensors", meta('{"label": 3}'))
    header(entries / "many.safetensors", meta('{"label": "x"}'), names=200_000)
    (entries / "long.safetensors").write_bytes(struct.pack("<Q", 2**33) + b"{}")
    tensor = {"t": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}}
    text = json.dumps(tensor).encode()
    (entries / "large.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    os.mkfifo(entries / "pipe.safetensors")
    (entries / "loop.safetensors").symlink_to(entries / "loop.safetensors")
    (entries / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    (entries / "folder.safetensors").mkdir()
    (outside := tmp_path.parent / f"{tmp_path.name}-outside").mkdir()
    (outside / "mine.txt").write_text("mine")
    (entries / "away.safetensors").symlink_to(outside)
    (cache.root / "scratch" / "linked").symlink_to(outside)
    return {path.stem for path in entries.glob("*.safetensors") if len(path.stem) < 64}, outside / "mine.txt"


def test_what_no_entry_is_stops_neither_list_nor_gc(cache, hostile):
    names, outside = hostile
    found = {each.key: each.label for each in kept(cache)}
    assert {found[name] for name in names} == {DAMAGED}
    assert found["linked"] == "interrupted"
    assert "the newest one" in found.values()
    assert names <= {each.key for each in clean(cache)}
    clean(cache, 0)
    assert kept(cache) == []
    assert outside.read_text() == "mine", "a link goes, what it leads to stays"


def test_what_cannot_be_removed_is_named_and_the_rest_goes(cache, monkeypatch):
    remove = Path.unlink

    def unlink(path, missing_ok=False):
        if path == cache.path(cache.key({"n": 1})):
            raise PermissionError(13, "Permission denied", str(path))
        remove(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.warns(UserWarning, match="safetensors stays: Permission denied"):
        gone = clean(cache)
    assert "the old one" not in labels(gone)
    assert "damaged" in labels(gone)


@pytest.mark.parametrize("spoil", ["pipe", "deep", "list", "nothing"])
def test_a_hostile_entry_is_named_and_computed_anew(cache, spoil):
    path = cache.path(cache.key({"n": 3}))
    path.unlink()
    if spoil == "pipe":
        os.mkfifo(path)
    else:
        about = {"deep": "[" * 100_000, "list": "[1]", "nothing": json.dumps({"key": path.stem})}[spoil]
        checksum = hashlib.sha256(about.encode())
        checksum.update(b"t0 torch.float32 (0,)")
        header(path, {"meta": about, "sha256": checksum.hexdigest()})
    with pytest.warns(UserWarning, match=f"{path.stem}.* it is computed anew"):
        tensors, _ = cache.fetch({"n": 3}, lambda scratch: ({"w": torch.ones(1)}, {}))
    assert tensors["w"].item() == 1
    assert path.is_file()


def test_zero_days_mean_all_whatever_the_clock_says(cache):
    age(cache.path(cache.key({"n": 3})), -1)
    clean(cache, 0)
    assert kept(cache) == []
