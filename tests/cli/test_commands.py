"""The command line: help, errors of one line, and what each command prints."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from hetlib import __version__, cli
from hetlib.cli import commands, report, results, turns
from hetlib.lab import Group, Job, records, statistics, tables
from tests.conftest import HEAD, RECORD, TAIL


@pytest.fixture
def hetlib(capsys):
    """Call the command line here; gives status, standard output and standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as left:
            cli.main(list(arguments))
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return call


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone with one notebook, the current folder of the test; what the experiments need is not trained for it."""
    monkeypatch.setattr("hetlib.lab.train_missing", lambda jobs, cache, device: {})
    text = tmp_path / "notebooks" / "text" / "07_tiny.py"
    text.parent.mkdir(parents=True)
    text.write_text(HEAD.lstrip() + "pass" + TAIL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command", ["run", "reproduce", "verify", "report", "data", "doctor", "notebooks", "exercises"]
)
def test_help_explains_every_command(hetlib, command):
    code, out, _ = hetlib(command, "--help")
    assert code == 0
    assert "Usage" in out
    assert command in hetlib("--help")[1]


def test_help_is_quick():
    code = "import sys; from hetlib import cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version(hetlib):
    assert hetlib("--version")[:2] == (0, f"hetlib {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "7", "--preset", "smoky"), "unknown preset 'smoky': did you mean 'smoke'?"),
        (("run", "8_tiny"), "unknown notebook '8_tiny': did you mean '07_tiny'?"),
        (("run", "7", "-p", "FLOP", "1"), "unknown parameter 'FLOP': did you mean 'FLIP'?"),
        (("run", "7", "-p", "N", "-0.5"), "parameter N takes int (default 3), not '-0.5'"),
        (("run", "7", "-p", "N"), "parameter N has no value"),
        (("reproduce", "-n", "7", "--preset", "large"), "unknown preset 'large'"),
        (("data", "get", "cifar11"), "unknown data set 'cifar11': did you mean 'cifar10'"),
        (("data", "path", "cifar11"), "unknown data set 'cifar11': did you mean 'cifar10'"),
        (("report", "--results", "absent"), "absent: no such folder"),
        (("report", "--results", "notebooks"), "notebooks: holds no records"),
        (("reproduce", "--preset", "large"), "unknown preset 'large'"),
        (("run", "7", "-p", "N", "1", "-p", "N", "2"), "a parameter is given twice: N=1 N=2"),
        (("run", "7", "--preset", "smoke", "-p", "PRESET", "paper"), "PRESET paper is given as a parameter beside"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(hetlib, clone, arguments, says):
    code, _, err = hetlib(*arguments)
    assert code == 2
    assert says in err
    assert err.startswith("hetlib: ")
    assert len(err.splitlines()) == 1


def test_run_prints_one_line_and_leaves_its_folder(hetlib, clone):
    code, out, _ = hetlib("run", "7", "--preset", "smoke", "-p", "A", "-0.2", "-p", "FLIP=false")
    assert code == 0, out
    [folder] = (clone / "runs").iterdir()
    assert out.split()[:2] == ["ok", folder.name]
    assert json.loads((folder / "record.json").read_text())["notebook"] == "07_tiny"
    assert "-0.2 3 False" in (folder / "07_tiny.ipynb").read_text()


def test_reproduce_shows_the_failing_cell_and_fails(hetlib, clone):
    (clone / "notebooks/text/08_broken.py").write_text(HEAD.lstrip() + "nothing = 0\n1 / nothing\n")
    code, out, _ = hetlib("reproduce", "--preset", "smoke", "--jobs", "2")
    assert code == 1
    assert "ok " in out
    assert "nothing = 0\n1 / nothing" in out
    assert "ZeroDivisionError" in out
    assert str(clone / "runs" / "08_broken-smoke") in out


def test_notebooks_are_published_with_their_outputs(hetlib, clone):
    assert hetlib("notebooks")[0] == 0
    published = json.loads((clone / "notebooks" / "07_tiny.ipynb").read_text())
    assert published["cells"][-1]["outputs"][0]["text"] == ["0.4 3 True\n"]
    assert list(published["metadata"]) == ["kernelspec", "language_info"]
    assert all(cell["metadata"] in ({}, {"tags": ["parameters"]}) for cell in published["cells"])


def examined(hetlib, monkeypatch, free):
    """Exit status, and lines by what was looked for, without data and on a disk with so many GiB free."""
    monkeypatch.setenv("HETLIB_DATA", "nowhere")
    monkeypatch.setenv("HETLIB_VECTORS", "")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free * 2**30))
    monkeypatch.setattr(commands, "console", Console(width=300))
    code, out, _ = hetlib("doctor")
    lines = (re.split(r"\s{2,}", line.strip()) for line in out.splitlines()[1:])
    return code, {what: (mark, *more) for mark, what, *more in lines}


def test_doctor_names_what_is_missing_and_how_to_get_it(hetlib, clone, monkeypatch):
    code, lines = examined(hetlib, monkeypatch, free=64)
    assert code == 0, lines
    assert lines["torch pair"][0] == "ok"
    assert lines["cifar10"][0] == "without"
    assert lines["cifar10"][-1] == "hetlib data get cifar10"
    assert lines["vectors"][0] == "without"
    assert {"Python", "extra [test]", "processor", "GPU", "cache", "outputs", "disk", "Chromium"} <= set(lines)


def test_doctor_fails_where_the_disk_is_full(hetlib, clone, monkeypatch):
    code, lines = examined(hetlib, monkeypatch, free=1)
    assert code == 1
    assert lines["disk"] == ("missing", "1 GiB free", "make room: 5 GiB are enough")


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write everywhere")
def test_doctor_sees_a_folder_it_may_not_write(hetlib, clone):
    clone.chmod(0o555)
    code, out, _ = hetlib("doctor")
    clone.chmod(0o755)
    assert code == 1
    assert "Permission denied" in out


SECTION = {
    "rows": [
        {"what": "A", "metric": "a", "paper": {"value": 71.0, "source": "Table 1"}},
        {"what": "B", "metric": "b"},
    ]
}


def rows_of(preset, section=SECTION, **facts):
    record = tables.Record(**{**json.loads(RECORD), "seeds": [0, 1, 2], "preset": preset})
    metrics = {"a": {"unit": "%", "values": [70.0, 71.0, 72.5]}, "c": {"unit": "s", "values": [1.0, 1.0, 1.0]}}
    changed = {"metrics": metrics, "facts": facts, "command": "hetlib run 07_tiny"}
    return tables.compare(section, [tables.Record(**{**vars(record), **changed})])


def test_tables_set_ours_beside_what_is_published():
    rows, sources = rows_of("paper")
    assert rows[0] == (
        "A (shapes, paper preset)",
        "71.00 [1]",
        "not known",
        "71.17 ± 3.13 %, n = 3",
        "agrees",
    )
    assert rows[1] == ("B", "not known", "not known", "not run", "not run")
    assert rows[2][3:] == ("1.00 ± 0.00 s, n = 3", "nothing to compare with")
    assert sources == ["Table 1"]


def test_only_the_papers_own_protocol_confirms_or_contradicts():
    assert rows_of("smoke")[0][0].verdict == "another protocol"
    rows, notes = rows_of("paper", reductions=["4 epochs of 200"])
    assert rows[0].verdict == "another protocol"
    assert rows[0].experiment == "A (shapes, paper preset, reduced [2])"
    assert notes == ["Table 1", "ours: 4 epochs of 200"]
    rows, notes = rows_of("smoke", {"rows": [SECTION["rows"][0] | {"anywhere": True}]}, reductions=["4 epochs of 200"])
    assert (rows[0].experiment, rows[0].verdict) == ("A", "agrees")
    here, there = (record(metrics=metric(1, 1, 1), preset=preset) for preset in ("smoke", "classroom"))
    (name,) = here.metrics
    assert len(tables.compare({"rows": [{"what": "A", "metric": name, "anywhere": True}]}, [here, there])[0]) == 1


def test_many_rows_that_were_not_run_are_folded():
    waiting = [{"what": f"row {n}", "metric": f"m{n}", "paper": SECTION["rows"][0]["paper"]} for n in range(13)]
    text = report.markdown(*rows_of("paper", {"rows": SECTION["rows"] + waiting}))
    shown, folded = text.split("<details><summary>14 more rows, not run</summary>")
    assert "| A (shapes, paper preset) |" in shown
    assert "row" not in shown
    assert folded.count("| 71.00 [1] |") == 13
    assert folded.count("Table 1") == 1


@pytest.mark.parametrize(
    ("value", "text"), [(71.0, "71.00"), (93.5, "93.50"), (0.667, "0.667"), (17088, "17088"), (0, "0")]
)
def test_published_numbers_read_as_they_were_printed(value, text):
    section = {"rows": [{"what": "A", "metric": "x", "released": {"value": value, "source": "log"}}]}
    assert tables.compare(section, [])[0][0].released == f"{text} [1]"


def test_one_seed_gets_no_verdict():
    assert statistics.verdict([70.0], 71.0) == "-1.00, one seed: no verdict"
    assert statistics.verdict([70.0, 70.1], 75.0) == "differs by -4.95"
    assert statistics.verdict([97.7200012, 97.7200012], 97.72) == "agrees", "what is equal as printed"


def test_report_writes_between_the_markers_and_nowhere_else(hetlib, clone):
    records.write(record(notebook="07_tiny", seeds=[]), clone / "results")
    (clone / "runs" / "07_tiny-smoke-x").mkdir(parents=True)
    (clone / "runs" / "07_tiny-smoke-x" / "record.json").write_text(RECORD)
    papers = clone / "papers.md"
    before = "# Papers\n\n<!-- table: 01_hmt -->\nold\n<!-- end of table -->\nrest\n"
    papers.write_text(before)
    assert hetlib("report")[0] == 0
    after = papers.read_text()
    assert after.startswith("# Papers\n\n<!-- table: 01_hmt -->\n")
    assert "| experiment | paper |" in after
    assert "old" not in after
    assert after.endswith("<!-- end of table -->\nrest\n")
    assert "| not known | not known | not run | not run |" in after
    page = (clone / "runs" / "report.html").read_text()
    assert "07_tiny, smoke preset" in page
    assert "http" not in page
    hetlib("report")
    assert papers.read_text() == after
    papers.write_text(before.replace("01_hmt", "01_hmm"))
    assert "unknown table '01_hmm'" in hetlib("report")[2]


@pytest.mark.parametrize("name", tables.published())
def test_every_published_number_has_a_source_and_every_metric_one_row(name):
    rows = tables.published()[name]["rows"]
    numbers = [row[column] for row in rows for column in ("paper", "released") if column in row]
    assert all(number["source"] for number in numbers)
    metrics = [row["metric"] for row in rows]
    assert len(metrics) == len(set(metrics))


def record(**changes):
    return tables.Record(
        **{**json.loads(RECORD), "notebook": "01_hmt", "seeds": [0, 1, 2], "command": "hetlib run 01", **changes}
    )


def metric(*values, name="plainnet5/none/final"):
    return {name: {"unit": "%", "values": list(values)}}


@pytest.mark.parametrize("end", ["", "<!-- table: 02_clafusion -->\n<!-- end of table -->\n"])
def test_a_table_without_an_end_loses_nothing(tmp_path, end):
    papers = tmp_path / "papers.md"
    papers.write_text(f"<!-- table: 01_hmt -->\nprose that matters\n{end}")
    records.write(record(), tmp_path)
    with pytest.raises(ValueError, match=r"papers.md: \d tables begin and \d end; nothing was written"):
        report.update_tables(papers, tmp_path)
    assert "prose that matters" in papers.read_text()


def test_names_of_metrics_cannot_break_the_file(tmp_path):
    papers = tmp_path / "papers.md"
    papers.write_text("<!-- table: 01_hmt -->\n<!-- end of table -->\n")
    records.write(record(metrics=metric(1, 2, 3, name="a|b\n<!-- end of table --><script>")), tmp_path / "results")
    assert report.update_tables(papers, tmp_path / "results")
    assert "&lt;script&gt;" in papers.read_text()
    assert not report.update_tables(papers, tmp_path / "results"), "a second time changes nothing"


def test_other_parameters_are_another_row_and_the_newest_counts():
    old = record(metrics=metric(1, 1, 1), date="2026-01-01T12:00:00+12:00")
    new = record(metrics=metric(2, 2, 2), date="2026-01-01T03:00:00+00:00")
    other = record(metrics=metric(9, 9, 9), parameters={"ORDER": "random"})
    rows, notes = tables.compare(tables.published()["01_hmt"], sorted([new, old, other], key=lambda r: r.when))
    answered = {row.experiment: row.ours for row in rows if row.run}
    assert len(answered) == 2
    assert any(name.endswith("(shapes, smoke preset)") and ours.startswith("2.00") for name, ours in answered.items())
    number = notes.index("ours: ORDER 'random'") + 1
    assert any(f"preset [{number}])" in name and ours.startswith("9.00") for name, ours in answered.items())


def test_a_run_that_cannot_be_read_is_named_and_the_page_is_built(tmp_path):
    for name, text, notebook in (("good", None, None), ("bad", "{}", None), ("broken", None, "{")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        records.path(folder).write_text(text or record(metrics=metric(1, 2, 3)).to_json())
        if notebook:
            (folder / "01_hmt.ipynb").write_text(notebook)
    records.write(record(), tmp_path / "results")
    html = report.write_page(tmp_path / "runs", tmp_path / "results").read_text()
    assert html.count("(on this machine): 1 metrics") == 2, "a record is shown without the figures that cannot be"
    assert "is not a valid record: notebook is missing" in html
    assert "01_hmt.ipynb is no notebook" in html


def test_a_record_without_a_command_is_said_to_be_made_by_a_script(tmp_path):
    scripted = record(metrics=metric(1, 2, 3), command=None, parameters={"ORDER": "random"})
    rows, notes = tables.compare(tables.published()["01_hmt"], [scripted])
    assert notes[-1] == "ours: made by a script, ORDER 'random'"
    assert [row.experiment[-len("preset [1])") :] for row in rows if row.run] == [f"preset [{len(notes)}])"]
    assert "made by a script" not in str(tables.beside_published(scripted)), "a run that is not over yet has no command"
    records.write(scripted, tmp_path / "results")
    assert "made by a script" in report.write_page(tmp_path / "runs", tmp_path / "results").read_text()


def test_what_is_not_published_is_named():
    with pytest.raises(ValueError, match="unknown table '07_tiny'"):
        tables.beside_published(record(notebook="07_tiny"))
    with pytest.raises(ValueError, match="unknown baseline 'nothing'"):
        statistics.paired_differences({"none": [1.0, 2.0]}, baseline="nothing")


def test_a_notebook_named_twice_runs_once(hetlib, clone):
    code, out, _ = hetlib("reproduce", "--preset", "smoke", "-n", "7", "-n", "07")
    assert code == 0
    assert out.count("07_tiny-smoke") == 1


KEPT = """
# %% tags=["parameters"]
PRESET: str = "smoke"
SEEDS: int = 2
A: float = 1.0

# %%
from hetlib import lab

run = lab.start("09_kept", PRESET, seeds=SEEDS, cache="cache")
data = {"name": "shapes", "checksum": "none", "train": 1, "test": 1}
run.record({"a": {"unit": "%", "values": [A * (2 + seed) for seed in run.seeds]}}, data)
"""


@pytest.fixture
def kept(hetlib, clone, monkeypatch):
    """A record that `hetlib run --keep` has written."""
    monkeypatch.setattr(records, "changed_files", list)
    source = clone / "notebooks" / "text" / "09_kept.py"
    source.write_text(
        KEPT.replace("from hetlib import lab", "from hetlib import lab\nlab.records.git = lambda: (None, False)")
    )
    code, out, _ = hetlib("run", "9", "--preset", "smoke", "-p", "A", "-0.5", "--keep")
    assert code == 0, out
    [path] = (clone / "results").glob("*.json")
    assert str(path) in out.replace("\n", "")
    return path


def test_a_kept_record_holds_the_command_that_verify_runs_again(hetlib, kept):
    record = records.read(kept)
    assert record.command == "hetlib run 09_kept --preset smoke -p A -0.5 --keep"
    assert record.metrics["a"]["values"] == [-1.0, -1.5]
    assert commands.planned(record.command).parameters == {"PRESET": "smoke", "A": -0.5}
    text = kept.read_text()
    kept.write_text(text.replace("-1.5", "-1.25"))
    code, out, _ = hetlib("verify", str(kept), "--seeds", "1")
    assert code == 0, "the first seed is as it was"
    assert "equal" in out
    code, out, _ = hetlib("verify", str(kept))
    assert code == 1
    assert "differs by -0.125" in out
    assert "has seeds [0, 1], the second run has [0, 1, 2]" in hetlib("verify", str(kept), "--seeds", "3")[2]
    kept.write_text(text.replace(record.command, "make all"))
    assert "no command of `hetlib run`: make all" in hetlib("verify", str(kept))[2]


def test_elsewhere_a_record_is_judged_by_its_own_interval():
    ours = record(metrics=metric(20.0, 21.0, 22.0))
    same = replace(ours, metrics=metric(20.0, 21.0, 22.5))
    near, far = (replace(ours, metrics=metric(*values), precision="bf16") for values in ((22, 21, 24), (25, 26, 27)))
    other = replace(ours, metrics=metric(1, 2, 3, name="b"), precision="bf16")
    found = [results.compare(ours, again)[0] for again in (ours, same, near, far, other)]
    assert [each.ok for each in found] == [True, False, True, False, False]
    assert found[2].says == "another machine or other versions: +1.333, within ± 2.484"
    with pytest.raises(ValueError, match="was made with"):
        results.compare(ours, replace(ours, data=ours.data | {"checksum": "other"}))
    one = replace(ours, seeds=[0], metrics=metric(21.0), precision="bf16")
    assert results.compare(ours, one)[0].ok, "one seed within the interval of all"


def test_only_a_clean_checkout_keeps_records(hetlib, clone, monkeypatch):
    monkeypatch.setattr(records, "changed_files", lambda: [" M hetlib/hmt.py", "?? new.py"])
    code, _, err = hetlib("run", "7", "--preset", "smoke", "--keep")
    assert code == 2
    assert err == "hetlib: --keep needs a clean checkout; commit or undo hetlib/hmt.py, new.py\n"
    monkeypatch.setattr(records, "changed_files", lambda: None)
    assert "needs a git checkout" in hetlib("run", "7", "--preset", "smoke", "--keep")[2]
    assert not (clone / "runs").exists()


def test_a_record_made_by_a_script_cannot_be_verified(hetlib, clone):
    path = records.write(record(command=None), clone)
    assert "was made by a script: it holds no command" in hetlib("verify", str(path))[2]


def test_every_command_in_results_can_be_planned():
    found = records.read_all(Path(__file__).parents[2] / "results")
    assert found
    for each in found:
        if each.command is not None:
            assert commands.planned(each.command).source.stem == each.notebook


def test_reproduce_runs_nothing_twice_unless_something_changed(hetlib, clone):
    assert "ok " in hetlib("reproduce", "--preset", "smoke")[1]
    assert hetlib("reproduce", "--preset", "smoke")[1].startswith("kept")
    with open(clone / "notebooks" / "text" / "07_tiny.py", "a") as text:
        text.write("\n# %%\n1\n")
    assert "ok " in hetlib("reproduce", "--preset", "smoke")[1]


def test_two_reproductions_in_one_folder_take_turns(hetlib, clone, monkeypatch):
    command = [sys.executable, "-m", "hetlib", "reproduce", "--preset", "smoke", "-n", "7"]
    monkeypatch.setenv("PYTHONPATH", str(Path(commands.__file__).parents[2]))
    with turns.alone(clone / "runs", pytest.fail):
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline().strip() == turns.WAITING
        assert [path.name for path in (clone / "runs").iterdir()] == [".lock"]
    with other:
        assert "ok " in other.stdout.read()
    assert hetlib("reproduce", "--preset", "smoke", "-n", "7")[1].startswith("kept")


def test_reproduce_first_trains_what_the_experiments_name(hetlib, clone, monkeypatch):
    asked = []
    monkeypatch.setattr("hetlib.lab.train_missing", lambda jobs, cache, device: asked.extend(jobs))
    assert hetlib("reproduce", "--preset", "smoke", "-n", "7")[0] == 0
    assert asked == [], "notebooks that are named train what they need themselves"
    assert hetlib("reproduce", "--preset", "smoke")[0] == 0
    assert {"plainnet5", "resnet8"} <= {job.model for job in asked if isinstance(job, Job)}
    assert any(isinstance(job, Group) for job in asked)
