"""The records: what a record holds, and what is said when it does not."""

import json
import math
import os
import subprocess
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hetlib import files
from hetlib.lab import records
from hetlib.lab.statistics import interval

RECORD = records.Record(
    notebook="01_hmt",
    preset="classroom",
    parameters={"ORDER": "chain"},
    seeds=[0, 1, 2],
    metrics={"HMT": {"unit": "%", "values": [20.5, 21.0, 19.5]}},
    data={"name": "shapes", "checksum": "ab12", "train": 1000, "test": 500},
    device="cpu",
    precision="fp32",
    threads=1,
    seconds=12.5,
    peak_mib=900.0,
    commit="0123456789abcdef",
    dirty=False,
    date="2026-01-02T03:04:05.000006+00:00",
    facts={"epochs": 5},
)


def test_written_and_read_again(tmp_path):
    path = records.write(RECORD, tmp_path / "results")
    assert path.name == "01_hmt-classroom-shapes-01234567-20260102T030405000006.json"
    assert records.read(path) == RECORD


def test_names_are_safe_for_any_file_system(tmp_path):
    odd = replace(RECORD, data=RECORD.data | {"name": "a/b c:d"}, commit=None, dirty=None)
    assert records.write(odd, tmp_path).name.startswith("01_hmt-classroom-a_b_c_d-nogit-")


def test_defaults_describe_this_machine():
    given = {k: v for k, v in asdict(RECORD).items() if k not in ("versions", "commit", "dirty", "date", "facts")}
    record = records.Record(**given)
    assert set(record.versions) == {"python", "torch", "torchvision", "hetlib", "numpy", "processor"}
    assert record.date.endswith("+00:00")
    assert (record.commit is None) == (record.dirty is None)


def test_a_collection_and_a_folder_of_runs_are_read_by_date(tmp_path):
    later = replace(RECORD, date="2026-05-01T00:00:00+00:00")
    records.write(later, tmp_path)
    files.write(records.path(tmp_path / "01_hmt-classroom"), RECORD.to_json())
    assert records.read_all(tmp_path) == [RECORD, later]
    assert records.read_all(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("notebook", "", "notebook must be a name, got ''"),
        ("seeds", [0, 1, 2.5], "seeds must be a list of whole numbers"),
        ("seeds", [0, 1], r"metrics\['HMT'\] has 3 values for 2 seeds"),
        ("metrics", {"HMT": [1, 2, 3]}, r"metrics\['HMT'\] must be \{'unit'"),
        ("metrics", {"HMT": {"unit": "%", "values": [1, 2, math.nan]}}, "must be finite numbers"),
        ("data", {"name": "shapes"}, "data must be"),
        ("seconds", True, "seconds must be"),
        ("threads", True, "threads must be"),
        ("seconds", -1.0, "seconds must be"),
        ("date", "yesterday", "date must be"),
        ("date", "2026-01-01T00:00:00", "with its zone"),
        ("dirty", "no", "dirty must be"),
        ("facts", {"x": math.inf}, "facts must be"),
        ("parameters", {"x": object()}, "parameters must be"),
    ],
)
def test_wrong_fields_are_named(field, value, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        replace(RECORD, **{field: value})


def test_missing_and_unknown_fields_are_named_with_their_file(tmp_path):
    content = asdict(RECORD)
    del content["metrics"], content["device"]
    (tmp_path / "a.json").write_text(json.dumps(content | {"colour": "red"}))
    with pytest.raises(ValueError, match=r"a\.json.*metrics is missing; device is missing; colour is no field"):
        records.read_all(tmp_path)


def test_older_records_have_neither_command_nor_key(tmp_path):
    content = asdict(RECORD)
    del content["command"], content["key"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert records.read(tmp_path / "a.json") == RECORD
    (tmp_path / "a.json").write_text(json.dumps(content | {"command": 3}))
    with pytest.raises(ValueError, match="command must be a command line or null, got 3"):
        records.read(tmp_path / "a.json")


@pytest.mark.parametrize(("text", "message"), [("{", "no JSON"), ("[]", "expected an object, found list")])
def test_files_that_are_no_records(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        records.read(tmp_path / "a.json")


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=9, unique=True))
def test_interval_is_student_t(values):
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, stats.tmean(values), stats.sem(values))
    assert mean == pytest.approx((low + high) / 2, abs=1e-6)
    assert half == pytest.approx((high - low) / 2, rel=1e-6, abs=1e-9)


def test_interval_of_one_and_of_none():
    mean, half = interval([3])
    assert mean == 3
    assert math.isnan(half)
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
    package = tmp_path / "hetlib" / "records.py"
    files.write(package, "")
    monkeypatch.setattr(records, "__file__", str(package))
    assert records.git() == (None, None)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    assert records.git() == (None, None), "the file is not tracked"
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    commit, dirty = records.git()
    assert len(commit) == 40
    assert dirty is False
    package.write_text("x = 1")
    assert records.git() == (commit, True)
    files.write(tmp_path / "new.py", "")
    files.write(tmp_path / "results" / "a.json", "{}")
    assert records.changed_files() == [" M hetlib/records.py", "?? new.py"]


def test_peak_memory_is_plausible():
    assert 50 < records.peak_memory("cpu") < 64_000


@pytest.mark.parametrize("values", [[], [10**400], [1.7e308], [float("inf")]])
def test_values_that_no_interval_can_be_made_of_are_refused(values):
    metrics = {"a": {"unit": "%", "values": values}}
    with pytest.raises(ValueError, match=r"metrics\['a'\]\['values'\] must be finite numbers"):
        replace(RECORD, metrics=metrics, seeds=list(range(len(values))))


@pytest.mark.parametrize(
    "date", ["2999-01-01T00:00:00+00:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"]
)
def test_a_date_that_cannot_be_is_refused(date):
    with pytest.raises(ValueError, match="date must be an ISO 8601 time with its zone, not in the future"):
        replace(RECORD, date=date)


def test_a_pipe_is_no_record_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a.json is no file"):
        records.read(tmp_path / "a.json")


def test_what_a_run_failed_of_is_kept(tmp_path):
    failed = replace(RECORD, failure="cell 3 failed")
    assert records.read(records.write(failed, tmp_path)) == failed
    with pytest.raises(ValueError, match="failure must be a text or null, got 3"):
        replace(RECORD, failure=3)


def test_a_text_nested_too_deep_is_no_record(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"deep.json is no JSON text"):
        records.read(path)
