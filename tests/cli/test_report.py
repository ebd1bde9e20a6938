"""The report when records, notebooks and folders are not what they should be: it loses nothing and runs nothing."""

import base64
import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from hetlib import cli
from hetlib.cli import report
from hetlib.lab import records
from tests.conftest import RECORD

MARKER = "<!-- end of table -->"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(8)).decode()
EVIL = f"\"'><script>alert(1)</script>\n{MARKER}\n<!-- table: 05_tlv -->|<img src=x onerror=alert(1)>"
GOOD = records.Record(
    **json.loads(RECORD)
    | {
        "notebook": "01_hmt",
        "seeds": [0, 1],
        "command": "hetlib run 01",
        "metrics": {"plainnet5/none/final": {"unit": "%", "values": [20.0, 21.0]}},
    }
)


def holding(text):
    """A field by name, and what it may hold, with a text wherever one may stand."""
    return {
        "parameters": {text: text},
        "facts": {"reductions": [text], text: text},
        "metrics": {text: {"unit": text, "values": [1.0, 2.0]}},
        "data": {"name": text, "checksum": text, "train": 1, "test": 1},
        "versions": {text: text},
    } | dict.fromkeys(("preset", "device", "precision", "commit", "command"), text)


@pytest.fixture
def place(tmp_path):
    """Folders of results and runs, one good record on record, and papers.md with its table."""
    (tmp_path / "runs").mkdir()
    records.write(GOOD, tmp_path / "results")
    (tmp_path / "papers.md").write_text(f"before\n<!-- table: 01_hmt -->\n{MARKER}\nafter\n")
    assert report.update_tables(tmp_path / "papers.md", tmp_path / "results")
    return tmp_path


def run(place, record, **files):
    folder = place / "runs" / f"run-{len([*(place / 'runs').iterdir()])}"
    folder.mkdir()
    text = record if isinstance(record, str) else record.to_json()
    records.path(folder).write_text(text)
    for name, content in files.items():
        (folder / f"{name}.ipynb").write_text(content)
    return folder


def call(capsys, place, *arguments):
    """Status, and what `hetlib report` prints."""
    folders = ["--runs", str(place / "runs"), "--papers", str(place / "papers.md")]
    with pytest.raises(SystemExit) as left:
        cli.main(["report", "--results", str(place / "results"), *folders, *arguments])
    out, err = capsys.readouterr()
    return left.value.code, out + err


def page(place):
    return report.write_page(place / "runs", place / "results").read_text()


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note a tag and the names of its attributes."""
        self.found.append((tag, *(name for name, _ in attrs)))


def test_a_number_is_never_lost_without_force(place, capsys):
    before = (place / "papers.md").read_text()
    assert "20.50 ±" in before
    [only] = (place / "results").glob("*.json")
    only.rename(place / "kept")
    code, said = call(capsys, place)
    assert (code, "holds no records" in said) == (2, True)
    other = replace(GOOD, metrics={"resnet8/none/final": GOOD.metrics["plainnet5/none/final"]})
    records.write(other, place / "results")
    code, said = call(capsys, place)
    assert code == 2
    assert "would lose 1 numbers, as 01_hmt | VGG11 → PlainNet5 (5x5), no transfer, last epoch (shapes, smoke" in said
    assert (place / "papers.md").read_text() == before
    assert call(capsys, place, "--force")[0] == 0
    assert (place / "papers.md").read_text() != before


def test_more_records_are_no_loss_though_notes_are_counted_anew(place, capsys):
    values = {"plainnet5/none/final": {"unit": "%", "values": [30.0, 32.0]}}
    later = replace(GOOD, date=datetime.now(UTC).isoformat(), metrics=values)
    records.write(later, place / "results")
    records.write(replace(later, parameters={"A": 1}, commit="other", command=None), place / "results")
    assert call(capsys, place)[0] == 0
    once = (place / "papers.md").read_text()
    assert "31.00 ±" in once
    records.write(replace(later, parameters={"A": 0}, commit="third"), place / "results")
    assert call(capsys, place)[0] == 0
    assert (place / "papers.md").read_text() != once


@pytest.mark.parametrize("field", holding(EVIL))
def test_whatever_a_record_holds_is_text(place, field):
    tags = []
    for text in ("harmless", EVIL):
        hostile = replace(GOOD, date=datetime.now(UTC).isoformat(), **{field: holding(text)[field]})
        shutil.rmtree(place / "results")
        records.write(hostile, place / "results")
        records.write(GOOD, place / "results")
        run(place, hostile)
        tags.append(Tags(page(place)).found)
        shutil.rmtree(place / "runs")
        (place / "runs").mkdir()
    assert tags[0] == tags[1]
    report.update_tables(place / "papers.md", place / "results", force=True)
    papers = (place / "papers.md").read_text()
    assert papers.count(MARKER) == papers.count("<!-- table: ") == 1
    assert papers.startswith("before\n<!-- table: 01_hmt -->\n")
    assert papers.endswith(f"{MARKER}\nafter\n")
    assert "<script" not in papers
    assert "<img" not in papers
    assert not report.update_tables(place / "papers.md", place / "results"), "a second time changes nothing"


def notebook(*images):
    outputs = [{"output_type": "display_data", "metadata": {}, "data": {"image/png": image}} for image in images]
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "", "execution_count": 1, "outputs": outputs}
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.mark.parametrize(
    "image", ['x" onload="alert(1)', EVIL, "bm90IGEgcGljdHVyZQ==", 3, {"a": 1}, None, ["x"], PNG + "é"]
)
def test_an_image_that_is_no_png_is_left_out_and_named(place, image):
    run(place, GOOD, drawn=notebook(PNG, image))
    html = page(place)
    assert html.count("<img") == html.count(f'src="data:image/png;base64,{PNG}"') == 1
    assert "drawn.ipynb" in html
    assert "alert(1)" not in html


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "[]",
        "3",
        '{"cells": 3}',
        '{"cells": [3], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        "\0",
    ],
)
def test_a_notebook_that_is_none_stops_no_report(place, content):
    run(place, GOOD, broken=content)
    assert "broken.ipynb" in page(place)


DEEP = json.dumps({"a": 1})[:-2] + "[" * 500 + "]" * 500 + "}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"date": "2999-01-01T00:00:00+00:00"}, "not in the future, got &#39;2999"),
        ({"date": "9999-12-31T23:59:59-14:00"}, "not in the future"),
        ({"facts": {"reductions": 3}}, "reductions"),
        ({"facts": json.loads(DEEP)}, "nested more than 100 deep"),
        ({"device": "\ud800"}, "no JSON text"),
        ({"seconds": 10**400}, "seconds must be"),
        ({"failure": "cell 3 failed: ZeroDivisionError"}, "the run failed: cell 3 failed: ZeroDivisionError"),
        ({"failure": " "}, "the run failed"),
        (
            {"notebook": "x" * 2**21},
            "bytes, and 1,048,576 are the most",
        ),
    ],
)
def test_one_bad_record_is_named_and_the_others_stay(place, capsys, change, says):
    text = json.dumps(json.loads(GOOD.to_json()) | change)
    folder = run(place, text)
    (place / "results" / "bad.json").write_text(text)
    html = page(place)
    assert html.count(says) >= 2
    assert html.count("(on record)") == 1
    assert "(on this machine)" not in html
    code, said = call(capsys, place)
    assert code == 0
    assert str(place / "results" / "bad.json") in said
    assert str(records.path(folder)) in said
    assert "20.50 ±" in (place / "papers.md").read_text()


def test_a_clock_that_is_a_little_ahead_is_no_future():
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert replace(GOOD, date=soon.isoformat()).when == soon


def test_pipes_links_and_folders_are_no_records(place, capsys):
    os.mkfifo(place / "results" / "pipe.json")
    (place / "results" / "folder.json").mkdir()
    (place / "results" / "gone.json").symlink_to(place / "nowhere")
    (place / "results" / "loop.json").symlink_to(place / "results" / "loop.json")
    (place / "results" / "zero.json").symlink_to("/dev/zero")
    with open(place / "results" / "huge.json", "wb") as file:
        file.truncate(2**33)
    folder = run(place, GOOD)
    os.mkfifo(folder / "pipe.ipynb")
    code, said = call(capsys, place)
    assert code == 0
    assert all(
        name in said for name in ("pipe.json", "folder.json", "gone.json", "loop.json", "zero.json", "huge.json")
    )
    assert "pipe.ipynb" in said
    assert "20.50 ±" in (place / "papers.md").read_text()
