"""Files are whole or absent, whatever happens to the disk or the process."""

import json
import os
import resource
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib import files
from hetlib.errors import unknown

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "half": torch.ones(3, dtype=torch.bfloat16), "one": torch.tensor(7)}


def test_tensors_and_facts_come_back(tmp_path):
    path = files.save_tensors(tmp_path / "deep" / "er" / "a.safetensors", TENSORS, {"epoch": 3, "names": ["x"]})
    tensors, facts = files.load_tensors(path)
    assert facts == {"epoch": 3, "names": ["x"]}
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_a_tensor_of_several_names_is_kept_once_and_comes_back_as_one(tmp_path):
    one, flat = torch.randn(40, 50), torch.randn(20)
    values = {
        "b": one,
        "a": one,
        "c": one.clone(),
        "turned": one.T,
        "left": flat[:8],
        "right": flat[4:],
        "none": one[:0],
    }
    path = files.save_tensors(tmp_path / "a.safetensors", values, {})
    tensors, _ = files.load_tensors(path)
    assert tensors.keys() == values.keys()
    assert all(torch.equal(tensors[name], value) for name, value in values.items())
    assert tensors["a"] is tensors["b"]
    assert tensors["a"] is not tensors["c"]
    assert 3 * one.nbytes < path.stat().st_size < 3.5 * one.nbytes


EXTRA = {
    "_extra_state": {
        "version": (1, [2.5, None]),
        "mean": torch.arange(3.0),
        "deep": {"on": True, "": "é", "t": (torch.ones(2),)},
    },
    "a._extra_state": None,
    "b._extra_state": torch.tensor([3]),
    "c._extra_state": [],
    "d._extra_state": float("inf"),
}


def alike(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return type(b) is dict and a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(alike, a, b))
    return type(a) is type(b) and a == b


def test_values_of_other_kinds_come_back_as_they_were(tmp_path):
    tensors, _ = files.load_tensors(files.save_tensors(tmp_path / "a.safetensors", TENSORS | EXTRA, {}))
    assert alike(TENSORS | EXTRA, tensors)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({1: 2}, r"x is a dict"),
        ({"a": {2}}, r"x\['a'\] is a set"),
        ([1, {"b": (object(),)}], r"x\[1\]\['b'\]\[0\] is a object"),
        (torch.Size([1]), "x is a Size"),
        (b"pickled", "x is a bytes"),
    ],
)
def test_values_that_no_file_keeps_are_named(tmp_path, value, named):
    with pytest.raises(ValueError, match=named):
        files.save_tensors(tmp_path / "a.safetensors", TENSORS | {"x": value}, {})
    assert not [*tmp_path.iterdir()]
    assert files.checksum({"x": value})


def test_the_checksum_is_of_all_values():
    state = {"x": {"a": torch.zeros(5000)}, "y": torch.ones(2)}
    other = {"x": {"a": torch.zeros(5000)}, "y": torch.ones(2)}
    assert files.checksum(state) == files.checksum(other)
    other["x"]["a"][2500] = 1
    assert files.checksum(state) != files.checksum(other)


def test_every_truncation_is_detected(tmp_path):
    path = files.save_tensors(tmp_path / "a.safetensors", TENSORS, {})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(files.DamagedFile, match=r"a\.safetensors"):
            files.load_tensors(path)


@pytest.mark.parametrize("more", [{}, {"again": TENSORS["one"], "x": {"a": 1, "t": TENSORS["weight"][:1]}}])
def test_every_altered_byte_is_detected(tmp_path, more):
    path = files.save_tensors(tmp_path / "a.safetensors", TENSORS | more, {"epoch": 3})
    whole = path.read_bytes()
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1
        path.write_bytes(altered)
        try:
            tensors, facts = files.load_tensors(path)
        except files.DamagedFile:
            continue
        # A blank of the header's padding may change without changing what is read.
        assert facts == {"epoch": 3}
        assert alike(TENSORS | more, tensors)


def test_missing_is_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        files.load_tensors(tmp_path / "nowhere.safetensors")


def _limited_write(path, limit):
    """Write 1 MB to `path` in a process that may not write files of more than `limit` bytes: a full disk, in effect."""
    code = f"from hetlib.files import write; write({str(path)!r}, b'x' * 1_000_000)"
    limits = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return subprocess.run([sys.executable, "-c", code], preexec_fn=limits, capture_output=True, text=True)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = files.write(tmp_path / "notes.txt", "old")
    done = _limited_write(path, 100_000)
    assert done.returncode != 0
    assert "notes.txt" in done.stderr.splitlines()[-1]
    assert "what was there is unchanged" in done.stderr.splitlines()[-1]
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file/inside"):
        files.write(tmp_path / "file" / "inside", "x")


@pytest.mark.skipif(not os.path.isdir("/sys"), reason="needs a file system nobody may write")
def test_a_read_only_file_system_is_named():
    with pytest.raises(OSError, match=r"could not write /sys/notes\.txt"):
        files.write("/sys/notes.txt", "x")


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(-3, 3), max_size=4))
def test_checksum_knows_names_and_values(numbers):
    tensors = {name: torch.tensor(float(value)) for name, value in numbers.items()}
    assert files.checksum(tensors) == files.checksum(dict(reversed(tensors.items())))
    for name in tensors:
        assert files.checksum(tensors | {name: tensors[name] + 1}) != files.checksum(tensors)
        assert files.checksum({k: v for k, v in tensors.items() if k != name}) != files.checksum(tensors)


def test_unknown_names_the_nearest():
    assert "did you mean 'classroom'" in str(unknown("preset", "clasroom", ["smoke", "classroom", "paper"]))
    assert str(unknown("preset", "zzz", ["a"])) == "unknown preset 'zzz'. Known: a"


@pytest.mark.parametrize(
    ("text", "says"),
    [("[" * 200 + "]" * 200, "100 deep"), ("[" * 10**6, "100 deep"), ("{", "Expecting"), ('"\\ud800"', "surrogate")],
)
def test_texts_that_no_reader_should_take_are_refused(text, says):
    with pytest.raises(ValueError, match=says):
        files.parse(text)


def test_as_deep_as_a_text_may_be_it_is_read():
    assert files.parse("[" * 100 + "]" * 100) == json.loads("[" * 100 + "]" * 100)


def test_only_a_regular_file_of_some_size_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("four")
    (tmp_path / "bytes").write_bytes(b"\xff")
    assert files.read(tmp_path / "text", 4) == "four"
    for name, largest, says in (
        ("pipe", 9, "is no file"),
        ("text", 3, "has 4 bytes"),
        ("bytes", 9, "bytes is no text"),
    ):
        with pytest.raises(ValueError, match=says):
            files.read(tmp_path / name, largest)
    with pytest.raises(FileNotFoundError, match="no file at"):
        files.read(tmp_path / "absent", 9)


def test_the_facts_alone_are_read(tmp_path):
    path = files.save_tensors(tmp_path / "a.safetensors", TENSORS, {"epoch": 3})
    assert files.load_meta(path) == {"epoch": 3}
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(files.DamagedFile, match=r"pipe.safetensors is no file"):
        files.load_tensors(tmp_path / "pipe.safetensors")
